"""Known-wrong losses that pair the wrong logits with the wrong labels."""

from __future__ import annotations

from dataclasses import replace

from shiftproof.reference.batch import Batch
from shiftproof.reference.pairing import Pair, Pairing, Place, first_logit, shift_of
from shiftproof.reference.spec import Extra, LossSpec, LossTerm, ShiftedBy

from .base import Mutant, family, mutant, repaired, respecified, right_pairs, rule_of


def _trainable(term: LossTerm, batch: Batch, place: Place) -> bool:
    """Return whether the label at ``place`` counts, without regard to documents."""
    return rule_of(term, batch).trains(place)


def _pair(term: LossTerm, batch: Batch, logit: Place, label: Place) -> list[Pair]:
    """Return the pair of two places if its label counts. ``logit`` is counted from the first text logit."""
    rows, length = batch.tensor("labels").shape
    inside = 0 <= label[0] < rows and 0 <= label[1] < length
    if not inside or not _trainable(term, batch, label):
        return []
    weight = float(batch.tensor("token_weights")[label]) if term.token_weights else 1.0
    at = (logit[0], logit[1] + first_logit(term, batch))
    return [Pair(0, at, label, rule_of(term, batch).target(label), weight)]


def _places(batch: Batch) -> list[Place]:
    rows, length = batch.tensor("labels").shape
    return [(row, position) for row in range(rows) for position in range(length)]


@mutant(
    "no-shift",
    formula="CE(z_t, y_t)",
    tells="T=2, labels not constant",
    seen="transformers#27161 (label smoothing), XLM, Flaubert",
    needs="a loss that shifts",
)
def no_shift(spec: LossSpec, batch: Batch) -> Pairing | None:
    term = spec.terms[0]
    if shift_of(term, batch) == 0:
        return None
    return respecified(spec, batch, shift=0, shifted_by=ShiftedBy.INPUTS, accepts_shift_labels=False)


@mutant(
    "smoothing-no-shift",
    formula="the branch for label smoothing does not shift: CE(z_t, y_t), only when ε > 0",
    tells="ε > 0",
    seen="transformers#17960, #27161",
    needs="label smoothing, and a loss that shifts",
)
def smoothing_no_shift(spec: LossSpec, batch: Batch) -> Pairing | None:
    return no_shift.variants[0].wrong(spec, batch) if spec.terms[0].score.label_smoothing else None


def _shifted_once_more(spec: LossSpec, batch: Batch) -> Pairing | None:
    term = spec.terms[0]
    if term.extra is Extra.SUFFIX:
        return None
    step = max(term.shift, 1)
    pairs = [
        pair
        for row, position in _places(batch)
        for pair in _pair(term, batch, (row, position), (row, position + shift_of(term, batch) + step))
    ]
    return repaired(spec, batch, pairs)


@mutant(
    "double-shift",
    formula="CE(z_t, y_{t+2}): labels that were shifted already are shifted again",
    tells="T=3",
    seen="open-instruct#1549, Qwen3-TTS#371, ms-swift#9752",
    needs="labels that are shifted, by the loss or by the data, and room for more",
)
def double_shift(spec: LossSpec, batch: Batch) -> Pairing | None:
    return None if spec.terms[0].shifted_by is ShiftedBy.INPUTS else _shifted_once_more(spec, batch)


@family(
    "aligned-shift",
    ("", "flattened"),
    formula="CE(z_t, y_{t+1}) where the decoder's inputs were already shifted",
    tells="T=2",
    seen="transformers#46784 Moonshine and its relatives, to 5.12",
    needs="a decoder whose inputs were shifted",
)
def aligned_shift(spec: LossSpec, batch: Batch, how: str) -> Pairing | None:
    if spec.terms[0].shifted_by is not ShiftedBy.INPUTS:
        return None
    return _flattened_then_shifted(spec, batch, 1) if how else _shifted_once_more(spec, batch)


@mutant(
    "flat-double-shift",
    formula="shifts, flattens to B·(T−1), shifts again: targets leak across rows",
    tells="B=2, T=3 (with one row it equals double-shift)",
    seen="transformers#47394 GIT, released 4.48–5.14",
    needs="a loss that shifts",
)
def flat_double_shift(spec: LossSpec, batch: Batch) -> Pairing | None:
    term = spec.terms[0]
    shift = shift_of(term, batch)
    if not shift or batch.tensor("labels").shape[0] < 1:
        return None
    rows, length = batch.tensor("labels").shape
    logits = [(row, position) for row in range(rows) for position in range(length - shift)]
    labels = [(row, position) for row in range(rows) for position in range(shift, length)]
    pairs = [p for logit, label in zip(logits, labels[shift:], strict=False) for p in _pair(term, batch, logit, label)]
    return repaired(spec, batch, pairs)


@mutant(
    "reverse-shift", formula="CE(z_{t+1}, y_t): the slices are on the wrong sides", tells="T=2", seen="an easy slip"
)
def reverse_shift(spec: LossSpec, batch: Batch) -> Pairing | None:
    term = spec.terms[0]
    step = max(shift_of(term, batch), 1)
    pairs = [p for row, position in _places(batch) for p in _pair(term, batch, (row, position), (row, position - step))]
    return repaired(spec, batch, pairs)


@mutant(
    "flatten-then-shift",
    formula="flattens, then shifts: a row's last logit predicts the next row's first label",
    tells="B=2, the second row's first label valid",
    seen="transformers#47394",
    needs="a loss that shifts",
)
def flatten_then_shift(spec: LossSpec, batch: Batch) -> Pairing | None:
    shift = shift_of(spec.terms[0], batch)
    return _flattened_then_shifted(spec, batch, shift) if shift else None


