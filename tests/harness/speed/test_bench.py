"""Timed calls: fresh and right inputs in every layout, answers that are checked, memory, and what goes wrong."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from shiftproof.harness.candidates.declaration import Candidate, UsageError
from shiftproof.harness.speed.baseline import Contender
from shiftproof.harness.speed.bench import CANDIDATE, RIVAL, TWIN, Bench, NotMeasured, Terms
from shiftproof.harness.speed.inputs import make_inputs
from shiftproof.harness.speed.race import run_race
from shiftproof.harness.speed.recheck import wrong_untimed
from shiftproof.harness.speed.result import Gate, Grade
from shiftproof.harness.speed.run import SpeedOptions, try_speed
from shiftproof.harness.speed.shapes import Shape, has_heads, recipe_of
from shiftproof.harness.worker.fresh import fill
from shiftproof.harness.worker.target import LoadFailure
from shiftproof.reference.profiles import PROFILES

SPEC = PROFILES["hf.causal_lm"]
EAGER = Contender("eager", kind="eager")

LOSSES = """
import torch
import torch.nn.functional as F

def right(logits, labels):
    return F.cross_entropy(logits[:, :-1].float().reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1))

def in_place(logits, labels):
    loss = right(logits, labels)
    logits.detach().zero_()
    return loss

def unshifted(logits, labels):
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1))

def target_only(logits, labels):
    loss = right(logits, labels)
    picked = logits[:, :-1].gather(-1, labels[:, 1:].clamp_min(0)[..., None])[..., 0]
    kept = picked * (labels[:, 1:] >= 0)
    return loss.detach() - (kept.sum() - kept.sum().detach()) / (labels[:, 1:] >= 0).sum()

def no_gradient(logits, labels):
    return right(logits, labels).detach()

def raises(logits, labels):
    raise ValueError("not today")

def books(logits, labels):
    # musicgen: [B, K, S, V] with 0 to V - 1, V and -100 ignored
    labels = labels.permute(0, 2, 1)
    labels = labels.masked_fill(labels == logits.shape[-1], -100)
    rows = logits[:, :, -labels.shape[2]:]
    losses = [F.cross_entropy(rows[:, k].flatten(0, 1), labels[:, k].flatten()) for k in range(rows.shape[1])]
    return sum(losses) / len(losses)

def squared(logits, labels):
    loss = right(logits, labels)
    rows = logits.shape[1]
    for _ in range(rows * rows // 256):
        torch.ones(4096).exp()
    return loss
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    (folder / "losses.py").write_text(LOSSES)
    return folder


def contender(folder: Path, name: str, **changes: object) -> Contender:
    return Contender(name, candidate=Candidate(name, f"{folder}/losses.py:{name}", **changes))  # type: ignore[arg-type]


def terms_of(spec: str = SPEC.name, dtype: str = "float32") -> Terms:
    shape = Shape("own", 2, 24, 50, codebooks=3) if has_heads(PROFILES[spec]) else Shape("own", 2, 24, 50)
    return Terms(PROFILES[spec], shape, dtype)


@pytest.fixture(scope="module")
def bench(folder: Path) -> Iterator[Bench]:
    with Bench(terms_of()) as bench:
        bench.seat(RIVAL, EAGER)
        bench.seat(TWIN, EAGER)
        yield bench


@pytest.mark.parametrize("name", ["right", "in_place"])
def test_a_right_answer(bench: Bench, folder: Path, name: str) -> None:
    bench.seat(CANDIDATE, contender(folder, name))
    for seed in (1, 2, 1):
        sample = bench.call(CANDIDATE, seed)
        assert sample.wrong is None
        assert not sample.stale
        assert sample.settled
        assert (sample.lazy, sample.patched, sample.peak) == ((), (), None)
        assert sample.charged == sample.cpu
        assert sample.charged.forward > 0
        assert sample.charged.backward > 0


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("unshifted", "the loss is"),
        ("target_only", "the gradient at logits is wrong in"),
        ("no_gradient", "no gradient"),
    ],
)
def test_a_wrong_answer(bench: Bench, folder: Path, name: str, said: str) -> None:
    bench.seat(CANDIDATE, contender(folder, name))
    assert said in (bench.call(CANDIDATE, 1).wrong or "")


def test_a_value_alone_is_enough_where_there_is_no_backward(bench: Bench, folder: Path) -> None:
    bench.seat(CANDIDATE, contender(folder, "no_gradient", gradient=False))
    assert bench.call(CANDIDATE, 1).wrong is None


