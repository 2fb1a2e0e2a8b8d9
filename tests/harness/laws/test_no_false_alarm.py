"""Losses that are right, each written in its own way, are never called wrong: every dtype, many seeds."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import pytest

from shiftproof.harness.candidate import resolve
from shiftproof.harness.docket import Hearing, Options, enter
from shiftproof.harness.judge import PROFILES, Profile, ask
from shiftproof.harness.laws import LAWS
from shiftproof.harness.verdict import Level, Overall, overall

RIGHT = Path(__file__).parents[2] / "candidates" / "right.py"
DTYPES = ("float32", "bfloat16", "float16")

# What is not the ordinary next-token loss, and the spec that it is right under.
SPECS = {
    "packed_by_position_ids": "packed.position_ids",
    "packed_by_cu_seqlens": "packed.cu_seqlens",
    "packed_by_segment_ids": "packed.segment_ids",
    "masked_mean": "masked",
    "weighted_mean": "weighted",
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


NAMES = _public_names()


BRIEF = Profile("brief", 0.25)


def alarms(name: str, seed: int, profile: Profile) -> list[str]:
    """The MUST laws that call a right loss wrong, with their messages. The dtypes take turns."""
    dtype = DTYPES[(NAMES.index(name) + seed) % len(DTYPES)]
    candidate = replace(resolve(f"{RIGHT}:{name}", {}), spec=SPECS.get(name, "hf.causal_lm"), dtypes=(dtype,))
    hearing = Hearing(enter([candidate])[0], Options(in_process=True))
    try:
        hearing.start()
        trial = hearing.trial()
        results = tuple(ask(law, trial, profile, seed) for law in LAWS.values())
    finally:
        hearing.close()
    wrong = [f"{law.id}: {law.message}" for law in results if law.verdict.is_failure and law.level is Level.MUST]
    return wrong or ([] if overall(results) is Overall.CONFORMS else ["not judged to conform"])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", NAMES)
def test_right_losses_conform_in_every_dtype(name: str, seed: int) -> None:
    assert alarms(name, seed, BRIEF) == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 120))
@pytest.mark.parametrize("name", NAMES)
def test_no_false_alarm_in_twenty_seeds(name: str, seed: int) -> None:
    assert alarms(name, seed, PROFILES["quick"]) == []


def test_there_are_a_dozen_of_the_ordinary_loss() -> None:
    assert len([name for name in NAMES if name not in SPECS]) >= 12