def _flattened_then_shifted(spec: LossSpec, batch: Batch, shift: int) -> Pairing:
    term, places = spec.terms[0], _places(batch)
    pairs = [p for at, place in zip(places, places[shift:], strict=False) for p in _pair(term, batch, at, place)]
    return repaired(spec, batch, pairs)


def _wrapped(spec: LossSpec, batch: Batch) -> Pairing | None:
    term = spec.terms[0]
    shift, length = shift_of(term, batch), batch.tensor("labels").shape[1]
    if not shift:
        return None
    pairs = [
        p for row, at in _places(batch) for p in _pair(term, batch, (row, at), (row, (at + shift) % max(length, 1)))
    ]
    return repaired(spec, batch, pairs)


roll_wrap = mutant(
    "roll-wrap",
    formula="torch.roll brings y_0 round to the last position, unmasked",
    tells="T=2, y_0 not ignored",
    seen="verl#6268, ms-swift",
    needs="a loss that shifts",
)(_wrapped)

index_minus_one = mutant(
    "index-minus-one",
    formula="label t looks up logit t−1, and for t=0 that is the row's last (the pairs of roll-wrap)",
    tells="T=2, y_0 not ignored",
    seen="transformers CSM",
    needs="a loss that shifts",
)(_wrapped)


@family(
    "tail-pad-target",
    ("the pad id", "id 0"),
    formula="an extra CE(z_T, pad) in each row's mean",
    tells="any row",
    seen="transformers XGLM, to 4.48",
    needs="a loss that shifts",
)
def tail_pad_target(spec: LossSpec, batch: Batch, fill: str) -> Pairing | None:
    term = spec.terms[0]
    rows, length = batch.tensor("labels").shape
    shift = shift_of(term, batch)
    target = (batch.pad_token_id or 0) if fill == "the pad id" else 0
    if not shift:
        return None
    first = first_logit(term, batch)
    extra = [
        Pair(0, (row, first + position), (row, position + shift), target, 1.0)
        for row in range(rows)
        for position in range(max(length - shift, 0), length)
    ]
    return repaired(spec, batch, right_pairs(spec, batch) + extra)


@family(
    "prefix-slice",
    (-1, 1, "none"),
    formula="the text's logits are sliced at the wrong offset after image, audio or prompt tokens",
    tells="a prefix of 1",
    seen="transformers GIT, BLIP-2",
    needs="logits before the text's",
)
def prefix_slice(spec: LossSpec, batch: Batch, off: int | str) -> Pairing | None:
    term = spec.terms[0]
    extra = batch.tensor("logits").shape[1] - batch.tensor("labels").shape[1]
    if term.extra is not Extra.PREFIX or not extra:
        return None
    step = -extra if off == "none" else int(off)
    length = batch.tensor("logits").shape[1]
    moved = [
        pair._replace(logit=(pair.logit[0], pair.logit[1] + step))
        for pair in right_pairs(spec, batch)
        if 0 <= pair.logit[1] + step < length
    ]
    return repaired(spec, batch, moved)


@family(
    "drop-first-response",
    ("mask and label", "mask alone"),
    formula="labels are shifted and their mask is not",
    tells="a prompt of 1 and a response of 1",
    seen="verl#3287, torchtitan#2755",
    needs="a loss that shifts",
)
def drop_first_response(spec: LossSpec, batch: Batch, rule: str) -> Pairing | None:
    term = spec.terms[0]
    shift = shift_of(term, batch)
    if not shift:
        return None
    first = first_logit(term, batch)
    if rule == "mask and label":
        both = replace(term, loss_mask=False) if term.loss_mask else term
        pool = right_pairs(replace(spec, terms=(both,)), batch)
    else:
        pool = right_pairs(spec, batch)
    kept = [pair for pair in pool if _trainable(term, batch, (pair.logit[0], pair.logit[1] - first))]
    return repaired(spec, batch, kept)


@mutant(
    "drop-last-response",
    formula="a response is copied as [a:b] where [a:b+1] is meant",
    tells="a response of 2",
    seen="OpenRLHF#781",
)
def drop_last_response(spec: LossSpec, batch: Batch) -> Pairing | None:
    term = spec.terms[0]
    length = batch.tensor("labels").shape[1]

    def ends_a_response(place: Place) -> bool:
        row, position = place
        return position + 1 >= length or not _trainable(term, batch, (row, position + 1))

    return repaired(spec, batch, [pair for pair in right_pairs(spec, batch) if not ends_a_response(pair.label)])


@family(
    "shard-then-shift",
    (2, 4, 8),
    formula="the sequence is sharded first, so that each shard loses its last target",
    tells="2 shards",
    seen="transformers#48491, axolotl, DeepSpeed sequence parallelism",
    needs="a loss that shifts",
)
def shard_then_shift(spec: LossSpec, batch: Batch, shards: int) -> Pairing | None:
    if not shift_of(spec.terms[0], batch):
        return None
    first = first_logit(spec.terms[0], batch)
    size = max(-(-batch.tensor("labels").shape[1] // shards), 1)
    kept = [pair for pair in right_pairs(spec, batch) if (pair.logit[1] - first) // size == pair.label[1] // size]
    return repaired(spec, batch, kept)


ALIGNMENT: tuple[Mutant, ...] = (
    no_shift,
    smoothing_no_shift,
    double_shift,
    aligned_shift,
    flat_double_shift,
    reverse_shift,
    flatten_then_shift,
    roll_wrap,
    index_minus_one,
    tail_pad_target,
    prefix_slice,
    drop_first_response,
    drop_last_response,
    shard_then_shift,
)
