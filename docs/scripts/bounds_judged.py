"""The data of docs/bounds.md: how far right and wrong losses are from the oracle, in units of the allowed error.

The right losses come from tests/candidates, torch and transformers. All are judged in this process across dtype × V × N
× regime. ``bounds.py`` judges them at full size and draws the result.
"""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from page import fill_in, table
from right_losses import CAUSAL, Loss, run
from torch import Tensor

from shiftproof.harness.bounds.derive import Bounds, derive_bounds
from shiftproof.harness.bounds.liveness import misalign, passing_gradients, passing_values
from shiftproof.harness.cases.build import Case, build_case
from shiftproof.harness.cases.recipe import Count, Ids, Mask, Recipe, Regime
from shiftproof.harness.cases.space import hand_made, random_recipes, space
from shiftproof.reference.oracle import evaluate
from shiftproof.reference.spec import Compute, LossSpec

REGIMES = (Regime.CALM, Regime.NORMAL, Regime.SHARP, Regime.TIES, Regime.HUGE, Regime.MINUS_INF)
ELEMENTS = 1_100_000  # the most logits of one case


class Sizes(NamedTuple):
    """The sizes of the cases."""

    classes: tuple[int, ...] = (2, 17, 257, 4099, 32000, 128256)
    tokens: tuple[int, ...] = (1, 8, 64, 1024)
    others: tuple[tuple[int, int, int], ...] = ((17, 1, 9), (257, 2, 17), (1026, 2, 33))  # classes, rows, length


FULL = Sizes()


class Arithmetic(NamedTuple):
    """The arithmetic of a candidate, and the dtype of its logits."""

    dtype: str
    compute: Compute

    def __str__(self) -> str:
        return f"{self.dtype}, {self.compute}"


STRICT = tuple(Arithmetic(dtype, Compute.STRICT) for dtype in ("float32", "bfloat16", "float16"))
NATIVE = tuple(Arithmetic(dtype, Compute.NATIVE) for dtype in ("bfloat16", "float16"))


class Measured(NamedTuple):
    """Errors over bounds of one loss on one case. A part is NaN if the loss does not give it."""

    kind: str  # right, null, or wrong
    name: str
    arithmetic: Arithmetic
    classes: int
    tokens: int
    regime: Regime
    value: float
    gradient: float

    @property
    def worst(self) -> float:
        return max(0.0 if math.isnan(part) else part for part in (self.value, self.gradient))


# The losses that are judged.


