"""Models of codebooks, judged against the logits that they make: right ones conform, wrong ones fail by their name."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from shiftproof.harness.candidates.declaration import UsageError
from shiftproof.harness.candidates.model_layout import ModelLayout
from shiftproof.harness.cases.recipe import Recipe
from shiftproof.harness.judge.ask import ask
from shiftproof.harness.laws import LAWS
from shiftproof.harness.results import Overall, overall

from .judged_models import BRIEF, judged, trial_of


@pytest.mark.parametrize(
    ("name", "spec", "layout"),
    [
        ("Delayed", "musicgen", ModelLayout(3, "(b k) s", "b s k", "(b k) s v")),
        ("Flat", "dia", ModelLayout(3, "(b k) s", "(b k) s", "(b k) s v")),
        ("Wide", "dia", ModelLayout(3, "b s k", "b s k", "b s (k v)")),
        ("Weighted", "parler", ModelLayout(3, "b k s", "b s k", "(b k) s v")),
    ],
)
def test_a_right_model_conforms_in_its_own_layout(name: str, spec: str, layout: ModelLayout) -> None:
    with trial_of(f"audio_models:{name}", spec) as trial:
        assert trial.layout == layout
        results = [ask(law, trial, BRIEF, seed=0) for law in LAWS.values()]
    assert {result.id for result in results if result.verdict.is_failure} == set()
    assert overall(tuple(results)) is Overall.CONFORMS
    asked = {result.id for result in results if result.cases}
    assert asked >= {"ALIGN-1", "SELECT-1", "REDUCE-1", "VALUE-1", "GRAD-1", "MODEL-1", "MODEL-2", "STATE-1", "STATE-5"}


@pytest.mark.representatives(3)
@pytest.mark.parametrize(
    ("name", "spec", "law", "called"),
    [
        ("Shifted", "musicgen", "ALIGN-1", "aligned-shift"),
        ("NextCodebook", "musicgen", "ALIGN-1", "codebook-axis-shift"),
        ("CountsTheFirst", "musicgen", "REDUCE-1", ""),
        ("Summed", "musicgen", "REDUCE-1", ""),
        ("SeesItsFrame", "musicgen", "MODEL-1", "sees-its-target"),
        ("CutGradient", "musicgen", "GRAD-1", "detached-part"),
        ("FlatNextCodebook", "dia", "ALIGN-1", "codebook-axis-shift"),
        ("FlatUncounted", "dia", "REDUCE-1", "count-ignored"),
        ("WeightedPastTheEnd", "parler", "ALIGN-1", "mask-by-labels"),
        ("WeightedUntilItsLabel", "parler", "ALIGN-1", ""),
        ("WeightedAlike", "parler", "REDUCE-1", ""),
        ("WeightedSeesItsFrame", "parler", "MODEL-1", "sees-its-target"),
    ],
)
def test_a_wrong_model_fails_by_its_name(name: str, spec: str, law: str, called: str) -> None:
    found = judged(f"audio_models:{name}", spec)
    assert law in found.failed
    assert not called or called in found.names


def test_a_decoder_is_given_the_frames_before_its_own() -> None:
    with trial_of("audio_models:Flat", "dia") as trial:
        seen = trial.observe_cached(Recipe(rows=2, length=4))
        assert seen.case.batch.tensor("logits").shape == (2, 4, 3, 23)
        tokens = trial._tokens(seen.case).view(2, 3, 4)
        labels = seen.case.batch.tensor("labels").transpose(1, 2)
        kept = (labels >= 0)[:, :, :-1]
        assert bool((tokens[:, :, 1:] == labels[:, :, :-1])[kept].all())
        assert bool(kept.any())


def test_a_loss_that_depends_on_the_inputs_is_judged_by_those_that_the_decoder_gets() -> None:
    with trial_of("audio_models:Weighted", "parler") as trial:
        case = trial.case(Recipe(rows=2, length=4))
        assert torch.equal(trial._taken(case), case.batch.tensor("input_ids"))
        labels = (case.batch.tensor("labels") + 1) % trial.classes
        changed = trial.variation(case, lambda batch: replace(batch, labels=labels))
        assert torch.equal(changed.batch.tensor("input_ids")[:, 1:], labels[:, :-1])


def test_what_a_loss_reads_beside_its_labels_must_be_given_to_a_model() -> None:
    told = "parler is not for models: it reads codebook_weights and bos_token_id and eos_token_id, which a model has"
    with pytest.raises(UsageError, match=told), trial_of("audio_models:Delayed", "parler"):
        pass


def test_a_model_that_takes_no_codebooks_is_told_so() -> None:
    told = "gives no loss and logits for tokens and labels of 2 to 32 codebooks; musicgen is for models that do"
    with pytest.raises(UsageError, match=told), trial_of("models:Right", "musicgen"):
        pass


def test_a_spec_with_more_than_a_model_is_given_is_refused() -> None:
    for spec in ("parler", "moss_ttsd"):
        told = "which a model has in its configuration"
        with pytest.raises(UsageError, match=told), trial_of("audio_models:Flat", spec):
            pass
