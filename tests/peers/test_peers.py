"""The reference against every real package that installs: value and gradient, on drawn cases, within the bounds."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from shiftproof.reference.batch import Batch
from shiftproof.reference.profiles import PROFILES

from . import drivers_ahead, drivers_audio, drivers_text
from .absent import HAND_WORKED
from .drivers_text import CCE_BLOCK, torch_cross_entropy
from .judged import CASES, CASES_INTERPRETED, Judged, error, judge, known_bugs
from .packages import Missing, interpret_kernels, load
from .peer import DTYPES, PEERS, Answer, Peer
from .table import is_complete, render, row_of, varied

pytestmark = pytest.mark.peers
MODULES = (drivers_ahead, drivers_audio, drivers_text)  # imported, they register
EXAMPLES = Path(__file__).parents[1] / "reference" / "test_profiles.py"


@pytest.mark.parametrize(
    ("peer", "dtype"),
    [pytest.param(peer, dtype, id=f"{row_of(peer)}-{dtype}") for peer in PEERS for dtype in peer.dtypes],
)
def test_a_package_computes_its_profile(peer: Peer, dtype: str, found: dict[tuple[str, str], Judged]) -> None:
    judged = judge(peer, dtype)
    found[row_of(peer), dtype] = judged
    if judged.missing:
        pytest.skip(judged.missing)
    wanted = CASES_INTERPRETED if peer.interpreted else CASES
    assert judged.cases == wanted, f"it answered only {judged.cases} of {wanted}: {dict(judged.refused)}"
    assert judged.alive > 0.8 * judged.cases, "the bounds would let a null candidate pass on most cases"
    if peer.differs:
        assert max(judged.worst_value, judged.worst_gradient) > 1, "it no longer differs: drop `differs`"
        assert peer.differs in known_bugs(peer, dtype)
    else:
        assert judged.worst_value <= 1, judged.at_value
        assert judged.worst_gradient <= 1, judged.at_gradient


# The comparison itself


def test_a_wrong_loss_is_far_out_of_bounds() -> None:
    def moved(batch: Batch) -> Answer:
        return torch_cross_entropy(replace(batch, labels=batch.tensor("labels").roll(1, -1)))

    def halved(batch: Batch) -> Answer:
        right = torch_cross_entropy(batch)
        return Answer(right.value, {"logits": right.gradients["logits"] / 2})

    by_value, by_gradient = (
        judge(Peer("torch", "nowhere", "torch.cross_entropy", driver), "float32") for driver in (moved, halved)
    )
    assert by_value.worst_value > 1000
    assert by_gradient.worst_value <= 1
    assert by_gradient.worst_gradient > 1000


@pytest.mark.parametrize(
    ("found", "expected", "bound", "off"),
    [
        ([1.0, 2.0], [1.0, 2.5], 1.0, 0.5),
        ([1.0, 2.0], [1.0, 2.5], [0.0, 0.25], 2.0),
        ([math.nan], [math.nan], 0.0, 0.0),
        ([math.inf], [math.inf], 0.0, 0.0),
        ([math.nan], [1.0], 1.0, math.inf),
        ([1.0], [math.nan], 1.0, math.inf),
        ([0.1], [0.0], 0.0, math.inf),
        ([0.0], [0.0], 0.0, 0.0),
        ([], [], 1.0, 0.0),
        ([0.0], [0.0, 0.0], 1.0, math.inf),
    ],
)
def test_an_error_is_counted_in_bounds(
    found: list[float], expected: list[float], bound: float | list[float], off: float
) -> None:
    allowed = torch.tensor(bound, dtype=torch.float64) if isinstance(bound, list) else bound
    assert error(torch.tensor(found), torch.tensor(expected, dtype=torch.float64), allowed) == off


# What was found of packages on the way


def test_cut_cross_entropy_counts_classes_past_the_last_under_a_softcap() -> None:
    classes, softcap = 5, 2.0
    logits = torch.linspace(-3, 3, 4 * classes, dtype=torch.float16).reshape(1, 4, classes)
    labels = torch.tensor([[0, 3, -100, 1]])
    try:
        linear_cross_entropy = load("cut_cross_entropy").linear_cross_entropy
        interpret_kernels()
    except Missing as error:
        pytest.skip(str(error))
    weight = torch.eye(classes, dtype=torch.float16)
    found = linear_cross_entropy(logits, weight, labels, softcap=softcap, impl="cce")
    capped = softcap * (logits.double() / softcap).tanh()
    past = torch.full((1, 4, CCE_BLOCK - classes), -softcap, dtype=torch.float64)
    wrong = F.cross_entropy(torch.cat([capped, past], -1)[0], labels[0])
    assert float(found) == pytest.approx(float(wrong), rel=1e-3)
    assert float(found) > 1.5 * float(F.cross_entropy(capped[0], labels[0]))


# The page


def test_the_page_shows_what_was_found_and_what_was_not() -> None:
    right = Peer("torch", "torch.f", "litgpt", torch_cross_entropy, options={"clamp": 2.0}, note="a | b")
    absent = Peer("torch", "torch.g", "litgpt", torch_cross_entropy)
    half = Peer("torch", "torch.i", "litgpt", torch_cross_entropy, dtypes=("float16",))
    wrong = Peer("torch", "torch.h", "csm", torch_cross_entropy, differs="codebook-axis-shift", note="shifts twice")
    results = {
        (row_of(right), "float32"): Judged(60, 0.126, 0.5, refused=Counter({"too long": 3})),
        (row_of(right), "bfloat16"): Judged(60, 0.25, math.inf),
        (row_of(half), "float16"): Judged(24, 0.1, 0.2),
        (row_of(wrong), "float32"): Judged(60, 9.0, 9.0),
        (row_of(wrong), "bfloat16"): Judged(60, 9.0, 9.0),
        (row_of(absent), "float32"): Judged(missing="torch is not installed"),
    }
    assert not is_complete([right, absent, half, wrong], results)
    results[row_of(absent), "bfloat16"] = Judged(missing="torch is not installed")
    assert is_complete([right, absent, half, wrong], results)
    lines = render([right, absent, half, wrong], results, "2026-01-02", 12.3).splitlines()
    assert "on 2026-01-02" in lines[2]
    assert "3 rows, 264 cases, 12 s. Worst error / bound: value 0.25, gradient ∞." in lines
    start = f"| torch | {torch.__version__} | "
    [row] = [line for line in lines if line.startswith(f"{start}`torch.f`")]
    assert row.removeprefix(start) == (
        "`torch.f` | `litgpt` [clamp=2.0] | native | 120 | 0.13 | 0.25 | 0.50 | ∞ | "
        "a \\| b; other cases left out: too long |"
    )
    [row] = [line for line in lines if line.startswith(f"{start}`torch.h`")]
    assert row.endswith(
        "| differs | differs | differs | differs | "
        "differs, as published: shifts twice; shiftproof: `codebook-axis-shift` |"
    )
    assert f"{start}`torch.i` | `litgpt` | native | 24 | – | 0.10 (fp16) | – | 0.20 (fp16) |  |" in lines
    assert "| torch `torch.g` | torch is not installed |" in lines
    [told] = [line for line in lines if line.startswith("- torch `torch.h`")]
    assert told.startswith("- torch `torch.h` differs from `csm`, the loss that was meant: shifts twice.")
