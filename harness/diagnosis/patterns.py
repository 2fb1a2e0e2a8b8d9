"""Say in words what the wrong pairs and weights of a loss have in common: by stream, and by codebook or head."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

from torch import Tensor

from shiftproof.reference.pairing import Pair, Place, labels_of
from shiftproof.reference.spec import Axis, Combine, Heads, LossSpec

from ..probe.read import site_of
from .evidence import Evidence

_FEWEST = 2  # places that show a pattern
_MOSTLY = 0.6  # of the places; ids that two streams share, or that a loss has cut, may hide the others
_OFFSETS = (0, 1, -1, 2, -2, 3, -3)
_MOST_OFF = 8  # by which a count is recognised
_TOLERANCE = 0.01  # relative, of a weight
_AT_MOST = 8  # sentences


@dataclass(frozen=True)
class _Row:
    """One row of logits on one case: its right pair, if it has one, and the classes and weights that it has.

    Attributes:
        book: its codebook or head, or -1 for logits that have none.
        books: K, the number of them in this case.
        factor: its weight relative to the right one, if it is scored on the right class alone.
    """

    case: int
    term: int
    place: Place
    book: int
    books: int
    pair: Pair | None
    found: frozenset[int]
    factor: float | None

    @property
    def is_right(self) -> bool:
        return self.pair is not None and self.found == {self.pair.target}


@dataclass(frozen=True)
class _Part:
    """The rows of one stream, or of one codebook or head of it."""

    logits: str
    name: str
    rows: tuple[_Row, ...]

    @property
    def paired(self) -> list[_Row]:
        """The rows that have a right pair."""
        return [row for row in self.rows if row.pair is not None]


@dataclass(frozen=True)
class _Source:
    """A place that a loss may take in place of the right one: in words, and by the right label's place in a case."""

    words: str
    at: Callable[[Place, int, int], Place]  # (right place, rows, books) -> place, with a codebook only where there are
    labels: str


def patterns(evidence: Sequence[Evidence], spec: LossSpec) -> tuple[str, ...]:
    """The sentences that hold on all of the evidence, each about one part of the loss."""
    reader = _Reader(evidence, spec)
    found: list[tuple[_Part, str]] = []
    for from_the_end in (False, True):
        said = [(part, reader.about(part)) for part in reader.parts(from_the_end)]
        is_clear = all(words is not None for _, words in said)
        if is_clear or not found:
            found = [(part, words) for part, words in said if words]
        if is_clear:
            break
    return tuple([*_merged(found, reader.parts(False)), *reader.added()][:_AT_MOST])


def _merged(said: Sequence[tuple[_Part, str]], parts: Sequence[_Part]) -> Iterator[str]:
    """Say once what holds of every codebook or head of a stream."""
    for logits in dict.fromkeys(part.logits for part, _ in said):
        own = [(part.name, words) for part, words in said if part.logits == logits]
        books = sum(part.logits == logits for part in parts)
        if len(own) == books > 1 and len({words for _, words in own}) == 1:
            yield f"every codebook or head of {logits}: {own[0][1]}"
        else:
            yield from (f"{name}: {words}" for name, words in own)


