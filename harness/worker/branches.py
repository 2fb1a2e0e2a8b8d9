"""Which way did each branch of the candidate's own code go? Runs in the candidate's process.

``bytecode.py`` says what branches a function has. From Python 3.12 on, ``sys.monitoring`` reports which way they go,
and is switched off branch by branch once both ways were seen. Python 3.11 traces the opcodes of the functions that
still have a branch of which one way was not seen.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from types import CodeType, FrameType
from typing import Any

import torch

from .bytecode import Branch, Jump, branches_of, name_of, numbers_read_by, source_of
from .call import perform
from .call_shapes import Shaped
from .exchange import Call
from .load import Loaded
from .tracebacks import exception_message, exception_name

_HERE = os.path.dirname(os.path.abspath(__file__)) + os.sep
FOREIGN = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
"""The folders of installed packages, which may lie below the candidate's own folder or Python's."""

_TOOL = 4  # sys.monitoring keeps 0, 1, 2 and 5 for debuggers, coverage, profilers and optimizers
_OURS = "shiftproof"
_OF_A_MODEL = 40  # calls of a model, forward or backward, that are all traced
_EACH = 5  # odd, so that forward and backward, which take turns, are both traced
_QUIET = 30  # calls that show nothing new, after which what a candidate was compiled from is no longer called


@dataclass(slots=True, eq=False)
class _Function:
    """The branches of one code object, in order, and the ways that were seen.

    Attributes:
        number: its place among the functions of its file.
        at: the offset of a jump -> what it is.
        seen: for each branch, two bits: 1 for its first way, 2 for its second.
        open: how many branches have a way that was not seen.
        constants: the whole numbers in its code, and in the variables of its module that it reads.
        is_closed: whether it reads nothing but its arguments, constants, modules, functions and numbers.
    """

    file: str
    name: str
    number: int
    branches: list[Branch]
    at: dict[int, Jump]
    constants: list[int]
    is_closed: bool
    seen: list[int] = field(init=False)
    reported: list[int] = field(init=False)
    is_reported: bool = False
    open: int = field(init=False)

    def __post_init__(self) -> None:
        self.seen = [0] * len(self.branches)
        self.reported = self.seen[:]
        self.open = len(self.branches)

    def note(self, offset: int, following: int) -> bool:
        """Note that the code went on at ``following``. Return whether both ways of the branch have been seen."""
        jump = self.at[offset]
        before = self.seen[jump.branch]
        after = before | (jump.if_not if following == jump.following else jump.if_jumped)
        if after != before:
            self.seen[jump.branch] = after
            self.open -= after == 3
        return after == 3


class BranchWatch:
    """Watches the candidate's own code: its file and its package, or for a lone file the folder of that file.

    A compiled candidate is also called as what it was compiled from, until that shows nothing new: compiled code has
    other branches, which are not the author's.

    Attributes:
        unread: why branches cannot be read, or "".
    """

    def __init__(self, loaded: Loaded) -> None:
        file = loaded.description.file
        self.unread = _unread(file)
        self._own = _own_folder(file, loaded.package) if file is not None else ""
        self._file = os.path.abspath(file) if file is not None else ""
        self._functions: dict[int, tuple[CodeType, _Function | None]] = {}  # by identity: code is slow to hash
        self._generated: dict[str, bool] = {}  # functions of the candidate whose code is not in its file -> reported
        self._is_told = False
        original = eager(loaded.function)
        self._compiled_from = None if original is loaded.function else replace(loaded, function=original)
        self._is_model = any(each.name == "input_ids" for each in loaded.description.parameters)
        self._calls = 0
        self._quiet = 0  # calls of what it was compiled from, since one showed something new
        self._stop: Callable[[], None] = lambda: None
        if not self.unread and sys.version_info >= (3, 12):
            try:
                self._stop = _monitor(self._of_code)
            except ValueError:
                self.unread = "another tool has its place in sys.monitoring"

    def stop(self) -> None:
        self._stop()
        self._stop = lambda: None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch what this thread runs meanwhile. From Python 3.12 on, all threads are watched all the time.

        Tracing makes a model of thousands of lines half as slow again. What it runs is not part of the verdict, so
        after some calls only every fifth is traced.
        """
        self._calls += 1
        is_left_out = self._is_model and self._calls > _OF_A_MODEL and self._calls % _EACH
        if self.unread or sys.version_info >= (3, 12) or is_left_out:
            yield
            return
        before = sys.gettrace()
        sys.settrace(self._trace)
        try:
            yield
        finally:
            sys.settrace(before)

    def read_compiled(self, call: Call, device: torch.device) -> None:
        """If the candidate is compiled, make a call of what it was compiled from. Its answer does not count."""
        if self._compiled_from is None or self._quiet >= _QUIET:
            return
        before = self._seen()
        with suppress(SystemExit, KeyboardInterrupt):
            perform(self._compiled_from, call, device, around=self.watching)
        self._quiet = self._quiet + 1 if self._seen() == before else 0

    def _seen(self) -> int:
        # A list first, because a function that starts meanwhile is added.
        return sum(sum(function.seen) for _, function in list(self._functions.values()) if function is not None)

    def news(self) -> dict[str, Any]:
        """Return what was seen since the last call: functions, and the ways that their branches went."""
        found: dict[str, Any] = {}
        if self.unread:
            if not self._is_told:
                self._is_told, found["unread"] = True, self.unread
            return found
        functions = []
        for function in [each for _, each in list(self._functions.values()) if each is not None]:
            if function.is_reported and function.seen == function.reported:
                continue
            told = {
                "file": function.file,
                "function": function.name,
                "number": function.number,
                "seen": function.seen[:],
            }
            if not function.is_reported:
                told["branches"] = [
                    [each.line, each.column, each.condition, list(each.ways), list(each.only_raises)]
                    for each in function.branches
                ]
                told["constants"], told["closed"] = function.constants, function.is_closed
            function.reported, function.is_reported = function.seen[:], True
            functions.append(told)
        generated = [] if self._compiled_from else [name for name, told in self._generated.items() if not told]
        self._generated.update(dict.fromkeys(generated, True))
        found |= {"functions": functions} if functions else {}
        return found | ({"generated": generated} if generated else {})

    def _of_code(self, code: CodeType) -> _Function | None:
        """What is known of a code object, or None if it is not the candidate's own or has no branch."""
        try:
            return self._functions[id(code)][1]
        except KeyError:
            found = None
            try:
                found = self._read(code) if self._is_own(code.co_filename) else None
            except Exception as error:  # it would be raised in the candidate's own frame, which is not to blame
                self.unread = f"reading {code.co_qualname} raised {exception_name(error)}: {exception_message(error)}"
            self._functions[id(code)] = code, found
            return found

    def _is_own(self, file: str) -> bool:
        if file == self._file:
            return True
        inside = file.startswith(self._own) and not any(part in file[len(self._own) - 1 :] for part in FOREIGN)
        return inside and not file.startswith(_HERE)

    def _read(self, code: CodeType) -> _Function | None:
        source = source_of(code.co_filename)
        number = None if source is None else source.number(code)
        if source is None or number is None:
            # Made at run time, as the code that a compiler puts in a function's place.
            self._generated.setdefault(code.co_name, False)
            return None
        branches, at = branches_of(code, source)
        return _Function(code.co_filename, name_of(code), number, branches, at, *numbers_read_by(code))

    def _trace(self, frame: FrameType, event: str, argument: Any) -> Callable[..., Any] | None:
        """The global trace function of Python 3.11. It traces a function that has an open branch."""
        function = self._of_code(frame.f_code)
        if function is None or not function.open:
            return None
        frame.f_trace_lines = False
        frame.f_trace_opcodes = True
        branch = -1  # the offset of the branch that was the last opcode
        at = function.at

        def local(frame: FrameType, event: str, argument: Any) -> Callable[..., Any] | None:
            nonlocal branch
            if event == "opcode":
                offset = frame.f_lasti
                if branch >= 0:
                    function.note(branch, offset)
                branch = offset if offset in at else -1
            elif event == "exception":
                branch = -1
            return local

        return local


