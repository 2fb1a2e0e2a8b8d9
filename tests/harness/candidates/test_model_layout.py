"""The layout of a model of codebooks is found by calling it."""

from __future__ import annotations

import einops
import pytest
import torch
from torch import Tensor

from shiftproof.harness.candidates.model_layout import MOST_CODEBOOKS, ModelLayout, find_layouts
from shiftproof.reference.profiles import PROFILES

LAYOUTS = ("b s k v", "b k s v", "(b k) s v", "b s (k v)", "(b s) k v")


@pytest.mark.parametrize("codebooks", [2, 5, 7, 32])
@pytest.mark.parametrize("pattern", LAYOUTS)
@pytest.mark.parametrize("extra", [0, 3])
def test_logits_are_read_in_their_own_layout(codebooks: int, pattern: str, extra: int) -> None:
    asked = []

    def ask(layout: ModelLayout, length: int) -> Tensor | None:
        asked.append(layout.codebooks)
        if (layout.codebooks, layout.tokens, layout.labels) != (codebooks, "(b k) s", "b s k"):
            return None
        return einops.rearrange(torch.zeros(1, length + extra, codebooks, 23), f"b s k v -> {pattern}")

    assert find_layouts(PROFILES["musicgen"], ask) == [ModelLayout(codebooks, "(b k) s", "b s k", pattern)]
    assert max(asked) == codebooks


def test_all_layouts_that_a_model_takes_are_found_that_of_the_spec_first() -> None:
    def ask(layout: ModelLayout, length: int) -> Tensor | None:
        return torch.zeros(layout.codebooks, length, 23) if layout.codebooks > 1 else None

    found = find_layouts(PROFILES["dia"], ask)
    assert {(each.codebooks, each.logits) for each in found} == {(2, "(b k) s v")}
    assert len(found) == 9
    assert (found[0].tokens, found[0].labels) == ("(b k) s", "(b k) s")


@pytest.mark.parametrize("shape", [(), (7,), (1, 3, 23), (1, 7, 1)])
def test_other_logits_have_no_layout(shape: tuple[int, ...]) -> None:
    assert find_layouts(PROFILES["dia"], lambda layout, length: torch.zeros(shape)) == []
    asked: set[int] = set()
    assert find_layouts(PROFILES["dia"], lambda layout, length: asked.add(layout.codebooks)) == []
    assert asked == set(range(1, MOST_CODEBOOKS + 1))


def test_a_model_that_takes_a_single_row_has_no_codebooks() -> None:
    assert find_layouts(PROFILES["dia"], lambda layout, length: torch.zeros(layout.codebooks, length, 23)) == []


def test_arrays_are_laid_out_and_back() -> None:
    canonical = torch.arange(2 * 4 * 3 * 5).view(2, 4, 3, 5)
    for pattern in LAYOUTS:
        layout = ModelLayout(3, "b k s", "b s k", pattern)
        laid_out = einops.rearrange(canonical, f"b s k v -> {pattern}")
        assert torch.equal(layout.canonical_logits(laid_out, 2), canonical)
    assert layout.lay_out_tokens(canonical[..., 0]).shape == (2, 3, 4)
    with pytest.raises(ValueError, match=r"its logits \[2, 4\] are not"):
        layout.canonical_logits(torch.zeros(2, 4), 2)
