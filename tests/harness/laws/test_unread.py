"""Models whose loss does not flow through the logits that they return: their gradient is read where it does flow."""

from __future__ import annotations

import pytest

from shiftproof.harness.candidates.model import Route
from shiftproof.harness.judge.ask import ask
from shiftproof.harness.laws import LAWS
from shiftproof.harness.results import Overall, Verdict
from shiftproof.harness.worker.load import module_of

from .judged_models import BRIEF, Judged, ask_all, trial_of


@pytest.mark.representatives(5)
@pytest.mark.parametrize(
    ("name", "spec", "route", "judging"),
    [
        ("Copied", "hf.causal_lm", Route.COPIED, "GRAD-1"),
        ("ThroughNumpy", "hf.causal_lm", Route.COPIED, "GRAD-1"),
        ("ComputedTwice", "hf.causal_lm", Route.COPIED, "GRAD-1"),
        ("CastCopy", "hf.causal_lm", Route.COPIED, "GRAD-1"),
        ("CappedCopy", "hf.causal_lm", Route.COPIED, "MODEL-5"),
        ("PrefixedCopy", "hf.prefix_lm", Route.COPIED, "GRAD-1"),
        ("Seq2SeqCopy", "hf.seq2seq", Route.COPIED, "GRAD-1"),
        ("copied_by_a_function", "hf.causal_lm", Route.COPIED, "GRAD-1"),
        ("NormedTwice", "hf.causal_lm", Route.RETURNED, "MODEL-5"),
        ("OfShortLogits", "hf.causal_lm", Route.HEAD, "MODEL-5"),
        ("Fused", "hf.causal_lm", Route.HEAD, "MODEL-5"),
        ("FusedCapped", "hf.causal_lm", Route.HEAD, "MODEL-5"),
        ("FusedScaled", "hf.causal_lm", Route.HEAD, "MODEL-5"),
        ("FusedTied", "hf.causal_lm", Route.HEAD, "MODEL-5"),
        ("FusedFrozen", "hf.causal_lm", Route.HEAD, "MODEL-5"),
        ("FusedPrefixed", "hf.prefix_lm", Route.HEAD, "MODEL-5"),
        ("FusedOfLiving", "hf.causal_lm", Route.HEAD, "MODEL-5"),
        ("Opaque", "hf.causal_lm", Route.PARAMETERS, "MODEL-6"),
    ],
)
def test_a_right_model_conforms_by_its_gradient(name: str, spec: str, route: Route, judging: str) -> None:
    with trial_of(f"unread:{name}", spec) as trial:
        found = Judged(ask_all(trial))
        assert (trial.route, trial.values_only) == (route, "")
    assert (found.failed, found.overall) == (set(), Overall.CONFORMS)
    assert found.of(judging).verdict is Verdict.PASS


@pytest.mark.representatives(5)
@pytest.mark.parametrize(
    ("name", "law", "message"),
    [
        ("DoubledAtTheLoss", "GRAD-1", "elements of the gradient"),
        ("DoubledAtTheLogits", "GRAD-1", "elements of the gradient"),
        ("DoubledByAHook", "GRAD-1", "elements of the gradient"),
        ("DetachedFirstRow", "ALIGN-1", "are scored on nothing"),
        ("StraightThrough", "ALIGN-1", "are scored on label [0, 2], not on label [0, 1]"),
        ("StraightThroughTwice", "ALIGN-1", "are scored on label [0, 2], not on label [0, 1]"),
        ("StraightThroughAnother", "MODEL-5", "the gradient at the head's input"),
        ("DetachedHidden", "MODEL-5", "is 0; expected"),
        ("NothingButItsValue", "MODEL-6", "the gradient predicts a rise of 0 per step"),
        ("FusedDoubled", "MODEL-5", "the gradient at the head's input"),
        ("FusedDoubledTied", "MODEL-5", "the gradient at the head's input"),
        ("FusedScaledAtTheHidden", "MODEL-5", "the gradient at the head's input"),
        ("FusedDetachedRows", "MODEL-5", "the gradient at the head's input"),
        ("FusedWithoutWeight", "MODEL-5", "the gradient at the head's weight"),
        ("FusedStraightThrough", "MODEL-5", "the gradient at the head's input"),
        ("FusedIgnoresUpstream", "MODEL-5", "with an incoming gradient of"),
        ("doubled_by_a_function", "MODEL-5", "the gradient at the head's input"),
        ("OpaqueDoubled", "MODEL-6", "the gradient predicts a rise of"),
    ],
)
def test_a_right_value_with_a_wrong_gradient_fails(name: str, law: str, message: str) -> None:
    with trial_of(f"unread:{name}", "hf.causal_lm") as trial:
        found = Judged(ask_all(trial))
    assert found.of("VALUE-1").verdict is Verdict.PASS
    assert law in found.failed
    assert message in found.of(law).message


def test_where_the_gradient_goes_nowhere_that_is_seen_the_trial_says_so() -> None:
    with trial_of("unread:OfAnother", "hf.causal_lm") as trial:
        found = Judged(ask_all(trial))
    assert trial.route is Route.NOWHERE
    assert "cannot be read" in trial.values_only
    assert found.failed == set()
    assert found.of("GRAD-1").message == found.of("MODEL-5").message == trial.values_only


def test_one_that_is_declared_without_a_gradient_is_not_said_to_hide_it() -> None:
    with trial_of("unread:OfAnother", "hf.causal_lm", gradient=False) as trial:
        assert trial.values_only == ""


def test_a_model_that_is_asked_often_keeps_no_hooks() -> None:
    with trial_of("unread:FusedTied", "hf.causal_lm") as trial:
        ask(LAWS["MODEL-5"], trial, BRIEF, seed=0)
        module = module_of(trial.caller._ready().function)  # type: ignore[attr-defined]
        assert module is not None
        assert not module.head.weight._backward_hooks
