"""Known-wrong losses over codebooks, heads and several streams: bugs that need a spec with several of them."""

from __future__ import annotations

from dataclasses import replace

import einops
import torch
from torch import Tensor

from shiftproof.reference.batch import Batch
from shiftproof.reference.pairing import (
    Group,
    Pair,
    Pairing,
    Rule,
    assemble,
    codebook_weights,
    first_logit,
    group,
    heads_of,
    labels_of,
    select,
)
from shiftproof.reference.spec import Axis, Combine, Denominator, Heads, LossSpec, LossTerm

from .base import Choose, Mutant, family, mutant


def _books(term: LossTerm) -> bool:
    """Return whether a term has one head per codebook at the same time."""
    return term.heads is Heads.CODEBOOKS and term.axis is Axis.TIME


def _regrouped(
    spec: LossSpec,
    batch: Batch,
    chosen: list[list[Pair] | None],
    left_out: frozenset[int] = frozenset(),
    choose: Choose = select,
) -> Pairing | None:
    """Return the pairing with the pairs ``chosen`` for some terms, or None if no term has such pairs.

    The mean over heads in those terms does not include the heads in ``left_out``.
    """
    if all(pairs is None for pairs in chosen):
        return None
    return assemble(
        spec,
        batch,
        [
            group(term, batch, choose(term, batch, index)) if pairs is None else _grouped(term, batch, pairs, left_out)
            for index, (term, pairs) in enumerate(zip(spec.terms, chosen, strict=True))
        ],
    )


def _grouped(term: LossTerm, batch: Batch, pairs: list[Pair], left_out: frozenset[int]) -> list[Group]:
    groups = group(term, batch, pairs)
    if not left_out or term.combine in (Combine.FLAT, Combine.MEAN_NONEMPTY):
        return groups
    kept = [of_head for head, of_head in enumerate(groups) if head not in left_out]
    over = sum(of_head.share for of_head in kept) if term.combine is not Combine.SUM else 1.0
    return [of_head._replace(share=of_head.share / over) for of_head in kept if over]


def _respecified(spec: LossSpec, batch: Batch, terms: list[LossTerm], choose: Choose) -> Pairing | None:
    """Return the pairing of changed terms with the same names, or None if no term changed."""
    if tuple(terms) == spec.terms:
        return None
    return _built(replace(spec, terms=tuple(terms)), batch, choose)


def _built(spec: LossSpec, batch: Batch, choose: Choose) -> Pairing:
    """Return the pairs that ``choose`` selects for a spec, grouped and divided as the spec states."""
    return assemble(
        spec, batch, [group(term, batch, choose(term, batch, index)) for index, term in enumerate(spec.terms)]
    )


def _elsewhere(
    term: LossTerm, batch: Batch, index: int, steps: list[tuple[int, int]], wraps: bool = False
) -> list[Pair]:
    """Return the pairs of a term whose head k reads its label away from the right place.

    ``steps[k]`` is the offset (places later, codebooks on). Whether a label counts is decided at the right place: its
    mask has moved with it.
    """
    labels, rule = labels_of(term, batch), Rule(term, batch)
    rows, length, books = labels.shape
    first = first_logit(term, batch)
    weights = codebook_weights(term, batch) if term.combine is Combine.FLAT else None
    pairs = []
    for row in range(rows):
        for position in range(length):
            for book, (later, on) in enumerate(steps):
                at, of = position + term.shift + later, book + on
                of = of % books if wraps else of
                label, logit = (row, at, of), (row, first + position, book)
                if 0 <= at < length and 0 <= of < books and rule.counts((row, first + at - term.shift, of), label):
                    weight = 1.0 if weights is None else weights[book]
                    pairs.append(Pair(index, logit, label, rule.target(label), weight))
    return pairs


