"""Fresh logits: a pure function of the seed, spread out, and not the same for any two rows."""

from __future__ import annotations

import pytest
import torch

from shiftproof.harness.worker.fresh import fill, sketch


def filled(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    out = torch.full(shape, float("nan"), dtype=dtype)
    fill(out, seed)
    return out


@pytest.mark.parametrize("shape", [(1, 1, 2), (2, 3, 5), (3, 11, 2, 17), (1, 16, 4), (1, 17, 4)])
def test_every_element_is_written(shape: tuple[int, ...]) -> None:
    assert filled(1, *shape).isfinite().all()


def test_a_seed_says_all() -> None:
    assert torch.equal(filled(7, 2, 40, 33), filled(7, 2, 40, 33))
    assert not torch.equal(filled(7, 2, 40, 33), filled(8, 2, 40, 33))


def test_no_two_rows_are_alike() -> None:
    rows = torch.cat([filled(seed, 40, 33) for seed in (1, 2)])
    probabilities = rows.softmax(-1)
    apart = torch.cdist(probabilities, probabilities) + torch.eye(len(rows))
    assert apart.min() > 1e-3


def test_probabilities_are_far_from_uniform() -> None:
    spread = filled(1, 64, 4096).std(-1)
    assert spread.min() > 1.8
    assert spread.max() < 4.3


def test_other_dtypes_are_the_same_numbers_rounded() -> None:
    assert torch.equal(filled(3, 20, 9, dtype=torch.bfloat16), filled(3, 20, 9).to(torch.bfloat16))


def test_a_sketch_tells_nothing_from_something() -> None:
    across = sketch(5, 10_000, torch.device("cpu"))
    assert set(across.tolist()) == {0.0, 2.0}
    assert across.mean().item() == pytest.approx(1.0, abs=0.05)
    assert torch.equal(across, sketch(5, 10_000, torch.device("cpu")))
    assert not torch.equal(across, sketch(6, 10_000, torch.device("cpu")))
