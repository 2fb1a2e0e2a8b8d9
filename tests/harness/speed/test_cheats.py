"""Every cheat of tests/candidates/cheats.py is caught under its name, and an honest loss is not."""

from __future__ import annotations

import importlib.util
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from shiftproof.harness.candidates.declaration import Candidate
from shiftproof.harness.speed.baseline import Contender
from shiftproof.harness.speed.bench import Sample, Split, Terms
from shiftproof.harness.speed.cheats import Evidence, find_cheats
from shiftproof.harness.speed.result import Gate, Grade, Trial
from shiftproof.harness.speed.run import SpeedOptions, try_speed
from shiftproof.harness.speed.shapes import Shape
from shiftproof.reference.profiles import PROFILES

FILE = Path(__file__).parents[2] / "candidates" / "cheats.py"
SPEC = PROFILES["hf.causal_lm"]
SMALL = Shape("own", 1, 64, 16384)


def listed(name: str) -> dict[str, str]:
    spec = importlib.util.spec_from_file_location("cheats", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: dict[str, str] = getattr(module, name)
    return found


def tried(name: str, device: str = "cpu", *, shape: Shape = SMALL, threads: int = 1) -> Trial:
    """The times alone, of a small shape: what a cheat does, it does at once."""
    candidate = Candidate(name, f"{FILE}:{name}", spec=SPEC.name)
    terms = Terms(SPEC, shape, device=device, threads=threads)
    return try_speed(candidate, Contender("eager", kind="eager"), terms, SpeedOptions(Gate(), 1.0, all=False))


@pytest.mark.timed
@pytest.mark.parametrize(("name", "called"), listed("CAUGHT").items())
def test_a_cheat_is_caught_by_its_name(name: str, called: str) -> None:
    trial = tried(name)
    assert called in [cheat for cheat, _ in trial.cheats], trial
    assert trial.grade is Grade.FAILS


@pytest.mark.gpu
@pytest.mark.parametrize(("name", "called"), listed("CAUGHT_ON_CUDA").items())
def test_a_cheat_on_cuda_is_caught_by_its_name(name: str, called: str, gpu: str) -> None:
    assert called in [cheat for cheat, _ in tried(name, gpu).cheats]


@pytest.mark.timed
def test_an_honest_loss_is_not_caught() -> None:
    trial = tried("honest")
    assert not trial.cheats
    assert not trial.problem


@pytest.mark.timed
@pytest.mark.parametrize("shape", [SMALL, Shape("own", 1, 512, 32000)], ids=str)
def test_an_honest_loss_of_several_threads_is_not_caught(shape: Shape) -> None:
    """The threads of torch, which spin for a while, are not its own."""
    trial = tried("honest", shape=shape, threads=2)
    assert not trial.cheats
    assert not trial.problem


@pytest.mark.timed
def test_work_that_is_left_to_a_thread_is_caught_beside_others() -> None:
    assert "unfinished" in [cheat for cheat, _ in tried("returns_early", threads=2).cheats]


@pytest.mark.gpu
def test_an_honest_loss_is_not_caught_on_cuda(gpu: str) -> None:
    trial = tried("honest", gpu)
    assert not trial.cheats
    assert not trial.problem


def sample(milliseconds: float = 10.0, **changes: Any) -> Sample:
    """A call in which nothing was odd."""
    half = Split(milliseconds / 2e3, milliseconds / 2e3)
    fields: dict[str, Any] = {
        "part": "candidate",
        "seed": 0,
        "charged": half,
        "wall": half,
        "cpu": half,
        "idle": 0.0,
        "stream": None,
        "peak": None,
        "others": 0.0,
        "settled": True,
        "lazy": (),
        "patched": (),
        "busy": 1.0,
        "seen": 1.0,
    }
    return Sample(**{**fields, **changes})


def evidence(**changes: list[Sample]) -> Evidence:
    return Evidence(**{**{field.name: [sample()] * 3 for field in fields(Evidence)}, **changes})


def names(of: Evidence) -> list[str]:
    return [cheat.name for cheat in find_cheats(of)]


def test_evidence_of_nothing() -> None:
    assert names(evidence()) == []
    assert names(Evidence()) == []
    assert names(evidence(again=[sample(8.0)] * 3, alone=[sample(8.0)] * 3)) == []


def test_evidence_of_each_cheat() -> None:
    wrong = sample(wrong="the loss is 1 where 2 is right")
    device = Split(0.002, 0.002)
    assert names(evidence(timed=[sample(), wrong, sample()])) == ["wrong-when-timed"]
    assert names(evidence(timed=[sample(), replace(wrong, stale=True)])) == ["stale-answer"]
    assert names(evidence(again=[sample(1.0)] * 3)) == ["remembers-inputs"]
    assert names(evidence(again=[sample(1.0)] * 3, warmed_again=[sample(1.0)] * 3)) == ["remembers-inputs"]
    assert names(evidence(warmed_again=[sample(1.0)] * 3)) == ["remembers-warm-up"]
    assert names(evidence(timed=[sample(patched=("time.perf_counter",))])) == ["patched-clock"]
    assert names(evidence(timed=[sample(settled=False), sample()])) == ["unfinished"]
    assert names(evidence(timed=[sample(lazy=("Lazy",))])) == ["unfinished"]
    assert names(evidence(timed=[sample(others=0.004)] * 20)) == ["unfinished"]
    assert names(evidence(timed=[sample(others=0.004)] * 20, alone=[sample(others=0.004)])) == []
    assert names(evidence(timed=[sample(others=0.004)] * 20, alone=[sample(others=0.001)])) == ["unfinished"]
    assert names(evidence(warm_up=[sample(others=0.004)] * 3, alone=[sample(others=0.004)])) == ["unfinished"]
    assert names(evidence(timed=[sample(idle=0.02)] * 20)) == ["works-elsewhere"]
    assert names(evidence(timed=[sample(stream=device)] * 20)) == ["side-stream"]
    assert names(evidence(rival=[sample(20.0)] * 3)) == ["slows-its-rival"]


def test_a_clock_that_disagrees_with_the_kernel() -> None:
    said = [sample(busy=1.0 + index, seen=1.0 + 2 * index) for index in range(3)]
    assert names(evidence(warm_up=[], again=[], warmed_again=[], timed=said)) == ["patched-clock"]


def test_a_loss_that_is_wrong_at_once_is_no_cheat() -> None:
    wrong = sample(wrong="the loss is 1 where 2 is right")
    assert names(evidence(warm_up=[wrong] * 3, timed=[wrong] * 3)) == []


def test_a_wrong_loss_is_said_to_be_wrong() -> None:
    candidate = Candidate("sliced", f"{FILE}:_evaluate", spec="nanogpt")
    terms = Terms(PROFILES["nanogpt"], Shape("own", 1, 16, 64))
    trial = try_speed(candidate, Contender("eager", kind="eager"), terms, SpeedOptions(Gate(), 1.0, all=False))
    assert "it is wrong: the loss is" in trial.problem
    assert trial.grade is Grade.FAILS
    assert not trial.cheats
