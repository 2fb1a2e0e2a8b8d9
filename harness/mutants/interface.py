"""Losses that return a wrong shape, raise, or hide what they should show; and labels in too few bits."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from shiftproof.reference.pairing import Pair, Pairing
from shiftproof.reference.spec import LossSpec, Reduction

from ..candidates.loss import Observation
from ..candidates.variant import Asked
from .behaviour import Act, Behaviour, answer, give, refuse, variants

_INT16, _ALL_INT16 = 1 << 15, 1 << 16


def _one_number(asked: Asked) -> Observation:
    shape = list(asked.case.pairing.output_shape)
    if math.prod(shape) == 1:
        return answer(asked)
    return refuse(asked, "wrong shape", f"returned float32 []; expected one loss a label position, {shape}")


def _one_row(asked: Asked) -> Observation:
    rows, length = asked.case.pairing.output_shape
    if rows == 1:
        return answer(asked)
    message = f"returned float32 {[min(rows, 1), length]}; expected one loss a label position, {[rows, length]}"
    return refuse(asked, "wrong shape", message)


def _needs_one_loss_a_token(spec: LossSpec) -> str | None:
    return None if spec.terms[0].reduction is Reduction.NONE else "reduction none"


def _raises_without_gradient(asked: Asked) -> Observation:
    if asked.records:
        return answer(asked)
    return refuse(asked, "raised RuntimeError", "raised RuntimeError: element 0 of tensors does not require grad")


def _lies_without_gradient(asked: Asked) -> Observation:
    return answer(asked) if asked.records else give(asked, torch.zeros(asked.case.pairing.output_shape), None)


def _nan_to_num(asked: Asked) -> Observation:
    right = answer(asked)
    assert right.returned is not None
    gradients = right.gradients
    if gradients is not None:
        gradients = {name: gradient.nan_to_num(nan=0.0) for name, gradient in gradients.items()}
    return give(asked, right.returned.nan_to_num(nan=0.0), gradients)


def _only_if_positive(asked: Asked) -> Observation:
    """Re-enact `if loss > 0`, which is False for NaN: the loss is 0, and no gradient flows."""
    right = answer(asked)
    assert right.value is not None
    return right if right.value > 0 else give(asked, torch.zeros(asked.case.pairing.output_shape), None)


def _int16(asked: Asked) -> Observation:
    """Re-enact labels in 16 bits: from 32768 on they are negative, and count from the end."""
    pairing = asked.case.pairing
    pairs = tuple(_wrapped(pair, pairing) for pair in pairing.pairs)
    return answer(asked) if pairs == pairing.pairs else answer(asked, replace(pairing, pairs=pairs))


def _wrapped(pair: Pair, pairing: Pairing) -> Pair:
    classes = pairing.shapes[pairing.terms[pair.term].logits][-1]
    kept = (pair.target + _INT16) % _ALL_INT16 - _INT16
    return pair._replace(target=kept % classes)


def _needs_many_classes(spec: LossSpec) -> str | None:
    free = any(term.classes is None or term.classes > _INT16 for term in spec.terms)
    return None if free else f"more than {_INT16} classes"


def _int32_as_int64(asked: Asked) -> Observation:
    """Re-enact 32-bit labels that are read two at a time, as classes that do not exist. The loss is arbitrary."""
    case = asked.case
    narrow = any(case.batch.tensor(name).dtype is torch.int32 for name in case.spec.labels)
    if not narrow:
        return answer(asked)
    gradients = {name: torch.zeros_like(gradient) for name, gradient in case.oracle.gradients.items()}
    return give(asked, torch.full(case.pairing.output_shape, 1.0), gradients)


def _lengths_differ(shorter: str) -> Act:
    def act(asked: Asked) -> Observation:
        name = asked.case.spec.labels[0] if shorter == "labels" else asked.case.spec.logits[0]
        labels = asked.case.batch.tensor(asked.case.spec.labels[0])
        rows, length = labels.shape[:2]
        logits = asked.case.batch.tensor(asked.case.spec.logits[0]).shape[1]
        logits, length = (logits, max(length - 1, 0)) if name in asked.case.spec.labels else (logits - 1, length)
        if not rows or logits == length:  # labels that are one short fit logits that are
            return answer(asked)
        return refuse(
            asked,
            "raised ValueError",
            f"raised ValueError: Expected input batch_size ({rows * logits}) to match target batch_size "
            f"({rows * length}).",
        )

    return act


INTERFACE: tuple[Behaviour, ...] = (
    *variants(
        "none-shape",
        [("one number", _one_number), ("one row", _one_row)],
        formula="a scalar, or one chunk, for reduction none",
        tells="reduction none",
        seen="Liger#872",
        needs=_needs_one_loss_a_token,
    ),
    *variants(
        "no-grad-path",
        [("raises", _raises_without_gradient), ("lies", _lies_without_gradient)],
        formula="raises or lies where no gradient is recorded",
        tells="no_grad",
        seen="Liger#930",
    ),
    *variants(
        "nan-hidden",
        [("nan_to_num", _nan_to_num), ("if loss > 0", _only_if_positive)],
        formula="NaN on a valid row is replaced: nan_to_num, `if loss > 0`",
        tells="NaN on a row that counts",
        seen="Higgs-audio trainers",
    ),
    *variants(
        "narrow-index",
        [("int16 labels", _int16)],
        formula="narrow label or offset integers wrap",
        tells="V > 32767; B·T·V > 2³¹",
        seen="pytorch#111484, flash-attention#714",
        needs=_needs_many_classes,
        numeric=True,
    ),
    *variants(
        "narrow-index",
        [("int32 labels read as int64", _int32_as_int64)],
        formula="narrow label or offset integers wrap",
        tells="int32 labels",
        seen="pytorch#111484, flash-attention#714",
    ),
    *variants(
        "narrow-index",
        [("32-bit offsets", answer)],
        formula="narrow label or offset integers wrap",
        tells="B·T·V > 2³¹",
        seen="pytorch#111484, flash-attention#714",
        needs=lambda spec: "more than 2³¹ logits in one case",
    ),
    *variants(
        "length-mismatch",
        [("labels", _lengths_differ("labels")), ("logits", _lengths_differ("logits"))],
        formula="logits and labels of different lengths are flattened together: the labels were shortened to shift "
        "them, and the logits were not (or both were)",
        tells="any input",
        seen="Higgs-audio trainers: [2, 168, V] against [2, 167]",
    ),
)