def test_what_a_contender_raises_is_said(bench: Bench, folder: Path) -> None:
    bench.seat(CANDIDATE, contender(folder, "raises"))
    with pytest.raises(NotMeasured, match="raises raised ValueError: not today"):
        bench.call(CANDIDATE, 1)


def test_a_contender_that_is_not_there(bench: Bench, folder: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'right'"):
        bench.seat(CANDIDATE, contender(folder, "righ"))
    (folder / "broken.py").write_text("import nothing_of_that_name\n")
    with pytest.raises(LoadFailure, match="nothing_of_that_name"):
        bench.seat(CANDIDATE, Contender("broken", candidate=Candidate("broken", f"{folder}/broken.py:loss")))


def test_a_race_alternates_and_stops(bench: Bench) -> None:
    seen: list[int] = []
    race = run_race(
        bench,
        (TWIN, RIVAL),
        itertools.count(100),
        lambda race: len(race.pairs) >= 18,
        60.0,
        between=lambda race: seen.append(len(race.pairs)),
    )
    assert len(race.pairs) == 18
    assert seen == [*range(1, 19)]
    assert {(one.part, two.part) for one, two in race.pairs} == {(TWIN, RIVAL)}
    assert len({sample.seed for pair in race.pairs for sample in pair}) == 2 * 18  # no inputs twice
    assert {one.seed < two.seed for one, two in race.pairs} == {True, False}  # neither is always first
    assert race.ratio("both").pairs == 18


def test_a_race_ends_with_its_time(bench: Bench) -> None:
    assert len(run_race(bench, (TWIN, RIVAL), itertools.count(500), lambda race: False, 0.0).pairs) == 1
    assert len(run_race(bench, (TWIN, RIVAL), itertools.count(500), lambda race: False, 60.0, most=3).pairs) == 3


@pytest.mark.parametrize("name", PROFILES)
def test_both_processes_write_the_same_logits(name: str) -> None:
    """A candidate finds in its layout what the judge scores."""
    terms = terms_of(name)
    inputs = make_inputs(terms.spec, recipe_of(terms.spec, terms.shape, terms.dtype, 5))
    for logits, shape in inputs.shapes.items():
        handed = torch.empty(shape)
        fill(handed, 5 * 8 + terms.spec.logits.index(logits))
        assert torch.equal(inputs.logits(logits), handed)


def test_a_candidate_in_another_layout_and_in_half_precision(folder: Path) -> None:
    with Bench(terms_of("musicgen", "bfloat16")) as bench:
        bench.seat(CANDIDATE, contender(folder, "books"))
        assert bench.call(CANDIDATE, 3).wrong is None


def test_memory_is_the_peak_above_the_inputs(folder: Path) -> None:
    terms = Terms(SPEC, Shape("own", 1, 257, 8192))
    logits = 257 * 8192 * 4
    with Bench(terms, keeps_pages=False) as bench:
        bench.seat(CANDIDATE, contender(folder, "right"))
        bench.call(CANDIDATE, 1)
        peak = bench.call(CANDIDATE, 2, weigh=True).peak
    assert peak is not None
    assert 2 * logits < peak < 5 * logits


def test_an_ordinary_call_asks_the_same(folder: Path) -> None:
    for name, wrong in (("right", False), ("unshifted", True), ("raises", True)):
        candidate = contender(folder, name).candidate
        assert candidate is not None
        assert (wrong_untimed(candidate, terms_of(), 1) is not None) is wrong


@pytest.mark.timed
def test_a_whole_trial(folder: Path) -> None:
    stages: list[str] = []
    candidate = contender(folder, "squared").candidate
    assert candidate is not None
    terms = Terms(SPEC, Shape("own", 1, 256, 1024))
    trial = try_speed(candidate, EAGER, terms, SpeedOptions(Gate(max_slowdown=1.1), 2.0), stages.append)
    assert stages == ["self-test", "warm-up", "race", "bandwidth", "scaling", "memory"]
    assert trial.grade is Grade.FAILS
    assert [times.part for times in trial.times] == ["forward", "backward", "both"]
    assert [growth.axis for growth in trial.growth] == ["T", "V"]
    assert trial.memory is not None
    assert trial.memory.logits == 256 * 1024 * 4
    assert trial.traffic is not None
    assert trial.traffic.needed == 2 * trial.memory.logits


def test_what_cannot_be_measured_is_no_verdict(folder: Path) -> None:
    candidate = contender(folder, "raises").candidate
    assert candidate is not None
    trial = try_speed(candidate, EAGER, terms_of(), SpeedOptions(Gate(), 1.0, all=False))
    assert trial.grade is Grade.ERROR
    assert "not today" in trial.problem
