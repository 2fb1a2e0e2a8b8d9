"""Every known-wrong loss fails under its own name."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from .command import CANDIDATES, Run


@dataclass(frozen=True)
class Known:
    """A wrong loss: its spec, and the most rows and the greatest length of the counterexample that tells it."""

    rows: int
    length: int
    spec: str = "hf.causal_lm"


WRONG = {
    # alignment
    "no_shift": Known(1, 2),
    "double_shift": Known(1, 3),
    "flat_double_shift": Known(2, 3),
    "aligned_shift": Known(1, 2, "hf.seq2seq"),
    "reverse_shift": Known(1, 3),  # T=2 tells it from right, T=3 from other bugs
    "flatten_then_shift": Known(2, 2),
    "roll_wrap": Known(1, 2),
    "tail_pad_target": Known(1, 2),
    "prefix_slice": Known(1, 3, "hf.prefix_lm"),
    "drop_first_response": Known(1, 2, "masked"),
    "drop_last_response": Known(1, 2, "masked"),
    "shard_then_shift": Known(1, 2),
    "index_minus_one": Known(1, 2),
    # selection
    "ignore_unused": Known(1, 3),
    "negative_label_wrap": Known(1, 2),
    "hardcoded_ignore": Known(1, 3),
    "eos_masked": Known(1, 3),
    "prompt_included": Known(1, 3),
    "cross_document": Known(1, 3, "packed.position_ids"),
    "segment_weight": Known(2, 6, "packed.segment_ids"),  # 2×3 or 1×6
    "all_ignored_nan_gradient": Known(1, 1),
    # normalisation
    "denominator_all": Known(1, 3),
    "overcount_rows": Known(1, 2),
    "undercount_aligned": Known(1, 1, "hf.seq2seq"),
    "mean_of_means": Known(3, 3),  # 2×3 or 3×2
    "sum_of_means": Known(2, 2),
    "double_divide": Known(1, 2),
    "count_ignored": Known(1, 2),
    "packed_double_subtract": Known(1, 5, "packed.position_ids"),  # ÷ 0 where three documents are short
    "row_mean": Known(2, 3),
    "rank_mean_of_means": Known(1, 2),
    "world_size_missing": Known(1, 2),
    "cp_undercount": Known(1, 2),
    "chunk_mean_sum": Known(2, 6),  # five pairs, for a second chunk of four: 2×4 or 1×6
    "chunk_mean_mean": Known(2, 6),
    "tail_accumulation": Known(1, 2),
}
_AT_ONCE = 5


def wrong_functions() -> dict[str, str]:
    """Every public function of the files of wrong losses -> the target that it is."""
    found = {}
    for family in ("alignment", "selection", "normalisation"):
        path = CANDIDATES / f"wrong_{family}.py"
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                found[node.name] = f"{path}:{node.name}"
    return found


def batches() -> Iterator[Any]:
    """A few functions of one spec at a time, so that one start of the command serves several."""
    by_spec: dict[str, list[str]] = {}
    for name in wrong_functions():
        if name in WRONG:
            by_spec.setdefault(WRONG[name].spec, []).append(name)
    for spec, names in by_spec.items():
        for start in range(0, len(names), _AT_ONCE):
            yield pytest.param(spec, names[start : start + _AT_ONCE], id=f"{spec}-{start // _AT_ONCE}")


def test_every_wrong_loss_has_its_row() -> None:
    assert set(WRONG) == set(wrong_functions())


BATCHES = pytest.mark.parametrize(("spec", "names"), list(batches()))
DECISIVE = "CONTRACT or ALIGN or SELECT or REDUCE or EMPTY"  # the laws on pairs and weights, which tell these bugs


@pytest.mark.representatives(1)
@BATCHES
def test_wrong_losses_fail_under_their_own_names(run: Run, spec: str, names: list[str]) -> None:
    assert misjudged_by_check(run, spec, names, "--in-process", "--pytest", "-k", DECISIVE) == []


@pytest.mark.slow
@BATCHES
def test_wrong_losses_fail_by_every_law_in_a_worker(run: Run, spec: str, names: list[str]) -> None:
    assert misjudged_by_check(run, spec, names) == []


def misjudged_by_check(run: Run, spec: str, names: list[str], *more: str) -> list[str]:
    targets = wrong_functions()
    ran = run("check", *(targets[name] for name in names), "--spec", spec, "--json", "r.json", "--seed", "0", *more)
    assert ran.code == 1
    assert list(ran.candidates) == names
    return [f"{name}: {why}" for name in names for why in misjudged(ran.candidates[name], name)]


def misjudged(result: dict[str, Any], name: str) -> Iterator[str]:
    """What is wrong with the judgement of a wrong loss."""
    if result["verdict"] != "fails":
        yield f"the verdict is {result['verdict']}"
        return
    named = [(bug["mutant"], *bug["also"]) for bug in result["diagnosis"]]
    if not named or name.replace("_", "-") not in named[0]:
        yield f"it is called {named}"
    failed = [law for law in result["laws"] if law["counterexample"] and law["level"] == "MUST"]
    smallest = failed[0]["counterexample"]["recipe"]
    most = WRONG[name]
    if smallest["rows"] > most.rows or smallest["length"] > most.length:
        yield f"its counterexample is larger than {most.rows}×{most.length}: {smallest}"
