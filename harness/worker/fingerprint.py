"""Is the code of a Python object here what it was in the process that pickled it?

A pickle names what belongs to an installed package, and does not hold its code. A patch that was made in the other
process, such as another ``forward`` of a class, is then missing here, and another loss would be judged.
"""

from __future__ import annotations

import dis
import functools
import hashlib
import inspect
import sys
import types
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
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
    # From the outermost inwards: of all that a patch hides, the first is what was patched.
    waiting = deque(_resolved(each) for each in _functions_of(found))
    seen: set[int] = set()
    while waiting and len(marks) < _MOST:
        function = waiting.popleft()
        if function is None or id(function.__code__) in seen or _package(function) in _LEFT_OUT:
            continue
        seen.add(id(function.__code__))
        marks[f"{function.__module__}.{function.__qualname__}"] = _digest(function.__code__)
        waiting.extend(_resolved(each) for each in _read_by(function))
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
        for part in found.modules():
            yield part.forward
            yield from _methods(type(part), {"forward"})
    owner = getattr(found, "__self__", None)
    if isinstance(owner, torch.nn.Module):
        yield from _functions_of(owner)
    if _resolved(found) is None:
        yield from _methods(type(found), {"__call__"})
    else:
        yield found
        yield from _methods(type(owner), {found.__name__})


def _methods(of: type, names: set[str]) -> Iterator[types.FunctionType]:
    """Methods of a class and of those that it extends, and the ones that these name in turn."""
    classes = [each for each in of.__mro__ if each.__module__.partition(".")[0] not in _LEFT_OUT]
    waiting, seen = sorted(names), set(names)
    while waiting and classes:
        name = waiting.pop()
        for each in classes:
            function = _resolved(vars(each).get(name))
            if function is not None:
                yield function
                further = _names_in(inspect.unwrap(function)) - seen
                seen |= further
                waiting += sorted(further)


def _resolved(found: Any) -> types.FunctionType | None:
    """The function in Python behind a method, a property or a decorator that keeps it."""
    found = getattr(found, "__func__", found)
    found = found.fget if isinstance(found, property) else found
    return found if isinstance(found, types.FunctionType) else None


def _read_by(function: types.FunctionType) -> Iterator[Any]:
    """The functions that a function reads: from its closure, its module, and modules of its module."""
    yield getattr(function, "__wrapped__", None)
    names = _names_in(function)
    for cell in function.__closure__ or ():
        try:
            yield from _used(cell.cell_contents, names)
        except ValueError:  # the cell is still empty
            continue
    for name in sorted(_globals_in(function)):  # the same order in each process
        yield from _used(function.__globals__.get(name), names)


def _used(value: Any, names: set[str]) -> Iterator[Any]:
    """The functions of a value that a function may use which names these."""
    if isinstance(value, types.ModuleType):
        if value.__name__.partition(".")[0] not in _LEFT_OUT:
            for name in sorted(names):
                found = None
                with suppress(Exception):  # a lazy package imports an attribute when it is first read, and may fail
                    found = getattr(value, name, None)
                yield from () if isinstance(found, types.ModuleType) else _used(found, names)
    elif isinstance(value, type):
        yield from _methods(value, {"__init__", "__call__", "forward", *names})
    elif isinstance(value, dict):  # such as a table of losses
        yield from (each for each in list(value.values()) if isinstance(each, types.FunctionType))
    elif value is not None:
        yield from _functions_of(value)


def _names_in(function: types.FunctionType) -> set[str]:
    return {name for code in (function.__code__, *_codes_in(function.__code__)) for name in code.co_names}


def _globals_in(function: types.FunctionType) -> set[str]:
    """The names that it reads from its module. Those of attributes are none: a pickle does not bring what has them."""
    codes = (function.__code__, *_codes_in(function.__code__))
    read = (each for code in codes for each in dis.get_instructions(code))
    return {each.argval for each in read if each.opname == "LOAD_GLOBAL"}


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
