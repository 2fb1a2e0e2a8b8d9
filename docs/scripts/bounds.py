"""Draw docs/bounds.png and docs/bounds.svg, and write docs/bounds.csv and the tables of docs/bounds.md.

Right losses, of tests/candidates and of torch and transformers, and losses that are wrong, are judged in this process
across dtype × V × N × regime: how far is each from the oracle, in units of what is allowed? Run by ``nox -s figures``,
or ``python docs/scripts/bounds.py``. One core, two minutes; the numbers are the same on every run of one machine.
"""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from page import fill_in, table
from right_losses import CAUSAL, Loss, other_losses, run, text_losses
from torch import Tensor

from shiftproof.harness.cases import Case, build_case
from shiftproof.harness.compare import Bounds, derive_bounds
from shiftproof.harness.liveness import misalign, passing_gradients, passing_values
from shiftproof.harness.recipe import Count, Ids, Mask, Recipe, Regime
from shiftproof.harness.strategies import killers, plain, space
from shiftproof.reference.oracle import evaluate
from shiftproof.reference.profiles import PROFILES
from shiftproof.reference.spec import Compute, LossSpec

DOCS = Path(__file__).resolve().parents[1]
REGIMES = (Regime.CALM, Regime.NORMAL, Regime.SHARP, Regime.TIES, Regime.HUGE, Regime.MINUS_INF)
CLASSES = (2, 17, 257, 4099, 32000, 128256)
TOKENS = (1, 8, 64, 1024)
ELEMENTS = 1_100_000  # the most logits of one case


class Arithmetic(NamedTuple):
    """What a candidate computes in, and the dtype of its logits."""

    dtype: str
    compute: Compute

    def __str__(self) -> str:
        return f"{self.dtype}, {self.compute}"


STRICT = tuple(Arithmetic(dtype, Compute.STRICT) for dtype in ("float32", "bfloat16", "float16"))
NATIVE = tuple(Arithmetic(dtype, Compute.NATIVE) for dtype in ("bfloat16", "float16"))


class Measured(NamedTuple):
    """Errors over bounds of one loss on one case; a part is NaN where a loss has nothing to say of it."""

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


# Who is judged.


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
    """Labels that were shifted already are shifted again."""
    return F.cross_entropy(logits[:, :-1].float().flatten(0, 1), F.pad(labels[:, 2:], (0, 1), value=-100).flatten())


