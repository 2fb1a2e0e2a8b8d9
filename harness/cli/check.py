"""``shiftproof check``: judge candidates against their specs, as a run of pytest."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from ..candidates.declaration import UsageError
from .exit_code import CONFORMS, UNJUDGED, USAGE, verdict_code
from .identify import say_identity
from .options import DEADLINE, IN_PROCESS, JSON_HELP, SPEC, candidates_from, check_folders, on_candidates

if TYPE_CHECKING:
    from ..pytest_plugin.session import Run

_IN_PARALLEL = ("-n", "--numprocesses", "--maxprocesses", "--dist")  # options of pytest-xdist; they make it load
_FOR_TESTS = ("PYTEST_ADDOPTS", "PYTEST_PLUGINS")
_NO_AUTOLOAD = "PYTEST_DISABLE_PLUGIN_AUTOLOAD"
_HARNESS = Path(__file__).resolve().parents[1]


class _Check(click.RichCommand):
    """A command that passes everything after ``--pytest`` to pytest unread."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        end = args.index("--pytest") if "--pytest" in args else len(args)
        ctx.obj = args[end + 1 :]
        return super().parse_args(ctx, args[:end])


@click.command(cls=_Check)
@click.argument("targets", nargs=-1, metavar="[TARGET]...")
@on_candidates
@IN_PROCESS
@DEADLINE
@SPEC
@click.option(
    "--requires",
    multiple=True,
    metavar="SIZES",
    help="Sizes that it requires, as in 'length>=128, multiple_of=16: the kernel's tile'; all drawn cases fit.",
)
@click.option(
    "--allow",
    multiple=True,
    metavar="WHAT",
    help="What it need not do: 'law=GRAD-5: why it may fail', 'refuses=words of its error: why', or "
    "'branch=function(condition): why it need not run'; repeatable.",
)
@click.option(
    "--shape",
    "shapes",
    multiple=True,
    metavar="B,S[,K],V",
    help="A shape that you train at: every law is asked there too; repeatable.",
)
@click.option("--profile", default="quick", help="How many cases: brief, quick, ci (repeatable) or deep.")
@click.option(
    "--branches",
    type=click.Choice(("named", "all")),
    default="named",
    help="all: a branch of it that never ran leaves the verdict open, as in ci and deep.",
)
@click.option("--seed", type=int, metavar="N", help="Draw the cases from this seed.")
@click.option("--jobs", type=click.IntRange(min=1), default=1, metavar="N", help="Judge N candidates at once.")
@click.option("--json", "json_file", metavar="FILE", help=JSON_HELP)
@click.option(
    "-v", "--verbose", count=True, help="Show the laws; -vv shows skips, cells, sizes, branches and effort too."
)
@click.option("-q", "--quiet", is_flag=True, help="Print the last line only.")
@click.option("--junit", "junit_file", metavar="FILE", help="Write pytest's JUnit XML.")
@click.option("--pytest", "for_pytest", is_flag=True, expose_value=False, help="Pass everything after this to pytest.")
@click.pass_context
def check(ctx: click.RichContext, /, targets: Sequence[str], **options: Any) -> int:
    """Judge candidates against their specs.

    A TARGET is package.module:attribute, path/file.py:attribute, or a declared name. Without a TARGET, every candidate
    that pyproject.toml declares is judged.
    """
    import pytest

    from ..judge.plan import plan

    chosen = {name: options[name] for name in _CHOOSING}
    candidates = candidates_from(targets, command="check", **chosen)
    without_spec = [candidate for candidate in candidates if candidate.spec is None]
    if without_spec:
        for candidate in without_spec:
            say_identity(candidate, options["in_process"], options["deadline"])
        raise UsageError(f"{without_spec[0].name} has no spec; choose one with --spec (see `shiftproof list profiles`)")
    if options["in_process"] and (options["jobs"] > 1 or _is_parallel(ctx.obj)):
        raise UsageError(
            "--in-process judges in one process, so that a debugger sees it, and several were asked for; "
            "leave out --in-process, --jobs or pytest's -n"
        )
    if options["verbose"] and options["quiet"]:
        raise UsageError("--verbose asks for more and --quiet for less; give one of them")
    plan(candidates, profile=options["profile"], seed=options["seed"], deadline=options["deadline"])  # for its checks
    check_folders(json=options["json_file"])
    caught = _Caught()
    with _plugins_of_our_own():
        status = pytest.main(_pytest_arguments(targets, options, ctx.obj), plugins=[caught])
    if caught.interrupt is not None:
        raise caught.interrupt
    if caught.run is None:
        return USAGE if status == pytest.ExitCode.USAGE_ERROR else UNJUDGED
    if caught.run.is_empty:
        raise UsageError(f"{' '.join(ctx.obj) or 'pytest'} left no law to ask; see `shiftproof list laws` for the ids")
    judged = verdict_code(caught.run.finished().results)
    for failure in caught.run.reporter.failures:
        if judged == CONFORMS:
            raise failure
        print(f"shiftproof: the report could not be written: {failure}", file=sys.stderr)
    return UNJUDGED if judged == CONFORMS and status == pytest.ExitCode.INTERNAL_ERROR else judged


