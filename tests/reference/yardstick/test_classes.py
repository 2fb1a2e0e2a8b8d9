"""Some classes of all rows at a time give what all logits at once give."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from shiftproof.reference.spec import Score
from shiftproof.reference.yardstick import blocks, classes

from .scores import SCORES

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
ALL = (True, True, True)


@pytest.fixture(params=["one part", "some parts", "many parts"])
def parts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 500 classes of 40 rows: 1 of 512, 3 of 192, and 16 of 32, one row in a block."""
    logits = {"one part": 1 << 22, "some parts": 40 * 180, "many parts": 1}
    monkeypatch.setattr(classes, "_LOGITS", logits[request.param])
    monkeypatch.setattr(classes, "_LEAST", 32)
    if request.param == "many parts":
        monkeypatch.setattr("shiftproof.reference.yardstick.scorer._CACHED", 1)


def layer(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Hidden states [40, 16], weight [500, 16], bias [500], targets [40] in the first and the last class, and each
    row's weight."""
    generator = torch.Generator().manual_seed(0)
    hidden, weight, bias = (
        torch.randn(shape, generator=generator).to(dtype) for shape in ((40, 16), (500, 16), (500,))
    )
    targets = torch.randint(500, (40,), generator=generator)
    targets[:2] = torch.tensor([0, 499])
    return hidden, weight, bias, targets, torch.randn(40, dtype=torch.float64, generator=generator)


def assert_right(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    weights: Tensor,
    how: Score = SCORES["plain"],
    class_weights: Tensor | None = None,
    wanted: tuple[bool, bool, bool] = ALL,
) -> None:
    """Compare with what :mod:`.blocks` makes of all logits, and the products of their gradient in float64."""
    scores, found = classes.score_classes(hidden, weight, bias, targets, weights, how, class_weights, wanted)
    logits = F.linear(hidden, weight, bias)
    gradient = torch.empty_like(logits)
    expected = blocks.score_rows(logits, targets, weights, how, class_weights, gradient)
    assert scores.dtype is expected.dtype
    torch.testing.assert_close(scores, expected, rtol=2e-6, atol=2e-6)

    # The gradient at the logits is rounded, the products of sixteen parts are, and so is their sum; both ways round
    # logits on the way to their exponentials; and some of those underflow.
    largest = logits.masked_fill(logits.isinf(), 0.0).abs().max().item()
    relative = 3 * torch.finfo(hidden.dtype).eps + 4 * largest * torch.finfo(scores.dtype).eps
    wide = gradient.double()
    right = (wide @ weight.double(), wide.T @ hidden.double(), wide.sum(0))
    off = relative * wide.abs() + (2**-24 if hidden.dtype is torch.float16 else 2**-126)
    bounds = (off @ weight.double().abs(), off.T @ hidden.double().abs(), off.sum(0))
    for each, other, bound, is_wanted in zip(found, right, bounds, wanted, strict=True):
        assert (each is not None) == is_wanted
        if each is not None:
            assert each.dtype is hidden.dtype
            assert ((each.double() - other).abs() <= bound).all()


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("how", SCORES.values(), ids=SCORES)
def test_scores(how: Score, dtype: torch.dtype) -> None:
    arguments = layer(dtype)
    class_weights = torch.linspace(0.0, 2.0, 500) if how.class_weights else None
    assert_right(*arguments, how, class_weights)


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("offset", [-150.0, 150.0, "rising", "falling", "impossible"])
def test_logits_may_be_anywhere(offset: float | str, dtype: torch.dtype) -> None:
    hidden, weight, bias, targets, weights = layer(dtype)
    match offset:
        case "rising":
            bias = bias + torch.linspace(-150, 150, 500).to(dtype)
        case "falling":
            bias = bias + torch.linspace(150, -150, 500).to(dtype)
        case "impossible":  # a whole part of them, the first, too
            bias[:200] = -torch.inf
            targets = targets % 300 + 200
        case float():
            bias = bias + offset
    assert_right(hidden, weight, bias, targets, weights)


@pytest.mark.usefixtures("parts")
def test_no_more_is_returned_than_is_wanted() -> None:
    hidden, weight, bias, targets, weights = layer(torch.bfloat16)
    assert_right(hidden, weight, None, targets, weights, wanted=(False, True, False))
    assert_right(hidden, weight, bias, targets, weights, wanted=(True, True, False))


def test_no_rows_leave_a_gradient_of_zero() -> None:
    hidden, weight, bias, targets, weights = layer(torch.bfloat16)
    scores, found = classes.score_classes(hidden[:0], weight, bias, targets[:0], weights[:0], Score(), None, ALL)
    assert scores.shape == (0,)
    assert [tuple(each.shape) for each in found if each is not None] == [(0, 16), (500, 16), (500,)]
    assert all((each == 0).all() for each in found if each is not None)


def test_a_target_that_is_no_class_is_refused() -> None:
    hidden, weight, bias, targets, weights = layer(torch.bfloat16)
    targets[3] = 500
    with pytest.raises(IndexError, match=r"1 labels are no class in \[0, 500\)"):
        classes.score_classes(hidden, weight, bias, targets, weights, Score(), None, ALL)


@pytest.mark.parametrize(("rows", "count"), [(0, 1), (16, 1), (1024, 32), (10**9, 501)])
def test_parts_are_equal_and_of_whole_tiles(rows: int, count: int) -> None:
    parts = classes._parts(rows, 128256)
    sizes = [part.stop - part.start for part in parts]
    assert len(sizes) == count
    assert parts[0].start == 0
    assert all(before.stop == after.start for before, after in itertools.pairwise(parts))
    assert parts[-1].stop == 128256
    assert len(set(sizes[:-1])) <= 1
    assert sizes[-1] <= sizes[0]
    assert all(size % 32 == 0 for size in sizes)
