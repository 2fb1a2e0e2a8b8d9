"""What the pass over blocks of rows promises beyond the losses that are made of it."""

from __future__ import annotations

import pytest
import torch

from shiftproof.reference.spec import Score
from shiftproof.reference.yardstick import blocks

SCORES = {
    "plain": Score(),
    "smoothing": Score(label_smoothing=0.1),
    "z-loss": Score(z_loss=0.01),
    "softcap": Score(softcap=5.0),
    "scale": Score(logit_scale=0.5),
    "all": Score(label_smoothing=0.1, z_loss=0.01, softcap=5.0, logit_scale=0.5, class_weights=True),
    "dft": Score(dft=True),
}
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@pytest.mark.parametrize("cached", [1, 1000, 1 << 20], ids=["row by row", "blocks", "all rows at once"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("how", SCORES.values(), ids=SCORES)
def test_the_gradient_may_take_the_place_of_the_logits(
    how: Score, dtype: torch.dtype, cached: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "_CACHED", cached)
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


def test_a_few_bytes_of_memory_for_a_row_are_enough() -> None:
    """However long a row is, a block has one."""
    assert blocks._rows_at_once(torch.zeros(()).expand(1, 1 << 40), 2) == 1
