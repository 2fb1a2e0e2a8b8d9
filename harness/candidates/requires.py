"""The sizes that a candidate needs: read from its declaration, and applied to the cases that are drawn for it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from ..suggest import nearest

AXES = ("rows", "length", "classes", "codebooks")
"""The axes that a requirement may limit: B, S, V and K."""

_BOUND = re.compile(r"^(>=|<=|==|>|<)\s*(\d+)$")
R = TypeVar("R")


@dataclass(frozen=True)
class Extent:
    """The sizes that one axis may have: from ``least`` to ``most``, in steps of ``multiple_of``."""

    least: int = 0
    most: int | None = None
    multiple_of: int = 1

    @property
    def first(self) -> int:
        """The smallest admitted size, if there is any."""
        return -(-self.least // self.multiple_of) * self.multiple_of

    @property
    def is_empty(self) -> bool:
        return self.most is not None and self.first > self.most

    def admits(self, size: int) -> bool:
        return size >= self.least and (self.most is None or size <= self.most) and size % self.multiple_of == 0

    def fit(self, size: int) -> int:
        """Return an admitted size: ``size`` itself, or the next above it, or one of the first three, or the last.

        A size below ``least`` becomes one of the first three, so that most cases of different sizes stay different.
        """
        if self.admits(size):
            return size
        step = self.multiple_of
        fitted = -(-size // step) * step if size >= self.least else self.first + step * (size % 3)
        return fitted if self.most is None else min(fitted, self.most - self.most % step)

    def __str__(self) -> str:
        parts = [f"≥ {self.least}"] if self.least else []
        parts += [f"≤ {self.most}"] if self.most is not None else []
        parts += [f"a multiple of {self.multiple_of}"] if self.multiple_of > 1 else []
        return " and ".join(parts)


@dataclass(frozen=True)
class Requires:
    """The sizes that a candidate needs, by axis, and the reason. Empty if it takes all sizes.

    >>> read_requires({"length": ">=128", "multiple_of": 16, "reason": "the kernel's tile"})
    """

    extents: Mapping[str, Extent] = field(default_factory=dict)
    reason: str = ""

    def __bool__(self) -> bool:
        return bool(self.extents)

    def admits(self, sizes: Mapping[str, int]) -> bool:
        """Whether the candidate is declared to take a case of these sizes."""
        return all(extent.admits(sizes[axis]) for axis, extent in self.extents.items() if axis in sizes)

    def restrict(self, space: Mapping[str, tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
        """Return a space of choices with every size replaced by one that fits."""
        return {
            name: tuple(dict.fromkeys(map(self.extents[name].fit, choices))) if name in self.extents else choices
            for name, choices in space.items()
        }

    def fit(self, recipe: R) -> R:
        """Return the recipe with every size replaced by one that fits."""
        sizes = {axis: getattr(recipe, axis) for axis in self.extents if hasattr(recipe, axis)}
        changed: dict[str, Any] = {axis: self.extents[axis].fit(size) for axis, size in sizes.items()}
        return recipe if changed == sizes else replace(recipe, **changed)  # type: ignore[type-var]

    def __str__(self) -> str:
        what = ", ".join(f"{axis} {extent}" for axis, extent in self.extents.items())
        return f"{what} ({self.reason})" if self.reason else what


def read_requires(table: Mapping[str, Any]) -> Requires:
    """Read a table such as ``{ length = ">=128", multiple_of = 16 }``.

    A key of `AXES` has a bound or a list of bounds. ``multiple_of`` is an integer, for ``length``.
    ``rows_multiple_of`` and the like are for the other axes.

    Raises:
        ValueError: the table has another key, a bound that cannot be read, bounds that leave no size, or no size.
    """
    keys = (*AXES, "multiple_of", *(f"{axis}_multiple_of" for axis in AXES), "reason")
    found: dict[str, Extent] = {}
    reason = ""
    for key, value in table.items():
        if key not in keys:
            raise ValueError(f"requires has no key {key!r}{nearest(key, keys)}; it takes {', '.join(keys)}")
        if key == "reason":
            if not isinstance(value, str):
                raise ValueError(f"requires.reason is {value!r}; expected a string")
            reason = value
            continue
        axis = "length" if key == "multiple_of" else key.removesuffix("_multiple_of")
        extent = found.get(axis, Extent())
        if key in AXES:
            for bound in value if isinstance(value, list | tuple) else [value]:
                extent = _bounded(extent, bound, f"requires.{key}")
        else:
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"requires.{key} is {value!r}; expected a whole number from 1 up")
            extent = replace(extent, multiple_of=value)
        found[axis] = extent
    for axis, extent in found.items():
        if extent.is_empty:
            raise ValueError(f"requires.{axis} leaves no size ({extent}); widen it")
    if not found:
        raise ValueError(f"requires names no size; it takes {', '.join(keys)}")
    return Requires(found, reason)


def parse_requires(text: str) -> dict[str, Any]:
    """Parse an option of the command line, ``length>=128, multiple_of=16: reason``, into a table.

    Raises:
        ValueError: a part is not of a form such as ``AXIS<=N``, ``AXIS>=N`` or ``multiple_of=N``.
    """
    what, _, reason = text.partition(":")
    table: dict[str, Any] = {"reason": reason.strip()} if reason.strip() else {}
    for part in what.split(","):
        match = re.match(r"^\s*(\w+)\s*(>=|<=|==|=|>|<)\s*(\d+)\s*$", part)
        if match is None:
            raise ValueError(
                f"{part.strip()!r} cannot be read; write sizes as in 'length>=128, multiple_of=16: reason'"
            )
        name, sign, number = match.groups()
        if name.endswith("multiple_of"):
            table[name] = int(number)
        else:
            table.setdefault(name, []).append(("==" if sign == "=" else sign) + number)
    return table


def _bounded(extent: Extent, bound: Any, where: str) -> Extent:
    match = _BOUND.match(bound.strip()) if isinstance(bound, str) else None
    if match is None:
        raise ValueError(f'{where} is {bound!r}; expected a bound such as ">=128", "<=4096" or "==64"')
    sign, size = match[1], int(match[2])
    least = {">=": size, ">": size + 1, "==": size}.get(sign, extent.least)
    most = {"<=": size, "<": size - 1, "==": size}.get(sign)
    bounds = [each for each in (most, extent.most) if each is not None]
    return replace(extent, least=max(least, extent.least), most=min(bounds, default=None))
