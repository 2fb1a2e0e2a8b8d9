"""Models with a depth decoder, judged against the logits that they make."""

from __future__ import annotations

import pytest
import torch

from shiftproof.harness.candidates.declaration import UsageError
from shiftproof.harness.candidates.model_depth import DepthTrial
from shiftproof.harness.cases.recipe import Mask, Recipe, Streams
from shiftproof.harness.diagnosis.evidence import gather
from shiftproof.harness.diagnosis.name import name_bugs
from shiftproof.harness.judge.ask import ask
from shiftproof.harness.laws import LAWS
from shiftproof.harness.results import LawResult, Level, Overall, Verdict, overall

from .test_audio_models import BRIEF, trial_of


def heard(name: str) -> tuple[tuple[LawResult, ...], dict[str, str]]:
    with trial_of(name, "csm", "depth_models") as trial:
        results = tuple(ask(law, trial, BRIEF, seed=0) for law in LAWS.values())
        bugs = name_bugs(results, trial, *gather(trial)) if trial.failed else ()
    return results, {called: bug.detail for bug in bugs for called in (bug.mutant, *bug.also)}


def test_a_right_model_conforms() -> None:
    results, _ = heard("Right")
    assert {result.id for result in results if result.verdict.is_failure} == set()
    assert overall(results) is Overall.CONFORMS
    asked = {result.id for result in results if result.cases}
    assert asked >= {"ALIGN-1", "SELECT-1", "REDUCE-1", "GRAD-1", "MODEL-1", "MODEL-2", "MODEL-3", "MODEL-8", "MODEL-9"}


@pytest.mark.parametrize(
    ("name", "law", "called", "detail"),
    [
        ("BackboneTwice", "ALIGN-1", "double-shift", "in backbone"),
        ("DepthTwice", "ALIGN-1", "codebook-axis-shift", "+1"),
        ("CountsBackbone", "REDUCE-1", "term-denominator", ""),
        ("SeesItsCode", "MODEL-8", "sees-its-target", "MODEL-8 fails"),
        ("WrapsAround", "MODEL-2", "sees-other-rows", ""),
        ("CutHead", "GRAD-1", "detached-part", "codebook 1 of depth has no gradient"),
    ],
)
def test_a_wrong_model_fails_by_its_name(name: str, law: str, called: str, detail: str) -> None:
    results, names = heard(name)
    assert law in {result.id for result in results if result.verdict.is_failure}
    assert detail in names[called]


def test_a_frame_with_a_hole_is_a_law_of_its_own() -> None:
    results, _ = heard("NeedsWholeFrames")
    assert overall(results) is Overall.CONFORMS
    (hole,) = [result for result in results if result.verdict.is_failure]
    assert (hole.id, hole.level, hole.verdict) == ("MODEL-9", Level.SHOULD, Verdict.ERROR)


@pytest.mark.parametrize("streams", [each for each in Streams if each is not Streams.NEITHER])
def test_the_labels_of_a_frame_are_all_there_or_the_first_or_none(streams: Streams) -> None:
    with trial_of("Right", "csm", "depth_models") as trial:
        assert isinstance(trial, DepthTrial)
        assert trial.codebooks == 4
        whole = 0
        for masks in ((Mask.NONE,), (Mask.HOLES, Mask.NONE), (Mask.LEFT, Mask.LAST_ONLY)):
            labels = trial.case(Recipe(rows=3, length=5, masks=masks, streams=streams)).batch.tensor("labels")
            kept = {tuple(frame) for frame in (labels >= 0).flatten(0, 1).tolist()}
            assert kept <= {(True,) * 4, (True, False, False, False), (False,) * 4}
            whole += (True,) * 4 in kept
        assert whole == 3
        nothing = trial.case(Recipe(rows=2, length=3, masks=(Mask.ALL,))).batch.tensor("labels")
        assert torch.equal(nothing, torch.full((2, 3, 4), -100))


def test_a_model_without_a_depth_decoder_is_told_so() -> None:
    told = "gives no loss, logits and depth_logits for frames of 2 to 32 codebooks; csm is for models that do"
    with pytest.raises(UsageError, match=told), trial_of("Delayed", "csm"):
        pass
