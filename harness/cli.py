"""The command ``shiftproof``. Exit codes: 0 conforms, 1 does not, 2 usage or configuration, 3 not or not fully judged.
Ended by a signal N it exits with 128 + N.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from .candidate import Candidate, UsageError
from .exit_code import CONFORMS, FAILS, UNJUDGED, USAGE, exit_code_of, verdict_code
from .spelling import nearest

if TYPE_CHECKING:
    from .laws import Law
    from .run import Run

_PASSES = ("forward", "backward", "both")
_IN_PARALLEL = ("-n", "--numprocesses", "--maxprocesses", "--dist")  # pytest-xdist's, which is loaded where they are
_FOR_TESTS = ("PYTEST_ADDOPTS", "PYTEST_PLUGINS")
_NO_AUTOLOAD = "PYTEST_DISABLE_PLUGIN_AUTOLOAD"
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
    check.add_argument(
        "--spec", metavar="PROFILE", help="what the loss or label builder promises; `list profiles` shows all"
    )
    check.add_argument(
        "--requires",
        action="append",
        default=[],
        metavar="SIZES",
        help="sizes that it needs, as in 'length>=128, multiple_of=16: the kernel's tile'; cases are drawn that fit",
    )
    check.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="WHAT",
        help="what it need not do: 'law=GRAD-5: why it may fail', or 'refuses=words it says: why'; repeatable",
    )
    check.add_argument("--profile", default="quick", help="how many cases: brief, quick, ci (repeatable) or deep")
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

    speed = commands.add_parser("speed", help="time candidates against the yardstick, and weigh them")
    speed.add_argument("targets", nargs="+", metavar="TARGET", help="as for check")
    _say_found(speed)
    speed.add_argument("--spec", metavar="PROFILE", help="what the loss promises; `list profiles` shows all")
    speed.add_argument("--against", default="yardstick", metavar="RIVAL", help="yardstick, eager, or another TARGET")
    speed.add_argument(
        "--shape", action="append", default=[], help="B,S,V or B,S,K,V, or a name such as text or audio; repeatable"
    )
    speed.add_argument("--pass", dest="part", default="both", choices=_PASSES, help="which one the gate is about")
    speed.add_argument("--max-slowdown", type=float, metavar="RATIO", help="fail a candidate that is slower than that")
    speed.add_argument("--max-memory", type=float, metavar="RATIO", help="fail one whose peak memory is more than that")
    speed.add_argument("--threads", type=int, default=1, metavar="N", help="of torch on the CPU (default: 1)")
    speed.add_argument("--times-only", action="store_true", help="leave out memory, bandwidth and how time grows")
    speed.add_argument("--deadline", type=float, default=20.0, metavar="SECONDS", help="for timing one shape")
    speed.add_argument("--json", metavar="FILE", help="write the report as JSON")

    mutants = commands.add_parser("mutants", help="try every known-wrong loss: which laws kill it, and how soon")
    mutants.add_argument(
        "--spec", action="append", default=[], metavar="PROFILE", help="repeatable; none: all profiles of losses"
    )
    mutants.add_argument("--seeds", type=int, default=20, metavar="N", help="how many seeds (default: 20)")
    mutants.add_argument("--profile", default="quick", help="how many cases: brief, quick, ci or deep")
    mutants.add_argument("--drawn-only", action="store_true", help="leave out the hand-made cases")
    mutants.add_argument("--processes", type=int, metavar="N", help="how many at once (default: one a core)")
    mutants.add_argument("--json", metavar="FILE", help="write the table as JSON")
    mutants.add_argument("--markdown", metavar="FILE", help="write the table as Markdown")

    sweep = commands.add_parser(
        "sweep", help="judge every language model of an installed library, such as transformers"
    )
    sweep.add_argument("package", metavar="PACKAGE")
    sweep.add_argument("patterns", nargs="*", metavar="PATTERN", help="globs on class names, such as 'Git*'; none: all")
    sweep.add_argument("--python", metavar="EXE", help="the interpreter that the library is installed for")
    sweep.add_argument("--processes", type=int, metavar="N", help="how many at once (default: one a core)")
    sweep.add_argument("--engine", default="local", help="local, or ray for a cluster (pip install 'shiftproof[ray]')")
    sweep.add_argument("--ray-address", metavar="ADDRESS", help="of the cluster to join, or auto")
    sweep.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    sweep.add_argument("--dtype", default="float32", help="float32, bfloat16 or float16")
    sweep.add_argument("--profile", default="brief", help="how many cases: brief, quick, ci or deep")
    sweep.add_argument("--seed", type=int, default=0, metavar="N", help="what cases are drawn from (default: 0)")
    sweep.add_argument("--deadline", type=float, default=600.0, metavar="SECONDS", help="for one class")
    sweep.add_argument("--out", metavar="FILE", help="where rows go as JSON lines, and from where a sweep goes on")
    sweep.add_argument("--fresh", action="store_true", help="judge again what the file has")
    sweep.add_argument("--html", metavar="FILE", help="write the table as one HTML page")
    sweep.add_argument("--list", action="store_true", help="say which classes there are, and judge none")

    listing = commands.add_parser("list", help="show what there is")
    listing.add_argument("what", choices=tuple(_TABLES))
    return parser


def _say_found(parser: argparse.ArgumentParser) -> None:
    """The options on which candidates there are."""
    parser.add_argument("--config", metavar="TOML", help="where candidates are declared (default: ./pyproject.toml)")
    parser.add_argument("--device", action="append", default=[], help="cpu, cuda or cuda:N; repeatable")
    parser.add_argument("--dtype", action="append", default=[], help="float32, bfloat16 or float16; repeatable")
    parser.add_argument("--precision", metavar="CLASS", help="strict (accumulates in fp32) or native")
    parser.add_argument("--no-gradient", action="store_true", help="judge the value alone")
    parser.add_argument(
        "--python",
        action="append",
        default=[],
        metavar="EXE",
        help="run candidates under this interpreter; `check` compares several",
    )


def _say_candidate(parser: argparse.ArgumentParser) -> None:
    """The options on how candidates are found and run."""
    _say_found(parser)
    parser.add_argument("--in-process", action="store_true", help="run candidates in this process, for a debugger")
    parser.add_argument("--deadline", type=float, default=10.0, metavar="SECONDS", help="for one call")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code. What the judge itself cannot do is never a verdict on a candidate."""
    options = _parser().parse_args(argv)
    commands = {
        "check": _check,
        "identify": _identify,
        "replay": _replay,
        "speed": _speed,
        "mutants": _kills,
        "sweep": _sweep,
        "list": _list,
    }
    return exit_code_of(lambda: commands[options.command](options))


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
    _check_folder(options, "json")
    caught = _Caught()
    with _plugins_of_our_own():
        status = pytest.main(_pytest_arguments(options), plugins=[caught])
    if caught.interrupt is not None:
        raise caught.interrupt
    if caught.run is None:
        return USAGE if status == pytest.ExitCode.USAGE_ERROR else UNJUDGED
    if caught.run.is_empty:
        raise UsageError(f"no law was left to ask by {' '.join(options.pytest) or 'pytest'}; `list laws` has their ids")
    judged = verdict_code(caught.run.finished().results)
    for failure in caught.run.reporter.failures:
        if judged == CONFORMS:
            raise failure
        print(f"shiftproof: the report could not be written: {failure}", file=sys.stderr)
    return UNJUDGED if judged == CONFORMS and status == pytest.ExitCode.INTERNAL_ERROR else judged


