"""Losses that are right, each written in its own way, are never called wrong: every dtype, many seeds."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shiftproof.harness.candidates.declaration import DTYPES_TOGETHER, resolve
from shiftproof.harness.judge.ask import ask
from shiftproof.harness.judge.loading import LoadedCandidate, Options, jobs_of
from shiftproof.harness.judge.profile import PROFILES, Profile
from shiftproof.harness.laws import LAWS, Law
from shiftproof.harness.results import Level, Overall, overall
from shiftproof.reference.profiles import PROFILES as SPECIFIED
from shiftproof.reference.spec import LossSpec, LossTerm, Score

RIGHT = Path(__file__).parents[2] / "candidates" / "right.py"
DTYPES = ("float32", "bfloat16", "float16")

# What is not the ordinary next-token loss, and the spec that it is right under.
SPECS = {
    "packed_by_position_ids": "packed.position_ids",
    "packed_by_cu_seqlens": "packed.cu_seqlens",
    "packed_by_segment_ids": "packed.segment_ids",
    "masked_mean": "masked",
    "weighted_mean": "weighted",
    "weighted_mean_or_nothing": "weighted",
    "weighted_over_count": "weighted.count",
    "clamped_mean": "trl.nll",
    "aligned_mean": "hf.seq2seq",
    "preshifted_short": "higgs.text",
    "prefix_logits": "hf.prefix_lm",
    "sum_reduction": "sum",
    "per_token": "per_token",
    "flattened_nanogpt": "nanogpt",
}


def _public_names() -> list[str]:
    """The functions and modules of right.py; what is decorated is a helper."""
    tree = ast.parse(RIGHT.read_text(encoding="utf-8"))
    defined = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    return [node.name for node in defined if not node.name.startswith("_") and not node.decorator_list]


ORDINARY = _public_names()


def _table(file: str, name: str) -> dict[str, Any]:
    """A constant of a file of candidates."""
    spec = importlib.util.spec_from_file_location(file, RIGHT.parent / f"{file}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: dict[str, Any] = getattr(module, name)
    return found


def _scored(name: str) -> LossSpec:
    score, term = _table("right_scores", "SCORES")[name]
    return LossSpec(name, (LossTerm(score=Score(**score), **term),), "", "")


# file:function -> the spec that it is right under
SPECS_OF: dict[str, LossSpec] = {
    **{f"right:{name}": SPECIFIED[SPECS.get(name, "hf.causal_lm")] for name in ORDINARY},
    **{f"right_audio:{name}": SPECIFIED[spec] for name, spec in _table("right_audio", "RIGHT").items()},
    **{f"right_scores:{name}": _scored(score) for name, score in _table("right_scores", "RIGHT").items()},
}
NAMES = list(SPECS_OF)
YARDSTICKS = {
    f"yardsticks:{name}": replace(SPECIFIED[spec], layouts=())
    for table in ("RIGHT", "LINEAR")
    for name, spec in _table("yardsticks", table).items()
}
FEW_YARDSTICKS = ("parler",)

# A hidden state of −inf gives no logit of −inf: times the zeros of the weight it is NaN.
THROUGH_IDENTITY = [law for law in LAWS.values() if law.id != "STABLE-2"]

BRIEF = Profile("brief", 0.25, varies_sizes=True)
BRIEFER = Profile("briefer", 0.1)  # three times as many losses, of cases twice as large


def judged(
    name: str,
    dtypes: tuple[str, ...],
    seed: int,
    profile: Profile,
    *,
    gradient: bool = True,
    laws: Iterable[Law[Any, Any]] = tuple(LAWS.values()),
) -> tuple[list[str], int]:
    """The MUST laws that call a right loss wrong, with their messages; and how many cases the laws judged."""
    file, function = name.split(":")
    candidate = replace(resolve(f"{RIGHT.parent / file}.py:{function}", {}), precision="strict", gradient=gradient)
    loaded = LoadedCandidate(jobs_of([candidate])[0], Options(in_process=True))
    try:
        loaded.start()
        trial = loaded.of_loss((SPECS_OF | YARDSTICKS)[name], dtypes)
        results = tuple(ask(law, trial, profile, seed) for law in laws)
    finally:
        loaded.close()
    wrong = [f"{law.id}: {law.message}" for law in results if law.verdict.is_failure and law.level is Level.MUST]
    wrong = wrong or ([] if overall(results) is Overall.CONFORMS else ["not judged to conform"])
    return wrong, sum(law.cases for law in results)


def alarms(name: str, seed: int, profile: Profile) -> list[str]:
    """The alarms of a right loss; the dtypes take turns."""
    return judged(name, (DTYPES[(NAMES.index(name) + seed) % len(DTYPES)],), seed, profile)[0]


@pytest.mark.representatives(6)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("right:")])
def test_right_losses_conform_in_every_dtype(name: str, seed: int) -> None:
    assert alarms(name, seed, BRIEF) == []


@pytest.mark.representatives(4)
@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("right:")])
def test_right_losses_of_codebooks_streams_and_scores_conform(name: str) -> None:
    assert alarms(name, 0, BRIEFER) == []


@pytest.mark.representatives(1)
@pytest.mark.parametrize("name", ["right:sliced", "right_audio:parler_loop", "right_audio:medusa_trimmed"])
def test_right_losses_without_a_gradient_conform(name: str) -> None:
    assert judged(name, ("float32",), 0, BRIEF, gradient=False)[0] == []


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name.removeprefix("yardsticks:") in FEW_YARDSTICKS else pytest.mark.slow)
        for name in YARDSTICKS
    ],
)
def test_yardsticks_conform(name: str) -> None:
    linear = "linear_" in name
    # Products of float16 matrices take seconds on a CPU.
    dtype = "float32" if linear else DTYPES[list(YARDSTICKS).index(name) % len(DTYPES)]
    wrong, _ = judged(name, (dtype,), 0, BRIEFER, laws=THROUGH_IDENTITY if linear else LAWS.values())
    assert wrong == []


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_no_false_alarm_without_a_gradient(name: str) -> None:
    assert judged(name, ("float32",), 0, PROFILES["quick"], gradient=False)[0] == []


@pytest.mark.slow
@pytest.mark.parametrize("dtypes", [DTYPES_TOGETHER, ("float16",)], ids="-".join)
@pytest.mark.parametrize("name", NAMES)
def test_no_false_alarm_in_half_a_million_cases(
    name: str, dtypes: tuple[str, ...], record_property: Callable[[str, object], None]
) -> None:
    wrong, cases = judged(name, dtypes, 100, PROFILES["quick"])
    record_property("right cases", cases)
    assert wrong == []


def test_there_are_a_dozen_of_the_ordinary_loss() -> None:
    assert len([name for name in ORDINARY if name not in SPECS]) >= 12