def in_own_dtype(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def log_softmax_in_own_dtype(logits: Tensor, labels: Tensor) -> Tensor:
    return F.nll_loss(F.log_softmax(logits[:, :-1], -1).flatten(0, 1), labels[:, 1:].flatten())


NATIVE_LOSSES = [
    Loss("torch cross_entropy", in_own_dtype, CAUSAL),
    Loss("torch log_softmax", log_softmax_in_own_dtype, CAUSAL),
]


def log_of_softmax(logits: Tensor, labels: Tensor) -> Tensor:
    """log(p + 1e-8): right while p is far from 0."""
    p = torch.softmax(logits[:, :-1].float(), -1).flatten(0, 1)
    return F.nll_loss(torch.log(p + 1e-8), labels[:, 1:].flatten())


def shifted_again(logits: Tensor, labels: Tensor) -> Tensor:
    """Shift labels that were shifted already."""
    return F.cross_entropy(logits[:, :-1].float().flatten(0, 1), F.pad(labels[:, 2:], (0, 1), value=-100).flatten())


def positions_for_tokens(logits: Tensor, labels: Tensor) -> Tensor:
    """Divide by the positions of the rows, and not by the labels that count."""
    scores = F.cross_entropy(logits[:, :-1].float().flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")
    return scores / labels.numel()


WRONG = [
    Loss("in the dtype of the logits", in_own_dtype, CAUSAL),
    Loss("log(p + 1e-8)", log_of_softmax, CAUSAL),
    Loss("double shift", shifted_again, CAUSAL),
    Loss("divided by all positions", positions_for_tokens, CAUSAL),
]


# The cases that they are judged on.


def cases(spec: LossSpec, arithmetic: Arithmetic, sizes: Sizes) -> Iterator[Case]:
    """Yield text cases across V × N × regime."""
    for classes in sizes.classes:
        for tokens in sizes.tokens:
            if classes * tokens > ELEMENTS:
                continue
            rows = 4 if tokens >= 64 else 1
            recipe = Recipe(rows, tokens // rows + 1, classes, ids=Ids.SEEDED, dtype=arithmetic.dtype, seed=tokens)
            for regime in REGIMES:
                yield build_case(spec, replace(recipe, regime=regime))


def other_cases(spec: LossSpec, arithmetic: Arithmetic, sizes: Sizes) -> Iterator[Case]:
    """Yield cases of codebooks, streams and scores: fewer, in every regime."""
    infinite = any(term.score.label_smoothing for term in spec.terms)
    drawn = space(spec, frozenset())
    books = next((k for k in (3, 8) if k in drawn.get("codebooks", ())), drawn.get("codebooks", (1,))[0])
    for classes, rows, length in sizes.others:
        recipe = Recipe(rows, length, classes, books, dtype=arithmetic.dtype, ids=Ids.SEEDED, masks=(Mask.NONE,))
        counted = replace(recipe, count=drawn.get("count", (Count.ABSENT,))[0], seed=length)
        for regime in REGIMES:
            if not (infinite and regime is Regime.MINUS_INF):
                yield build_case(spec, replace(counted, regime=regime))


def over(found: Tensor, expected: Tensor, bound: Tensor) -> float:
    """Return the largest error in units of its bound; infinite if there is an error where none is allowed."""
    error = (found - expected).abs()
    ratio = torch.where((error == 0) | (found == expected), 0.0, error / bound)
    return float(ratio.nan_to_num(nan=math.inf).max())


def measure(kind: str, loss: Loss, case: Case, arithmetic: Arithmetic) -> Measured:
    value, gradients = run(loss, case)
    bounds = derive_bounds(case, arithmetic.compute, value.dtype if kind == "right" else torch.float32)
    assert case.oracle.value is not None
    of_value = over(value.double(), torch.tensor(case.oracle.value).double(), torch.tensor(bounds.value).double())
    if not math.isfinite(float(value)) and arithmetic.compute is Compute.NATIVE:
        of_value = math.nan  # a sum above 65504 is inf in fp16, also in torch: see docs/bounds.md
    of_gradient = max(over(gradients[at], case.oracle.gradients[at], bounds.gradients[at]) for at in gradients)
    return _measured(kind, loss.name, arithmetic, case, of_value, of_gradient)


def _measured(kind: str, name: str, how: Arithmetic, case: Case, value: float, gradient: float) -> Measured:
    recipe = case.recipe
    return Measured(kind, name, how, recipe.classes, len(case.pairing.pairs), recipe.regime, value, gradient)


def nulls(case: Case, bounds: Bounds, arithmetic: Arithmetic) -> Iterator[Measured]:
    """Yield how far the null candidates are from the oracle, on one text loss of one stream."""
    right, expected, bound = case.oracle.value, case.oracle.gradients["logits"], bounds.gradients["logits"]
    assert right is not None
    used = bound > 0
    share = torch.where(used, expected.abs() / bound.where(used, 1.0), 0.0)
    halves = share.tensor_split(2, -1)
    at = [(*pair.logit, pair.target) for pair in case.pairing.pairs]
    off_target = share.clone()
    off_target[tuple(torch.tensor(at).T)] = 0.0
    middle = case.pairing.pairs[len(at) // 2]
    wrong = (*middle.logit, (middle.target + 1) % case.recipe.classes)
    one_score = middle.weight * float(case.batch.tensor("logits")[(*middle.logit, middle.target)].double())
    one_score -= middle.weight * float(case.batch.tensor("logits")[wrong].double())
    one_share = max(middle.weight / float(bound[(*middle.logit, middle.target)]), middle.weight / float(bound[wrong]))
    moved = evaluate(misalign(case), case.batch)
    assert moved.value is not None
    little = [max(0.01, 4 * torch.finfo(dtype).eps) for dtype in (bounds.returned, getattr(torch, arithmetic.dtype))]
    flat = math.log(case.recipe.classes)

    def null(name: str, off: float, gradient: float) -> Measured:
        return _measured("null", name, arithmetic, case, abs(off) / bounds.value, gradient)

    yield null("zero", right, float(share.max()))
    yield null("constant", flat - right, math.nan)
    yield null("misaligned", moved.value - right, over(moved.gradients["logits"], expected, bound))
    yield null("a little off", right * little[0], float(share.max()) * little[1])
    yield null("targets only", math.nan, float(off_target.max()))
    yield null("half the classes", math.nan, min(float(half.max()) for half in halves))
    yield null("one token", one_score, one_share)


def measure_all(text: Sequence[Loss], others: Sequence[Loss], sizes: Sizes = FULL) -> list[Measured]:
    """Measure everything that is judged: right losses of text and others, null candidates, and wrong losses."""
    found = []
    for arithmetic in STRICT:
        for case in cases(CAUSAL, arithmetic, sizes):
            found += [
                measure("right", loss, case, arithmetic) for loss in text if case.recipe.classes <= loss.most_classes
            ]
            found += nulls(case, derive_bounds(case, Compute.STRICT, torch.float32), arithmetic)
            narrow = arithmetic.dtype != "float32"
            found += [measure("wrong", loss, case, arithmetic) for loss in WRONG[0 if narrow else 1 :]]
        for loss in others:
            found += [measure("right", loss, case, arithmetic) for case in other_cases(loss.spec, arithmetic, sizes)]
        print(arithmetic, len(found), flush=True)
    for arithmetic in NATIVE:
        for case in cases(CAUSAL, arithmetic, sizes):
            found += [measure("right", loss, case, arithmetic) for loss in NATIVE_LOSSES]
            returned = getattr(torch, arithmetic.dtype)
            found += nulls(case, derive_bounds(case, Compute.NATIVE, returned), arithmetic)
        print(arithmetic, len(found), flush=True)
    return found


# How rarely a drawn case is vacuous.


class Vacuous(NamedTuple):
    """The drawn cases of one arithmetic and regime: the number of cases, and how many each null passed."""

    arithmetic: Arithmetic
    regime: Regime
    cases: int
    values: Mapping[str, int]
    gradients: Mapping[str, int]
    both: int  # cases in which neither the value nor the gradient proves anything


def vacuous(specs: Iterable[LossSpec], draws: int) -> Iterator[Vacuous]:
    """Yield the counts on hand-made cases and ``draws`` plain ones of every spec."""
    specs = list(specs)
    for arithmetic in (*STRICT, *NATIVE):
        for regime in (Regime.NORMAL, Regime.SHARP, Regime.TIES, Regime.HUGE, Regime.MINUS_INF):
            asked = both = 0
            values: dict[str, int] = defaultdict(int)
            gradients: dict[str, int] = defaultdict(int)
            for seed, spec in enumerate(specs):
                if regime is Regime.MINUS_INF and any(term.score.label_smoothing for term in spec.terms):
                    continue
                choices = space(spec, frozenset(), (arithmetic.dtype,))
                for recipe in (*hand_made(choices)[:4], *islice(random_recipes(choices, seed), draws)):
                    least = 3 if regime is Regime.MINUS_INF else 2  # as in STABLE-2
                    case = build_case(spec, replace(recipe, regime=regime, classes=max(recipe.classes, least)))
                    if not case.pairing.pairs or not math.isfinite(case.oracle.value or math.nan):
                        continue
                    out = torch.float32 if arithmetic.compute is Compute.STRICT else getattr(torch, arithmetic.dtype)
                    bounds = derive_bounds(case, arithmetic.compute, out)
                    of_value, of_gradient = list(passing_values(case, bounds)), list(passing_gradients(case, bounds))
                    asked += 1
                    both += bool(of_value and of_gradient)
                    for name in of_value:
                        values[name] += 1
                    for name in of_gradient:
                        gradients[name] += 1
                    values["any"] += bool(of_value)
                    gradients["any"] += bool(of_gradient)
            yield Vacuous(arithmetic, regime, asked, values, gradients, both)


# The output.


def write_csv(found: Iterable[Measured], path: Path) -> None:
    """Write, for each kind, name, arithmetic, V, N and regime, the largest errors over bounds."""
    worst: dict[tuple[object, ...], list[float]] = {}
    for each in found:
        name = each.name if each.kind != "right" else "all"
        key = (each.kind, name, each.arithmetic.dtype, str(each.arithmetic.compute), each.classes, each.tokens)
        parts = worst.setdefault((*key, str(each.regime)), [math.nan, math.nan])
        for index, part in enumerate((each.value, each.gradient)):
            if not math.isnan(part):
                parts[index] = part if math.isnan(parts[index]) else max(parts[index], part)
    with path.open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["kind", "name", "dtype", "compute", "V", "N", "regime", "value", "gradient"])
        for key, parts in worst.items():
            rows.writerow([*key, *("" if math.isnan(part) else f"{part:.3g}" for part in parts)])


def _largest(parts: Iterable[float]) -> str:
    known = [part for part in parts if not math.isnan(part)]
    return f"{max(known):.2f}" if known else "–"


def table_of_right(found: list[Measured]) -> str:
    rows = []
    for arithmetic in (*STRICT, *NATIVE):
        of = [each for each in found if each.kind == "right" and each.arithmetic == arithmetic]
        cells = []
        for regime in REGIMES:
            here = [each for each in of if each.regime is regime]
            cells.append(f"{_largest(e.value for e in here)} / {_largest(e.gradient for e in here)}")
        rows.append([str(arithmetic), str(len({each.name for each in of})), str(len(of)), *cells])
    return table(["worst error/bound, value / gradient", "losses", "evaluations", *map(str, REGIMES)], rows)


def table_of_wrong(found: list[Measured]) -> str:
    """Return, for each wrong loss and arithmetic, the share of cases on which value and gradient detect it."""
    names = list(dict.fromkeys(each.name for each in found if each.kind != "right"))
    rows = []
    for name in names:
        cells = []
        for arithmetic in (*STRICT, *NATIVE):
            of = [e for e in found if e.name == name and e.kind != "right" and e.arithmetic == arithmetic]
            shares = []
            for parts in ([each.value for each in of], [each.gradient for each in of]):
                known = [part for part in parts if not math.isnan(part)]
                shares.append(f"{sum(part > 1 for part in known) / len(known):.0%}" if known else "–")
            cells.append(" / ".join(shares) if of else "")
        rows.append([name, *cells])
    return table(["told by value / gradient", *map(str, (*STRICT, *NATIVE))], rows)


def table_of_vacuous(found: list[Vacuous]) -> str:
    def shares(of: Mapping[str, int], cases: int) -> str:
        named = [f"{name} {count / cases:.1%}" for name, count in of.items() if name != "any" and count]
        return f"{of['any'] / cases:.1%}" + (f" ({', '.join(named)})" if named else "")

    return table(
        ["drawn", "cases", "value vacuous", "gradient vacuous", "both"],
        [
            [
                f"{each.arithmetic}, {each.regime}",
                str(each.cases),
                shares(each.values, each.cases),
                shares(each.gradients, each.cases),
                f"{each.both / each.cases:.1%}",
            ]
            for each in found
        ],
    )


def write(found: list[Measured], drawn: list[Vacuous], docs: Path) -> None:
    """Write bounds.csv and the tables of bounds.md."""
    write_csv(found, docs / "bounds.csv")
    tables = {"right": table_of_right(found), "wrong": table_of_wrong(found), "vacuous": table_of_vacuous(drawn)}
    for each in tables.values():
        print(each, end="\n\n", flush=True)
    fill_in(docs / "bounds.md", tables)


def alarms(found: list[Measured]) -> list[Measured]:
    """Return the right losses that are out of bounds. There must be none."""
    worst = max((each for each in found if each.kind == "right"), key=lambda each: each.worst)
    print(f"worst right loss: {worst}")
    return [each for each in found if each.kind == "right" and each.worst > 1]
