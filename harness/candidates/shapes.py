"""Shapes of calls that a user names: B,S,V, or B,S,K,V for a loss of codebooks or heads."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from shiftproof.reference.spec import Heads, LossSpec

AXES = "B,S,V or B,S,K,V"
_SHAPE = re.compile(r"[1-9]\d*(,[1-9]\d*){2,3}")


def parse_shape(text: str) -> dict[str, int] | None:
    """Return the sizes of a shape as the fields of a recipe, or None if the text is not of the form of ``AXES``."""
    if not _SHAPE.fullmatch(text):
        return None
    rows, length, *books, classes = map(int, text.split(","))
    sizes = {"rows": rows, "length": length, "classes": classes}
    return {**sizes, "codebooks": books[0]} if books else sizes


def read_shapes(entries: Iterable[Any]) -> tuple[dict[str, int], ...]:
    """Read shapes such as ``"8,4096,128256"``.

    Raises:
        ValueError: an entry is none.
    """
    found = []
    for entry in entries:
        sizes = parse_shape(entry.replace(" ", "")) if isinstance(entry, str) else None
        if sizes is None:
            raise ValueError(f'shapes holds {entry!r}; expected {AXES}, as in "8,4096,128256"')
        found.append(sizes)
    return tuple(found)


def shape_misfit(spec: LossSpec, sizes: dict[str, int]) -> str:
    """Why a spec has no case of these sizes, in words that follow its name, or "" if it has."""
    has_books = any(term.heads is not Heads.ONE for term in spec.terms)
    if has_books is not ("codebooks" in sizes):
        return "has codebooks or heads; give B,S,K,V" if has_books else "has no codebooks or heads; give B,S,V"
    for axis, name in (("classes", "V"), ("codebooks", "K")):
        fixed = next((value for term in spec.terms if (value := getattr(term, axis))), None)
        if fixed is not None and axis in sizes and sizes[axis] != fixed:
            return f"fixes {name} at {fixed}, not {sizes[axis]}"
    return ""
