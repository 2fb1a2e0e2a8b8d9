"""The picture of docs/bounds.md: how far right and wrong losses are from the oracle, for each arithmetic."""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from bounds_judged import FULL, NATIVE, REGIMES, STRICT, Measured

from shiftproof.harness.cases.recipe import Regime

COLOURS = dict(zip(REGIMES, ("#4477AA", "#66CCEE", "#228833", "#CCBB44", "#AA3377", "#999999"), strict=True))


def _rank(tokens: int) -> int:
    return min(range(len(FULL.tokens)), key=lambda at: abs(math.log(FULL.tokens[at] / tokens)))


def _beside(classes: int, tokens: int) -> float:
    """Return where V is drawn: cases of more tokens stand to the right of those of fewer."""
    return float(classes * 1.12 ** (_rank(tokens) - 1.5))


def draw(found: list[Measured], docs: Path) -> None:
    """Draw a column per arithmetic, value above gradient: dots are the worst right loss, crosses the nulls."""
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
    figure.savefig(docs / "bounds.png", dpi=110, metadata={"Software": None})
    figure.savefig(docs / "bounds.svg", dpi=200, metadata={"Date": None})
