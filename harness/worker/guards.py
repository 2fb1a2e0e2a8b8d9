"""Which questions does a candidate's code ask of the sizes of its arguments? Runs in a process of the candidate.

torch's symbolic shapes answer it. The candidate is called once, forward and backward, on fake tensors whose sizes are
symbols. Each question that it asks of a size, or that torch asks on its behalf, becomes a *guard*: a condition, the
line that asked, and the smallest sizes for which the answer is another.

Tensors get a symbol for each size that differs from the others (``duck shaping``), so that logits and labels share the
symbols of their rows and positions. A symbol has the name of the size that has its value in this call: "rows", or
"rows*length" for flattened rows.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any

import torch

from .arguments import bind, prepare
from .branches import FOREIGN, eager
from .call import loss_in
from .exchange import Call
from .load import Loaded
from .tracebacks import exception_message, exception_name

_HERE = os.path.dirname(os.path.abspath(__file__)) + os.sep
_TORCH = os.path.dirname(os.path.abspath(torch.__file__)) + os.sep
_SYMBOLS = os.path.join(_TORCH, "__init__.py")
"""Where Python's own operators on symbols are: what the candidate asks itself, it asks through them."""

_STANDARD = os.path.dirname(os.path.abspath(os.__file__)) + os.sep
_SMALL = (1, 2, 3, 4, 5, 6, 7, 8, 16, 32)  # sizes that are tried besides the constants of a condition
_LARGEST = 300_000  # the largest size that is tried
_MOST_TRIED = 60_000  # combinations of sizes for one guard
_FEW = 4  # a size that a condition does not ask for is no larger than this, if it may be
_SEED = 0

HIDDEN_SIZE = "hidden_size"
"""The name of H, the one size that logits do not have."""


@dataclass(frozen=True, slots=True)
class Guard:
    """One question about sizes, with the answer that the call had.

    Attributes:
        condition: what was true of the sizes, in their names, as in "length <= 67".
        file, line: the line of the candidate that asked, or that called what asked.
        is_own: whether the candidate's own code asked, and not torch on its behalf.
        otherwise: the smallest sizes for which it is false, or None if none were found.
        elements: how many elements such a call has, at least, as :func:`elements_of` counts them. 0 if unknown.
    """

    condition: str
    file: str
    line: int
    is_own: bool
    otherwise: Mapping[str, int] | None
    elements: int = 0


