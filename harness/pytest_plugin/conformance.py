"""``shiftproof.conformance``: a test of each law, in a test file of one's own. Loads no torch by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import Unpack

    from ..api.candidates import AnySpec, Chosen


@dataclass(frozen=True, eq=False)
class Conformance:
    """What :func:`conformance` returns. pytest collects it as a test of each law.

    Attributes:
        target: the loss, or its name.
        spec: what it promises.
        xfail: law -> the reason why it may fail.
        options: as for ``shiftproof.check``.
    """

    target: Any
    spec: Any
    xfail: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)


def conformance(
    target: str | Callable[..., Any],
    *,
    spec: AnySpec | None = None,
    xfail: Mapping[str, str] | None = None,
    **options: Unpack[Chosen],
) -> Conformance:
    """Make a test of each law. Assign it to a name that pytest collects, in a test file or in a test class.

    >>> test_text_loss = shiftproof.conformance(text_loss, spec="hf.causal_lm")

    The tests are ``test_x.py::test_text_loss::ALIGN-1`` and so on. The run decides on the number of cases
    (``--shiftproof-profile``) and on the seed (``--shiftproof-seed``, or else ``--hypothesis-seed``).

    Args:
        target: as for ``shiftproof.check``.
        spec: the name of a profile. A declared candidate has its own.
        xfail: law -> the reason why it is expected to fail, such as ``{"GRAD-5": "its backward runs once"}``.
        **options: ``dtypes``, ``devices``, ``rename``, ``init``, ``allow``, …, as for ``shiftproof.check``.
    """
    if xfail is not None and not isinstance(xfail, Mapping):
        raise TypeError(f'xfail is {xfail!r}; expected a dict from a law to its reason, as in {{"GRAD-5": "why"}}')
    return Conformance(target, spec, dict(xfail or {}), options)
