"""A test file's ``shiftproof.conformance(…)`` as a node of pytest, with an item for each law."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from ..api.candidates import candidate_for
from ..candidates.declaration import Candidate, UsageError
from ..judge.laws_of import laws_of
from ..judge.loading import jobs_of
from ..judge.plan import check_declaration
from ..suggest import nearest
from .conformance import Conformance
from .items import LawItem
from .plugin import the_run

_OF_THE_RUN = {"profile", "seed", "deadline", "in_process"}


class ConformanceNode(pytest.Collector):
    """The tests of one loss: ``test_x.py::test_loss``."""

    def __init__(self, *, declared: Conformance, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.declared = declared

    def collect(self) -> Iterator[LawItem]:
        """Make an item of each law, once for each device and dtype that is declared.

        Raises:
            CollectError: the candidate cannot be judged as declared.
        """
        run = the_run(self.config)
        try:
            candidate = self._candidate(run.plan.options.in_process)
            jobs = jobs_of([candidate])
        except UsageError as error:
            raise self.CollectError(f"{self.name}: {error}") from None
        line = self._line()
        for job in jobs:
            laws = laws_of(job.spec)
            part = job.name.removeprefix(candidate.name)  # which device or dtype, in brackets, if there are several
            items = [
                LawItem.from_parent(self, name=law.id + part, run=run, job=job, law=law, file=self.path, line=line)
                for law in laws.values()
            ]
            for item in items:
                if item.law.id in self.declared.xfail:
                    item.add_marker(pytest.mark.xfail(reason=self.declared.xfail[item.law.id], strict=True))
            run.add(job, {item.law.id: item.key for item in items})
            yield from items

    def _candidate(self, in_process: bool) -> Candidate:
        declared = self.declared
        for name in _OF_THE_RUN & declared.options.keys():
            option = f"--shiftproof-{name.replace('_', '-')}"
            raise UsageError(f"{name} is the same for all tests of a run; give it to pytest, as {option}")
        found = candidate_for(declared.target, declared.spec, declared.options, in_process=in_process)  # type: ignore[arg-type]
        if found.spec is None:
            raise UsageError(f"{found.name} has no spec; give spec=…, or find one with shiftproof.identify")
        check_declaration(found)
        named = replace(found, name=self.nodeid)
        laws = laws_of(jobs_of([named])[0].spec)
        for law, reason in declared.xfail.items():
            if law not in laws:
                raise UsageError(
                    f"xfail has {law!r}, which is not a law{nearest(law, laws)}; see `shiftproof list laws`"
                )
            if not reason:
                raise UsageError(f'xfail of {law} has no reason; give one, as in xfail={{{law!r}: "why"}}')
        return named

    def _line(self) -> int:
        """The line on which it is assigned, from 0."""
        with suppress(OSError, UnicodeDecodeError):
            for number, text in enumerate(self.path.read_text(encoding="utf-8").splitlines()):
                if re.match(rf"\s*{re.escape(self.name)}\s*[=:]", text):
                    return number
        return 0
