"""``shiftproof speed``: time candidates against another loss, and decide whether they are fast enough."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import rich_click as click

from .exit_code import CONFORMS, FAILS, UNJUDGED
from .options import JSON_HELP, SPEC, candidates_from, check_folders, on_candidates


@click.command()
@click.argument("targets", nargs=-1, required=True, metavar="TARGET...")
@on_candidates
@SPEC
@click.option(
    "--against", default="yardstick", metavar="RIVAL", show_default=True, help="yardstick, eager, or another TARGET."
)
@click.option(
    "--shape",
    "shapes",
    multiple=True,
    metavar="SHAPE",
    help="B,S,V or B,S,K,V, or a name such as text or audio; repeatable.",
)
@click.option(
    "--pass",
    "part",
    default="both",
    type=click.Choice(["forward", "backward", "both"]),
    help="Which pass the gate judges.",
)
@click.option("--max-slowdown", type=float, metavar="RATIO", help="Fail a candidate that is slower than this.")
@click.option(
    "--max-memory", type=float, metavar="RATIO", help="Fail a candidate whose peak memory is higher than this."
)
@click.option(
    "--threads", type=int, default=1, metavar="N", show_default=True, help="The number of torch threads on the CPU."
)
@click.option("--times-only", is_flag=True, help="Leave out memory, bandwidth and the growth of time.")
@click.option(
    "--deadline", type=float, default=20.0, metavar="SECONDS", show_default=True, help="The time limit for one shape."
)
@click.option("--json", "json_file", metavar="FILE", help=JSON_HELP)
def speed(
    targets: Sequence[str],
    config: str | None,
    against: str,
    shapes: Sequence[str],
    part: str,
    max_slowdown: float | None,
    max_memory: float | None,
    threads: int,
    times_only: bool,
    deadline: float,
    json_file: str | None,
    **chosen: Any,
) -> int:
    """Time candidates against the yardstick, and decide on them. A TARGET is as for `check`."""
    from ..report.console import new_console
    from ..report.json_report import STDOUT, write_json
    from ..report.speed import as_json, render
    from ..speed.plan import plan
    from ..speed.result import Grade, overall
    from ..speed.run import try_speed

    candidates = candidates_from(targets, command="speed", config=config, **chosen)
    check_folders(json=json_file)
    plans = plan(
        candidates,
        against=against,
        config=config,
        shapes=shapes,
        threads=threads,
        part=part,
        max_slowdown=max_slowdown,
        max_memory=max_memory,
        deadline=deadline,
        times_only=times_only,
    )
    console = new_console(stderr=json_file == STDOUT)
    trials = []
    for each in plans:
        with console.status(str(each)) as status:
            trials.append(
                try_speed(
                    each.candidate,
                    each.rival,
                    each.terms,
                    each.options,
                    tell=lambda stage, each=each: status.update(f"{each}: {stage}"),  # type: ignore[misc]
                )
            )
        console.print(render(trials[-1]))
    if json_file:
        write_json(as_json(trials), json_file)
    return {Grade.PASSES: CONFORMS, Grade.FAILS: FAILS}.get(overall(trials), UNJUDGED)
