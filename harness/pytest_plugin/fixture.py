"""What the fixture ``shiftproof`` gives to a test."""

from __future__ import annotations

from typing import Any

import pytest

from ..api.candidates import Target
from ..api.check import check
from ..api.identify import Identified, identify
from ..api.result import Result
from .plugin import the_run


class Suite:
    """``check``, ``assert_conforms`` and ``identify`` with the seed, profile and deadline of a pytest session."""

    def __init__(self, config: pytest.Config) -> None:
        plan = the_run(config).plan
        self._of_session = {
            "seed": plan.seed,
            "profile": plan.profile.name,
            "deadline": plan.options.deadline,
            "in_process": plan.options.in_process,
            "all_branches": plan.all_branches,
        }

    def check(self, target: Target, **options: Any) -> Result:
        """As ``shiftproof.check``."""
        return check(target, **{**self._of_session, **options})

    def assert_conforms(self, target: Target, **options: Any) -> None:
        """As ``shiftproof.assert_conforms``."""
        __tracebackhide__ = True
        self.check(target, **options).raise_for_failure()

    def identify(self, target: Target, **options: Any) -> Identified:
        """As ``shiftproof.identify``."""
        shared = {name: self._of_session[name] for name in ("deadline", "in_process")}
        return identify(target, **{**shared, **options})
