"""The options that several commands share, and the candidates that they stand for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from pathlib import Path
from typing import Any, TypeVar

import rich_click as click

from ..candidates.declaration import Candidate, UsageError
from ..report.json_report import STDOUT

F = TypeVar("F", bound=Callable[..., Any])

DEADLINE = click.option(
    "--deadline", type=float, default=10.0, metavar="SECONDS", show_default=True, help="The time limit for one call."
)
IN_PROCESS = click.option("--in-process", is_flag=True, help="Run candidates in this process, for a debugger.")
JSON_HELP = "Write the report as JSON; - is standard output, and what people read goes to standard error."
SPEC = click.option(
    "--spec", metavar="PROFILE", help="What the loss or label builder promises; see `shiftproof list profiles`."
)

_ON_CANDIDATES = (
    click.option("--config", metavar="TOML", help="The file that declares candidates (default: ./pyproject.toml)."),
    click.option("--device", "devices", multiple=True, metavar="DEVICE", help="cpu, cuda or cuda:N; repeatable."),
    click.option(
        "--dtype",
        "dtypes",
        multiple=True,
        metavar="DTYPE",
        help="float32, bfloat16 or float16; repeatable. By default, check judges a loss that computes in fp32 in "
        "float32 and bfloat16 at once, and all else in float32.",
    ),
    click.option("--precision", metavar="CLASS", help="strict (accumulates in fp32) or native."),
    click.option(
        "--rename", multiple=True, metavar="OURS=ITS", help="Our argument has another name in it; repeatable."
    ),
    click.option(
        "--init",
        multiple=True,
        metavar="NAME=VALUE",
        help="An argument of its class, or of the factory that makes it ('' for a factory without); repeatable.",
    ),
    click.option(
        "--kwarg", "kwargs", multiple=True, metavar="NAME=VALUE", help="An argument of every call; repeatable."
    ),
    click.option("--no-gradient", is_flag=True, help="Judge only the value."),
    click.option(
        "--python",
        "pythons",
        multiple=True,
        metavar="EXE",
        help="Run candidates under this interpreter; `check` compares several.",
    ),
)


def on_candidates(command: F) -> F:
    """Add the options that choose candidates and how they are called."""
    return reduce(lambda wrapped, option: option(wrapped), reversed(_ON_CANDIDATES), command)


def candidates_from(
    targets: Sequence[str],
    *,
    command: str,
    config: str | None,
    devices: Sequence[str],
    dtypes: Sequence[str],
    precision: str | None,
    no_gradient: bool,
    pythons: Sequence[str],
    spec: str | None = None,
    requires: Sequence[str] = (),
    allow: Sequence[str] = (),
    shapes: Sequence[str] = (),
    rename: Sequence[str] = (),
    init: Sequence[str] = (),
    kwargs: Sequence[str] = (),
) -> list[Candidate]:
    """Return the candidates that the options name. Without targets, return all declared candidates.

    Raises:
        UsageError: if the options do not describe a candidate.
    """
    from ..judge.plan import candidates_of

    if len(pythons) > 1 and command != "check":
        raise UsageError(f"{command} runs under one --python; give one, or compare several with `shiftproof check`")
    return candidates_of(
        targets,
        all_declared=not targets,
        config=config,
        spec=spec,
        devices=devices,
        dtypes=dtypes,
        precision=precision,
        no_gradient=no_gradient,
        pythons=pythons,
        requires=requires,
        allow=allow,
        shapes=shapes,
        rename=rename,
        init=init,
        kwargs=kwargs,
    )


def check_folders(**files: str | None) -> None:
    """Refuse an output file whose folder does not exist, before hours of work.

    Raises:
        UsageError: names the option.
    """
    for option, file in files.items():
        if file and file != STDOUT and not Path(file).resolve().parent.is_dir():
            raise UsageError(f"--{option} {file}: its folder does not exist; create it first")
