"""What the pass over blocks of rows promises beyond the losses that are made of it."""

from __future__ import annotations

import itertools

import pytest
import torch

from shiftproof.reference.spec import Score
from shiftproof.reference.yardstick import blocks, scorer

from .scores import SCORES

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@pytest.mark.parametrize("cached", [1, 1000, 1 << 20], ids=["row by row", "blocks", "all rows at once"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("how", SCORES.values(), ids=SCORES)
def test_the_gradient_may_take_the_place_of_the_logits(
    how: Score, dtype: torch.dtype, cached: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scorer, "_CACHED", cached)
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(9, 33, generator=generator) * 3).to(dtype)
    logits[2] = torch.nan
    logits[3, 1:] -= 200  # the probability of any other target underflows
    targets = torch.tensor([0, 32, -1, 7, -1, 5, 16, 0, 1])
    weights = torch.tensor([0.5, 0.25, 0.0, 2.0, 0.0, -1.0, 0.5, 0.125, 1.0], dtype=torch.float64)
    class_weights = torch.rand(33, generator=generator) if how.class_weights else None
    gradient, place, untouched = torch.empty_like(logits), logits.clone(), logits.clone()
    apart = blocks.score_rows(logits, targets, weights, how, class_weights, gradient)
    within = blocks.score_rows(place, targets, weights, how, class_weights, place)
    torch.testing.assert_close(logits, untouched, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(within, apart)
    torch.testing.assert_close(place, gradient)
    assert (place[[2, 4]] == 0).all()


def _drifted(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """40 rows of 33 logits, and their targets: logits as they come after long training, which no loss keeps near 0."""
    generator = torch.Generator().manual_seed(1)
    logits, targets = torch.randn(40, 33, generator=generator) * 3, torch.randint(33, (40,), generator=generator)
    match name:
        case "far below":
            logits -= 120
        case "far above":
            logits += 120
        case "one of the last":
            logits[37] += 120
        case "target far below":
            logits[20, targets[20]] -= 400
        case "large, and target far below":
            logits[20] += 120
            logits[20, targets[20]] -= 400
        case "one by one":
            logits += torch.linspace(-150, 150, 40)[:, None]
        case "confident":
            logits[torch.arange(40), targets] += 30
        case "undecided":
            logits = logits[:, :1].expand(40, 33).clone() + 15
        case "impossible":
            logits[:, 3] = -torch.inf
            targets[targets == 3] = 4
    return logits, targets


@pytest.mark.parametrize("cached", [1, 1000, 1 << 20], ids=["row by row", "blocks", "all rows at once"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "name",
    [
        "far below",
        "far above",
        "one of the last",
        "target far below",
        "large, and target far below",
        "one by one",
        "confident",
        "undecided",
        "impossible",
    ],
)
def test_logits_may_be_anywhere(name: str, dtype: torch.dtype, cached: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scorer, "_CACHED", cached)
    logits, targets = _drifted(name)
    logits = logits.to(dtype)
    weights = torch.rand(40, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    gradient = torch.empty_like(logits)
    scores = blocks.score_rows(logits, targets, weights, Score(), None, gradient)

    leaf = logits.double().requires_grad_()
    right = torch.nn.functional.cross_entropy(leaf, targets, reduction="none")
    torch.autograd.backward((right @ weights,))
    assert leaf.grad is not None
    assert (scores >= 0).all()
    torch.testing.assert_close(scores.double(), right.detach(), rtol=1e-6, atol=5e-7)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(gradient.double(), leaf.grad, rtol=4 * eps, atol=2 * min(eps, 2e-7))


@pytest.mark.parametrize(
    ("name", "runs"),
    [
        ("confident", [(0, 40)]),
        ("far below", [(0, 1), (1, 40)]),  # the first group is one row, and is scored again
        ("far above", [(0, 1), (1, 40)]),
        ("one of the last", [(0, 40), (1, 7)]),  # groups of 1, 16, 16 and 7 rows, the last again
        ("large, and target far below", [(0, 33), (1, 16), (2, 23)]),
    ],
)
def test_only_logits_that_need_it_are_scored_again(
    name: str, runs: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """``runs``: what is subtracted, from how many rows on end."""
    monkeypatch.setattr(scorer, "_CACHED", 1)
    seen = []
    score = scorer.Scorer.score

    def watching(
        self: scorer.Scorer, block: scorer.Rows, logits: torch.Tensor, room: torch.Tensor, *, graded: bool
    ) -> None:
        seen.append(int(self.less))
        score(self, block, logits, room, graded=graded)

    monkeypatch.setattr(scorer.Scorer, "score", watching)
    logits, targets = _drifted(name)
    blocks.score_rows(logits, targets, torch.ones(40), Score(), None, torch.empty_like(logits))
    assert [(less, len(list(rows))) for less, rows in itertools.groupby(seen)] == runs


def test_a_few_bytes_of_memory_for_a_row_are_enough() -> None:
    """However long a row is, a block has one."""
    assert scorer.rows_at_once(torch.zeros(()).expand(1, 1 << 40), 2) == 1