@contextmanager
def _plugins_of_our_own() -> Iterator[None]:
    """Within it pytest reads no options from the environment and loads no plugin that merely happens to be installed:
    both are meant for the user's own tests."""
    before = {name: os.environ.get(name) for name in (*_FOR_TESTS, _NO_AUTOLOAD)}
    for name in _FOR_TESTS:
        os.environ.pop(name, None)
    os.environ[_NO_AUTOLOAD] = "1"
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            os.environ |= {name: value} if value is not None else {}


class _Caught:
    """Keeps the run, which outlives pytest, and what interrupted it."""

    run: Run | None = None
    interrupt: KeyboardInterrupt | None = None

    def pytest_keyboard_interrupt(self, excinfo: Any) -> None:
        self.interrupt = excinfo.value if isinstance(excinfo.value, KeyboardInterrupt) else None

    def pytest_sessionfinish(self, session: Any) -> None:
        from .plugin import run_of

        run = run_of(session.config)
        self.run = None if run is None or run.is_refused else run


def _pytest_arguments(options: argparse.Namespace) -> list[str]:
    """The same run as pytest's own arguments. Its configuration files are none of ours, so none is read."""
    arguments = ["-c", str(_EMPTY_CONFIG), "--rootdir", str(Path.cwd()), str(_EMPTY_CONFIG.with_name("laws"))]
    arguments += ["-p", "shiftproof.harness.plugin", "-p", "no:cacheprovider", "--shiftproof-display", "own"]
    if any(argument.startswith(_IN_PARALLEL) for argument in options.pytest):
        arguments += ["-p", "xdist.plugin"]
    arguments += [] if options.targets else ["--shiftproof-declared"]
    for target in options.targets:
        arguments += ["--shiftproof", target]
    for name in ("spec", "config", "precision", "profile", "seed", "deadline", "json"):
        value = getattr(options, name)
        if value is not None:
            arguments += [f"--shiftproof-{name}", str(value)]
    for name in ("device", "dtype", "python", "requires", "allow"):
        for value in getattr(options, name):
            arguments.append(f"--shiftproof-{name}={value}")
    for name in ("no_gradient", "in_process"):
        if getattr(options, name):
            arguments.append(f"--shiftproof-{name.replace('_', '-')}")
    if options.junit:
        arguments.append(f"--junitxml={options.junit}")
    return [*arguments, *options.pytest]


