"""``shiftproof sweep``: judge every language model of an installed library."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import rich_click as click

from .exit_code import CONFORMS, FAILS, UNJUDGED
from .options import check_folders


@click.command()
@click.argument("package")
@click.argument("patterns", nargs=-1, metavar="[PATTERN]...")
@click.option("--python", metavar="EXE", help="The interpreter that has the library.")
@click.option("--processes", type=int, metavar="N", help="How many processes at once (default: one per core).")
@click.option(
    "--engine", default="local", show_default=True, help="local, or ray for a cluster (pip install 'shiftproof[ray]')."
)
@click.option("--ray-address", metavar="ADDRESS", help="The address of the cluster to join, or auto.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N.")
@click.option("--dtype", default="float32", show_default=True, help="float32, bfloat16 or float16.")
@click.option("--profile", default="brief", show_default=True, help="The number of cases: brief, quick, ci or deep.")
@click.option("--seed", type=int, default=0, metavar="N", show_default=True, help="The seed that cases are drawn from.")
@click.option(
    "--deadline", type=float, default=600.0, metavar="SECONDS", show_default=True, help="The time limit for one class."
)
@click.option(
    "--out", "out_file", metavar="FILE", help="Write rows here as JSON lines; a later sweep continues from this file."
)
@click.option("--fresh", is_flag=True, help="Judge the classes in the file again.")
@click.option("--html", "html_file", metavar="FILE", help="Write the table as one HTML page.")
@click.option("--list", "only_list", is_flag=True, help="List the classes, and judge none.")
def sweep(
    package: str,
    patterns: Sequence[str],
    python: str | None,
    processes: int | None,
    engine: str,
    ray_address: str | None,
    device: str,
    dtype: str,
    profile: str,
    seed: int,
    deadline: float,
    out_file: str | None,
    fresh: bool,
    html_file: str | None,
    only_list: bool,
) -> int:
    """Judge every language model of an installed library, such as transformers.

    A PATTERN is a glob on class names, such as 'Git*'; without one, all classes are judged.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from ..report.console import new_console
    from ..report.sweep import html, render
    from ..sweep.command import Request, plan
    from ..sweep.command import sweep as sweep_library
    from ..sweep.executor import NotStarted
    from ..sweep.settings import Settings

    settings = Settings(python, seed, profile, deadline, device, dtype)
    check_folders(out=out_file, html=html_file)
    planned = plan(
        Request(
            package,
            tuple(patterns),
            settings,
            processes,
            engine,
            ray_address,
            Path(out_file) if out_file else None,
            fresh,
        )
    )
    if only_list:
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
            swept = sweep_library(planned, tick)
        except NotStarted as error:
            print(f"shiftproof: {error}", file=sys.stderr)
            return UNJUDGED
    console.print(render(swept.header, swept.rows, swept.footer))
    if html_file:
        Path(html_file).write_text(html(swept.header, swept.rows, swept.footer), encoding="utf-8")
    if swept.interrupt is not None:
        left = len(planned.targets) - len(swept.rows)
        print(f"shiftproof: {left} classes are left; run the same command to continue", file=sys.stderr)
        raise swept.interrupt
    if any(row.is_alarm for row in swept.rows):
        return FAILS
    settled = len(swept.rows) == len(planned.targets) and all(row.is_settled for row in swept.rows)
    return CONFORMS if settled and any(row.is_verdict for row in swept.rows) else UNJUDGED
