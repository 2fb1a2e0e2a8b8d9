"""``shiftproof.check`` and ``shiftproof.assert_conforms``."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any, Unpack

from ..candidates.declaration import UsageError
from ..judge.plan import plan
from ..report.events import RunFinished
from ..run.alone import run
from .candidates import AnySpec, Chosen, Target, candidate_for
from .result import Result


def check(
    target: Target,
    *,
    spec: AnySpec | None = None,
    profile: str = "quick",
    seed: int | None = None,
    deadline: float = 10.0,
    all_branches: bool = False,
    in_process: bool = False,
    **chosen: Unpack[Chosen],
) -> Result:
    """Judge a loss, a model, a trainer or a label builder against a spec.

    It runs in a process of its own, so that a crash or a hang is a verdict. A Python object travels there by value:
    closures, lambdas and notebook functions too. What cannot be pickled runs in this process, and the result says so.

    >>> result = shiftproof.check(my_loss, spec="hf.causal_lm")
    >>> result.verdict, [bug.mutant for bug in result.diagnosis]
    >>> result.counterexample.batch().logits.shape

    Args:
        target: a callable of any kind, ``"package.module:attribute"``, ``"path/file.py:attribute"``, or the name of a
            candidate that pyproject.toml declares.
        spec: the name of a profile (``shiftproof list profiles``). A declared candidate has its own.
        profile: how many cases: ``brief``, ``quick``, ``ci`` or ``deep``.
        seed: draws the same cases again. None draws a seed.
        deadline: seconds for one call.
        all_branches: whether a branch of its code that never ran leaves the verdict open.
        in_process: run it in this process, for a debugger.
        **chosen: how it is called, and where: the fields of :class:`.Chosen`, such as ``dtypes=["float16"]``,
            ``devices=["cuda"]``, ``rename={"logits": "text_logits"}``, ``init={"smoothing": 0.1}``.

    Raises:
        UsageError: the target, the spec or an option cannot be used. The message says what to do.
    """
    candidate = candidate_for(target, spec, chosen, in_process=in_process)
    if candidate.spec is None:
        raise UsageError(f"{candidate.name} has no spec; give spec=…, or find one with shiftproof.identify")
    planned = plan(
        [candidate],
        profile=profile,
        seed=seed,
        deadline=deadline,
        all_branches=all_branches,
        in_process=in_process,
    )
    found = run(planned)
    return Result(RunFinished(version("shiftproof"), planned.seed, profile, found.seconds, found.results))


def assert_conforms(target: Target, **options: Any) -> None:
    """Raise if a target does not conform. Takes the arguments of :func:`check`.

    Raises:
        DoesNotConform: an AssertionError whose text is the report, for any verdict but CONFORMS.
        UsageError: as :func:`check`.
    """
    __tracebackhide__ = True
    check(target, **options).raise_for_failure()
