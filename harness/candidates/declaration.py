"""Candidates by name: on the command line, in a TOML file, or as entry points of installed packages."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..suggest import nearest
from ..worker.target import Target
from .allowance import Allowance, read_allowances
from .requires import Requires, read_requires
from .shapes import read_shapes
from .values import check_values

if TYPE_CHECKING:
    from .given import Given

DTYPES = ("float32", "bfloat16", "float16")
DTYPES_TOGETHER = ("float32", "bfloat16")
PRECISIONS = ("strict", "native")
ENTRY_POINTS = "shiftproof.candidates"


class UsageError(Exception):
    """The user's request cannot be carried out. One sentence: what was wrong, what was expected, what to do."""


@dataclass(frozen=True)
class Candidate:
    """One candidate, as declared.

    Attributes:
        name: its name in reports.
        call: ``package.module:attribute`` or ``path/file.py:attribute``.
        spec: the profile it promises, or None if the user gave none.
        dtypes, devices: the dtypes and devices to judge it on, once for each. Without dtypes, a loss that computes in
            fp32 whatever its logits' dtype is judged once, with cases in each of ``DTYPES_TOGETHER``; all else in
            float32. dtypes, precision and gradient are for losses. They have no meaning for label builders, which take
            integers.
        precision: ``strict`` (accumulates in fp32) or ``native`` (computes in the logits' dtype). None means the
            spec's.
        rename: our argument names -> its own.
        gradient: whether it must support a backward pass. If False, only the value is judged.
        python: the interpreter that runs it. None means the current one.
        cwd: its working directory, first on its sys.path.
        expect: the verdict that this candidate must get. A candidate known to be wrong thus checks the judge.
        diagnosis: the name of the bug that the judge must report with ``expect = "fails"``.
        requires: the sizes that it needs, in the form of :func:`.requires.read_requires`. The judge draws cases that
            fit.
        allow: the exceptions declared for it, each with its reason, in the form of :func:`.allowance.read_allowances`.
        shapes: the shapes of its user, at which every law is asked too, in the form of :func:`.shapes.read_shapes`.
        init: the arguments of its class, or of the factory that makes it. None: a class is made without arguments.
        kwargs: arguments that every call gets, by its own names.
        given: the Python object itself, if ``call`` cannot be named.
    """

    name: str
    call: str
    spec: str | None = None
    dtypes: tuple[str, ...] = ()
    devices: tuple[str, ...] = ("cpu",)
    precision: str | None = None
    rename: Mapping[str, str] = field(default_factory=dict)
    gradient: bool = True
    python: str | None = None
    cwd: str | None = None
    expect: str = "conforms"
    diagnosis: str | None = None
    requires: Mapping[str, Any] = field(default_factory=dict)
    allow: tuple[Mapping[str, str], ...] = ()
    shapes: tuple[str, ...] = ()
    init: Mapping[str, Any] | None = None
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    given: Given | None = field(default=None, compare=False)

    @property
    def target(self) -> Target:
        """What a process has to load."""
        named = Target(self.call, self.init, self.kwargs, self.rename)
        given = self.given
        if given is None:
            return named
        if given.pickle is None:
            return replace(named, object=given.found)
        return replace(named, pickle=given.pickle, marks=given.marks, path=given.path)

    def to_json(self) -> dict[str, Any]:
        """All but a Python object, which does not outlive its process."""
        plain = asdict(replace(self, given=None))
        return {name: value for name, value in plain.items() if name != "given"}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], given: Given | None = None) -> Candidate:
        """Invert ``to_json``. Raises TypeError if it is not what that writes."""
        lists = {name: tuple(data.get(name, ())) for name in ("dtypes", "devices", "allow", "shapes")}
        return cls(**{**data, **lists, "given": given})

    @property
    def sizes(self) -> Requires:
        """The sizes that it needs."""
        return read_requires(self.requires) if self.requires else Requires()

    @property
    def allowances(self) -> tuple[Allowance, ...]:
        """The exceptions declared for it."""
        return read_allowances(self.allow)


_KEYS: dict[str, tuple[type, tuple[str, ...] | None]] = {
    # key -> (its TOML type, its legal values or None)
    "call": (str, None),
    "spec": (str, None),
    "dtypes": (list, DTYPES),
    "devices": (list, None),
    "precision": (str, PRECISIONS),
    "rename": (dict, None),
    "gradient": (bool, None),
    "python": (str, None),
    "cwd": (str, None),
    "expect": (str, ("conforms", "fails")),
    "diagnosis": (str, None),
    "requires": (dict, None),
    "allow": (list, None),
    "shapes": (list, None),
    "init": (dict, None),
    "kwargs": (dict, None),
}
_READ: dict[str, Callable[[Any], object]] = {
    "requires": read_requires,
    "allow": read_allowances,
    "shapes": read_shapes,
    "init": check_values,
    "kwargs": check_values,
}
"""The functions that read the keys whose values are more than strings."""
assert set(_KEYS) == {f.name for f in fields(Candidate)} - {"name", "given"}


