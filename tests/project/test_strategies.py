"""What ``shiftproof.strategies`` promises: batches with right answers, and a word on every answer that is not."""

from __future__ import annotations

import warnings

import pytest
import torch
from hypothesis import find, given, settings
from torch import Tensor
from torch.nn import functional as F

from shiftproof.harness.cases.build import Case
from shiftproof.strategies import batches, disagreement

FEW = settings(max_examples=40, deadline=None)


def loss_of(case: Case, shift: int) -> tuple[Tensor, dict[str, Tensor]]:
    """The next-token loss of a case, whose labels are shifted by ``shift``, and its gradient."""
    assert case.batch.logits is not None
    assert case.batch.labels is not None
    logits = case.batch.logits.detach().requires_grad_()
    scored = logits[:, : logits.shape[1] - shift].flatten(0, 1).float()
    loss = F.cross_entropy(scored, case.batch.labels[:, shift:].flatten())
    loss.backward()
    assert logits.grad is not None
    return loss, {"logits": logits.grad}


@given(batches("hf.causal_lm", regimes=("normal", "sharp", "ties", "huge")))
@FEW
def test_a_right_loss_agrees(case: Case) -> None:
    assert disagreement(case, *loss_of(case, shift=1)) is None


@given(batches("hf.causal_lm", dtype="bfloat16"))
@FEW
def test_a_right_loss_agrees_in_bfloat16(case: Case) -> None:
    assert case.batch.logits is not None
    assert case.batch.logits.dtype is torch.bfloat16
    assert disagreement(case, *loss_of(case, shift=1)) is None


def test_a_wrong_loss_shrinks_to_a_small_batch() -> None:
    case = find(batches("hf.causal_lm"), lambda case: disagreement(case, *loss_of(case, shift=0)) is not None)
    assert case.batch.labels is not None
    assert case.batch.labels.numel() <= 4
    assert str(disagreement(case, *loss_of(case, shift=0))).startswith("the loss is ")


def test_a_wrong_gradient_is_told_though_the_loss_is_right() -> None:
    case = find(batches("hf.causal_lm"), lambda case: bool(case.pairing.pairs))
    loss, gradients = loss_of(case, shift=1)
    assert "elements of the gradient" in str(disagreement(case, loss, {"logits": 2 * gradients["logits"]}))
    assert disagreement(case, loss) is None


def test_other_arguments_are_drawn_where_the_loss_takes_them() -> None:
    find(batches("hf.causal_lm", takes=("num_items_in_batch",)), lambda case: case.batch.num_items_in_batch is not None)


def test_bad_input_is_refused() -> None:
    case = find(batches("hf.causal_lm"), lambda case: bool(case.pairing.pairs))
    with pytest.raises(ValueError, match=r"no spec is called 'hf\.causal'"):
        batches("hf.causal")
    with pytest.raises(ValueError, match="'large' is not a valid Regime"):
        batches("hf.causal_lm", regimes=("large",))
    with pytest.raises(ValueError, match=r"the loss has shape \[2\]; expected a scalar"):
        disagreement(case, torch.ones(2))
    with pytest.raises(ValueError, match=r"gradients has no \['logits'\]; it has \[\]"):
        disagreement(case, 1.0, {})


def test_what_a_test_does_to_a_batch_is_gone_when_it_is_drawn_again() -> None:
    seen = []

    @given(batches("hf.causal_lm"))
    @settings(max_examples=5, deadline=None, database=None)
    def spoil(case: Case) -> None:
        assert case.batch.logits is not None
        seen.append((bool(case.batch.logits.isnan().any()), case.batch.logits.requires_grad))
        case.batch.logits.requires_grad_().data.fill_(torch.nan)

    spoil()
    spoil()
    assert seen == [(False, False)] * len(seen)


def test_a_failing_test_prints_what_was_drawn() -> None:
    @given(batches("hf.causal_lm"))
    @settings(max_examples=5, deadline=None, database=None)
    def fails(case: Case) -> None:
        raise AssertionError

    with pytest.raises(AssertionError) as raised:
        fails()
    notes = "".join(raised.value.__notes__)
    assert "rows=1, length=2, classes=2" in " ".join(notes.split())


@given(batches("hf.causal_lm"))
@FEW
def test_the_batch_itself_may_require_a_gradient(case: Case) -> None:
    assert case.batch.logits is not None
    assert case.batch.labels is not None
    logits = case.batch.logits.requires_grad_()
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), case.batch.labels[:, 1:].flatten())
    loss.backward()
    assert logits.grad is not None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert disagreement(case, loss, {"logits": logits.grad}) is None
