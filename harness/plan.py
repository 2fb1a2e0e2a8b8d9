"""From options to what is to be done: the docket, how candidates are run, how many cases, which seed."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .allowance import parse_allowance, read_allowances
from .candidate import DTYPES, PRECISIONS, Candidate, UsageError, declared_in, resolve
from .docket import Entry, Options, enter, find_spec
from .judge import PREREQUISITES, PROFILES, Profile
from .laws import laws_of
from .requires import parse_requires, read_requires
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
    requires: Sequence[str] = (),
    allow: Sequence[str] = (),
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
    try:
        if requires:
            changes["requires"] = {key: value for text in requires for key, value in parse_requires(text).items()}
            read_requires(changes["requires"])
        allowed = tuple(parse_allowance(text) for text in allow)
        read_allowances(allowed)
    except ValueError as error:
        raise UsageError(str(error)) from None
    found = [replace(resolve(name, declared), **changes) for name in names]
    found = [replace(each, allow=(*each.allow, *allowed)) for each in found]
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
    for candidate in candidates:
        _check_allowances(candidate)
    return Plan(tuple(enter(candidates)), Options(in_process, deadline), chosen, seed)


def _check_allowances(candidate: Candidate) -> None:
    """Raises UsageError where a law that is allowed to fail is none of the spec's, or one without which nothing can be
    said of the candidate."""
    if candidate.spec is None:
        return
    laws = laws_of(find_spec(candidate.spec))
    for allowance in candidate.allowances:
        if allowance.law and allowance.law not in laws:
            near = nearest(allowance.law, laws)
            raise UsageError(f"{candidate.name} allows {allowance.law!r}, which is no law{near}; see `list laws`")
        if allowance.law in PREREQUISITES:
            raise UsageError(
                f"{candidate.name} allows {allowance.law} to fail, but of a candidate that breaks it nothing can be "
                'judged; drop it, or declare expect = "fails"'
            )


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
        requires=options["shiftproof_requires"],
        allow=options["shiftproof_allow"],
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
