"""A trainer on trial: what it may be asked under which spec, and in which sizes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shiftproof.harness.candidates.arguments import no_trainer
from shiftproof.harness.candidates.declaration import Candidate, UsageError
from shiftproof.harness.candidates.trainer import TrainerTrial
from shiftproof.harness.candidates.trainer_arguments import PARTS, TO_TRAINERS, TRAINER_ARGUMENTS, trains
from shiftproof.harness.cases.recipe import Mask, Recipe
from shiftproof.harness.diagnosis.identify import identify
from shiftproof.harness.judge.ask import ask
from shiftproof.harness.judge.loading import LoadedCandidate, Options, jobs_of
from shiftproof.harness.judge.profile import PROFILES as PROFILES_OF_CASES
from shiftproof.harness.laws import LAWS
from shiftproof.reference.profiles import PROFILES

CANDIDATES = Path(__file__).parents[2] / "candidates" / "trainers.py"


@contextmanager
def hearing_of(name: str, **fields: object) -> Iterator[LoadedCandidate]:
    candidate = Candidate(name, f"{CANDIDATES}:{name}", "hf.causal_lm", **fields)  # type: ignore[arg-type]
    loaded = LoadedCandidate(jobs_of([candidate])[0], Options(in_process=True))
    try:
        yield loaded
    finally:
        loaded.close()


@pytest.fixture
def trial() -> Iterator[TrainerTrial]:
    with hearing_of("right") as loaded:
        found = loaded.trial()
        assert isinstance(found, TrainerTrial)
        yield found


def test_specs_of_one_mean_over_labels_are_for_trainers() -> None:
    fitting = {name for name, spec in PROFILES.items() if no_trainer(spec) is None}
    assert {"hf.causal_lm", "hf.seq2seq", "hf.label_smoother", "preshifted", "torchtune", "trl.nll"} <= fitting


@pytest.mark.parametrize(
    ("spec", "lacking"),
    [
        ("higgs.hf", "it reads"),
        ("torch.cross_entropy", "flat"),
        ("packed.position_ids", "more than labels"),
        ("weighted", "more than labels"),
        ("hf.prefix_lm", "logits without a label"),
        ("sum", "not a mean"),
        ("megatron", "more than labels"),
        ("torchtitan", "divides by num_items"),
    ],
)
def test_another_spec_is_refused(spec: str, lacking: str) -> None:
    with hearing_of("right") as loaded, pytest.raises(UsageError, match=f"does not describe one: .*{lacking}"):
        loaded.of_loss(PROFILES[spec])  # type: ignore[arg-type]


def test_another_dtype_is_refused() -> None:
    with hearing_of("right", dtypes=("bfloat16",)) as loaded, pytest.raises(UsageError, match="drop --dtype bfloat16"):
        loaded.trial()


@pytest.mark.parametrize("rows", range(12))
def test_every_case_has_rows_for_all_micro_batches(trial: TrainerTrial, rows: int) -> None:
    fitted = trial.fit(Recipe(rows=rows, length=50, classes=40000, masks=(Mask.LEFT, Mask.NONE)))
    size = -(-fitted.rows // PARTS)
    assert -(-fitted.rows // size) == PARTS
    assert (fitted.length, fitted.classes, fitted.masks) == (8, 257, (Mask.PADDING, Mask.NONE))
    assert trial.fit(fitted) == fitted


def test_laws_on_the_loss_of_its_model_are_not_asked(trial: TrainerTrial) -> None:
    assert trial.skip_reason("GRAD-3") == "it is a trainer, and this law tests its model's loss"
    assert trial.skip_reason("STEP-1") is None
    assert not trial.silent


def test_it_is_asked_a_share_of_the_cases(trial: TrainerTrial) -> None:
    law = LAWS["GRAD-1"]
    found = ask(law, trial, PROFILES_OF_CASES["quick"], seed=0, among={law.id: law})
    most = round(law.budget * trial.share)  # less those in which nothing is trained
    assert most / 2 < found.cases + found.vacuous <= most


def test_one_that_returns_no_loss_is_not_asked_for_its_value() -> None:
    with hearing_of("right_silent") as loaded:
        trial = loaded.trial()
        assert isinstance(trial, TrainerTrial)
        assert trial.silent
        assert "returns no loss" in (trial.skip_reason("VALUE-1") or "")
        assert trial.observe_cached(Recipe(rows=4, length=4, classes=11)).value is None


def test_a_trainer_is_told_by_model_and_micro_batches() -> None:
    assert trains(["model", "micro_batches"], {})
    assert trains(["net", "micro_batches", "x"], {"model": "net"})
    assert not trains(["model", "labels"], {})
    assert set(TO_TRAINERS.names) == set(TRAINER_ARGUMENTS)


def test_an_argument_that_trainers_are_not_given_is_told(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def step(model, micro_batches, optimizer): ...\n")
    job = jobs_of([Candidate("step", f"{tmp_path / 'mine.py'}:step", "hf.causal_lm")])[0]
    loaded = LoadedCandidate(job, Options(in_process=True))
    with pytest.raises(UsageError, match="requires 'optimizer', which a trainer is not given"):
        loaded.trial()
    loaded.close()


def test_a_trainer_is_identified() -> None:
    with hearing_of("mean_of_means") as loaded:
        found = identify(loaded)
    assert found.conforms == ()
    first, *_ = found.wrong
    assert (first.profile, [bug.mutant for bug in first.bugs]) == ("hf.causal_lm", ["mean-of-means"])
