"""Known-wrong losses that score the right pairs and divide by the wrong thing."""

from __future__ import annotations

from collections.abc import Callable

from shiftproof.reference.batch import Batch
from shiftproof.reference.pairing import Pair, Pairing, divide_by, first_logit, labels_of, select, shift_of
from shiftproof.reference.spec import Denominator, LossSpec, Reduction, ShiftedBy

from .base import Choose, Mutant, family, mutant, repaired


def _averages(spec: LossSpec) -> bool:
    return spec.terms[0].reduction is Reduction.MEAN


def _own_count(spec: LossSpec, batch: Batch, pairs: list[Pair]) -> float:
    """Return the denominator of the loss without a count from the caller."""
    weighted = spec.terms[0].denominator is Denominator.WEIGHTS
    return sum(pair.weight for pair in pairs) if weighted else float(len(pairs))


def _grouped(
    spec: LossSpec, batch: Batch, choose: Choose, group_of: Callable[[Pair], int], groups: int | None, sum_up: bool
) -> Pairing | None:
    """Return the sum of the means of groups of pairs, or their mean over ``groups`` (None: over groups with a pair)."""
    if not _averages(spec):
        return None
    members: dict[int, list[Pair]] = {}
    for pair in choose(spec.terms[0], batch, 0):
        members.setdefault(group_of(pair), []).append(pair)
    over = 1 if sum_up else (len(members) if groups is None else groups)
    pairs = [
        pair._replace(weight=pair.weight / own / max(over, 1))
        for group in members.values()
        if (own := _own_count(spec, batch, group))  # a group in which nothing weighs adds nothing
        for pair in group
    ]
    return repaired(spec, batch, sorted(pairs), denominator=1.0)


def _scaled(spec: LossSpec, batch: Batch, choose: Choose, factor: float) -> Pairing | None:
    if not _averages(spec):
        return None
    pairs = choose(spec.terms[0], batch, 0)
    return repaired(spec, batch, pairs, denominator=divide_by(spec.terms[0], batch, pairs) / factor)


def _trained_labels(spec: LossSpec, batch: Batch, first: int) -> int:
    """Return the number of labels from column ``first`` on that are not ignored."""
    term = spec.terms[0]
    labels = labels_of(term, batch)[:, first:]
    kept = labels != term.ignore_index if term.ignore_index is not None else labels == labels
    if term.loss_mask:
        kept = kept & batch.tensor("loss_mask")[:, first:].bool()
    return int(kept.sum())


@family(
    "denominator-all",
    ("kept tail", "trimmed tail"),
    formula="÷ every position, ignored or not",
    tells="one ignored label",
    seen="Paddle#47418",
    needs="a mean",
    over=True,
)
def denominator_all(spec: LossSpec, batch: Batch, tail: str, choose: Choose = select) -> Pairing | None:
    rows, length = batch.tensor("labels").shape
    if tail == "trimmed tail":
        length = max(length - shift_of(spec.terms[0], batch), 0)
    return (
        repaired(spec, batch, choose(spec.terms[0], batch, 0), denominator=float(rows * length))
        if _averages(spec)
        else None
    )


@mutant(
    "overcount-rows",
    formula="÷ (N + rows): the labels are counted before the shift, position 0 too",
    tells="y_0 valid",
    seen="transformers#46204, Trainer 4.46–5.9",
    needs="a mean, and a loss that shifts",
    over=True,
)
def overcount_rows(spec: LossSpec, batch: Batch, choose: Choose = select) -> Pairing | None:
    if not _averages(spec) or not shift_of(spec.terms[0], batch):
        return None
    count = _trained_labels(spec, batch, first=0)
    return repaired(spec, batch, choose(spec.terms[0], batch, 0), denominator=float(count))


