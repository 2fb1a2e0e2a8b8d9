"""From options to a plan: the jobs, how candidates run, how many cases, and the seed."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shiftproof.reference.spec import LossSpec

from ..candidates.allowance import parse_allowance, read_allowances
from ..candidates.declaration import DTYPES, PRECISIONS, Candidate, UsageError, declared_in, resolve
from ..candidates.requires import parse_requires, read_requires
from ..candidates.shapes import read_shapes, shape_misfit
from ..candidates.values import parse_names, parse_values
from ..suggest import nearest
from .ask import PREREQUISITES
from .laws_of import laws_of
from .loading import Job, Options, find_spec, jobs_of
from .profile import PROFILES, Profile

_DEVICES = ("cpu", "cuda")
SEEDS = 2**31
"""Seeds are drawn below this."""


@dataclass(frozen=True)
class Plan:
    """Everything that determines a run.

    ``all_branches`` means that a branch of which one way never ran makes the judgement incomplete.
    """

    jobs: tuple[Job, ...]
    options: Options
    profile: Profile
    seed: int
    all_branches: bool = False


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
    shapes: Sequence[str] = (),
    rename: Sequence[str] = (),
    init: Sequence[str] = (),
    kwargs: Sequence[str] = (),
) -> list[Candidate]:
    """The candidates that targets and the project's declarations name, each once for every one of ``pythons``.

    Options of the command line override the declarations.

    Raises:
        UsageError: a name is unknown, a file or candidate is missing, or an option cannot be read.
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
        for name, option, texts in (("init", "--init", init), ("kwargs", "--kwarg", kwargs)):
            if texts:
                changes[name] = parse_values(option, texts)
        if rename:
            changes["rename"] = parse_names("--rename", rename)
        allowed = tuple(parse_allowance(text) for text in allow)
        read_allowances(allowed)
        read_shapes(shapes)
    except ValueError as error:
        raise UsageError(str(error)) from None
    found = [replace(resolve(name, declared), **changes) for name in names]
    found = [replace(each, allow=(*each.allow, *allowed), shapes=(*each.shapes, *shapes)) for each in found]
    interpreters = list(dict.fromkeys(pythons))
    return [replace(each, python=python) for each in found for python in interpreters] if interpreters else found


def plan(
    candidates: Sequence[Candidate],
    *,
    profile: str = "quick",
    seed: int | None = None,
    drawn: int | None = None,
    in_process: bool = False,
    deadline: float = 10.0,
    all_branches: bool = False,
) -> Plan:
    """The plan of a run over some candidates. If no seed is given and the profile has none, it is ``drawn`` or new.

    Raises:
        UsageError: the profile, a spec or an allowed law is unknown, the seed is negative, the deadline is not above 0,
            or a law that must hold is allowed to fail.
    """
    check_name("profile", [profile], tuple(PROFILES))
    chosen = PROFILES[profile]
    if seed is None:
        drawn = secrets.randbelow(SEEDS) if drawn is None else drawn
        seed = drawn if chosen.seed is None else chosen.seed
    if seed < 0:
        raise UsageError(f"seed is {seed}; expected an integer from 0 up")
    if not deadline > 0:
        raise UsageError(f"deadline is {deadline:g}; expected seconds above 0")
    for candidate in candidates:
        check_declaration(candidate)
    jobs, options = tuple(jobs_of(candidates)), Options(in_process, deadline)
    return Plan(jobs, options, chosen, seed, all_branches or chosen.complete)


def check_declaration(candidate: Candidate) -> None:
    """Raise UsageError if what is declared of a candidate does not fit its spec."""
    _check_allowances(candidate)
    _check_shapes(candidate)


def _check_allowances(candidate: Candidate) -> None:
    """Check the laws that a candidate is allowed to fail.

    Raises:
        UsageError: the law does not belong to the spec, or it is one of PREREQUISITES.
    """
    if candidate.spec is None:
        return
    laws = laws_of(find_spec(candidate.spec))
    for allowance in candidate.allowances:
        if allowance.law and allowance.law not in laws:
            near = nearest(allowance.law, laws)
            raise UsageError(f"{candidate.name} allows {allowance.law!r}, which is not a law{near}; see `list laws`")
        if allowance.law in PREREQUISITES:
            raise UsageError(
                f"{candidate.name} allows {allowance.law} to fail, but a candidate that breaks it cannot be judged; "
                'remove it, or declare expect = "fails"'
            )


def _check_shapes(candidate: Candidate) -> None:
    """Check that a candidate's spec has cases of the shapes that its user names.

    Raises:
        UsageError: it has not.
    """
    spec = find_spec(candidate.spec) if candidate.spec is not None and candidate.shapes else None
    for text, sizes in zip(candidate.shapes, read_shapes(candidate.shapes), strict=True):
        if spec is None:
            continue
        why = shape_misfit(spec, sizes) if isinstance(spec, LossSpec) else "is a label builder's, which has no logits"
        if why:
            raise UsageError(f"{candidate.name} cannot be judged at the shape {text}: {spec.name} {why}")


def from_options(options: Mapping[str, Any]) -> Plan:
    """The plan for the plugin's options (``vars(config.option)``). Without targets, it has no jobs yet.

    Raises:
        UsageError: as :func:`candidates_of` and :func:`plan`.
    """
    candidates = []
    if options["shiftproof"] or options["shiftproof_declared"]:
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
            shapes=options["shiftproof_shape"],
            rename=options["shiftproof_rename"],
            init=options["shiftproof_init"],
            kwargs=options["shiftproof_kwarg"],
        )
    for candidate in candidates:
        if candidate.spec is None:
            raise UsageError(f"{candidate.name} has no spec; give one, or run `shiftproof identify {candidate.name}`")
    return plan(
        candidates,
        profile=options["shiftproof_profile"],
        seed=options["shiftproof_seed"],
        drawn=options.get("shiftproof_drawn"),
        in_process=options["shiftproof_in_process"],
        deadline=options["shiftproof_deadline"],
        all_branches=options["shiftproof_branches"] == "all",
    )


def check_device(devices: Sequence[str]) -> None:
    """Raise UsageError if the name of a device is unknown."""
    for device in devices:
        if device.partition(":")[0] not in _DEVICES:
            raise UsageError(f"no device is called {device!r}{nearest(device, _DEVICES)}; it is cpu, cuda or cuda:N")


def check_name(what: str, values: Sequence[str], legal: tuple[str, ...]) -> None:
    """Raise UsageError if one of ``values`` is not in ``legal``. The message gives the most similar legal value."""
    for value in values:
        if value not in legal:
            raise UsageError(f"no {what} is called {value!r}{nearest(value, legal)}; it is one of {', '.join(legal)}")
