"""The command ``shiftproof``. Exit codes: 0 conforms, 1 does not, 2 usage or configuration, 3 could not be judged."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from .candidate import Candidate, UsageError
from .report.events import RunFinished
from .spelling import nearest

CONFORMS, FAILS, USAGE, UNJUDGED = 0, 1, 2, 3
_EMPTY_CONFIG = Path(__file__).with_name("empty.ini")


class _Parser(argparse.ArgumentParser):
    """Says in one sentence what was wrong and what is nearest to it."""

    def error(self, message: str) -> NoReturn:
        words = re.findall(r"(?:unrecognized arguments: |invalid choice: ')([^\s']+)", message)
        choices = [name for action in self._actions for name in [*action.option_strings, *(action.choices or ())]]
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                choices += [name for command in action.choices.values() for name in command._option_string_actions]
        near = nearest(words[0], choices) if words else ""
        print(f"shiftproof: {message}{near}; `{self.prog} --help` shows all", file=sys.stderr)
        raise SystemExit(USAGE)


def _parser() -> _Parser:
    parser = _Parser(prog="shiftproof", description=__doc__.splitlines()[0] if __doc__ else None)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)

    check = commands.add_parser("check", help="judge candidates against their specs")
    check.add_argument(
        "targets",
        nargs="*",
        metavar="TARGET",
        help="package.module:attribute, path/file.py:attribute, "
        "or a declared name; none: every candidate that pyproject.toml declares",
    )
    _say_candidate(check)
    check.add_argument("--spec", metavar="PROFILE", help="what the loss promises; `list profiles` shows all")
    check.add_argument("--profile", default="quick", help="how many cases: quick, ci (repeatable) or deep")
    check.add_argument("--seed", type=int, metavar="N", help="draw the cases of this seed again")
    check.add_argument("--json", metavar="FILE", help="write the report as JSON")
    check.add_argument("--junit", metavar="FILE", help="write pytest's JUnit XML")
    check.add_argument("--pytest", nargs=argparse.REMAINDER, default=[], metavar="…", help="the rest goes to pytest")

    identify = commands.add_parser("identify", help="say what a loss computes, or the bug it has, with the picture")
    identify.add_argument("target", metavar="TARGET")
    _say_candidate(identify)

    replay = commands.add_parser("replay", help="ask a stored case again: FIXED, FAILS or ERROR")
    replay.add_argument("id", metavar="ID", help="as printed under a counterexample")
    replay.add_argument("--in-process", action="store_true", help="run the candidate in this process, for a debugger")
    replay.add_argument("--deadline", type=float, default=10.0, metavar="SECONDS", help="for one call")

    listing = commands.add_parser("list", help="show what there is")
    listing.add_argument("what", choices=("profiles", "laws", "mutants", "arguments"))
    return parser


def _say_candidate(parser: argparse.ArgumentParser) -> None:
    """The options on how candidates are found and run."""
    parser.add_argument("--config", metavar="TOML", help="where candidates are declared (default: ./pyproject.toml)")
    parser.add_argument("--device", action="append", default=[], help="cpu, cuda or cuda:N; repeatable")
    parser.add_argument("--dtype", action="append", default=[], help="float32, bfloat16 or float16; repeatable")
    parser.add_argument("--precision", metavar="CLASS", help="strict (accumulates in fp32) or native")
    parser.add_argument("--no-gradient", action="store_true", help="judge the value alone")
    parser.add_argument("--python", metavar="EXE", help="run candidates under this interpreter")
    parser.add_argument("--in-process", action="store_true", help="run candidates in this process, for a debugger")
    parser.add_argument("--deadline", type=float, default=10.0, metavar="SECONDS", help="for one call")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = _parser().parse_args(argv)
    try:
        command = {"check": _check, "identify": _identify, "replay": _replay, "list": _list}[options.command]
        return command(options)
    except UsageError as error:
        print(f"shiftproof: {error}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        print("shiftproof: interrupted", file=sys.stderr)
        return UNJUDGED


def _check(options: argparse.Namespace) -> int:
    import pytest

    from .plan import plan

    candidates = _candidates(options, options.targets, all_declared=not options.targets)
    unsaid = [candidate for candidate in candidates if candidate.spec is None]
    if unsaid:
        for candidate in unsaid:
            _say_identity(candidate, options)
        raise UsageError(
            f"{unsaid[0].name} has no spec to be judged against; name one with --spec (`shiftproof list profiles`)"
        )
    plan(candidates, profile=options.profile, seed=options.seed, deadline=options.deadline)  # only its checks
    if options.json and not Path(options.json).resolve().parent.is_dir():
        raise UsageError(f"--json {options.json}: its folder does not exist; make it first")
    for name in ("PYTEST_ADDOPTS", "PYTEST_PLUGINS"):
        os.environ.pop(name, None)  # they are meant for the user's own tests
    caught = _Caught()
    status = pytest.main(_pytest_arguments(options), plugins=[caught])
    if status == pytest.ExitCode.USAGE_ERROR:
        return USAGE
    if caught.run is None or status in (pytest.ExitCode.INTERNAL_ERROR, pytest.ExitCode.INTERRUPTED):
        return UNJUDGED
    if not caught.run.results:
        raise UsageError(f"no law was left to ask by {' '.join(options.pytest) or 'pytest'}; `list laws` has their ids")
    return exit_code(caught.run)


def exit_code(run: RunFinished) -> int:
    """0 where every candidate got what its declaration expects; 1 where one fails instead; 3 where one is undecided."""
    unexpected = [result for result in run.results if not result.as_expected]
    if not unexpected:
        return CONFORMS
    undecided = all(str(result.verdict) in ("error", "inconclusive") for result in unexpected)
    return UNJUDGED if undecided else FAILS


class _Caught:
    """Keeps what the run found when pytest is done."""

    run: RunFinished | None = None

    def pytest_sessionfinish(self, session: object) -> None:
        from .plugin import run_of

        run = run_of(session.config)  # type: ignore[attr-defined]
        self.run = run.finished() if run is not None else None


def _pytest_arguments(options: argparse.Namespace) -> list[str]:
    """The same run as pytest's own arguments. Its configuration files are none of ours, so none is read."""
    arguments = ["-c", str(_EMPTY_CONFIG), "--rootdir", str(Path.cwd()), str(_EMPTY_CONFIG.with_name("laws"))]
    arguments += ["-p", "no:cacheprovider", "-p", "no:benchmark", "--shiftproof-display", "own"]
    arguments += [] if options.targets else ["--shiftproof-declared"]
    for target in options.targets:
        arguments += ["--shiftproof", target]
    for name in ("spec", "config", "precision", "profile", "seed", "python", "deadline", "json"):
        value = getattr(options, name)
        if value is not None:
            arguments += [f"--shiftproof-{name}", str(value)]
    for name in ("device", "dtype"):
        for value in getattr(options, name):
            arguments += [f"--shiftproof-{name}", value]
    for name in ("no_gradient", "in_process"):
        if getattr(options, name):
            arguments.append(f"--shiftproof-{name.replace('_', '-')}")
    if options.junit:
        arguments.append(f"--junitxml={options.junit}")
    return [*arguments, *options.pytest]


