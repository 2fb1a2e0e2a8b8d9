"""Models of text and delayed frames, judged against the logits that they make."""

from __future__ import annotations

import pytest
import torch

from shiftproof.harness.candidates.declaration import UsageError
from shiftproof.harness.candidates.model_delayed import DelayedTrial
from shiftproof.harness.cases.recipe import Mask, Recipe
from shiftproof.harness.judge.ask import ask
from shiftproof.harness.laws import LAWS
from shiftproof.harness.results import Overall, Verdict

from .judged_models import BRIEF, judged, trial_of


@pytest.mark.representatives(1)
@pytest.mark.parametrize("name", ["Right", "NotDelayed"])
def test_a_right_model_conforms(name: str) -> None:
    found = judged(f"delayed_models:{name}", "moshi")
    assert (found.failed, found.overall) == (set(), Overall.CONFORMS)
    assert found.asked >= {"ALIGN-1", "SELECT-1", "REDUCE-1", "VALUE-1", "GRAD-1", "STATE-5", "COUNT-1"}
    assert found.asked >= {"MODEL-1", "MODEL-2", "MODEL-3", "MODEL-8", "MODEL-10"}


@pytest.mark.representatives(3)
@pytest.mark.parametrize(
    ("name", "law", "called", "detail"),
    [
        ("TextTwice", "ALIGN-1", "double-shift", "in text"),
        ("AudioShifted", "ALIGN-1", "aligned-shift", ""),
        ("NextCodebook", "ALIGN-1", "codebook-axis-shift", "+1, round"),
        ("CountsText", "REDUCE-1", "term-denominator", ""),
        ("DropsTheCount", "REDUCE-1", "count-ignored", "in text"),
        ("SeesItsCode", "MODEL-8", "sees-its-target", "MODEL-8 fails"),
        ("SeesAhead", "MODEL-1", "sees-its-target", "MODEL-1 fails"),
        ("CutCodebook", "GRAD-1", "detached-part", "codebook 1 of audio has no gradient"),
    ],
)
def test_a_wrong_model_fails_by_its_name(name: str, law: str, called: str, detail: str) -> None:
    found = judged(f"delayed_models:{name}", "moshi")
    assert law in found.failed
    assert detail in found.names[called]


def test_a_codebook_of_another_delay_fails() -> None:
    assert "ALIGN-1" in judged("delayed_models:OneLate", "moshi").failed


def test_labels_that_it_cannot_do_without_are_a_law_of_their_own() -> None:
    found = judged("delayed_models:NeedsText", "moshi")
    assert (found.failed, found.overall) == ({"MODEL-10"}, Overall.FAILS)
    of_gaps = found.of("MODEL-10")
    assert of_gaps.verdict is Verdict.ERROR
    assert of_gaps.message == "with the last label of text ignored it raised IndexError: index out of range in self"
    assert "SELECT-1" in found.asked


@pytest.mark.representatives(3)
@pytest.mark.parametrize(
    ("name", "delays"),
    [
        ("Right", (0, 1, 1)),
        ("NotDelayed", (0, 0, 0)),
        ("AudioShifted", (0, 1, 1)),
        ("NextCodebook", (0, 1, 1)),
        ("CutCodebook", (0, 1, 1)),
    ],
)
def test_the_delays_are_found_and_said(name: str, delays: tuple[int, ...]) -> None:
    with trial_of(f"delayed_models:{name}", "moshi") as trial:
        assert isinstance(trial, DelayedTrial)
        assert trial.delays == delays
        said = (f"with delays {', '.join(map(str, delays))}, which the model applies itself",)
        assert trial.scope == (said if any(delays) else ())


def test_labels_are_given_as_before_the_delay_and_judged_as_after_it() -> None:
    with trial_of("delayed_models:Right", "moshi") as trial:
        assert isinstance(trial, DelayedTrial)
        case = trial.case(Recipe(rows=2, length=5, masks=(Mask.NONE,)))
        judged_by = case.batch.tensor("audio_labels")
        given = trial._before_the_delay(case).batch.tensor("audio_labels")
        assert judged_by[:, 0].tolist() == [[int(judged_by[row, 0, 0]), 13, 13] for row in range(2)]
        assert torch.equal(given[:, :, 0], judged_by[:, :, 0])
        assert torch.equal(given[:, :-1, 1:], judged_by[:, 1:, 1:])
        assert trial.audio_layout.labels == "b k s"


def test_a_model_that_takes_no_frames_is_told_so() -> None:
    told = "it has two streams, and the model takes no audio_labels and no audio_input_ids"
    with pytest.raises(UsageError, match=told), trial_of("models:Right", "moshi"):
        pass


def test_one_that_answers_later_does_not_hide_what_it_could_not_do_at_first() -> None:
    with trial_of("delayed_models:Right", "moshi") as trial:
        assert isinstance(trial, DelayedTrial)
        trial.untaken = trial.gaps[:1]  # as after a first call that raised
        found = ask(LAWS["MODEL-10"], trial, BRIEF, seed=0)
    assert found.verdict is Verdict.FAIL
    assert "called with the last label of text ignored, it gave no answer" in found.message
