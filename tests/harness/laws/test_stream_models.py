"""Models of text and codebooks, judged against the logits that they make."""

from __future__ import annotations

import pytest
import torch

from shiftproof.harness.candidates.declaration import UsageError
from shiftproof.harness.candidates.model_streams import StreamsTrial
from shiftproof.harness.cases.recipe import Mask, Recipe
from shiftproof.harness.results import Overall

from .judged_models import judged, trial_of


@pytest.mark.representatives(2)
@pytest.mark.parametrize("name", ["Right", "Reshaped", "Copied"])
def test_a_right_model_conforms(name: str) -> None:
    found = judged(f"stream_models:{name}", "higgs.hf")
    assert (found.failed, found.overall) == (set(), Overall.CONFORMS)
    assert found.asked >= {"ALIGN-1", "SELECT-1", "REDUCE-1", "VALUE-1", "GRAD-1", "STATE-5", "COUNT-1"}
    assert found.asked >= {"MODEL-1", "MODEL-2", "MODEL-3", "MODEL-10"}


@pytest.mark.representatives(3)
@pytest.mark.parametrize(
    ("name", "law", "called", "detail"),
    [
        ("TextTwice", "ALIGN-1", "double-shift", "in text"),
        ("AudioTwice", "ALIGN-1", "double-shift", "in audio"),
        ("NextCodebook", "ALIGN-1", "codebook-axis-shift", "+1, round"),
        ("CountsText", "REDUCE-1", "term-denominator", ""),
        ("SeesItsTarget", "MODEL-1", "sees-its-target", "MODEL-1 fails"),
        ("CutGradient", "GRAD-1", "detached-part", "codebook 1 of audio has no gradient"),
        ("CutText", "GRAD-1", "detached-part", "text has no gradient"),
        ("CopiedAudioTwice", "ALIGN-1", "double-shift", "in audio"),
        ("CopiedCutText", "GRAD-1", "detached-part", "text has no gradient"),
    ],
)
def test_a_wrong_model_fails_by_its_name(name: str, law: str, called: str, detail: str) -> None:
    found = judged(f"stream_models:{name}", "higgs.hf")
    assert law in found.failed
    assert detail in found.names[called]


def test_sequences_have_frames_in_different_places() -> None:
    with trial_of("stream_models:Right", "higgs.hf") as trial:
        assert isinstance(trial, StreamsTrial)
        assert trial.audio_layout.codebooks == 3
        batch = trial.case(Recipe(rows=4, length=6, masks=(Mask.NONE,))).batch
        tokens, labels = batch.tensor("audio_input_ids"), batch.tensor("audio_labels")
        assert (tokens >= 0).all(-1).sum(1).tolist() == [6, 3, 0, 5]
        assert torch.equal(tokens < 0, labels == -100)
        shown = trial.observe_cached(Recipe(rows=4, length=6)).case.batch
        assert shown.tensor("logits").shape == (4, 6, 29)
        assert shown.tensor("audio_logits").shape == (4, 6, 3, 13)


def test_a_model_without_frames_is_told_what_is_missing() -> None:
    told = "it has two streams, and the model takes no audio_labels and no audio_input_ids"
    with pytest.raises(UsageError, match=told), trial_of("models:Right", "higgs.hf"):
        pass
