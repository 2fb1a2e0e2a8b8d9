"""Text that fits into a number of columns or lines. What is cut says where the rest is."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

MORE = "… (-v shows all)"
_GROWS = 2  # columns: an ellipsis becomes three points in ASCII


def cut(text: str, width: int, mark: str = MORE) -> str:
    """Return the text on one line of at most ``width`` columns."""
    text = " ".join(text.split("\n"))
    if len(text) <= width:
        return text
    return text[: max(width - len(mark) - _GROWS, 0)].rstrip() + mark


def fit(parts: Sequence[Sequence[str]], width: int) -> str:
    """Join one form of each part. Each part lists its forms, the longest first; later parts are shortened first.

    If even the shortest forms are too long, they are returned all the same: what has only one form is never cut.
    """
    chosen = [0] * len(parts)

    def joined() -> str:
        return "".join(part[at] for part, at in zip(parts, chosen, strict=True))

    while len(joined()) > width:
        shortens = [index for index, part in enumerate(parts) if chosen[index] + 1 < len(part)]
        if not shortens:
            break
        chosen[shortens[-1]] += 1
    return joined()


def wrapped(text: str, width: int, indent: int = 4, most: int | None = None) -> list[str]:
    """Return the text as lines, of which ``most`` are kept."""
    space = " " * indent
    lines = [
        line
        for paragraph in text.splitlines() or [""]
        for line in textwrap.wrap(paragraph, max(width - indent - _GROWS, 20), break_on_hyphens=False) or [""]
    ]
    if most is not None and len(lines) > most:
        lines = [*lines[: most - 1], cut(lines[most - 1] + " " * width, width - indent)]
    return [space + line for line in lines]


def listed(names: Sequence[str], most: int) -> str:
    """Join names. If there are more than ``most``, the others are counted."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def shorter(names: Sequence[str], before: str, whole: str) -> list[str]:
    """Return the forms of a list of names: all of them, fewer and fewer, and at last ``whole``, which counts them.

    Without names there is no form.
    """
    return [] if not names else [*(before + listed(names, most) for most in range(len(names), 0, -1)), whole]


def in_words(names: Sequence[str]) -> str:
    """Join names as a sentence does."""
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last