def _candidates(options: argparse.Namespace, targets: Sequence[str], all_declared: bool = False) -> list[Candidate]:
    from .plan import candidates_of

    if len(options.python) > 1 and options.command != "check":
        raise UsageError(f"{options.command} runs under one --python; give one, or ask `shiftproof check` to compare")
    return candidates_of(
        targets,
        all_declared=all_declared,
        config=options.config,
        spec=getattr(options, "spec", None),
        devices=options.device,
        dtypes=options.dtype,
        precision=options.precision,
        no_gradient=options.no_gradient,
        pythons=options.python,
        requires=getattr(options, "requires", ()),
        allow=getattr(options, "allow", ()),
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


def _speed(options: argparse.Namespace) -> int:
    import json

    from .report.console import new_console
    from .report.speed import as_json, render
    from .speed.plan import plan
    from .speed.result import Grade, overall
    from .speed.run import try_speed

    candidates = _candidates(options, options.targets)
    _check_folder(options, "json")
    plans = plan(
        candidates,
        against=options.against,
        config=options.config,
        shapes=options.shape,
        threads=options.threads,
        part=options.part,
        max_slowdown=options.max_slowdown,
        max_memory=options.max_memory,
        deadline=options.deadline,
        times_only=options.times_only,
    )
    console = new_console()
    trials = []
    for each in plans:
        with console.status(str(each)) as status:
            trials.append(
                try_speed(
                    each.candidate,
                    each.rival,
                    each.terms,
                    each.asked,
                    tell=lambda stage, each=each: status.update(f"{each}: {stage}"),  # type: ignore[misc]
                )
            )
        console.print(render(trials[-1]))
    if options.json:
        text = json.dumps(as_json(trials), indent=1, allow_nan=False, ensure_ascii=False)
        Path(options.json).write_text(text + "\n", encoding="utf-8")
    return {Grade.PASSES: CONFORMS, Grade.FAILS: FAILS}.get(overall(trials), UNJUDGED)


def _check_folder(options: argparse.Namespace, *names: str) -> None:
    """Find out before hours of work that what is to be written has no place."""
    for name in names:
        file = getattr(options, name)
        if file and not Path(file).resolve().parent.is_dir():
            raise UsageError(f"--{name} {file}: its folder does not exist; make it first")


def _kills(options: argparse.Namespace) -> int:
    import json

    from rich.progress import Progress

    from shiftproof.reference.profiles import PROFILES

    from .judge import PROFILES as EFFORTS
    from .kill_table import Fate
    from .kills import kill_table
    from .report.console import new_console
    from .report.kills import markdown, render

    for what, given, known in (("spec", options.spec, PROFILES), ("profile", [options.profile], EFFORTS)):
        for name in given:
            if name not in known:
                near = nearest(name, known)
                raise UsageError(f"no {what} of losses is called {name!r}{near}; it is one of {', '.join(known)}")
    if options.seeds < 1 or (options.processes or 1) < 1:
        raise UsageError("--seeds and --processes are numbers from 1 up")
    _check_folder(options, "json", "markdown")
    console = new_console()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("mutants", total=None)
        table = kill_table(
            options.spec or [*PROFILES],
            seeds=options.seeds,
            profile=options.profile,
            processes=options.processes,
            drawn_only=options.drawn_only,
            tick=lambda done, of: progress.update(task, completed=done, total=of),
        )
    if options.json:
        text = json.dumps(table.to_json(), indent=1, allow_nan=False, ensure_ascii=False)
        Path(options.json).write_text(text + "\n", encoding="utf-8")
    if options.markdown:
        Path(options.markdown).write_text(markdown(table), encoding="utf-8")
    console.print(render(table))
    return FAILS if table.of(Fate.SURVIVED) else CONFORMS


def _sweep(options: argparse.Namespace) -> int:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from .report.console import new_console
    from .report.sweep import html, render
    from .sweep.command import Request, plan, sweep
    from .sweep.hands import NotStarted
    from .sweep.settings import Settings

    settings = Settings(options.python, options.seed, options.profile, options.deadline, options.device, options.dtype)
    _check_folder(options, "out", "html")
    planned = plan(
        Request(
            options.package,
            tuple(options.patterns),
            settings,
            options.processes,
            options.engine,
            options.ray_address,
            Path(options.out) if options.out else None,
            options.fresh,
        )
    )
    if options.list:
        print("\n".join(target.rpartition(":")[2] for target in planned.targets))
        return CONFORMS
    console = new_console()
    console.print(
        f"shiftproof {planned.header.shiftproof} · seed {settings.seed} · {len(planned.targets)} classes, "
        f"profile {settings.profile} · rows go to {planned.path}",
        style="bold",
    )
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("classes", total=len(planned.targets))

        def tick(done: int, counts: Mapping[str, int]) -> None:
            described = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
            progress.update(task, completed=done, description=described or "classes")

        try:
            swept = sweep(planned, tick)
        except NotStarted as error:
            print(f"shiftproof: {error}", file=sys.stderr)
            return UNJUDGED
    console.print(render(swept.header, swept.rows, swept.footer))
    if options.html:
        Path(options.html).write_text(html(swept.header, swept.rows, swept.footer), encoding="utf-8")
    if swept.interrupt is not None:
        left = len(planned.targets) - len(swept.rows)
        print(f"shiftproof: {left} classes are left; the same command goes on with them", file=sys.stderr)
        raise swept.interrupt
    if any(row.is_alarm for row in swept.rows):
        return FAILS
    judged = [row.target for row in swept.rows if row.is_verdict]
    return CONFORMS if judged and len(judged) == len(planned.targets) else UNJUDGED


def _list(options: argparse.Namespace) -> int:
    from .report.console import new_console
    from .report.listing import table_of

    console = new_console()
    losses, *others = _TABLES[options.what]()
    console.print(table_of(*losses))
    for of, table in zip(("label builders", "trainers"), others, strict=False):
        console.print(f"\n{of}\n", style="bold")
        console.print(table_of(*table))
    return CONFORMS


_Table = tuple[Sequence[str], Sequence[Sequence[str]]]  # its columns and its rows


def _profiles() -> tuple[_Table, _Table]:
    from shiftproof.reference.builders import BUILDERS
    from shiftproof.reference.profiles import PROFILES

    losses = [
        (
            spec.name,
            spec.formula,
            "\n".join(f"{name} [{spec.layout_of(name)}]" for name in (*spec.logits, *spec.labels)),
            spec.source,
        )
        for spec in PROFILES.values()
    ]
    builders = [(spec.name, spec.formula, f"[{spec.output}]", spec.source) for spec in BUILDERS.values()]
    return (("profile", "formula", "arrays", "source"), losses), (("profile", "formula", "shape", "source"), builders)


def _laws() -> tuple[_Table, _Table]:
    from .laws import BUILDER_LAWS, LAWS

    def rows(laws: Mapping[str, Law[Any, Any]]) -> list[tuple[str, ...]]:
        return [(law.id, str(law.level), law.title, law.source) for law in laws.values()]

    columns = ("law", "level", "says", "source")
    return (columns, rows(LAWS)), (columns, rows(BUILDER_LAWS))


def _mutants() -> tuple[_Table, _Table]:
    from .mutants import MUTANTS
    from .mutants.builders import BUILDER_MUTANTS
    from .mutants.scores import SCORES
    from .mutants.symptoms import SYMPTOMS

    losses = [(mutant.name, mutant.formula, mutant.tells, mutant.seen) for mutant in MUTANTS.values()]
    losses += [(mutant.name, mutant.formula, "any case", mutant.seen) for mutant in SCORES.values()]
    losses += [(name, score.formula, "", score.seen) for name, score in SCORES.items()]
    losses += [(name, symptom.formula, symptom.tells, symptom.seen) for name, symptom in SYMPTOMS.items()]
    builders = [(mutant.name, mutant.formula, mutant.tells, mutant.seen) for mutant in BUILDER_MUTANTS.values()]
    return (
        (("mutant", "computes", "told from right by", "seen in"), losses),
        (("mutant", "builds", "told from right by", "seen in"), builders),
    )


def _arguments() -> tuple[_Table, _Table, _Table]:
    from .arguments import ALIASES, ARGUMENTS
    from .builder_arguments import BUILDER_ARGUMENTS
    from .trainer_arguments import TRAINER_ARGUMENTS

    losses = [(argument.name, argument.meaning) for argument in ARGUMENTS.values()]
    losses += [(alias, f"another name of {name}") for alias, name in ALIASES.items()]
    columns = ("argument", "what a candidate is given for it")
    return (columns, losses), (columns, [*BUILDER_ARGUMENTS.items()]), (columns, [*TRAINER_ARGUMENTS.items()])


_TABLES = {"profiles": _profiles, "laws": _laws, "mutants": _mutants, "arguments": _arguments}
