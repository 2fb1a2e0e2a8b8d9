"""Models, judged against the logits that they make: right ones conform, wrong ones fail under their name."""

from __future__ import annotations

import pytest
import torch

from shiftproof.harness.candidates.declaration import UsageError
from shiftproof.harness.candidates.model import Route
from shiftproof.harness.cases.recipe import Recipe
from shiftproof.harness.results import Overall, Verdict

from .judged_models import judged, trial_of


@pytest.mark.representatives(5)
@pytest.mark.parametrize(
    ("name", "spec"),
    [
        ("Right", "hf.causal_lm"),
        ("NeverCounts", "hf.causal_lm"),
        ("Drops", "hf.causal_lm"),
        ("as_function", "hf.causal_lm"),
        ("RIGHT", "hf.causal_lm"),
        ("Prefixed", "hf.prefix_lm"),
        ("Right", "hf.prefix_lm"),
        ("Seq2Seq", "hf.seq2seq"),
        ("Copies", "hf.causal_lm"),
        ("CopiesInPart", "hf.causal_lm"),
        ("LossAloneInTraining", "hf.causal_lm"),
    ],
)
def test_a_right_model_conforms(name: str, spec: str) -> None:
    found = judged(f"models:{name}", spec)
    assert (found.failed, found.overall) == (set(), Overall.CONFORMS)


@pytest.mark.representatives(10)
@pytest.mark.parametrize(
    ("name", "spec", "law", "called"),
    [
        ("DoubleShift", "hf.causal_lm", "ALIGN-1", "double-shift"),
        ("FlatDoubleShift", "hf.causal_lm", "ALIGN-1", "flat-double-shift"),
        ("Unshifted", "hf.causal_lm", "ALIGN-1", "no-shift"),
        ("CopiesDoubleShift", "hf.causal_lm", "ALIGN-1", "double-shift"),
        ("CopiesInPartDoubleShift", "hf.causal_lm", "ALIGN-1", ""),
        ("Uncounted", "hf.causal_lm", "REDUCE-1", "count-ignored"),
        ("AlignedShift", "hf.seq2seq", "ALIGN-1", "aligned-shift"),
        ("SeesAhead", "hf.causal_lm", "MODEL-1", "sees-its-target"),
        ("SeesOtherRows", "hf.causal_lm", "MODEL-2", "sees-other-rows"),
        ("LabelsInLogits", "hf.causal_lm", "MODEL-3", ""),
        ("Overwrites", "hf.causal_lm", "PURE-1", "inputs-mutated"),
        ("DoubleShiftInTraining", "hf.causal_lm", "STATE-5", "double-shift"),
        ("LossAloneDoubleShift", "hf.causal_lm", "STATE-5", ""),
        ("LossAloneHalfGradient", "hf.causal_lm", "STATE-5", ""),
        ("UnshiftedUnderAutocast", "hf.causal_lm", "STATE-3", "no-shift"),
        ("KeepsOneLogits", "hf.causal_lm", "STATE-1", "shared-workspace"),
        ("ExcludesByBoolMask", "hf.causal_lm", "MODEL-7", ""),
        ("MasksOneLate", "hf.causal_lm", "MODEL-7", ""),
        ("Raises", "hf.causal_lm", "CONTRACT-1", ""),
        ("WithoutLogits", "hf.causal_lm", "CONTRACT-1", ""),
        ("LossAloneShiftsTwice", "hf.causal_lm", "ALIGN-1", "double-shift"),
    ],
)
def test_a_wrong_model_fails_by_its_name(name: str, spec: str, law: str, called: str) -> None:
    found = judged(f"models:{name}", spec)
    assert law in found.failed
    assert not called or called in found.names


def test_what_a_law_would_have_to_choose_logits_for_is_not_asked() -> None:
    found = judged("models:Right", "hf.causal_lm")
    told = {result.id: result.message for result in found.results if result.verdict is Verdict.SKIP}
    assert told["STABLE-1"] == "it is a model, whose logits cannot be chosen"
    assert told["MODEL-4"] == "it does not take shift_labels"


def test_every_recipe_is_cut_to_the_model() -> None:
    with trial_of("models:Prefixed", "hf.prefix_lm") as trial:
        fitted = trial.fit(Recipe(rows=90, length=400, classes=7, dtype="bfloat16"))
        assert (fitted.rows, fitted.length, fitted.classes, fitted.extra) == (4, 12, 61, 3)
        assert trial.fit(fitted) == fitted
        seen = trial.observe_cached(Recipe(rows=2, length=5))
        assert seen.case.batch.tensor("logits").shape == (2, 8, 61)


def test_logits_before_those_of_the_labels_need_a_spec_that_has_them() -> None:
    told = r"3 more rows of logits than there are labels.*hf\.prefix_lm"
    with pytest.raises(UsageError, match=told), trial_of("models:Prefixed", "hf.causal_lm"):
        pass


def test_a_spec_that_no_model_has_is_refused() -> None:
    for spec in ("higgs.hf", "torch.cross_entropy"):
        told = "is a model that makes its logits from input_ids"
        with pytest.raises(UsageError, match=told), trial_of("models:Right", spec):
            pass


def test_a_model_is_judged_in_float32_where_nothing_else_is_said() -> None:
    with trial_of("models:Upcasts", "hf.causal_lm") as trial:
        assert trial.dtypes == ("float32",)
        assert trial.observe_cached(Recipe(rows=2, length=5)).case.batch.tensor("logits").dtype is torch.float32


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_model_is_judged_in_a_narrow_dtype(dtype: str) -> None:
    with trial_of("models:Upcasts", "hf.causal_lm", dtypes=(dtype,)) as trial:
        logits = trial.observe_cached(Recipe(rows=2, length=5)).case.batch.tensor("logits")
        assert logits.dtype is getattr(torch, dtype)
    right = judged("models:Upcasts", "hf.causal_lm", dtypes=(dtype,))
    assert (right.failed, right.overall) == (set(), Overall.CONFORMS)
    wrong = judged("models:UpcastsDoubleShift", "hf.causal_lm", dtypes=(dtype,))
    assert "ALIGN-1" in wrong.failed
    assert "double-shift" in wrong.names


def test_a_model_whose_loss_is_computed_in_a_narrow_dtype_is_told() -> None:
    found = judged("models:Right", "hf.causal_lm", dtypes=("bfloat16",))
    assert "GRAD-1" in found.failed
    assert "no-upcast" in found.names
    native = judged("models:Right", "hf.causal_lm", dtypes=("bfloat16",), precision="native")
    assert (native.failed, native.overall) == (set(), Overall.CONFORMS)


def test_a_function_cannot_be_cast() -> None:
    told = "is no torch.nn.Module, so it cannot be cast to bfloat16; drop --dtype bfloat16"
    with pytest.raises(UsageError, match=told), trial_of("models:as_function", "hf.causal_lm", dtypes=("bfloat16",)):
        pass


@pytest.mark.parametrize(
    ("name", "route"), [("Right", Route.RETURNED), ("Copies", Route.COPIED), ("CopiesInPart", Route.COPIED)]
)
def test_where_the_gradient_is_read(name: str, route: Route) -> None:
    with trial_of(f"models:{name}", "hf.causal_lm") as trial:
        assert trial.route is route