def declared_in(path: Path) -> dict[str, Candidate]:
    """The candidates that a pyproject.toml (or any TOML file) declares under [tool.shiftproof.candidates.NAME].

    Raises:
        UsageError: the file cannot be read, is not valid TOML, or has an unknown key or a value of the wrong type.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist; give the path of a TOML file with [tool.shiftproof]") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}; give the path of a TOML file") from None
    tools = data.get("tool", {})
    tool = tools.get("shiftproof", {}) if isinstance(tools, dict) else tools
    if not isinstance(tool, dict):
        raise UsageError(f"{path}: tool.shiftproof is not a table; write [tool.shiftproof.candidates.NAME]")
    for key in tool:
        if key != "candidates":
            raise UsageError(f"{path}: [tool.shiftproof] has no key {key!r}{nearest(key, ['candidates'])}")
    table = tool.get("candidates", {})
    if not isinstance(table, dict):
        raise UsageError(f"{path}: tool.shiftproof.candidates is not a table; write [tool.shiftproof.candidates.NAME]")
    return {name: _declare(name, entry, path) for name, entry in table.items()}


def _declare(name: str, entry: Any, path: Path) -> Candidate:
    where = f"{path}: [tool.shiftproof.candidates.{name}]"
    if not isinstance(entry, dict):
        raise UsageError(f'{where} is not a table; write call = "package.module:function" under it')
    for key, value in entry.items():
        if key not in _KEYS:
            raise UsageError(f"{where} has no key {key!r}{nearest(key, _KEYS)}; it has {', '.join(_KEYS)}")
        kind, legal = _KEYS[key]
        if not isinstance(value, kind):
            raise UsageError(f"{where}: {key} is {value!r}; expected a TOML {_toml_name(kind)}")
        if isinstance(value, list) and not value:
            raise UsageError(f"{where}: {key} is empty; name at least one, or leave it out")
        if key in _READ:
            try:
                _READ[key](value)
            except ValueError as error:
                raise UsageError(f"{where}: {error}") from None
            continue
        for item in value if isinstance(value, list) else value.values() if isinstance(value, dict) else ():
            if not isinstance(item, str):
                raise UsageError(f"{where}: {key} holds {item!r}; expected strings")
        for item in value if isinstance(value, list) else [value]:
            if legal is not None and item not in legal:
                raise UsageError(f"{where}: {key} has {item!r}{nearest(str(item), legal)}; it takes {', '.join(legal)}")
    if "call" not in entry:
        raise UsageError(f'{where} has no call; write call = "package.module:function"')
    if not all(entry["call"].rpartition(":")):
        raise UsageError(
            f"{where}: call is {entry['call']!r}; expected package.module:function or path/file.py:function"
        )
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}
    values.setdefault("cwd", str(path.resolve().parent))
    return Candidate(name=name, **values)


def installed() -> dict[str, Candidate]:
    """The candidates that installed packages declare as entry points in the group ``shiftproof.candidates``."""
    return {entry.name: Candidate(name=entry.name, call=entry.value) for entry in entry_points(group=ENTRY_POINTS)}


def resolve(target: str, declared: Mapping[str, Candidate]) -> Candidate:
    """Return the candidate that a TARGET names: a declared name, or a call.

    Raises:
        UsageError: the name is not declared, the file does not exist, or the call has no attribute.
    """
    if target in declared:
        return declared[target]
    offered = installed()
    if target in offered:
        return offered[target]
    place, colon, attribute = target.rpartition(":")
    if not colon or not place or not attribute:
        known = {**declared, **offered}
        hint = nearest(target, known)
        if target.endswith(".py"):
            hint = f"; name the function in it, as {target}:my_loss"
        elif not known and ":" not in target and not Path("pyproject.toml").is_file():
            hint = "; nothing is declared here, for there is no pyproject.toml in this folder (see --config)"
        raise UsageError(
            f"{target!r} is neither a declared candidate nor of the form package.module:attribute "
            f"or path/file.py:attribute{hint}"
        )
    if place.endswith(".py") and not Path(place).is_file():
        siblings = [str(path) for path in Path(place).parent.glob("*.py")] if Path(place).parent.is_dir() else []
        raise UsageError(f"{place} does not exist{nearest(place, siblings)}")
    return Candidate(name=_short(place, attribute), call=target)


def _short(place: str, attribute: str) -> str:
    """The target's name in a report. A file has its path relative to the working directory, if that is shorter."""
    if place.endswith(".py"):
        place = min(place, os.path.relpath(place), key=len)
    return f"{place}:{attribute}"


def _toml_name(kind: type) -> str:
    return {str: "string", list: "array", dict: "table", bool: "boolean"}[kind]