def _monitor(of_code: Callable[[CodeType], _Function | None]) -> Callable[[], None]:
    """Watch all threads of this process with ``sys.monitoring``. Return the function that stops it.

    Raises:
        ValueError: another tool has our number.
    """
    monitoring: Any = sys.monitoring  # type: ignore[attr-defined,unused-ignore]  # from Python 3.12 on
    events = monitoring.events
    split = hasattr(events, "BRANCH_LEFT")
    both = events.BRANCH_LEFT | events.BRANCH_RIGHT if split else events.BRANCH

    def on_start(code: CodeType, offset: int) -> Any:
        function = of_code(code)
        if function is not None and function.open:
            monitoring.set_local_events(_TOOL, code, both)
        return monitoring.DISABLE

    def on_branch(code: CodeType, offset: int, following: int) -> Any:
        function = of_code(code)
        done = function is None or offset not in function.at or function.note(offset, following)
        # The two events of Python 3.14 are switched off one at a time: the other way is still to be seen.
        return monitoring.DISABLE if done or split else None

    if monitoring.get_tool(_TOOL) == _OURS:  # the watch of an earlier candidate
        monitoring.set_events(_TOOL, 0)
        monitoring.free_tool_id(_TOOL)
    monitoring.use_tool_id(_TOOL, _OURS)
    monitoring.register_callback(_TOOL, events.PY_START, on_start)
    for event in (events.BRANCH_LEFT, events.BRANCH_RIGHT) if split else (events.BRANCH,):
        monitoring.register_callback(_TOOL, event, on_branch)
    monitoring.set_events(_TOOL, events.PY_START)
    monitoring.restart_events()

    def stop() -> None:
        if monitoring.get_tool(_TOOL) == _OURS:
            monitoring.set_events(_TOOL, 0)
            monitoring.free_tool_id(_TOOL)

    return stop


def eager(function: Callable[..., Any]) -> Callable[..., Any]:
    """What a compiled function or module wraps, or the function itself."""
    if isinstance(function, Shaped):
        inner = eager(function.function)
        return function if inner is function.function else function.around(inner)
    for name in ("_torchdynamo_orig_callable", "_orig_mod"):
        found = getattr(function, name, None)
        if callable(found):
            return found  # type: ignore[no-any-return]
    return function


def _unread(file: str | None) -> str:
    """Why the branches of a candidate cannot be read, or ""."""
    if file is None:
        return "it is not written in Python"
    if file.startswith(os.path.dirname(os.path.abspath(torch.__file__)) + os.sep):
        return "it is a function of torch"
    return ""


def _own_folder(file: str, package: str | None) -> str:
    """The folder of the candidate's own code, with a separator at its end."""
    root = getattr(sys.modules.get(package or ""), "__path__", None)
    folder = next(iter(root), "") if root else ""
    return os.path.abspath(folder or os.path.dirname(file)) + os.sep
