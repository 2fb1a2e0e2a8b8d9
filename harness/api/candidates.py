"""From the arguments of ``shiftproof.check`` to candidates."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypedDict

from shiftproof.reference.builders import BUILDERS, BuilderSpec
from shiftproof.reference.profiles import PROFILES
from shiftproof.reference.spec import LossSpec

from ..candidates.allowance import read_allowances
from ..candidates.declaration import Candidate, UsageError
from ..candidates.given import give, name_of
from ..candidates.requires import read_requires
from ..candidates.values import check_values
from ..judge.plan import candidates_of
from ..suggest import nearest

Target = str | Callable[..., Any]
AnySpec = str | LossSpec | BuilderSpec


class Chosen(TypedDict, total=False):
    """How a target is called and where: the options that ``check``, ``identify`` and ``conformance`` share."""

    dtypes: Sequence[str]
    """Judge it once in each: float32, bfloat16, float16. Without, a loss that computes in fp32 is judged once, with
    cases in float32 and bfloat16; all else in float32."""

    devices: Sequence[str]
    """Judge it on each: cpu, cuda or cuda:N."""

    precision: str
    """``strict`` (accumulates in fp32) or ``native``. Without, the spec's."""

    gradient: bool
    """False judges only the value."""

    rename: Mapping[str, str]
    """Our names of arguments -> its own."""

    init: Mapping[str, Any]
    """The arguments of its class, or of the factory that makes the loss."""

    kwargs: Mapping[str, Any]
    """Arguments that every call gets, by its own names."""

    requires: Mapping[str, Any]
    """The sizes that it needs, such as ``{"length": ">=128", "reason": "…"}``."""

    allow: Sequence[Mapping[str, str]]
    """Declared exceptions, such as ``{"law": "GRAD-5", "reason": "…"}``."""

    shapes: Sequence[str]
    """Shapes at which every law is asked too, such as ``"8,4096,32000"``."""

    python: str
    """The interpreter of a target that is a string."""


def candidate_for(target: Target, spec: AnySpec | None, chosen: Chosen, *, in_process: bool = False) -> Candidate:
    """The candidate that a target stands for.

    Raises:
        UsageError: the target cannot be called, its name is unknown, or an option has no meaning for it.
    """
    _refuse_in_worker()
    _check(chosen)
    python = chosen.get("python")
    [found] = candidates_of(
        [target if isinstance(target, str) else "given:object"],
        spec=_spec_name(spec),
        devices=chosen.get("devices", ()),
        dtypes=chosen.get("dtypes", ()),
        precision=chosen.get("precision"),
        no_gradient=not chosen.get("gradient", True),
        pythons=() if python is None else (python,),
        shapes=chosen.get("shapes", ()),
    )
    changes: dict[str, Any] = {"allow": (*found.allow, *(dict(each) for each in chosen.get("allow", ())))}
    for name in _TABLES & chosen.keys():
        changes[name] = dict(chosen[name])  # type: ignore[literal-required]
    if not isinstance(target, str):
        changes |= _of_object(target, python, in_process)
    return replace(found, **changes)


_LISTS = ("dtypes", "devices", "shapes", "allow")
_TABLES = {"rename", "init", "kwargs", "requires"}


def _check(chosen: Chosen) -> None:
    """Raise UsageError if an option is unknown or has a value of the wrong kind."""
    known = Chosen.__annotations__
    for name, value in chosen.items():
        if name not in known:
            every = (*known, "spec", "profile", "seed", "deadline", "all_branches", "in_process")
            raise UsageError(f"there is no option {name!r}{nearest(name, every)}; there are {', '.join(every)}")
        if name in _LISTS and (isinstance(value, str) or not isinstance(value, Sequence)):
            raise UsageError(f"{name} is {value!r}; expected a list of them, such as {name}=[{value!r}]")
        if name in _TABLES and not isinstance(value, Mapping):
            raise UsageError(f"{name} is {value!r}; expected a dict")
    try:
        check_values(chosen.get("init", {}))
        check_values(chosen.get("kwargs", {}))
        if "requires" in chosen:
            read_requires(chosen["requires"])
        read_allowances(tuple(chosen.get("allow", ())))
    except ValueError as error:
        raise UsageError(str(error)) from None


def _of_object(target: Any, python: str | None, in_process: bool) -> dict[str, Any]:
    if not callable(target):
        raise UsageError(
            f"the target is {target!r:.80}, which cannot be called; expected a function, a method, a module, a class, "
            'or a string such as "package.module:loss"'
        )
    if python is not None:
        raise UsageError(
            f"python={python!r} runs a target of another interpreter, but a Python object belongs to this one; "
            'name the target as a string, such as "path/file.py:loss"'
        )
    name = name_of(target)
    return {"name": name, "call": name, "given": give(target, stays=in_process), "cwd": os.getcwd()}


def _spec_name(spec: AnySpec | None) -> str | None:
    if spec is None or isinstance(spec, str):
        return spec
    known = {**PROFILES, **BUILDERS}.get(spec.name)
    if known != spec:
        raise UsageError(
            f"the spec {spec.name!r} is none of the profiles; give the name of one (`shiftproof list profiles`)"
        )
    return spec.name


def _refuse_in_worker() -> None:
    """Raise in a candidate's own process, where a judge would judge itself without end."""
    if "_shiftproof_worker" in sys.modules:
        raise UsageError(
            "a file that is loaded as a candidate calls shiftproof itself, which would go on without end; put that "
            'call under if __name__ == "__main__":, or into a test'
        )
