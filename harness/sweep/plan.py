"""The plan of a sweep: which classes the library has under the chosen interpreter, and which of them are selected."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from ..candidates.declaration import UsageError
from ..isolation.client import Worker
from ..isolation.settings import WorkerSettings
from ..worker.exchange import Outcome
from ..worker.target import LoadFailure

_SOMETHING = "torch.nn.functional:cross_entropy"
"""A worker loads a candidate before it answers any other question. This candidate always exists."""

_NAMED = 3
_DEADLINE = 600.0  # seconds


@dataclass(frozen=True)
class Library:
    """An installed model library: its language models as targets, and versions, with its own and torch's."""

    package: str
    targets: tuple[str, ...]
    versions: Mapping[str, str]


def library(package: str, python: str | None) -> Library:
    """List the library ``package`` under an interpreter (None: this one), by asking that interpreter.

    It has its own deadline: the time limit of one class may be short, and listing imports all of them.

    Raises:
        UsageError: if the interpreter does not work or does not have torch or the package, or if the package has no
            language models.
    """
    try:
        with Worker(_SOMETHING, WorkerSettings(python, call_deadline=_DEADLINE)) as worker:
            answer = worker.ask("models", {"package": package})
    except LoadFailure as failure:
        raise UsageError(str(failure)) from None
    if isinstance(answer, Outcome):
        raise UsageError(f"the models of {package} could not be listed: the process {answer.describe()}")
    verb, body = answer
    if verb == "failed" and body.get("reason") == "no such module":
        raise UsageError(f"{body.get('message')}; install it for {python or 'this interpreter'}, or name another")
    if verb != "models":
        message = body.get("message", f"it answered {verb!r}")
        raise UsageError(f"the models of {package} could not be listed: the process failed: {message}")
    if not body["targets"]:
        raise UsageError(f"{package} has no class with a language-model loss; name another, such as transformers")
    return Library(package, tuple(body["targets"]), body["versions"])


def matching(targets: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """Return the targets whose class matches any of the globs, or all targets if there is no glob.

    Raises:
        UsageError: for a pattern that matches nothing; the message has the nearest names.
    """
    names = [target.rpartition(":")[2] for target in targets]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UsageError(f"no class matches {pattern!r}{_near(pattern, names)}; --list shows all {len(names)}")
    return [
        target
        for target, name in zip(targets, names, strict=True)
        if not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)
    ]


def _near(pattern: str, names: Sequence[str]) -> str:
    """Return the nearest names: those that contain the pattern's letters, or else those with similar spelling."""
    letters = pattern.strip("*?").lower()
    by_lower = {name.lower(): name for name in names}
    near = [lower for lower in by_lower if letters and letters in lower]
    near = near or difflib.get_close_matches(letters, by_lower, n=_NAMED, cutoff=0.5)
    return f" (near it: {', '.join(by_lower[lower] for lower in near[:_NAMED])})" if near else ""