@family(
    "codebook-axis-shift",
    ("+1", "−1", "+1, round", "−1, round"),
    formula="head k is scored on codebook k+1 (or k−1), the one left over on nothing (or on the first)",
    tells="K=3, distinct codes",
    seen="qwen-tts",
    whole=True,
    needs="codebooks",
)
def codebook_axis_shift(spec: LossSpec, batch: Batch, how: str) -> Pairing | None:
    on, wraps = (1 if how[0] == "+" else -1), how.endswith("round")
    chosen: list[list[Pair] | None] = []
    left_out: set[int] = set()
    for index, term in enumerate(spec.terms):
        heads = heads_of(term, batch)
        if _books(term):
            chosen.append(_elsewhere(term, batch, index, [(0, on)] * heads, wraps))
            left_out = set() if wraps else {heads - 1 if on > 0 else 0}
        elif term.axis is Axis.CODEBOOK and not wraps:
            chosen.append(_across(term, batch, index, on))
        else:
            chosen.append(None)
    return _regrouped(spec, batch, chosen, frozenset(left_out))


def _across(term: LossTerm, batch: Batch, index: int, on: int) -> list[Pair]:
    """Return the pairs of a term along the codebooks, where head j reads codebook j + shift + ``on``."""
    labels, rule = labels_of(term, batch), Rule(term, batch)
    rows, length, books = labels.shape
    return [
        Pair(index, (row, position, head), label, rule.target(label), 1.0)
        for row in range(rows)
        for position in range(length)
        for head in range(heads_of(term, batch))
        if (label := (row, position, head + term.shift + on))[2] < books and rule.counts((row, position, head), label)
    ]


@family(
    "delay-off-by-one",
    ("late", "early", "codebook k by k", "codebook k by −k"),
    formula="codebooks after the first are scored one frame late or early, or without their delay",
    tells="K=2, distinct codes",
    seen="an easy slip wherever delays are applied or undone",
    whole=True,
    needs="codebooks side by side",
)
def delay_off_by_one(spec: LossSpec, batch: Batch, how: str) -> Pairing | None:
    def later(book: int) -> int:
        return {"late": min(book, 1), "early": -min(book, 1), "codebook k by k": book, "codebook k by −k": -book}[how]

    return _regrouped(
        spec,
        batch,
        [
            _elsewhere(term, batch, index, [(later(book), 0) for book in range(heads_of(term, batch))])
            if _books(term)
            else None
            for index, term in enumerate(spec.terms)
        ],
    )


_READ_AS = {
    "b s k": "b k s",
    "b k s": "b s k",
    "k (b s)": "(b s) k",
    "(b s) k": "k (b s)",
    "(b k) s": "(b s) k",
}
"""The layout of labels in memory -> the layout that a loss with swapped axes assumes."""


@family(
    "layout-swap",
    ("viewed", "transposed"),
    formula="labels [B, S, K] are read as [B, K, S]",
    tells="S = K",
    seen="an easy slip between [B, S, K] and [B, K, S]",
    whole=True,
    needs="codebooks side by side",
)
def layout_swap(spec: LossSpec, batch: Batch, how: str) -> Pairing | None:
    chosen: list[list[Pair] | None] = []
    for index, term in enumerate(spec.terms):
        labels = labels_of(term, batch)
        if not _books(term) or (how == "transposed" and labels.shape[1] != labels.shape[2]):
            chosen.append(None)
            continue
        places = torch.arange(labels.numel()).reshape(labels.shape)
        if how == "transposed":
            read = places.transpose(1, 2)
        else:
            lies = spec.layout_of(term.labels)
            memory = einops.rearrange(places, f"b s k -> {lies}").flatten()
            sizes = dict(zip("bsk", labels.shape, strict=True))
            read = memory[einops.rearrange(torch.arange(labels.numel()), f"{_flat(_READ_AS[lies])} -> b s k", **sizes)]
        chosen.append(_read_at(term, batch, index, read))
    return _regrouped(spec, batch, chosen)


def _flat(pattern: str) -> str:
    return f"({pattern.replace('(', '').replace(')', '')})"


