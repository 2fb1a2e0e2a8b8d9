"""``shiftproof mutants``: the kill table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import rich_click as click

from ..candidates.declaration import UsageError
from ..suggest import nearest
from .exit_code import CONFORMS, FAILS
from .options import JSON_HELP, check_folders


@click.command()
@click.option(
    "--spec",
    "specs",
    multiple=True,
    metavar="PROFILE",
    help="The profile to try; repeatable (default: all profiles of losses).",
)
@click.option("--seeds", type=int, default=20, metavar="N", show_default=True, help="The number of seeds.")
@click.option("--profile", default="quick", help="The number of cases: brief, quick, ci or deep.")
@click.option(
    "--doors",
    type=int,
    metavar="N",
    help="Instead, judge N drawn mutants that are wrong at some sizes only, each as the file of a user.",
)
@click.option("--seed", type=int, default=0, metavar="N", show_default=True, help="What --doors draws from.")
@click.option("--drawn-only", is_flag=True, help="Leave out the hand-made cases.")
@click.option("--processes", type=int, metavar="N", help="How many processes at once (default: one per core).")
@click.option("--json", "json_file", metavar="FILE", help=JSON_HELP)
@click.option("--markdown", "markdown_file", metavar="FILE", help="Write the table as Markdown.")
def mutants(
    specs: Sequence[str],
    seeds: int,
    profile: str,
    doors: int | None,
    seed: int,
    drawn_only: bool,
    processes: int | None,
    json_file: str | None,
    markdown_file: str | None,
) -> int:
    """Try every known-wrong loss: which laws kill it, and how soon."""
    from rich.progress import Progress

    from shiftproof.reference.profiles import PROFILES

    from ..judge.profile import PROFILES as EFFORTS
    from ..kill_table.run import kill_table
    from ..kill_table.table import MutantOutcome
    from ..report.console import new_console
    from ..report.json_report import STDOUT
    from ..report.kill_table import markdown, render

    for what, given, known in (("spec", specs, PROFILES), ("profile", [profile], EFFORTS)):
        for name in given:
            if name not in known:
                near = nearest(name, known)
                raise UsageError(f"no {what} of losses has the name {name!r}{near}; choose one of {', '.join(known)}")
    if seeds < 1 or (processes or 1) < 1 or (doors is not None and doors < 1):
        raise UsageError("--seeds, --doors and --processes must be 1 or more")
    if doors is not None and (specs or drawn_only):
        raise UsageError("--doors draws profiles and mutants itself; drop --spec and --drawn-only")
    check_folders(json=json_file, markdown=markdown_file)
    if doors is not None:
        return _behind_doors(doors, seed, processes, json_file, markdown_file)
    console = new_console(stderr=json_file == STDOUT)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("mutants", total=None)
        table = kill_table(
            specs or [*PROFILES],
            seeds=seeds,
            profile=profile,
            processes=processes,
            drawn_only=drawn_only,
            tick=lambda done, of: progress.update(task, completed=done, total=of),
        )
    _write(table.to_json(), json_file, markdown(table), markdown_file)
    console.print(render(table))
    return FAILS if table.of(MutantOutcome.SURVIVED) else CONFORMS


def _behind_doors(
    number: int, seed: int, processes: int | None, json_file: str | None, markdown_file: str | None
) -> int:
    from rich.progress import Progress

    from ..kill_table.door_table import DoorOutcome
    from ..kill_table.doors import try_doors
    from ..report.console import new_console
    from ..report.doors import markdown, render
    from ..report.json_report import STDOUT

    console = new_console(stderr=json_file == STDOUT)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("doors", total=number)
        table = try_doors(number, seed, processes, lambda done, of: progress.update(task, completed=done))
    _write(table.to_json(), json_file, markdown(table), markdown_file)
    console.print(render(table))
    return FAILS if table.of(DoorOutcome.SURVIVED) else CONFORMS


def _write(table: Mapping[str, Any], json_file: str | None, text: str, markdown_file: str | None) -> None:
    from ..report.json_report import write_json

    if json_file:
        write_json(table, json_file)
    if markdown_file:
        Path(markdown_file).write_text(text, encoding="utf-8")
