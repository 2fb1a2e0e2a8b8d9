"""``shiftproof replay``: ask a stored case again."""

from __future__ import annotations

import rich_click as click

from .exit_code import CONFORMS, FAILS, UNJUDGED
from .options import DEADLINE, IN_PROCESS


@click.command()
@click.argument("id")
@IN_PROCESS
@DEADLINE
def replay(id: str, in_process: bool, deadline: float) -> int:
    """Ask a stored case again: FIXED, FAILS or ERROR. The ID is printed under a counterexample."""
    from ..judge.loading import Options
    from ..judge.replay import replay as ask_again
    from ..judge.store import load

    stored = load(id)
    print(f"{stored.candidate.name} against {stored.spec}, {stored.law}: {stored.recipe.canonical()}")
    found = ask_again(stored, Options(in_process, deadline))
    print(f"{found.outcome}: {found.message}")
    return {"FIXED": CONFORMS, "FAILS": FAILS, "ERROR": UNJUDGED}[found.outcome]