class _Reader:
    """What every row of logits of the evidence was scored on."""

    def __init__(self, evidence: Sequence[Evidence], spec: LossSpec) -> None:
        self.spec = spec
        self.evidence = [each for each in evidence if each.case.pairing.pairs]
        self.labels: list[dict[str, Tensor]] = [
            {term.labels: labels_of(term, each.case.batch) for term in spec.terms} for each in self.evidence
        ]
        self.rows = [row for index, each in enumerate(self.evidence) for row in self._rows(index, each)]

    def _rows(self, index: int, each: Evidence) -> Iterator[_Row]:
        pairing = each.case.pairing
        pair_of = {site_of(pairing, pair): pair for pair in pairing.pairs if pair.weight}
        term_of = {term.logits: number for number, term in enumerate(self.spec.terms)}
        for site in sorted({*pair_of, *each.scored}):
            name, *place = site
            pair, scored = pair_of.get(site), each.scored.get(site, {})
            shape = pairing.shapes[name]
            factor = None
            if pair is not None and set(scored) == {pair.target} and site not in each.unsure:
                factor = scored[pair.target] / pair.weight
            yield _Row(
                case=index,
                term=term_of[name] if pair is None else pair.term,
                place=tuple(place),
                book=place[2] if len(place) > 2 else -1,
                books=shape[2] if len(shape) > 3 else 1,
                pair=pair,
                found=frozenset(scored),
                factor=factor,
            )

    def parts(self, from_the_end: bool) -> list[_Part]:
        """The rows by stream, and by codebook or head, which are numbered from the first or from the last."""
        groups: dict[tuple[int, int], list[_Row]] = {}
        for row in self.rows:
            book = row.books - 1 - row.book if from_the_end and row.book >= 0 else row.book
            groups.setdefault((row.term, book), []).append(row)
        return [
            _Part(self.spec.terms[term].logits, self._name(term, book, from_the_end), tuple(rows))
            for (term, book), rows in sorted(groups.items())
        ]

    def _name(self, term: int, book: int, from_the_end: bool) -> str:
        of = self.spec.terms[term]
        if book < 0:
            return of.logits
        kind = "head" if of.heads is Heads.AHEAD or of.axis is Axis.CODEBOOK else "codebook"
        stream = f" of {of.logits}" if len(self.spec.logits) > 1 else ""
        return f"{_counted(kind, book, from_the_end)}{stream}"

    def about(self, part: _Part) -> str | None:
        """What is wrong in a part, "" if nothing is, or None if it is wrong and has no pattern."""
        paired = part.paired
        wrong = [row for row in paired if not row.is_right]
        if wrong:
            return self._moved(part) or self._missing(part) or self._more(part)
        factors = [row.factor for row in paired if row.factor is not None]
        if not factors or all(abs(factor - 1) <= _TOLERANCE for factor in factors):
            return ""
        return self._weighed(part)

    # The classes ---------------------------------------------------------------------------------------------------

    def _moved(self, part: _Part) -> str | None:
        """Where the labels of a part come from, if all come from one other place relative to their own."""
        best, most = None, _MOSTLY
        for source in (*self._in_turn(part), *self._sources(part)):
            same = differ = telling = 0
            for row in part.paired:
                assert row.pair is not None
                label = self._label(row, source)
                if label is None:
                    same += not row.found
                    differ += bool(row.found)
                    continue
                hit = row.found == {label}
                same, differ = same + hit, differ + (not hit)
                telling += hit and label != row.pair.target
            share = same / max(same + differ, 1)
            if telling >= _FEWEST and share > most:
                best, most = source, share
            if most > 1 - _TOLERANCE:
                break
        if best is None:
            return None
        return f"{'takes' if most > 0.95 else 'mostly takes'} {best.words}"

    def _label(self, row: _Row, source: _Source) -> int | None:
        """The label at a source's place, or None if there is none or it is no class."""
        label = self._at(row, source)
        classes = self.evidence[row.case].case.pairing.shapes[self.spec.terms[row.term].logits][-1]
        return label if label is not None and 0 <= label < classes else None

    def _at(self, row: _Row, source: _Source) -> int | None:
        """The label at a source's place, ignored or not, or None if there is no such place."""
        assert row.pair is not None
        labels = self.labels[row.case][source.labels]
        place = source.at(row.pair.label, labels.shape[0], labels.shape[2] if labels.dim() == 3 else 1)
        if len(place) != labels.dim() or any(not 0 <= at < size for at, size in zip(place, labels.shape, strict=True)):
            return None
        return int(labels[place])

    def _in_turn(self, part: _Part) -> Iterator[_Source]:
        """Where every codebook's labels may come from in one and the same way. One codebook alone does not show it."""
        term = self.spec.terms[part.rows[0].term]
        if term.heads is not Heads.CODEBOOKS or len([p for p in self.parts(False) if p.logits == part.logits]) < 2:
            return
        if not self._wrong_books.get(term.logits, 0) > 1:
            return
        own = term.labels
        yield _Source(
            "the labels of the codebooks in reverse order", lambda at, _, books: (*at[:2], books - 1 - at[2]), own
        )
        yield _Source("the labels of the next codebook", lambda at, _, books: (*at[:2], at[2] + 1), own)
        yield _Source("the labels of the codebook before", lambda at, _, books: (*at[:2], at[2] - 1), own)
        yield _Source(
            "the labels at +k in codebook k, as if a delay were undone",
            lambda at, _, books: (at[0], at[1] + at[2], at[2]),
            own,
        )
        yield _Source(
            "the labels at -k in codebook k, as if a delay were made",
            lambda at, _, books: (at[0], at[1] - at[2], at[2]),
            own,
        )

    @cached_property
    def _wrong_books(self) -> Mapping[str, int]:
        """By logits: how many codebooks or heads have a row with a wrong class."""
        wrong = [part.logits for part in self.parts(False) if any(not row.is_right for row in part.paired)]
        return Counter(wrong)

    def _sources(self, part: _Part) -> Iterator[_Source]:
        """Where a part's labels may come from, the nearest first."""
        own = self.spec.terms[part.rows[0].term].labels
        has_books = len(part.paired[0].pair.label) > 2 if part.paired and part.paired[0].pair else False
        streams = [own, *(name for name in self.labels[0] if name != own)] if self.labels else []
        for labels in streams:
            several = self.labels[0][labels].dim() == 3
            books: list[tuple[str, int, bool]] = [("", 0, False)]
            if several:
                books = [("own", 0, False)] if has_books else []
                books += [("", book, end) for end in (False, True) for book in range(8)]
            for kind, book, end in books:
                for offset in _OFFSETS:
                    which = "" if not several or kind else f" of {_counted('codebook', book, end)}"
                    whose = "" if labels == own else f" of {labels}"
                    where = f" at {offset:+d}" if offset else ""
                    if labels == own and not which and not offset:
                        continue
                    words = f"the labels{which}{whose}{where}"
                    yield _Source(words, partial(_elsewhere, several, kind, book, end, offset), labels)
        yield _Source("the labels of the rows in reverse order", lambda at, rows, _: (rows - 1 - at[0], *at[1:]), own)
        yield _Source("the labels of the next row", lambda at, rows, _: ((at[0] + 1) % rows, *at[1:]), own)

    def _missing(self, part: _Part) -> str | None:
        """Which rows of a part are not scored, if one condition tells them from those that are."""
        lost = {(row.case, row.place) for row in part.paired if not row.found}
        if len(lost) < _FEWEST or any(row.found and not row.is_right for row in part.paired):
            return None
        if len(lost) == len(part.paired):
            return "is not trained"
        for words, holds in self._conditions(part):
            found = [(holds(row), (row.case, row.place) in lost) for row in part.paired]
            if any(is_lost for _, is_lost in found) and all(held in (None, is_lost) for held, is_lost in found):
                return words
        return None

    def _conditions(self, part: _Part) -> Iterator[tuple[str, Callable[[_Row], bool | None]]]:
        """What may tell the rows that are left out, in words. None: it says nothing about a row."""
        edges: dict[tuple[int, int], list[int]] = {}
        for row in part.paired:
            edges.setdefault((row.case, row.place[0]), []).append(row.place[1])

        def is_edge(end: Callable[[Sequence[int]], int], row: _Row) -> bool:
            return row.place[1] == end(edges[row.case, row.place[0]])

        def is_last_position(row: _Row) -> bool:
            labels = self.labels[row.case][self.spec.terms[row.term].labels]
            assert row.pair is not None
            return row.pair.label[1] == labels.shape[1] - 1

        def is_last_row(row: _Row) -> bool:
            rows = self.evidence[row.case].case.recipe.rows
            return rows > 1 and row.place[0] == rows - 1

        yield "the first label of each row is left out", partial(is_edge, min)
        yield "the last label of each row is left out", partial(is_edge, max)
        yield "the label of the first position is left out", lambda row: row.place[1] == 0
        yield "the last label of each row is left out, if it is at the last position", is_last_position
        yield "the last row is left out, if there are several", is_last_row
        yield "the first row is left out", lambda row: row.place[0] == 0
        for source in self._sources(part):
            if " at " in source.words or "row" in source.words:
                continue
            yield f"takes {source.words.replace('labels', 'mask', 1)}", partial(self._is_ignored, source)

    def _is_ignored(self, source: _Source, row: _Row) -> bool | None:
        """Whether the label at a source's place is ignored, or None if there is no such place."""
        label = self._at(row, source)
        ignored = {
            id
            for term in self.spec.terms
            if term.labels == source.labels
            for id in (term.ignore_index, *term.ignored_ids)
        }
        return None if label is None else label in ignored or label < 0

    def _more(self, part: _Part) -> str | None:
        """The label on which a part's rows are scored besides their own."""
        several = [row for row in part.paired if row.pair is not None and row.pair.target in row.found]
        several = [row for row in several if len(row.found) > 1]
        if len(several) < _FEWEST or any(not row.found for row in part.paired):
            return None
        for source in self._sources(part):
            if all((label := self._label(row, source)) is not None and label in row.found for row in several):
                return f"scored on {source.words} too"
        return None

    def added(self) -> list[str]:
        """What is trained on although it is ignored, if it is one class."""
        said = []
        for logits in self.spec.logits:
            extra = [row for row in self.rows if row.pair is None and self.spec.terms[row.term].logits == logits]
            classes = {target for row in extra for target in row.found}
            if len(extra) >= _FEWEST and len(classes) == 1:
                said.append(f"{logits}: an ignored label is trained on as class {classes.pop()}, {len(extra)} times")
        return said

    # The weights ---------------------------------------------------------------------------------------------------

    def _weighed(self, part: _Part) -> str | None:
        """How the weights of a part are off, if they are off in one way."""
        by_case: dict[int, list[float]] = {}
        for row in part.paired:
            if row.factor is not None:
                by_case.setdefault(row.case, []).append(row.factor)
        factors = [factor for of in by_case.values() for factor in of]
        if _alike(factors):
            return f"has {factors[0]:.4g} times its weight"
        if whose := self._of_another_weight(part):
            return whose
        if not all(_alike(of) for of in by_case.values()) or len(by_case) < _FEWEST:
            return None
        return self._over_another_count(part, {case: of[0] for case, of in by_case.items()})

    def _of_another_weight(self, part: _Part) -> str | None:
        """The codebook whose weight a part has, among ``codebook_weights``."""
        if part.rows[0].book < 0 or any(each.case.batch.codebook_weights is None for each in self.evidence):
            return None
        reverse: Callable[[int, int], int] = lambda book, books: books - 1 - book  # noqa: E731
        others: list[tuple[str, Callable[[int, int], int]]] = [("the codebooks in reverse order", reverse)]
        others += [(_counted("codebook", at, False), partial(_place_of, at, False)) for at in range(8)]
        others += [(_counted("codebook", at, True), partial(_place_of, at, True)) for at in range(8)]
        for words, other in others:
            is_so = differ = 0
            for row in part.paired:
                weights = self.evidence[row.case].case.batch.codebook_weights
                assert weights is not None
                place = other(row.book, row.books)
                if row.factor is None or not 0 <= place < row.books or not weights[row.book]:
                    continue
                expected = float(weights[place] / weights[row.book])
                hit = abs(row.factor - expected) <= _TOLERANCE * abs(expected)
                is_so, differ = is_so + (hit and abs(expected - 1) > _TOLERANCE), differ + (not hit)
            if is_so >= _FEWEST and not differ:
                return f"has the weight of {words}"
        return None

    def _over_another_count(self, part: _Part, factors: dict[int, float]) -> str | None:
        """What a part is divided by in place of its own count."""
        own = {case: sum(row.case == case for row in self._sharing(part)) for case in factors}
        shapes = {case: self.labels[case][self.spec.terms[part.rows[0].term].labels].shape for case in factors}
        for words, expected in (
            ("summed, and divided by no count", {case: float(count) for case, count in own.items()}),
            ("divided once more by the labels that count", {case: 1 / count for case, count in own.items()}),
            ("divided by all labels", {c: own[c] / (shape[0] * shape[1]) for c, shape in shapes.items()}),
            (
                "divided by all labels but the first of each row",
                {c: own[c] / (shape[0] * max(shape[1] - 1, 1)) for c, shape in shapes.items()},
            ),
        ):
            if all(abs(factor / expected[case] - 1) <= _TOLERANCE for case, factor in factors.items()):
                return words
        off = [own[case] / factor - own[case] for case, factor in factors.items() if factor]
        steady = round(off[0]) if off else 0
        if 0 < abs(steady) <= _MOST_OFF and all(
            abs(each - steady) <= _TOLERANCE * own_ for each, own_ in zip(off, own.values(), strict=False)
        ):
            return f"divided by {abs(steady)} {'more' if steady > 0 else 'fewer'} than the labels that count"
        for name in self.spec.logits:
            others = [row for row in self.rows if row.pair and self.spec.terms[row.term].logits == name]
            counts = {case: sum(row.case == case for row in others) for case in factors}
            if counts != own and all(
                counts[case] and abs(own[case] / factor / counts[case] - 1) <= _TOLERANCE
                for case, factor in factors.items()
                if factor
            ):
                return f"divided by the number of labels that count for {name}"
        return None

    def _sharing(self, part: _Part) -> list[_Row]:
        """The rows that share a part's denominator."""
        first = part.paired[0]
        term = self.spec.terms[first.term]
        if term.combine is Combine.FLAT:
            return [row for row in self.rows if row.term == first.term and row.pair is not None]
        return part.paired


def _elsewhere(several: bool, kind: str, book: int, end: bool, offset: int, at: Place, rows: int, books: int) -> Place:
    row, position, *own = at
    if not several:
        return row, position + offset
    if kind:
        return row, position + offset, *own
    return row, position + offset, books - 1 - book if end else book


def _place_of(at: int, from_the_end: bool, book: int, books: int) -> int:
    return books - 1 - at if from_the_end else at


def _counted(kind: str, number: int, from_the_end: bool) -> str:
    if not from_the_end:
        return f"{kind} {number}"
    return f"the last {kind}" + (f" but {number}" if number else "")


def _alike(factors: Sequence[float]) -> bool:
    return max(factors) - min(factors) <= _TOLERANCE * abs(factors[0])
