"""The command ``shiftproof``: the group of commands, and the messages for arguments that cannot be read."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence

import rich_click as click
from click.exceptions import Exit

from ..report.encoding import print_what_it_can
from ..suggest import nearest
from .check import check
from .exit_code import CONFORMS, USAGE, exit_code_of, say
from .identify import identify
from .listing import listing
from .mutants import mutants
from .replay import replay
from .speed import speed
from .sweep import sweep

_COMPLETION = "_SHIFTPROOF_COMPLETE"  # by which shells ask click for completions


@click.group(no_args_is_help=False, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="shiftproof", message="%(prog)s %(version)s")
def shiftproof() -> None:
    """Proves that a trainer's autoregressive loss is right, and fast.

    Exit codes: 0 conforms, 1 does not, 2 usage or configuration, 3 not or not fully judged. Ended by a signal N,
    shiftproof exits with 128 + N.
    """


for _command in (check, identify, replay, speed, mutants, sweep, listing):
    shiftproof.add_command(_command)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code. A failure of the judge itself is never a verdict on a candidate."""
    return exit_code_of(lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> int:
    """Run the command as click would, but leave what it raises to :func:`exit_code_of`.

    ``shiftproof.main`` turns every interrupt into one exception and a closed pipe into exit code 1, so it only prints
    completions here.
    """
    for stream in (sys.stdout, sys.stderr):
        print_what_it_can(stream)
    arguments = list(sys.argv[1:] if argv is None else argv)
    # Shells ask without arguments. A check must not be answered by a script, because this variable was left set.
    if _COMPLETION in os.environ and not arguments:
        try:
            shiftproof.main([], prog_name="shiftproof")
        except SystemExit as stop:
            return USAGE if stop.code else CONFORMS
    try:
        with shiftproof.make_context("shiftproof", arguments) as context:
            code = shiftproof.invoke(context)
        if not isinstance(code, int):
            raise TypeError(f"the command returned {code!r}; expected an exit code")
        return code
    except Exit as stop:  # --help and --version
        return stop.exit_code
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "shiftproof"
        return say(f"{_reason(error)}; see `{command} --help`", USAGE)


def _reason(error: click.UsageError) -> str:
    """Describe in one sentence what was wrong, with the nearest correct spelling."""
    if isinstance(error, click.NoSuchOption) and error.ctx is not None:
        options = [name for parameter in error.ctx.command.params for name in parameter.opts]
        return f"there is no option {error.option_name}{nearest(error.option_name, options)}"
    if isinstance(error, click.BadParameter) and isinstance(error.param and error.param.type, click.Choice):
        choices = [str(choice) for choice in error.param.type.choices]  # type: ignore[union-attr]
        given = error.message.partition(" is not one of ")[0].strip("'")
        return f"{given!r} is not one of {', '.join(choices)}{nearest(given, choices)}"
    message = error.format_message().rstrip(".?")
    if unknown := re.match("No such command '(.*?)'", message):
        return f"there is no command {unknown[1]!r}{nearest(unknown[1], shiftproof.commands)}"
    return message[:1].lower() + message[1:]