@mutant(
    "undercount-aligned",
    formula="÷ (N − rows): labels[..., 1:] are counted for a decoder whose labels are aligned",
    tells="y_0 valid",
    seen="transformers#46903",
    needs="a mean, and labels that the loss does not shift",
    over=True,
)
def undercount_aligned(spec: LossSpec, batch: Batch, choose: Choose = select) -> Pairing | None:
    if not _averages(spec) or spec.terms[0].shifted_by is ShiftedBy.LOSS:
        return None
    count = _trained_labels(spec, batch, first=1)
    return repaired(spec, batch, choose(spec.terms[0], batch, 0), denominator=float(count))


@mutant(
    "count-ignored",
    formula="num_items_in_batch is accepted and not used",
    tells="a count other than N",
    seen="transformers#47688 (49 classes)",
    needs="num_items_in_batch",
    over=True,
)
def count_ignored(spec: LossSpec, batch: Batch, choose: Choose = select) -> Pairing | None:
    if spec.terms[0].denominator not in (Denominator.NUM_ITEMS, Denominator.NUM_ITEMS_OR_VALID):
        return None
    pairs = choose(spec.terms[0], batch, 0)
    return repaired(spec, batch, pairs, denominator=float(len(pairs)))


@mutant(
    "row-mean",
    formula="the mean of the rows' means",
    tells="2 rows of unequal counts",
    seen="a policy in some trainers, wrong where not declared",
    needs="a mean",
    over=True,
)
def row_mean(spec: LossSpec, batch: Batch, choose: Choose = select) -> Pairing | None:
    return _grouped(spec, batch, choose, lambda pair: pair.logit[0], None, sum_up=False)