_CHOOSING = (
    "config",
    "devices",
    "dtypes",
    "precision",
    "no_gradient",
    "pythons",
    "spec",
    "requires",
    "allow",
    "shapes",
    "rename",
    "init",
    "kwargs",
)


@contextmanager
def _plugins_of_our_own() -> Iterator[None]:
    """Make pytest ignore the option environment variables and all plugins that just happen to be installed.

    Both are meant for the user's own tests.
    """
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
    """Keeps the run, which outlives pytest, and the interrupt that ended it."""

    run: Run | None = None
    interrupt: KeyboardInterrupt | None = None

    def pytest_keyboard_interrupt(self, excinfo: Any) -> None:
        self.interrupt = excinfo.value if isinstance(excinfo.value, KeyboardInterrupt) else None

    def pytest_sessionfinish(self, session: Any) -> None:
        from ..pytest_plugin.plugin import run_of

        run = run_of(session.config)
        self.run = None if run is None or run.is_refused else run


def _is_parallel(given: Sequence[str]) -> bool:
    return any(argument.startswith(_IN_PARALLEL) for argument in given)


def _pytest_arguments(targets: Sequence[str], options: dict[str, Any], given: Sequence[str]) -> list[str]:
    """Return the same run as pytest arguments. pytest reads no configuration file of the user."""
    config = _HARNESS / "pytest_plugin" / "empty.ini"
    arguments = ["-c", str(config), "--rootdir", str(Path.cwd()), str(_HARNESS / "laws")]
    arguments += ["-p", "shiftproof.harness.pytest_plugin.plugin"]
    for unused in ("cacheprovider", "unraisableexception", "logging"):  # logging alone takes 2% of a check
        arguments += ["-p", f"no:{unused}"]
    arguments += ["--shiftproof-display", "own"]
    if options["jobs"] > 1:
        given = ["-n", str(options["jobs"]), "--dist", "loadgroup", *given]
    if _is_parallel(given):
        arguments += ["-p", "xdist.plugin"]
    arguments += [] if targets else ["--shiftproof-declared"]
    for target in targets:
        arguments += ["--shiftproof", target]
    named = {name: options[name] for name in ("spec", "config", "precision", "profile", "branches", "seed", "deadline")}
    for name, value in {**named, "json": options["json_file"]}.items():
        if value is not None:
            arguments += [f"--shiftproof-{name}", str(value)]
    several = {
        "device": "devices",
        "dtype": "dtypes",
        "python": "pythons",
        "requires": "requires",
        "allow": "allow",
        "shape": "shapes",
        "rename": "rename",
        "init": "init",
        "kwarg": "kwargs",
    }
    for name, option in several.items():
        arguments += [f"--shiftproof-{name}={value}" for value in options[option]]
    for name in ("no_gradient", "in_process"):
        if options[name]:
            arguments.append(f"--shiftproof-{name.replace('_', '-')}")
    if options["junit_file"]:
        arguments.append(f"--junitxml={options['junit_file']}")
    arguments += ["-q"] if options["quiet"] else ["-v"] * options["verbose"]
    return [*arguments, *given]
