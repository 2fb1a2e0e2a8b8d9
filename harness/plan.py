"""From options to what is to be done: the docket, how candidates are run, how many cases, which seed."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .candidate import DTYPES, PRECISIONS, Candidate, UsageError, declared_in, resolve
from .docket import Entry, Options, enter
from .judge import PROFILES, Profile
from .spelling import nearest

_DEVICES = ("cpu", "cuda")


@dataclass(frozen=True)
class Plan:
    """Everything that fixes a run."""

    entries: tuple[Entry, ...]
    options: Options
    profile: Profile
    seed: int


def candidates_of(
    targets: Sequence[str],
    *,
    all_declared: bool = False,
    config: str | None = None,
    spec: str | None = None,
    devices: Sequence[str] = (),
    dtypes: Sequence[str] = (),
    precision: str | None = None,
    no_gradient: bool = False,
    pythons: Sequence[str] = (),
) -> list[Candidate]:
    """The candidates that targets and the project's declarations name, each once for every one of ``pythons``; what is
    said on the command line wins.

    Raises:
        UsageError: for anything misspelt, missing or contradictory.
    """
    check_name("dtype", dtypes, DTYPES)
    check_name("precision", [precision] if precision else [], PRECISIONS)
    check_device(devices)
    path = Path(config) if config else Path("pyproject.toml")
    declared = declared_in(path) if config or path.is_file() else {}
    names = [*targets, *([name for name in declared if name not in targets] if all_declared else [])]
    if not names:
        raise UsageError(
            "nothing to judge: name a TARGET (package.module:attribute or path/file.py:attribute), or declare "
            f"[tool.shiftproof.candidates.NAME] in {path}"
        )
    changes: dict[str, Any] = {}
    if devices:
        changes["devices"] = tuple(devices)
    if dtypes:
        changes["dtypes"] = tuple(dtypes)
    for name, value in (("spec", spec), ("precision", precision)):
        if value is not None:
            changes[name] = value
    if no_gradient:
        changes["gradient"] = False
    found = [replace(resolve(name, declared), **changes) for name in names]
    interpreters = list(dict.fromkeys(pythons))
    return [replace(each, python=python) for each in found for python in interpreters] if interpreters else found


def plan(
    candidates: Sequence[Candidate],
    *,
    profile: str = "quick",
    seed: int | None = None,
    in_process: bool = False,
    deadline: float = 10.0,
) -> Plan:
    """The plan of a run over some candidates. Without a seed one is drawn, unless the profile has its own.

    Raises:
        UsageError: for an unknown profile or spec, a negative seed, or a deadline that is no time at all.
    """
    check_name("profile", [profile], tuple(PROFILES))
    chosen = PROFILES[profile]
    if seed is None:
        seed = secrets.randbelow(2**31) if chosen.seed is None else chosen.seed
    if seed < 0:
        raise UsageError(f"seed is {seed}; expected an integer from 0 up")
    if not deadline > 0:
        raise UsageError(f"deadline is {deadline:g}; expected seconds above 0")
    return Plan(tuple(enter(candidates)), Options(in_process, deadline), chosen, seed)


def from_options(options: Mapping[str, Any]) -> Plan:
    """The plan that the plugin's options ask for (``vars(config.option)``)."""
    candidates = candidates_of(
        options["shiftproof"],
        all_declared=options["shiftproof_declared"],
        config=options["shiftproof_config"],
        spec=options["shiftproof_spec"],
        devices=options["shiftproof_device"],
        dtypes=options["shiftproof_dtype"],
        precision=options["shiftproof_precision"],
        no_gradient=options["shiftproof_no_gradient"],
        pythons=options["shiftproof_python"],
    )
    for candidate in candidates:
        if candidate.spec is None:
            raise UsageError(f"{candidate.name} has no spec; give one, or ask `shiftproof identify {candidate.name}`")
    return plan(
        candidates,
        profile=options["shiftproof_profile"],
        seed=options["shiftproof_seed"],
        in_process=options["shiftproof_in_process"],
        deadline=options["shiftproof_deadline"],
    )


def check_device(devices: Sequence[str]) -> None:
    """Raises UsageError where one is called as no device is."""
    for device in devices:
        if device.partition(":")[0] not in _DEVICES:
            raise UsageError(f"no device is called {device!r}{nearest(device, _DEVICES)}; it is cpu, cuda or cuda:N")


def check_name(what: str, values: Sequence[str], legal: tuple[str, ...]) -> None:
    """Raises UsageError where one of ``values`` is not ``legal``, with the nearest that is."""
    for value in values:
        if value not in legal:
            raise UsageError(f"no {what} is called {value!r}{nearest(value, legal)}; it is one of {', '.join(legal)}")