def _read_at(term: LossTerm, batch: Batch, index: int, read: Tensor) -> list[Pair]:
    """Return the pairs of a term that finds at [b, s, k] the label with the flat index ``read[b, s, k]``."""
    labels, rule = labels_of(term, batch), Rule(term, batch)
    rows, length, books = labels.shape
    first = first_logit(term, batch)
    weights = codebook_weights(term, batch) if term.combine is Combine.FLAT else None
    found: list[list[list[int]]] = read.tolist()
    pairs = []
    for row in range(rows):
        for position in range(length - term.shift):
            for book in range(books):
                flat = found[row][position + term.shift][book]
                label = (flat // (length * books), flat // books % length, flat % books)
                if rule.counts((label[0], first + label[1] - term.shift, label[2]), label):
                    weight = 1.0 if weights is None else weights[book]
                    pairs.append(Pair(index, (row, first + position, book), label, rule.target(label), weight))
    return pairs


@family(
    "codebook-leak",
    ("k b s", "b k s", "b s k", "k s, row by row", "s k, row by row"),
    formula="codebooks are flattened together, then shifted: what ends one predicts what begins the next",
    tells="K=2, a first code that counts",
    seen="the flattened shift of transformers#47394 over [B, S, K]",
    whole=True,
    needs="codebooks side by side",
)
def codebook_leak(spec: LossSpec, batch: Batch, how: str) -> Pairing | None:
    order, _, by_row = how.partition(", ")
    chosen: list[list[Pair] | None] = []
    for index, term in enumerate(spec.terms):
        if not _books(term):
            chosen.append(None)
            continue
        labels, rule = labels_of(term, batch), Rule(term, batch)
        places = torch.arange(labels.numel()).reshape(labels.shape)
        runs = einops.rearrange(places, f"b s k -> b ({order})" if by_row else f"b s k -> 1 ({order})").tolist()
        shape, first = tuple(labels.shape), first_logit(term, batch)
        weights = codebook_weights(term, batch) if term.combine is Combine.FLAT else None
        pairs = []
        for run in runs:
            for at, label_at in zip(run, run[max(term.shift, 1) :], strict=False):
                (row, position, book), label = _place(at, shape), _place(label_at, shape)
                if rule.trains(label):
                    weight = 1.0 if weights is None else weights[book]
                    pairs.append(Pair(index, (row, first + position, book), label, rule.target(label), weight))
        chosen.append(sorted(pairs))
    return _regrouped(spec, batch, chosen)


def _place(flat: int, shape: tuple[int, ...]) -> tuple[int, int, int]:
    _, length, books = shape
    return flat // (length * books), flat // books % length, flat % books


def _recombined(spec: LossSpec, batch: Batch, choose: Choose, how: Combine, of: tuple[Combine, ...]) -> Pairing | None:
    return _respecified(spec, batch, [_recombined_term(term, how, of) for term in spec.terms], choose)


def _recombined_term(term: LossTerm, how: Combine, of: tuple[Combine, ...]) -> LossTerm:
    if term.combine not in of or term.heads not in (Heads.CODEBOOKS, Heads.AHEAD):
        return term
    return replace(_unweighted(term), combine=how)


def _unweighted(term: LossTerm) -> LossTerm:
    """Return the term without codebook weights."""
    alone = term.denominator is Denominator.WEIGHTS and not (term.token_weights or term.loss_mask)
    combine = Combine.MEAN if term.combine is Combine.WEIGHTED_MEAN else term.combine
    return replace(
        term,
        codebook_weights=False,
        combine=combine,
        denominator=Denominator.VALID if alone else term.denominator,
    )


_MEANS = (Combine.MEAN, Combine.MEAN_NONEMPTY, Combine.WEIGHTED_MEAN)


@family(
    "codebook-macro",
    ("over all codebooks", "over those that are not empty"),
    formula="the mean of the codebooks' means, where a flat token mean was promised",
    tells="2 codebooks of unequal counts",
    seen="MusicGen's mean under Moshi's promise",
    whole=True,
    needs="codebooks or heads under a flat mean",
    over=True,
)
def codebook_macro(spec: LossSpec, batch: Batch, over: str, choose: Choose = select) -> Pairing | None:
    how = Combine.MEAN if over == "over all codebooks" else Combine.MEAN_NONEMPTY
    if all(term.heads not in (Heads.CODEBOOKS, Heads.AHEAD) or term.combine is not Combine.FLAT for term in spec.terms):
        return None
    # A given count is the denominator, whatever the codebooks are.
    counted = batch.num_items_in_batch is not None
    terms = [
        term
        if counted and term.denominator is Denominator.NUM_ITEMS_OR_VALID
        else _recombined_term(term, how, (Combine.FLAT,))
        for term in spec.terms
    ]
    return _built(replace(spec, terms=tuple(terms)), batch, choose)


@family(
    "codebook-micro",
    ("", "weighted"),
    formula="a flat token mean over all codebooks, where a mean of their means was promised",
    tells="2 codebooks of unequal counts",
    seen="Moshi's mean under MusicGen's promise",
    whole=True,
    needs="codebooks or heads that are not under a flat mean",
    over=True,
)
def codebook_micro(spec: LossSpec, batch: Batch, how: str, choose: Choose = select) -> Pairing | None:
    if not how:
        return _recombined(spec, batch, choose, Combine.FLAT, (*_MEANS, Combine.SUM))
    return _respecified(
        spec,
        batch,
        [
            replace(term, combine=Combine.FLAT, denominator=Denominator.WEIGHTS)
            if term.combine is Combine.WEIGHTED_MEAN
            else term
            for term in spec.terms
        ],
        choose,
    )


@mutant(
    "codebook-sum",
    formula="Σ_k for the mean over codebooks",
    tells="2 codebooks",
    seen="Higgs-audio in transformers",
    whole=True,
    needs="a mean over codebooks or heads",
    over=True,
)
def codebook_sum(spec: LossSpec, batch: Batch, choose: Choose = select) -> Pairing | None:
    return _recombined(spec, batch, choose, Combine.SUM, _MEANS)


@mutant(
    "codebook-mean",
    formula="(1/K) Σ_k for the sum over codebooks, or for their weighted mean",
    tells="2 codebooks",
    seen="an easy slip",
    whole=True,
    needs="a sum or a weighted mean over codebooks or heads",
    over=True,
)
def codebook_mean(spec: LossSpec, batch: Batch, choose: Choose = select) -> Pairing | None:
    return _recombined(spec, batch, choose, Combine.MEAN, (Combine.SUM, Combine.WEIGHTED_MEAN))


@mutant(
    "empty-codebook-counted",
    formula="÷ K, empty codebooks among them, where those that are not empty were promised",
    tells="one codebook without labels",
    seen="NeMo's policy under that of Higgs-audio trainers",
    whole=True,
    needs="a mean over the codebooks that are not empty",
    over=True,
)
def empty_codebook_counted(spec: LossSpec, batch: Batch, choose: Choose = select) -> Pairing | None:
    return _recombined(spec, batch, choose, Combine.MEAN, (Combine.MEAN_NONEMPTY,))


@mutant(
    "empty-codebook-skipped",
    formula="÷ the number of codebooks with a label, where K was promised",
    tells="one codebook without labels",
    seen="Higgs-audio trainers' policy under MusicGen's",
    whole=True,
    needs="a mean over all codebooks",
    over=True,
)
def empty_codebook_skipped(spec: LossSpec, batch: Batch, choose: Choose = select) -> Pairing | None:
    return _recombined(spec, batch, choose, Combine.MEAN_NONEMPTY, (Combine.MEAN,))


@family(
    "codebook-missing",
    ("the first", "the last", "all but the first", "the first, ÷ the rest", "the last, ÷ the rest", "all but one"),
    formula="a codebook is left out of the loss",
    tells="2 codebooks",
    seen="an easy slip: range(1, K), range(K−1), [..., 0]",
    whole=True,
    needs="codebooks or heads",
    over=True,
)
def codebook_missing(spec: LossSpec, batch: Batch, which: str, choose: Choose = select) -> Pairing | None:
    chosen: list[list[Pair] | None] = []
    unseen: frozenset[int] = frozenset()
    for index, term in enumerate(spec.terms):
        heads = heads_of(term, batch)
        if term.heads not in (Heads.CODEBOOKS, Heads.AHEAD):
            chosen.append(None)
            continue
        left_out = {"the first": {0}, "the last": {heads - 1}}.get(which.split(",")[0], set(range(1, heads)))
        if which == "all but one" or "÷" in which:
            unseen = frozenset(left_out)
        chosen.append([pair for pair in choose(term, batch, index) if pair.logit[2] not in left_out])
    return _regrouped(spec, batch, chosen, unseen, choose)


@family(
    "count-axis",
    ("labels[..., 1:]", "K times", "frames", "1/K"),
    formula="tokens of labels [B, S, K] are counted along the wrong axis: the shift is taken off the codebooks, or "
    "frames stand for tokens",
    tells="labels of rank 3",
    seen="transformers CSM under Trainer",
    whole=True,
    needs="labels of rank 3 that are counted",
    over=True,
)
def count_axis(spec: LossSpec, batch: Batch, how: str, choose: Choose = select) -> Pairing | None:
    groups: list[list[Group]] = []
    changed = False
    for index, term in enumerate(spec.terms):
        right = group(term, batch, choose(term, batch, index))
        labels = labels_of(term, batch)
        given = term.denominator is Denominator.NUM_ITEMS_OR_VALID and batch.num_items_in_batch is not None
        if labels.dim() != 3 or term.denominator in (Denominator.ONE, Denominator.POSITIONS) or given:
            groups.append(right)
            continue
        rule, (rows, length, books) = Rule(term, batch), labels.shape
        counted = [
            place
            for place in ((r, t, k) for r in range(rows) for t in range(length) for k in range(books))
            if rule.trains(place)
        ]
        totals = []
        for of_group in right:
            match how:
                case "labels[..., 1:]":
                    total = float(sum(place[2] > 0 for place in counted))
                case "K times":
                    total = of_group.denominator * books
                case "1/K":
                    total = of_group.denominator / books
                case _:
                    total = float(len({place[:2] for place in counted}))
            totals.append(of_group._replace(denominator=total))
        changed = True
        groups.append(totals)
    rank_three = any(labels_of(term, batch).dim() == 3 for term in spec.terms)
    return assemble(spec, batch, groups) if changed or rank_three else None


@family(
    "term-weight",
    ("1", "mean", "×K", "÷K"),
    formula="the terms are mixed with other weights than promised: all alike, their mean, or a codebook's share",
    tells="2 terms",
    seen="Qwen3-TTS's 0.3, Higgs-audio trainers' audio weight",
    whole=True,
    needs="2 terms, or a term with a weight",
    over=True,
)
def term_weight(spec: LossSpec, batch: Batch, how: str, choose: Choose = select) -> Pairing | None:
    terms = list(spec.terms)
    if len(terms) < 2 and how != "1":
        return None
    for index, term in enumerate(terms):
        heads = heads_of(term, batch)
        if how == "1":
            terms[index] = replace(term, weight=1.0)
        elif how == "mean":
            terms[index] = replace(term, weight=term.weight / len(terms))
        elif heads > 1:
            terms[index] = replace(term, weight=term.weight * (heads if how == "×K" else 1 / heads))
    return _respecified(spec, batch, terms, choose)


@family(
    "term-missing",
    (0, 1),
    formula="one of the terms is left out",
    tells="2 terms",
    seen="Higgs-audio trainers: the audio loss was computed and not added",
    whole=True,
    needs="2 terms",
    over=True,
)
def term_missing(spec: LossSpec, batch: Batch, which: int, choose: Choose = select) -> Pairing | None:
    if len(spec.terms) < 2:
        return None
    chosen: list[list[Pair] | None] = [[] if index == which else None for index in range(len(spec.terms))]
    return _regrouped(spec, batch, chosen, choose=choose)


@mutant(
    "term-denominator",
    formula="every term is divided by the first term's count",
    tells="2 terms of unequal counts",
    seen="text labels' count used for the audio",
    whole=True,
    needs="2 terms",
    over=True,
)
def term_denominator(spec: LossSpec, batch: Batch, choose: Choose = select) -> Pairing | None:
    if len(spec.terms) < 2:
        return None
    groups = [group(term, batch, choose(term, batch, index)) for index, term in enumerate(spec.terms)]
    total = groups[0][0].denominator
    return assemble(spec, batch, [groups[0], *([g._replace(denominator=total) for g in of] for of in groups[1:])])


@mutant(
    "sentinel-scored",
    formula="the id one past the last class, which marks fill, is scored as the last class",
    tells="one such label",
    seen="Moshi, VALL-E: the codebook's size as a sentinel",
    whole=True,
    needs="an id past the last class that marks fill",
    over=True,
)
def sentinel_scored(spec: LossSpec, batch: Batch, choose: Choose = select) -> Pairing | None:
    chosen: list[list[Pair] | None] = []
    for index, term in enumerate(spec.terms):
        if not term.sentinel:
            chosen.append(None)
            continue
        last = batch.tensor(term.logits).shape[-1] - 1
        pairs = choose(replace(term, sentinel=False), batch, index)
        chosen.append([pair._replace(target=min(pair.target, last)) for pair in pairs])
    return _regrouped(spec, batch, chosen, choose=choose)


@mutant(
    "bos-scored",
    formula="the begin-of-sequence code that fills a delay is trained on",
    tells="one such label",
    seen="Parler's mask without its labels != bos",
    whole=True,
    needs="a begin-of-sequence code that is not trained",
    over=True,
)
def bos_scored(spec: LossSpec, batch: Batch, choose: Choose = select) -> Pairing | None:
    return _respecified(spec, batch, [replace(term, ignores_bos=False) for term in spec.terms], choose)


@mutant(
    "mask-by-labels",
    formula="positions whose input has ended already are trained: the mask looks at the labels alone",
    tells="one end-of-sequence input",
    seen="Parler's mask without its input_ids != eos",
    whole=True,
    needs="a mask by the inputs' end of sequence",
    over=True,
)
def mask_by_labels(spec: LossSpec, batch: Batch, choose: Choose = select) -> Pairing | None:
    return _respecified(spec, batch, [replace(term, stops_at_eos=False) for term in spec.terms], choose)


@mutant(
    "codebook-weights-unused",
    formula="codebook_weights is accepted and not used",
    tells="2 codebooks of unequal weight",
    seen="an easy slip",
    whole=True,
    needs="codebook weights",
    over=True,
)
def codebook_weights_unused(spec: LossSpec, batch: Batch, choose: Choose = select) -> Pairing | None:
    return _respecified(
        spec,
        batch,
        [_unweighted(term) for term in spec.terms],
        choose,
    )


@family(
    "weights-over-count",
    (None, 0, 1),
    formula="the weighted sum is divided by the number of what was weighted, not by the weights",
    tells="2 tokens or codebooks of unequal weight",
    seen="ms-swift's denominator under moshi-finetune's promise",
    whole=True,
    needs="a division by weights",
    over=True,
)
def weights_over_count(spec: LossSpec, batch: Batch, only: int | None, choose: Choose = select) -> Pairing | None:
    groups: list[list[Group]] = []
    changed = False
    for index, term in enumerate(spec.terms):
        counted = term
        mine = only is None or only == index
        if mine and term.denominator in (Denominator.WEIGHTS, Denominator.CLASS_WEIGHTS):
            counted = replace(term, denominator=Denominator.VALID)
        right = group(counted, batch, choose(counted, batch, index))
        if mine and term.combine is Combine.WEIGHTED_MEAN:
            weights = codebook_weights(term, batch) or []
            right = [of._replace(share=w / len(weights)) for of, w in zip(right, weights, strict=True)]
            changed = True
        changed |= counted is not term
        groups.append(right)
    return assemble(spec, batch, groups) if changed else None


CODEBOOKS: tuple[Mutant, ...] = (
    codebook_axis_shift,
    delay_off_by_one,
    layout_swap,
    codebook_leak,
    codebook_macro,
    codebook_micro,
    codebook_sum,
    codebook_weights_unused,
    codebook_mean,
    empty_codebook_counted,
    empty_codebook_skipped,
    codebook_missing,
    count_axis,
    term_weight,
    term_missing,
    term_denominator,
    sentinel_scored,
    bos_scored,
    mask_by_labels,
    weights_over_count,
)