@dataclass(frozen=True, slots=True)
class Traced:
    """The guards of one call, and why its trace ended early, or ""."""

    guards: tuple[Guard, ...]
    stopped: str


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes of a call by name, as :func:`trace` gets them."""

    now: Mapping[str, int]
    least: Mapping[str, int]
    most: int


def trace(loaded: Loaded, call: Call, now: Mapping[str, int], least: Mapping[str, int], most: int) -> Traced:
    """Call a candidate once on fake tensors, forward and backward.

    ``now`` names the sizes of this call, ``least`` is the least that each may be, and a case has at most ``most``
    elements, as :func:`elements_of` counts them.
    """
    sizes = Sizes(now, least, most)
    from torch._dynamo.source import ConstantSource
    from torch._functorch import config
    from torch._guards import SLoc
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

    logging.getLogger("torch.fx.experimental.symbolic_shapes").setLevel(logging.ERROR)
    env = ShapeEnv()
    env._get_sloc = lambda *_, **__: SLoc(None, _asking())  # type: ignore[method-assign]
    stopped = ""
    with config.patch(fake_tensor_propagate_real_tensors=True):
        mode = FakeTensorMode(shape_env=env, allow_non_fake_inputs=True)
        arguments = prepare(call.tensors, {}, (), torch.device("cpu"))

        def faked(name: str, tensor: torch.Tensor) -> torch.Tensor:
            dynamic: Any = StatelessSymbolicContext(dynamic_sizes=[DimDynamic.DUCK] * tensor.dim())
            leaf = tensor.detach().requires_grad_(name in call.gradients)
            return mode.from_tensor(leaf, source=ConstantSource(name), symbolic_context=dynamic)

        handed = {name: faked(name, tensor) for name, tensor in arguments.handed.items()}
        positional, keywords = bind(loaded.description.parameters, {**call.scalars, **handed}, loaded.defaults)
        torch.manual_seed(_SEED)
        try:
            with mode:
                value, _ = loss_in(eager(loaded.function)(*positional, **keywords))
                if value.requires_grad:
                    value.sum().backward()
        except Exception as error:
            stopped = f"{exception_name(error)}: {exception_message(error)}"
    return Traced(tuple(_guards(env, sizes)), stopped)


def _guards(env: Any, sizes: Sizes) -> Iterator[Guard]:
    """The guards of a call, each once, in the order in which they were asked."""
    names = _names(env, sizes.now)
    before: dict[tuple[str, str], CodeType] = {}
    for guard in env.guards:
        condition = _text(guard.expr, names)
        if condition is None:
            continue
        where = guard.sloc.maybe_user_loc or ""
        if (where, condition) in before:
            continue
        code = compile(condition, "<guard>", "eval")
        asker, _, rest = where.partition("|")
        is_own = asker == "own"
        # What torch asks for itself, it asks at other sizes too.
        otherwise, elements = _otherwise(code, [*before.values()] if is_own else [], sizes, _constants(guard.expr))
        before[where, condition] = code
        file, _, line = rest.rpartition(":")
        yield Guard(_readable(condition), file, int(line or 0), is_own, otherwise, elements)


def _names(env: Any, sizes: Mapping[str, int]) -> dict[Any, str]:
    """Symbol -> the name of the size that has its value, or an expression of names."""
    by_value: dict[int, str] = {}
    for name, value in sizes.items():
        by_value.setdefault(value, name)
    for one, other in itertools.combinations(sizes, 2):
        by_value.setdefault(sizes[one] * sizes[other], f"{one}*{other}")
    for name, value in sizes.items():
        for more in (-1, 1):
            by_value.setdefault(value + more, f"({name}{more:+d})")
    if len(sizes) > 2:
        for three in itertools.combinations(sizes, 3):
            by_value.setdefault(math.prod(sizes[name] for name in three), "*".join(three))
    if "rows" in sizes and "length" in sizes:
        by_value.setdefault(sizes["rows"] * (sizes["length"] - 1), "rows*(length-1)")
    hints = {symbol: int(value) for symbol, value in _hints(env).items()}
    return {symbol: by_value[value] for symbol, value in hints.items() if value in by_value}


def _hints(env: Any) -> Mapping[Any, Any]:
    """Symbol -> its value in this call. The attribute was renamed after torch 2.9."""
    values: Mapping[Any, Any] = getattr(env, "backed_var_to_val", None) or env.var_to_val
    return values


def _text(expression: Any, names: Mapping[Any, str]) -> str | None:
    """A condition as a Python expression of names, or None if it has a symbol without a name."""
    if not expression.free_symbols or not expression.free_symbols <= names.keys():
        return None
    from torch.utils._sympy.printers import PythonPrinter

    text = PythonPrinter().doprint(expression)
    for symbol, name in names.items():
        text = re.sub(rf"\b{re.escape(str(symbol))}\b", name if name.isidentifier() else f"({name})", text)
    return " ".join(text.split())


def _readable(condition: str) -> str:
    """A condition without the parentheses and the order that torch's printer gives it."""
    text = re.sub(r"\(\(-(\d+)\) \+ ([\w*]+)\)", r"(\2 - \1)", condition)
    text = re.sub(r"^\(-(\d+)\) \+ ([\w*]+)", r"\2 - \1", text)
    return re.sub(r"^\(([^()]*)\)(?= [<>=!])", r"\1", text)


def _constants(expression: Any) -> set[int]:
    """The whole numbers of a condition, and the numerators of its fractions."""
    return {abs(int(atom.p)) for atom in expression.atoms() if atom.is_Rational} - {0}


