"""Arguments with values: ``init`` and ``kwargs`` of a declaration, and ``name=value`` on the command line."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from typing import Any


def check_values(values: Mapping[str, Any]) -> None:
    """Check that arguments can travel to another process.

    Raises:
        ValueError: a name is no name of an argument, or a value is neither a number, a string, a boolean, None, nor a
            list or table of these.
    """
    for name, value in values.items():
        if not name.isidentifier():
            raise ValueError(f"{name!r} cannot be the name of an argument; write name = value")
        _check(name, value)


def _check(name: str, value: Any) -> None:
    if isinstance(value, list | tuple):
        for item in value:
            _check(name, item)
    elif isinstance(value, Mapping):
        for item in value.values():
            _check(name, item)
    elif not isinstance(value, int | float | str | bool | None):
        raise ValueError(
            f"{name} is {value!r}; expected a number, a string, a boolean, or a list or table of these. "
            "Write a function that makes the object, and name that"
        )


def parse_values(option: str, texts: Iterable[str]) -> dict[str, Any]:
    """Read ``name=value`` of the command line: a Python literal, or else a string. ``""`` has no argument.

    Raises:
        ValueError: a text has no "=", or a name comes twice.
    """
    values = {name: _literal(value) for name, value in _pairs(option, texts, "smoothing=0.1").items()}
    check_values(values)
    return values


def parse_names(option: str, texts: Iterable[str]) -> dict[str, str]:
    """Read ``ours=its`` of the command line. Raises ValueError as :func:`parse_values`."""
    names = _pairs(option, texts, "logits=text_logits")
    for name, its in names.items():
        if not its.isidentifier():
            raise ValueError(f"{option} {name}={its}: {its!r} cannot be the name of a parameter")
    return names


def _pairs(option: str, texts: Iterable[str], example: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not text.strip():
            continue
        if not equals or not name.isidentifier():
            raise ValueError(f"{option} {text!r}: expected name=value, such as {option} {example}")
        if name in pairs:
            raise ValueError(f"{option} gives {name!r} twice; give it once")
        pairs[name] = value
    return pairs


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return {"true": True, "false": False, "none": None}.get(text.lower(), text)
