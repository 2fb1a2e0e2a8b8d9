"""The cases of the judge as a Hypothesis strategy, for anyone's own property tests."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields, replace
from typing import Any

from hypothesis import strategies as st
from torch import Tensor

from shiftproof.reference.profiles import PROFILES
from shiftproof.reference.spec import LossSpec

from .build import Case, build_case
from .recipe import Recipe, Regime
from .space import space


def batches(
    spec: LossSpec | str,
    *,
    dtype: str = "float32",
    takes: Collection[str] = ("logits", "labels"),
    regimes: Collection[Regime | str] = (Regime.NORMAL,),
) -> st.SearchStrategy[Case]:
    """Draw batches under ``spec``, each with its right answer. They shrink towards one short row of few classes.

    ``case.batch`` holds the tensors: ``logits`` [B, L, V] or [B, L, K, V] in ``dtype``, ``labels`` int64 [B, S] or
    [B, S, K], and what else the spec reads. A test may change them. ``case.oracle`` is the right answer in float64:
    ``value``, and ``gradients`` by the logits' name. ``case.pairing.pairs`` says which logits are scored on which
    label, and how much.

    Args:
        spec: a spec, or the name of a profile.
        dtype: of the logits: float64, float32, bfloat16 or float16.
        takes: the optional arguments that the loss takes too, such as ``num_items_in_batch`` or ``position_ids``.
        regimes: the magnitudes of the logits, such as ``normal``, ``sharp``, ``ties`` or ``huge``.

    Raises:
        ValueError: no profile has this name, or a regime is unknown.
    """
    if isinstance(spec, str) and spec not in PROFILES:
        raise ValueError(f"no spec is called {spec!r}; `shiftproof list profiles` shows all")
    found = PROFILES[spec] if isinstance(spec, str) else spec
    choices = {**space(found, frozenset(takes), (dtype,)), "regime": tuple(map(Regime, regimes))}

    def case(**drawn: Any) -> Case:
        return _of_its_own(build_case(found, Recipe(**drawn)))

    return st.builds(case, **{name: st.sampled_from(values) for name, values in choices.items()})


def _of_its_own(case: Case) -> Case:
    """The case with tensors that nobody else has: Hypothesis draws a case more than once, and a test may change it."""
    batch = {field.name: getattr(case.batch, field.name) for field in fields(case.batch)}
    copied: dict[str, Any] = {name: value.clone() for name, value in batch.items() if isinstance(value, Tensor)}
    return replace(case, batch=replace(case.batch, **copied))
