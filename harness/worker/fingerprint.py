"""Is the code of a Python object here what it was in the process that pickled it?

A pickle names what belongs to an installed package, and does not hold its code. A patch that was made in the other
process, such as another ``forward`` of a class, is then missing here, and another loss would be judged.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import sys
import types
from collections.abc import Iterator, Mapping
from typing import Any

import torch

_LEFT_OUT = {
    *("torch", "numpy", "einops", "safetensors", "_shiftproof_worker", "shiftproof"),
    *("_pytest", "pytest", "pluggy"),  # which rewrites the assertions of a test file
    *sys.stdlib_module_names,
}
"""Packages whose functions are not followed: nobody patches them to change a loss, and there are many."""

_MOST = 500  # functions


def fingerprint(found: Any) -> dict[str, str]:
    """Name of a function -> digest of its code, for the functions that a callable runs, as far as names show them."""
    marks: dict[str, str] = {}
    waiting = [_resolved(each) for each in _functions_of(found)]
    seen: set[int] = set()
    while waiting and len(marks) < _MOST:
        function = waiting.pop()
        if function is None or id(function.__code__) in seen or _package(function) in _LEFT_OUT:
            continue
        seen.add(id(function.__code__))
        marks[f"{function.__module__}.{function.__qualname__}"] = _digest(function.__code__)
        waiting += [_resolved(each) for each in _read_by(function)]
    return marks


def changed(before: Mapping[str, str], found: Any) -> str:
    """The name of a function whose code is another one here than ``before``, or ""."""
    now = fingerprint(found)
    return next((name for name, digest in before.items() if now.get(name) != digest), "")


def _functions_of(found: Any) -> Iterator[Any]:
    """What runs when an object is called."""
    while isinstance(found, functools.partial):
        found = found.func
    if isinstance(found, torch.nn.Module):
        yield from (part.forward for part in found.modules())
    owner = getattr(found, "__self__", None)
    if isinstance(owner, torch.nn.Module):
        yield from _functions_of(owner)
    yield found if _resolved(found) is not None else inspect.getattr_static(type(found), "__call__", None)


def _resolved(found: Any) -> types.FunctionType | None:
    """The function in Python behind a method or a decorator that keeps it."""
    found = getattr(found, "__func__", found)
    return found if isinstance(found, types.FunctionType) else None


def _read_by(function: types.FunctionType) -> Iterator[Any]:
    """The functions that a function reads: from its closure, its module, and modules of its module."""
    yield getattr(function, "__wrapped__", None)
    for cell in function.__closure__ or ():
        try:
            yield from _functions_of(cell.cell_contents)
        except ValueError:  # the cell is still empty
            continue
    names = set(function.__code__.co_names)
    for code in _codes_in(function.__code__):
        names.update(code.co_names)
    for name in sorted(names):  # the same order in each process
        value = function.__globals__.get(name)
        if isinstance(value, types.ModuleType) and value.__name__.partition(".")[0] not in _LEFT_OUT:
            yield from (vars(value).get(other) for other in sorted(names))
        elif isinstance(value, types.FunctionType | functools.partial):
            yield from _functions_of(value)


def _codes_in(code: types.CodeType) -> Iterator[types.CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield constant
            yield from _codes_in(constant)


def _package(function: types.FunctionType) -> str:
    return (function.__module__ or "").partition(".")[0]


def _digest(code: types.CodeType) -> str:
    """A digest of what code does. Lines and files are left out."""
    parts: list[str] = []
    for each in (code, *_codes_in(code)):
        constants = [_plain(value) for value in each.co_consts if not isinstance(value, types.CodeType)]
        parts += [each.co_code.hex(), repr(each.co_names), repr(each.co_varnames), repr(constants)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _plain(value: object) -> str:
    """A constant as text. The order of a set is another one in each process."""
    return repr(sorted(map(repr, value))) if isinstance(value, frozenset) else repr(value)