def positions_for_tokens(logits: Tensor, labels: Tensor) -> Tensor:
    """Divided by the positions of the rows, not by the labels that count."""
    scores = F.cross_entropy(logits[:, :-1].float().flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")
    return scores / labels.numel()


WRONG = [
    Loss("in the dtype of the logits", in_own_dtype, CAUSAL),
    Loss("log(p + 1e-8)", log_of_softmax, CAUSAL),
    Loss("double shift", shifted_again, CAUSAL),
    Loss("divided by all positions", positions_for_tokens, CAUSAL),
]


# What they are judged on.


def cases(spec: LossSpec, arithmetic: Arithmetic) -> Iterator[Case]:
    """Text, across V × N × regime."""
    for classes in CLASSES:
        for tokens in TOKENS:
            if classes * tokens > ELEMENTS:
                continue
            rows = 4 if tokens >= 64 else 1
            recipe = Recipe(rows, tokens // rows + 1, classes, ids=Ids.SEEDED, dtype=arithmetic.dtype, seed=tokens)
            for regime in REGIMES:
                yield build_case(spec, replace(recipe, regime=regime))


def other_cases(spec: LossSpec, arithmetic: Arithmetic) -> Iterator[Case]:
    """Codebooks, streams and scores: fewer, of every regime."""
    infinite = any(term.score.label_smoothing for term in spec.terms)
    drawn = space(spec, frozenset())
    books = next((k for k in (3, 8) if k in drawn.get("codebooks", ())), drawn.get("codebooks", (1,))[0])
    for classes, rows, length in ((17, 1, 9), (257, 2, 17), (1026, 2, 33)):
        recipe = Recipe(rows, length, classes, books, dtype=arithmetic.dtype, ids=Ids.SEEDED, masks=(Mask.NONE,))
        counted = replace(recipe, count=drawn.get("count", (Count.ABSENT,))[0], seed=length)
        for regime in REGIMES:
            if not (infinite and regime is Regime.MINUS_INF):
                yield build_case(spec, replace(counted, regime=regime))


def over(found: Tensor, expected: Tensor, bound: Tensor) -> float:
    """The largest error in units of its bound; infinite where anything is wrong and nothing allowed."""
    error = (found - expected).abs()
    ratio = torch.where((error == 0) | (found == expected), 0.0, error / bound)
    return float(ratio.nan_to_num(nan=math.inf).max())


def measure(kind: str, loss: Loss, case: Case, arithmetic: Arithmetic) -> Measured:
    value, gradients = run(loss, case)
    bounds = derive_bounds(case, arithmetic.compute, value.dtype if kind == "right" else torch.float32)
    assert case.oracle.value is not None
    of_value = over(value.double(), torch.tensor(case.oracle.value).double(), torch.tensor(bounds.value).double())
    if not math.isfinite(float(value)) and arithmetic.compute is Compute.NATIVE:
        of_value = math.nan  # a sum past 65504 is inf in fp16, in torch too: see docs/bounds.md
    of_gradient = max(over(gradients[at], case.oracle.gradients[at], bounds.gradients[at]) for at in gradients)
    return _measured(kind, loss.name, arithmetic, case, of_value, of_gradient)


def _measured(kind: str, name: str, how: Arithmetic, case: Case, value: float, gradient: float) -> Measured:
    recipe = case.recipe
    return Measured(kind, name, how, recipe.classes, len(case.pairing.pairs), recipe.regime, value, gradient)


def nulls(case: Case, bounds: Bounds, arithmetic: Arithmetic) -> Iterator[Measured]:
    """How far the null candidates are from the oracle, on one text loss of one stream."""
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


def measure_all() -> list[Measured]:
    found = []
    for arithmetic in STRICT:
        losses, others = text_losses(), list(other_losses())
        for case in cases(CAUSAL, arithmetic):
            found += [
                measure("right", loss, case, arithmetic) for loss in losses if case.recipe.classes <= loss.most_classes
            ]
            found += nulls(case, derive_bounds(case, Compute.STRICT, torch.float32), arithmetic)
            narrow = arithmetic.dtype != "float32"
            found += [measure("wrong", loss, case, arithmetic) for loss in WRONG[0 if narrow else 1 :]]
        for loss in others:
            found += [measure("right", loss, case, arithmetic) for case in other_cases(loss.spec, arithmetic)]
        print(arithmetic, len(found), flush=True)
    for arithmetic in NATIVE:
        for case in cases(CAUSAL, arithmetic):
            found += [measure("right", loss, case, arithmetic) for loss in NATIVE_LOSSES]
            returned = getattr(torch, arithmetic.dtype)
            found += nulls(case, derive_bounds(case, Compute.NATIVE, returned), arithmetic)
        print(arithmetic, len(found), flush=True)
    return found


# How rarely a drawn case proves nothing.


class Vacuous(NamedTuple):
    """Of the drawn cases of one arithmetic and regime: how many were asked, and which null passed how many."""

    arithmetic: Arithmetic
    regime: Regime
    cases: int
    values: Mapping[str, int]
    gradients: Mapping[str, int]
    both: int  # that neither the value nor the gradient proves anything


def vacuous(draws: int) -> Iterator[Vacuous]:
    """Hand-made cases and ``draws`` plain ones of every profile."""
    for arithmetic in (*STRICT, *NATIVE):
        for regime in (Regime.NORMAL, Regime.SHARP, Regime.TIES, Regime.HUGE, Regime.MINUS_INF):
            asked = both = 0
            values: dict[str, int] = defaultdict(int)
            gradients: dict[str, int] = defaultdict(int)
            for seed, spec in enumerate(PROFILES.values()):
                if regime is Regime.MINUS_INF and any(term.score.label_smoothing for term in spec.terms):
                    continue
                choices = space(spec, frozenset(), arithmetic.dtype)
                for recipe in (*killers(choices)[:4], *islice(plain(choices, seed), draws)):
                    least = 3 if regime is Regime.MINUS_INF else 2  # as STABLE-2 asks
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


# What is written.


def write_csv(found: Iterable[Measured], path: Path) -> None:
    """For each kind, name, arithmetic, V, N and regime, the largest errors over bounds."""
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
    """For each wrong loss and arithmetic, on what share of the cases value and gradient tell it."""
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
        told = [f"{name} {count / cases:.1%}" for name, count in of.items() if name != "any" and count]
        return f"{of['any'] / cases:.1%}" + (f" ({', '.join(told)})" if told else "")

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


COLOURS = dict(zip(REGIMES, ("#4477AA", "#66CCEE", "#228833", "#CCBB44", "#AA3377", "#999999"), strict=True))


def _rank(tokens: int) -> int:
    return min(range(len(TOKENS)), key=lambda at: abs(math.log(TOKENS[at] / tokens)))


def _beside(classes: int, tokens: int) -> float:
    """Where V is drawn: cases of more tokens to the right of those of fewer."""
    return float(classes * 1.12 ** (_rank(tokens) - 1.5))


def draw(found: list[Measured]) -> None:
    """A column for each arithmetic, value above gradient: dots are the worst right loss, crosses the nulls."""
    matplotlib.rcParams.update({"svg.hashsalt": "bounds", "font.size": 8, "svg.fonttype": "none"})
    columns = (*STRICT, *NATIVE)
    figure, axes = plt.subplots(2, len(columns), figsize=(15, 7), sharex=True, sharey=True, layout="constrained")
    low, high = 1e-4, 1e10
    for column, arithmetic in enumerate(columns):
        for row, part in enumerate(("value", "gradient")):
            axis = axes[row, column]
            right: dict[tuple[int, int, Regime], float] = {}
            wrong: dict[tuple[str, int, int], float] = {}
            for each in found:
                ratio = getattr(each, part)
                if each.arithmetic != arithmetic or math.isnan(ratio):
                    continue
                if each.kind == "right":
                    key = (each.classes, each.tokens, each.regime)
                    right[key] = max(right.get(key, 0.0), ratio)
                elif each.regime is not Regime.HUGE:
                    of = (each.name, each.classes, each.tokens)
                    wrong[of] = max(wrong.get(of, 0.0), ratio)
            crosses = [(_beside(v, n), min(max(ratio, low), high)) for (_, v, n), ratio in wrong.items()]
            axis.scatter(
                *zip(*crosses, strict=True),
                marker="x",
                color="#CC3311",
                s=12,
                linewidths=0.8,
                alpha=0.6,
                rasterized=True,
            )
            for regime in REGIMES:
                dots = [
                    (_beside(v, n), max(ratio, low), 4 + 6 * _rank(n))
                    for (v, n, of), ratio in right.items()
                    if of is regime
                ]
                x, y, sizes = zip(*dots, strict=True)
                axis.scatter(x, y, s=sizes, color=COLOURS[regime], linewidths=0, zorder=2, rasterized=True)
            axis.axhline(1, color="black", linewidth=0.8)
            axis.set(xscale="log", yscale="log", ylim=(low / 2, high * 2))
            axis.grid(alpha=0.2)
            if row == 0:
                axis.set_title(str(arithmetic))
            else:
                axis.set_xlabel("classes V")
        axes[0, 0].set_ylabel("value: error / bound")
        axes[1, 0].set_ylabel("gradient: worst element's error / bound")
    legend = [plt.Line2D([], [], marker="o", linestyle="", color=COLOURS[regime], label=regime) for regime in REGIMES]
    cross = plt.Line2D(
        [], [], marker="x", linestyle="", color="#CC3311", label="null or wrong, on its most telling regime"
    )
    figure.legend(handles=[*legend, cross], loc="outside lower center", ncols=7, frameon=False)
    figure.suptitle(
        "Dots: the worst of all right losses, by regime; larger dots, more tokens (1, 8, 64, 1024). "
        "Above the line a loss is judged wrong. Past the edges, at the edges."
    )
    figure.savefig(DOCS / "bounds.png", dpi=110, metadata={"Software": None})
    figure.savefig(DOCS / "bounds.svg", dpi=200, metadata={"Date": None})


def main() -> None:
    torch.set_num_threads(1)
    found = measure_all()
    write_csv(found, DOCS / "bounds.csv")
    draw(found)
    tables = {"right": table_of_right(found), "wrong": table_of_wrong(found)}
    tables["vacuous"] = table_of_vacuous(list(vacuous(draws=6)))
    for each in tables.values():
        print(each, end="\n\n", flush=True)
    fill_in(DOCS / "bounds.md", tables)
    alarms = [each for each in found if each.kind == "right" and each.worst > 1]
    worst = max((each for each in found if each.kind == "right"), key=lambda each: each.worst)
    print(f"worst right loss: {worst}")
    if alarms:
        raise SystemExit(f"{len(alarms)} right evaluations are out of bounds, such as {alarms[0]}")


if __name__ == "__main__":
    main()
