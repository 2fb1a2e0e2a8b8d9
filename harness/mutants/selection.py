"""Known-wrong losses that score extra pairs beside the right ones, or miss some of them."""

from __future__ import annotations

from dataclasses import replace

from shiftproof.reference.batch import Batch
from shiftproof.reference.pairing import Pair, Pairing, divide_by, first_logit, select, shift_of
from shiftproof.reference.spec import Documents, LossSpec, ShiftedBy

from .base import Choose, Mutant, NotPossible, family, mutant, repaired, respecified


def _every_position(spec: LossSpec, batch: Batch, choose: Choose, ignored_as: int | None = None) -> list[Pair]:
    """Return a pair at every position with a label, ignored or not. Documents and token weights stay as they are.

    Ignored labels become class ``ignored_as``, or stay as they are if it is None.
    """
    term = spec.terms[0]
    pairs = choose(replace(term, ignore_index=None, ignored_ids=(), loss_mask=False), batch, 0)
    if ignored_as is None:
        return pairs
    return [pair._replace(target=ignored_as) if pair.target == term.ignore_index else pair for pair in pairs]


@family(
    "ignore-unused",
    ("÷ all", "÷ valid"),
    formula="ignored labels are scored, as class 0",
    tells="one ignored label",
    seen="Liger#974",
    needs="labels that are ignored",
    over=True,
)
def ignore_unused(spec: LossSpec, batch: Batch, over: str, choose: Choose = select) -> Pairing | None:
    ignored = spec.terms[0].ignore_index
    if ignored is None:
        return None
    pairs = _every_position(spec, batch, choose, ignored_as=0)
    right = divide_by(spec.terms[0], batch, choose(spec.terms[0], batch, 0))
    return repaired(spec, batch, pairs, denominator=None if over == "÷ all" else right)


@family(
    "negative-label-wrap",
    ("÷ all", "÷ valid"),
    formula="−100 counts from the end and means class V−100",
    tells="V=100, one ignored label",
    seen="optax#1185",
    needs="a negative ignore_index and 100 classes",
    over=True,
)
def negative_label_wrap(spec: LossSpec, batch: Batch, over: str, choose: Choose = select) -> Pairing | None:
    ignored = spec.terms[0].ignore_index
    classes = batch.tensor("logits").shape[2]
    if ignored is None or ignored >= 0 or classes + ignored < 0:
        return None
    pairs = _every_position(spec, batch, choose, ignored_as=classes + ignored)
    right = divide_by(spec.terms[0], batch, choose(spec.terms[0], batch, 0))
    return repaired(spec, batch, pairs, denominator=None if over == "÷ all" else right)


def _labelled(batch: Batch, pairs: list[Pair]) -> list[Pair]:
    """Return the pairs after a check: their labels are places of the batch, so their neighbours can be looked up.

    Raises:
        NotPossible: if a label is not a place of the batch, because another bug made up its target.
    """
    rows, length = batch.tensor("labels").shape
    if any(pair.label[0] >= rows or pair.label[1] >= length for pair in pairs):
        raise NotPossible
    return pairs


def _without(spec: LossSpec, batch: Batch, choose: Choose, target: int) -> Pairing:
    return repaired(spec, batch, [pair for pair in choose(spec.terms[0], batch, 0) if pair.target != target])


@mutant(
    "eos-masked",
    formula="the end-of-sequence id is masked with the padding and never trained",
    tells="an eos target",
    seen="transformers#23530, parler-tts#208",
    over=True,
)
def eos_masked(spec: LossSpec, batch: Batch, choose: Choose = select) -> Pairing | None:
    return None if batch.eos_token_id is None else _without(spec, batch, choose, batch.eos_token_id)


@family(
    "hardcoded-ignore",
    (0, 1, 2, 3, "V−1"),
    formula="a legal id (0, pad, image) is dropped as if it were ignored",
    tells="that id as a target",
    seen="transformers#23530, trl#976",
    over=True,
)
def hardcoded_ignore(spec: LossSpec, batch: Batch, dropped: int | str, choose: Choose = select) -> Pairing | None:
    return _without(spec, batch, choose, batch.tensor("logits").shape[2] - 1 if dropped == "V−1" else int(dropped))


@mutant(
    "prompt-included",
    formula="prompt tokens are scored: the mask is rebuilt from padding alone, or not used",
    tells="any prompt",
    seen="TRL ORPO 0.12–0.13",
    needs="a mask, or input_ids beside the labels",
    over=True,
)
def prompt_included(spec: LossSpec, batch: Batch, choose: Choose = select) -> Pairing | None:
    term = spec.terms[0]
    if term.loss_mask:
        return respecified(spec, batch, choose, loss_mask=False)
    if shift_of(term, batch) != term.shift or not term.shift or batch.input_ids is None:
        return None
    real: list[list[int]] = batch.tensor("attention_mask").tolist()
    tokens: list[list[int]] = batch.input_ids.tolist()
    pairs = [
        pair._replace(target=tokens[pair.label[0]][pair.label[1]])
        for pair in _labelled(batch, _every_position(spec, batch, choose))
        if real[pair.label[0]][pair.label[1]]
    ]
    return repaired(spec, batch, pairs)


@family(
    "cross-document",
    ("padding left out", "padding scored"),
    formula="the last token of document A predicts the first of B",
    tells="2 packed documents, B's first label valid",
    seen="trl#4170 (0.22.2–0.23.0), torchtune 0.6.1",
    needs="documents that no pair crosses",
    over=True,
)
def cross_document(spec: LossSpec, batch: Batch, padding: str, choose: Choose = select) -> Pairing | None:
    term = spec.terms[0]
    if term.documents is Documents.NONE:
        return None
    crosses = term.shift or term.shifted_by is ShiftedBy.DATA
    if padding == "padding left out" and not crosses:
        return None
    everything = respecified(spec, batch, choose, documents=Documents.NONE)
    if padding == "padding scored" or term.documents is not Documents.SEGMENT_IDS:
        return everything
    real = batch.tensor("segment_ids") != 0
    first = first_logit(term, batch)
    pairs = [
        pair
        for pair in _labelled(batch, choose(replace(term, documents=Documents.NONE), batch, 0))
        if bool(real[pair.label]) and bool(real[pair.logit[0], pair.logit[1] - first])
    ]
    return repaired(spec, batch, pairs)


@family(
    "segment-weight",
    ("÷ Σ weights", "÷ count"),
    formula="the segment id is used as the mask, so document n weighs n times as much",
    tells="2 documents",
    seen="MaxText#4756",
    needs="segment_ids",
    over=True,
)
def segment_weight(spec: LossSpec, batch: Batch, over: str, choose: Choose = select) -> Pairing | None:
    if spec.terms[0].documents is not Documents.SEGMENT_IDS:
        return None
    segments = batch.tensor("segment_ids")
    pairs = [
        pair._replace(weight=pair.weight * int(segments[pair.label]))
        for pair in _labelled(batch, choose(spec.terms[0], batch, 0))
    ]
    total = sum(pair.weight for pair in pairs) if over == "÷ Σ weights" else None
    return repaired(spec, batch, pairs, denominator=total)


SELECTION: tuple[Mutant, ...] = (
    ignore_unused,
    negative_label_wrap,
    eos_masked,
    hardcoded_ignore,
    prompt_included,
    cross_document,
    segment_weight,
)
