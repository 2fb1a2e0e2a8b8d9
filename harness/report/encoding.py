"""What a terminal or pipe cannot print becomes ASCII, and never an exception."""

from __future__ import annotations

import codecs
import os
from typing import Any

_HANDLER = "shiftproof.ascii"
# One column stays one column, so that pictures stay aligned. Only an ellipsis and signs inside of formulas grow.
_ASCII = {
    "·": ".",
    "●": "#",
    "○": "o",
    "×": "x",
    "│": "|",
    "−": "-",
    "–": "-",
    "—": "-",
    "━": "-",
    "╸": "-",
    "╺": "-",
    "…": "...",
    "→": "->",
    "≤": "<=",
    "≥": ">=",
    "≠": "!=",
    "±": "+-",
    "∓": "-+",
    "÷": "/",
    "∈": "in",
    "√": "sqrt",
    "∞": "inf",
    "½": "1/2",
    "Σ": "sum ",
    "ℓ": "l",
    "∂": "d",
    "ᵀ": "^T",
    "⁻": "^-",
    "₊": "+",
    "₁": "1",
    "₂": "2",
    **{sign: f"^{digit}" for sign, digit in zip("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789", strict=True)},
    "α": "alpha",
    "ε": "eps",
    "λ": "lambda",
    "ζ": "zeta",
    "δ": "delta",
    "Δ": "Delta",
    "σ": "sigma",
    "µ": "u",
    "‘": "'",
    "’": "'",
    "“": '"',
    "”": '"',
    "\u00a0": " ",
}
_PLAIN = ("C", "POSIX")
_COERCED = ("C.UTF-8", "C.utf8", "UTF-8")  # Python itself sets LC_CTYPE to one of these where the locale is C


def in_ascii(text: str) -> str:
    """Return the text in ASCII. What has no replacement is written as in a Python string."""
    return "".join(_ASCII.get(sign) or sign.encode("ascii", "backslashreplace").decode() for sign in text)


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return in_ascii(error.object[error.start : error.end]), error.end


codecs.register_error(_HANDLER, _replace)


def print_what_it_can(stream: Any) -> None:
    """Make a stream replace what its encoding lacks. Under LANG=C it gets ASCII, although Python would write UTF-8."""
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is None:  # not a stream of Python's own
        return
    if _is_plain():
        reconfigure(encoding="ascii", errors=_HANDLER)
    else:
        reconfigure(errors=_HANDLER)


def _is_plain() -> bool:
    """Whether the user's locale is C by name. A variable that sets the encoding for Python has the last word."""
    if os.environ.get("PYTHONIOENCODING") or os.environ.get("PYTHONUTF8") == "1":
        return False
    for name in ("LC_ALL", "LC_CTYPE", "LANG"):
        value = os.environ.get(name)
        if value and not (name == "LC_CTYPE" and value in _COERCED):
            return value in _PLAIN
    return False
