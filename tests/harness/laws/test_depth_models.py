"""Models with a depth decoder, judged against the logits that they make."""

from __future__ import annotations

import pytest
import torch

from shiftproof.harness.candidates.declaration import UsageError
from shiftproof.harness.candidates.model_depth import DepthTrial
from shiftproof.harness.cases.recipe import Mask, Recipe, Streams
from shiftproof.harness.results import Level, Overall, Verdict

from .judged_models import judged, trial_of


def test_a_right_model_conforms() -> None:
    found = judged("depth_models:Right", "csm")
    assert (found.failed, found.overall) == (set(), Overall.CONFORMS)
    assert found.asked >= {"ALIGN-1", "SELECT-1", "REDUCE-1", "GRAD-1", "MODEL-1", "MODEL-2", "MODEL-3", "MODEL-8"}
    assert found.asked >= {"MODEL-9", "MODEL-10"}


@pytest.mark.representatives(3)
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
    found = judged(f"depth_models:{name}", "csm")
    assert law in found.failed
    assert detail in found.names[called]


def test_a_frame_with_a_hole_is_a_law_of_its_own() -> None:
    found = judged("depth_models:NeedsWholeFrames", "csm")
    assert (found.failed, found.overall) == ({"MODEL-9"}, Overall.CONFORMS)
    assert (found.of("MODEL-9").level, found.of("MODEL-9").verdict) == (Level.SHOULD, Verdict.ERROR)


@pytest.mark.parametrize("streams", [each for each in Streams if each is not Streams.NEITHER])
def test_the_labels_of_a_frame_are_all_there_or_the_first_or_none(streams: Streams) -> None:
    with trial_of("depth_models:Right", "csm") as trial:
        assert isinstance(trial, DepthTrial)
        assert (trial.codebooks, trial.untaken) == (4, ())
        for masks in ((Mask.NONE,), (Mask.HOLES, Mask.NONE), (Mask.LEFT, Mask.LAST_ONLY)):
            labels = trial.case(Recipe(rows=3, length=5, masks=masks, streams=streams)).batch.tensor("labels")
            kept = {tuple(frame) for frame in (labels >= 0).flatten(0, 1).tolist()}
            assert kept <= {(True,) * 4, (True, False, False, False), (False,) * 4}
        nothing = trial.case(Recipe(rows=2, length=3, masks=(Mask.ALL,))).batch.tensor("labels")
        assert torch.equal(nothing, torch.full((2, 3, 4), -100))


def test_a_decoder_that_needs_a_frame_always_gets_one() -> None:
    """And whatever else is wrong with the model is found: only MODEL-10 asks for a batch without a frame."""
    found = judged("depth_models:NeedsAFrame", "csm")
    assert found.failed == {"MODEL-10"}
    assert found.of("MODEL-10").message.startswith("with all labels of the depth decoder ignored it raised Runtime")
    with trial_of("depth_models:NeedsAFrame", "csm") as trial:
        assert isinstance(trial, DepthTrial)
        assert [gap.name for gap in trial.untaken] == ["all labels of the depth decoder", "all labels"]
        for masks in ((Mask.ALL,), (Mask.HOLES, Mask.NONE)):
            recipe = Recipe(rows=2, length=3, masks=masks, streams=Streams.FIRST)
            assert bool((trial.case(recipe).batch.tensor("labels") >= 0).all(-1).any())


def test_a_model_without_a_depth_decoder_is_told_so() -> None:
    told = "gives no loss, logits and depth_logits for frames of 2 to 32 codebooks; csm is for models that do"
    with pytest.raises(UsageError, match=told), trial_of("audio_models:Delayed", "csm"):
        pass
