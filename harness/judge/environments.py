"""One candidate under several interpreters: the names of the interpreters, and the differences between them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..results import CandidateResult


@dataclass(frozen=True)
class Comparison:
    """The results of one candidate under several interpreters, one result each, on the same cases."""

    results: tuple[CandidateResult, ...]

    @property
    def verdicts(self) -> tuple[str, ...]:
        return tuple(str(result.verdict) for result in self.results)

    @property
    def diagnoses(self) -> tuple[tuple[str, ...], ...]:
        return tuple(tuple(bug.mutant for bug in result.diagnosis) for result in self.results)

    @property
    def versions(self) -> Mapping[str, tuple[str | None, ...]]:
        """The versions of torch and of the candidate's own package: one per interpreter, None if it is not known."""
        names = ("torch", own_package(self.results[0].call))
        found = {name: tuple(result.environment.get(name) for result in self.results) for name in names if name}
        return {name: versions for name, versions in found.items() if any(versions)}

    @property
    def laws(self) -> Mapping[str, tuple[str | None, ...]]:
        """The laws whose verdicts differ, and these verdicts. None means that the law was not asked.

        A result without any asked law, because the candidate could not be judged, does not count as a difference.
        """
        asked = [{law.id: str(law.verdict) for law in result.laws if law.was_asked} for result in self.results]
        ids = dict.fromkeys(id for laws in asked for id in laws)
        return {
            id: tuple(laws.get(id) for laws in asked) for id in ids if len({laws.get(id) for laws in asked if laws}) > 1
        }

    @property
    def changed(self) -> tuple[str, ...]:
        """The differences, in words. Empty if an upgrade from one interpreter to the other changes nothing."""
        laws = len(self.laws)
        found = {
            "the verdict": len(set(self.verdicts)) > 1,
            "the diagnosis": len(set(self.diagnoses)) > 1,
            "1 law" if laws == 1 else f"{laws} laws": laws > 0,
        }
        return tuple(what for what, differs in found.items() if differs)

    def to_json(self) -> dict[str, Any]:
        first = self.results[0]
        return {
            "call": first.call,
            "spec": first.spec,
            "device": first.device,
            "dtypes": list(first.dtypes),
            "candidates": [result.candidate for result in self.results],
            "changed": bool(self.changed),
            "verdicts": list(self.verdicts),
            "diagnoses": [list(names) for names in self.diagnoses],
            "versions": {name: list(versions) for name, versions in self.versions.items()},
            "laws": {id: list(verdicts) for id, verdicts in self.laws.items()},
        }


def comparisons(results: Iterable[CandidateResult]) -> list[Comparison]:
    """Compare the candidates among ``results`` that were judged under more than one interpreter."""
    groups: dict[tuple[str | None, ...], list[CandidateResult]] = {}
    for result in results:
        groups.setdefault((result.call, result.spec, result.device, *result.dtypes), []).append(result)
    return [Comparison(tuple(group)) for group in groups.values() if len({each.python for each in group}) > 1]


def own_package(call: str) -> str | None:
    """The top-level package of a candidate, or None for a candidate in a file."""
    place = call.rpartition(":")[0]
    return None if place.endswith(".py") else place.partition(".")[0]


def tell_apart(call: str, environments: Mapping[str | None, Mapping[str, str]]) -> Mapping[str | None, str]:
    """Name each of several interpreters. ``environments`` holds the known versions of packages in each.

    The name is the version of the candidate's package if all these versions differ, and else the interpreter's path.
    """
    package = own_package(call)
    found = [known[package] for known in environments.values() if package in known] if package else []
    by_version = len(set(found)) == len(environments)
    names = [f"{package} {version}" for version in found] if by_version else [each or "" for each in environments]
    return dict(zip(environments, names, strict=True))