def _micro_batch(batch: Batch, parts: int) -> tuple[Callable[[Pair], int], int]:
    """Cut the rows into ``parts`` like torch.chunk. Return the function from a pair to its part, and the part count."""
    rows = batch.tensor("labels").shape[0]
    size = max(-(-rows // parts), 1)
    return (lambda pair: pair.logit[0] // size), max(-(-rows // size), 1)


@family(
    "mean-of-means",
    (2, 4, 8),
    formula="(1/G) Σ mean_i over G micro-batches",
    tells="2 micro-batches of unequal counts",
    seen="transformers#34191, unsloth#1134",
    needs="a mean",
    over=True,
)
def mean_of_means(spec: LossSpec, batch: Batch, parts: int, choose: Choose = select) -> Pairing | None:
    group_of, groups = _micro_batch(batch, parts)
    return _grouped(spec, batch, choose, group_of, groups, sum_up=False)


@family(
    "sum-of-means",
    (2, 4, 8),
    formula="Σ mean_i over G micro-batches: G times too much",
    tells="2 micro-batches",
    seen="transformers#37766, #47688",
    needs="a mean",
    over=True,
)
def sum_of_means(spec: LossSpec, batch: Batch, parts: int, choose: Choose = select) -> Pairing | None:
    group_of, groups = _micro_batch(batch, parts)
    return _grouped(spec, batch, choose, group_of, groups, sum_up=True)


@family(
    "rank-mean-of-means",
    (2, 4, 8),
    formula="the mean over ranks, which take rows in turn, of their local means",
    tells="2 ranks of unequal counts",
    seen="transformers#34242",
    needs="a mean",
    over=True,
)
def rank_mean_of_means(spec: LossSpec, batch: Batch, ranks: int, choose: Choose = select) -> Pairing | None:
    return _grouped(spec, batch, choose, lambda pair: pair.logit[0] % ranks, ranks, sum_up=False)


@family(
    "double-divide",
    (2, 4, 8),
    formula="÷ G once more",
    tells="any input",
    seen="unsloth-zoo#1023",
    needs="a mean",
    over=True,
)
def double_divide(spec: LossSpec, batch: Batch, times: int, choose: Choose = select) -> Pairing | None:
    return _scaled(spec, batch, choose, 1 / times)


@family(
    "world-size-missing",
    (2, 4, 8),
    formula="× 1/W",
    tells="any input",
    seen="torchtune#2172",
    needs="a mean",
    over=True,
)
def world_size_missing(spec: LossSpec, batch: Batch, ranks: int, choose: Choose = select) -> Pairing | None:
    return _scaled(spec, batch, choose, 1 / ranks)


@family(
    "cp-undercount",
    (2, 4, 8),
    formula="× W: each rank divides by its own share",
    tells="any input",
    seen="verl#5983",
    needs="a mean",
    over=True,
)
def cp_undercount(spec: LossSpec, batch: Batch, ranks: int, choose: Choose = select) -> Pairing | None:
    return _scaled(spec, batch, choose, float(ranks))


@family(
    "packed-double-subtract",
    (1, 2),
    formula="÷ (N − boundaries), where the boundaries' labels are not in N anyway",
    tells="2 packed documents",
    seen="unsloth-zoo#1066",
    needs="a mean, and position_ids",
    over=True,
)
def packed_double_subtract(spec: LossSpec, batch: Batch, times: int, choose: Choose = select) -> Pairing | None:
    if batch.position_ids is None or not _averages(spec):
        return None
    pairs = choose(spec.terms[0], batch, 0)
    boundaries = int((batch.position_ids[:, 1:] == 0).sum())
    if not boundaries:
        return None
    return repaired(spec, batch, pairs, denominator=_own_count(spec, batch, pairs) - times * boundaries)


def _chunk_of(spec: LossSpec, batch: Batch, size: int) -> tuple[Callable[[Pair], int], int]:
    """Cut the flattened pairs (tail trimmed) into chunks of ``size``. Return a pair's chunk, and the chunk count."""
    term = spec.terms[0]
    rows, length = batch.tensor("labels").shape
    first, kept = first_logit(term, batch), max(length - shift_of(term, batch), 0)
    return (lambda pair: (pair.logit[0] * kept + pair.logit[1] - first) // size), -(-rows * kept // size)


@family(
    "chunk-mean-sum",
    (2, 4, 8, 16),
    formula="Σ of the means of chunks of tokens",
    tells="2 chunks",
    seen="NeMo Automodel#3803",
    needs="a mean",
    over=True,
)
def chunk_mean_sum(spec: LossSpec, batch: Batch, size: int, choose: Choose = select) -> Pairing | None:
    group_of, chunks = _chunk_of(spec, batch, size)
    return _grouped(spec, batch, choose, group_of, chunks, sum_up=True)


@family(
    "chunk-mean-mean",
    (2, 4, 8, 16),
    formula="the mean of the means of chunks of tokens",
    tells="2 chunks of unequal counts",
    seen="NeMo Automodel#3803",
    needs="a mean",
    over=True,
)
def chunk_mean_mean(spec: LossSpec, batch: Batch, size: int, choose: Choose = select) -> Pairing | None:
    group_of, chunks = _chunk_of(spec, batch, size)
    return _grouped(spec, batch, choose, group_of, chunks, sum_up=False)


@family(
    "tail-accumulation",
    (4, 2, 3, 8),
    formula="÷ the configured G on a short last window",
    tells="steps mod G ≠ 0",
    seen="LLaMA-Factory#10705",
    needs="a mean",
    over=True,
)
def tail_accumulation(spec: LossSpec, batch: Batch, window: int, choose: Choose = select) -> Pairing | None:
    left_over = batch.tensor("labels").shape[0] % window
    return _scaled(spec, batch, choose, left_over / window if left_over else 1.0)


NORMALISATION: tuple[Mutant, ...] = (
    denominator_all,
    overcount_rows,
    undercount_aligned,
    count_ignored,
    row_mean,
    mean_of_means,
    sum_of_means,
    rank_mean_of_means,
    double_divide,
    world_size_missing,
    cp_undercount,
    packed_double_subtract,
    chunk_mean_sum,
    chunk_mean_mean,
    tail_accumulation,
)