def _asking() -> str:
    """The innermost frame that is neither torch's nor ours, as "own|file:line", or "torch|file:line" if torch asked."""
    frame: FrameType | None = sys._getframe(2)
    asked = ""  # the file of the frame that the current one called
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(_HERE):
            break
        if not file.startswith((_TORCH, "<")) and not _is_standard(file):
            return f"{'own' if asked == _SYMBOLS else 'torch'}|{file}:{frame.f_lineno}"
        asked, frame = file, frame.f_back
    return "torch|:0"


def _is_standard(file: str) -> bool:
    return file.startswith(_STANDARD) and not any(part in file for part in FOREIGN)


def _otherwise(
    condition: CodeType, before: Sequence[CodeType], sizes: Sizes, constants: Iterable[int]
) -> tuple[dict[str, int] | None, int]:
    """The smallest sizes for which a condition is false, with the number of elements that they need.

    The code asks this question only where the answers to those ``before`` it are what they were. Sizes for which they
    are come first.
    """
    free = condition.co_names
    near = sorted({*_SMALL, *_near(constants)})
    tried = {
        name: sorted(
            {size for size in (*near, now) if size >= sizes.least[name]}
            if name in free
            else {now, max(sizes.least[name], min(now, _FEW))}
        )
        for name, now in sizes.now.items()
    }
    for kept in (before, ()):
        best: tuple[tuple[int, int], dict[str, int]] | None = None
        for values in itertools.islice(itertools.product(*tried.values()), _MOST_TRIED):
            changed = dict(zip(tried, values, strict=True))
            needed = elements_of(changed), sum(values)
            if best is not None and needed >= best[0]:
                continue
            if _is(condition, changed) is False and all(_is(each, changed) is not False for each in kept):
                best = needed, changed
        if best is not None:
            (elements, _), smallest = best
            return (smallest if elements <= sizes.most else None), elements
    return None, 0


def elements_of(sizes: Mapping[str, int]) -> int:
    """The elements of the logits of a call. Of its weight, if that is larger, a sixteenth."""
    of_logits = math.prod(size for name, size in sizes.items() if name != HIDDEN_SIZE)
    return max(of_logits, sizes.get(HIDDEN_SIZE, 0) * sizes.get("classes", 1) // 16)


def _is(condition: CodeType, sizes: Mapping[str, int]) -> bool | None:
    """Whether a condition holds for some sizes, or None if it cannot be computed there."""
    try:
        return bool(
            eval(condition, {"__builtins__": {}, "math": math, "min": min, "max": max, "abs": abs}, dict(sizes))
        )
    except Exception:
        return None


def _near(constants: Iterable[int]) -> Iterator[int]:
    """Sizes at which a condition with these constants may change."""
    for constant in constants:
        parts = (constant - 1, constant, constant + 1, 2 * constant, 2 * constant + 1, 3 * constant)
        quotients = (constant // part + more for part in (2, 3, 4, 5, 7, 8, 16, 64) for more in (0, 1))
        roots = (int(constant ** (1 / 2)) + 1, int(constant ** (1 / 3)) + 1)
        yield from (size for size in (*parts, *quotients, *roots) if 1 <= size <= _LARGEST)


def encode_traced(traced: Traced) -> dict[str, Any]:
    """The body of the message "traced"."""
    return {
        "stopped": traced.stopped,
        "guards": [
            {
                "condition": guard.condition,
                "file": guard.file,
                "line": guard.line,
                "is_own": guard.is_own,
                "otherwise": None if guard.otherwise is None else dict(guard.otherwise),
                "elements": guard.elements,
            }
            for guard in traced.guards
        ],
    }


def decode_traced(body: Mapping[str, Any]) -> Traced:
    """Invert :func:`encode_traced`. Raises KeyError, TypeError or ValueError if the body is not of that form."""
    return Traced(
        tuple(
            Guard(
                str(each["condition"]),
                str(each["file"]),
                int(each["line"]),
                bool(each["is_own"]),
                None
                if each["otherwise"] is None
                else {str(name): int(size) for name, size in each["otherwise"].items()},
                int(each["elements"]),
            )
            for each in body["guards"]
        ),
        str(body["stopped"]),
    )