def _candidates(options: argparse.Namespace, targets: Sequence[str], all_declared: bool = False) -> list[Candidate]:
    from .plan import candidates_of

    return candidates_of(
        targets,
        all_declared=all_declared,
        config=options.config,
        spec=getattr(options, "spec", None),
        devices=options.device,
        dtypes=options.dtype,
        precision=options.precision,
        no_gradient=options.no_gradient,
        python=options.python,
    )


def _identify(options: argparse.Namespace) -> int:
    (candidate,) = _candidates(options, [options.target])
    return _say_identity(candidate, options)


def _say_identity(candidate: Candidate, options: argparse.Namespace) -> int:
    from .docket import Hearing, Options, enter
    from .identify import describe, identify
    from .worker.target import LoadFailure

    hearing = Hearing(enter([candidate])[0], Options(options.in_process, options.deadline))
    try:
        hearing.start()
        found = identify(hearing)
    except LoadFailure as failure:
        print(f"shiftproof: {failure}", file=sys.stderr)
        return UNJUDGED
    finally:
        hearing.close()
    print(describe(candidate.name, found))
    return CONFORMS if found.conforms or found.wrong else UNJUDGED


def _replay(options: argparse.Namespace) -> int:
    from .docket import Options
    from .replay import replay
    from .store import load

    stored = load(options.id)
    print(f"{stored.candidate.name} against {stored.spec}, {stored.law}: {stored.recipe.canonical()}")
    found = replay(stored, Options(options.in_process, options.deadline))
    print(f"{found.said}: {found.message}")
    return {"FIXED": CONFORMS, "FAILS": FAILS, "ERROR": UNJUDGED}[found.said]


def _list(options: argparse.Namespace) -> int:
    from rich.console import Console

    from .report.listing import table_of

    rows: list[tuple[str, ...]]
    if options.what == "profiles":
        from shiftproof.reference.profiles import PROFILES

        rows = [(spec.name, spec.formula, spec.source) for spec in PROFILES.values()]
        columns: tuple[str, ...] = ("profile", "formula", "source")
    elif options.what == "laws":
        from .laws import LAWS

        rows = [(law.id, str(law.level), law.title, law.source) for law in LAWS.values()]
        columns = ("law", "level", "says", "source")
    elif options.what == "mutants":
        from .mutants import MUTANTS
        from .mutants.symptoms import SYMPTOMS

        rows = [(mutant.name, mutant.formula, mutant.tells, mutant.seen) for mutant in MUTANTS.values()]
        rows += [(name, symptom.formula, "", symptom.seen) for name, symptom in SYMPTOMS.items()]
        columns = ("mutant", "computes", "told from right by", "seen in")
    else:
        from .arguments import ALIASES, ARGUMENTS

        rows = [(argument.name, argument.meaning) for argument in ARGUMENTS.values()]
        rows += [(alias, f"another name of {name}") for alias, name in ALIASES.items()]
        columns = ("argument", "what a candidate is given for it")
    Console(highlight=False).print(table_of(columns, rows))
    return CONFORMS
