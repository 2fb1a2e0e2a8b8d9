"""``shiftproof list``: all profiles, laws, mutants or arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import rich_click as click

from .exit_code import CONFORMS

if TYPE_CHECKING:
    from ..laws import Law

_Table = tuple[Sequence[str], Sequence[Sequence[str]]]  # column names and rows


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
    from ..label_builders.laws import BUILDER_LAWS
    from ..laws import LAWS

    def rows(laws: Mapping[str, Law[Any, Any]]) -> list[tuple[str, ...]]:
        return [(law.id, str(law.level), law.title, law.source) for law in laws.values()]

    columns = ("law", "level", "says", "source")
    return (columns, rows(LAWS)), (columns, rows(BUILDER_LAWS))


def _mutants() -> tuple[_Table, _Table]:
    from ..label_builders.mutants import BUILDER_MUTANTS
    from ..mutants import MUTANTS
    from ..mutants.scores import SCORES
    from ..mutants.symptoms import SYMPTOMS

    losses = [(mutant.name, mutant.formula, mutant.tells, mutant.seen) for mutant in MUTANTS.values()]
    losses += [(mutant.name, mutant.formula, "any case", mutant.seen) for mutant in SCORES.values()]
    losses += [(name, symptom.formula, symptom.tells, symptom.seen) for name, symptom in SYMPTOMS.items()]
    builders = [(mutant.name, mutant.formula, mutant.tells, mutant.seen) for mutant in BUILDER_MUTANTS.values()]
    return (
        (("mutant", "computes", "detected by", "seen in"), losses),
        (("mutant", "builds", "detected by", "seen in"), builders),
    )


def _arguments() -> tuple[_Table, _Table, _Table]:
    from ..candidates.arguments import ALIASES, ARGUMENTS
    from ..candidates.trainer_arguments import TRAINER_ARGUMENTS
    from ..label_builders.arguments import BUILDER_ARGUMENTS

    losses = [(argument.name, argument.meaning) for argument in ARGUMENTS.values()]
    losses += [(alias, f"another name for {name}") for alias, name in ALIASES.items()]
    columns = ("argument", "what a candidate gets")
    return (columns, losses), (columns, [*BUILDER_ARGUMENTS.items()]), (columns, [*TRAINER_ARGUMENTS.items()])


_TABLES = {"profiles": _profiles, "laws": _laws, "mutants": _mutants, "arguments": _arguments}


@click.command("list")
@click.argument("what", type=click.Choice(tuple(_TABLES)))
def listing(what: str) -> int:
    """List all profiles, laws, mutants or arguments."""
    from ..report.console import new_console
    from ..report.listing import table_of

    console = new_console()
    losses, *others = _TABLES[what]()
    console.print(table_of(*losses))
    for of, table in zip(("label builders", "trainers"), others, strict=False):
        console.print(f"\n{of}\n", style="bold")
        console.print(table_of(*table))
    return CONFORMS
