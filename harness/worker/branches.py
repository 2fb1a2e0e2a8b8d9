"""Which way did each branch of the candidate's own code go? Runs in the candidate's process.

A *branch* is a conditional jump of the bytecode: an ``if``, an ``and``, a conditional expression, a loop. Each has two
ways. From Python 3.12 on, ``sys.monitoring`` reports them and is switched off branch by branch once both ways were
seen. Python 3.11 traces the opcodes of the functions that still have a branch of which one way was not seen.
"""

from __future__ import annotations

import ast
import dis
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from types import BuiltinFunctionType, CodeType, FrameType, FunctionType, ModuleType
from typing import Any

import torch

from .call import perform
from .exchange import Call
from .load import Loaded

_HERE = os.path.dirname(os.path.abspath(__file__)) + os.sep
FOREIGN = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
"""The folders of installed packages, which may lie below the candidate's own folder or Python's."""

_TOOL = 4  # sys.monitoring keeps 0, 1, 2 and 5 for debuggers, coverage, profilers and optimizers
_OURS = "shiftproof"
_OF_A_MODEL = 40  # calls of a model, forward or backward, that are all traced
_EACH = 5  # odd, so that forward and backward, which take turns, are both traced
_QUIET = 30  # calls that show nothing new, after which what a candidate was compiled from is no longer called
_COMPREHENSION = re.compile(r"\.<locals>\.<(?:list|set|dict)comp>")
_MOST_TEXT = 80  # characters of a condition


@dataclass(frozen=True, slots=True)
class Branch:
    """One branch, and what each of its ways is.

    Attributes:
        line: its line in the file.
        condition: the text of what it tests.
        ways: its two ways in words, as in "true" and "false".
        only_raises: for each way, whether all that follows on it is an exception.
    """

    line: int
    condition: str
    ways: tuple[str, str]
    only_raises: tuple[bool, bool]


@dataclass(frozen=True, slots=True)
class _Jump:
    """One conditional jump. A branch has several if the compiler made copies of it, as of the test of a loop.

    Attributes:
        branch: the number of its branch.
        following: the offset at which the code goes on if it does not jump.
        if_jumped, if_not: the bits of the two ways.
    """

    branch: int
    following: int
    if_jumped: int
    if_not: int


@dataclass(slots=True, eq=False)
class _Function:
    """The branches of one code object, in order, and the ways that were seen.

    Attributes:
        at: the offset of a jump -> what it is.
        seen: for each branch, two bits: 1 for its first way, 2 for its second.
        open: how many branches have a way that was not seen.
        constants: the whole numbers in its code, and in the variables of its module that it reads.
        is_closed: whether it reads nothing but its arguments, constants, modules, functions and numbers.
    """

    file: str
    name: str
    line: int
    branches: list[Branch]
    at: dict[int, _Jump]
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
            told = {"file": function.file, "function": function.name, "line": function.line, "seen": function.seen[:]}
            if not function.is_reported:
                told["branches"] = [
                    [each.line, each.condition, list(each.ways), list(each.only_raises)] for each in function.branches
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
            found = self._read(code) if self._is_own(code.co_filename) else None
            self._functions[id(code)] = code, found
            return found

    def _is_own(self, file: str) -> bool:
        if file == self._file:
            return True
        inside = file.startswith(self._own) and not any(part in file[len(self._own) - 1 :] for part in FOREIGN)
        return inside and not file.startswith(_HERE)

    def _read(self, code: CodeType) -> _Function | None:
        source = _source(code.co_filename)
        if source is None or not source.has(code):
            # Made at run time, as the code that a compiler puts in a function's place.
            self._generated.setdefault(code.co_name, False)
            return None
        branches, at = _branches(code, source)
        read = _read_by(code)
        name = _COMPREHENSION.sub("", code.co_qualname)  # from Python 3.12 on it is part of the function around it
        return _Function(code.co_filename, name, code.co_firstlineno, branches, at, *read)

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


def _read_by(code: CodeType) -> tuple[list[int], bool]:
    """The whole numbers that a function reads, and whether it reads nothing whose parts are unknown."""
    module = next((each for each in list(sys.modules.values()) if _is_made_of(each, code.co_filename)), None)
    known = vars(module) if module is not None else {}
    read = [known[name] for name in code.co_names if name in known]
    values = [*code.co_consts, *read]
    values += [item for value in values if isinstance(value, (tuple, list, frozenset, set)) for item in value]
    plain = (ModuleType, FunctionType, BuiltinFunctionType, type, int, float, str, type(None))
    is_closed = (
        not code.co_freevars and "self" not in code.co_varnames and all(isinstance(each, plain) for each in read)
    )
    return sorted({value for value in values if type(value) is int}), is_closed


def _is_made_of(module: Any, file: str) -> bool:
    return isinstance(module, ModuleType) and vars(module).get("__file__") == file


def _own_folder(file: str, package: str | None) -> str:
    """The folder of the candidate's own code, with a separator at its end."""
    root = getattr(sys.modules.get(package or ""), "__path__", None)
    folder = next(iter(root), "") if root else ""
    return os.path.abspath(folder or os.path.dirname(file)) + os.sep


@dataclass(frozen=True, slots=True, eq=False)
class _Source:
    """The text of a file, its syntax tree, and the bytecode of its functions as it stands there."""

    lines: list[str]
    loops: dict[tuple[int, int, int, int], str]
    code: frozenset[tuple[str, int, bytes]]

    def has(self, code: CodeType) -> bool:
        return (code.co_qualname, code.co_firstlineno, code.co_code) in self.code

    def text(self, line: int, column: int, end_line: int, end_column: int) -> str:
        """A part of the text in one line. Columns count bytes."""
        lines = [text.encode() for text in self.lines[line - 1 : end_line]]
        if not lines:
            return ""
        lines[-1] = lines[-1][:end_column]
        lines[0] = lines[0][column:]
        found = " ".join(b" ".join(lines).decode("utf-8", "replace").split())
        return found if len(found) <= _MOST_TEXT else f"{found[: _MOST_TEXT - 1]}…"


def _source(file: str) -> _Source | None:
    """A file as it is now, or None if it is not readable as Python."""
    try:
        state = os.stat(file)
    except OSError:
        return None
    return _source_of(file, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=64)
def _source_of(file: str, changed: int, size: int) -> _Source | None:
    try:
        with open(file, encoding="utf-8") as opened:
            text = opened.read()
        tree = ast.parse(text)
        top = compile(text, file, "exec", dont_inherit=True)
    except (OSError, ValueError, SyntaxError):
        return None
    loops = {
        _place(part): f"for {ast.unparse(node.target)} in {ast.unparse(node.iter)}"
        for node in ast.walk(tree)
        if isinstance(node, ast.For)
        for part in (node, node.iter)  # Python 3.13 gives the loop the place of what it goes through
    }
    code = frozenset((each.co_qualname, each.co_firstlineno, each.co_code) for each in _nested(top))
    return _Source(text.splitlines(), loops, code)


def _place(node: ast.stmt | ast.expr) -> tuple[int, int, int, int]:
    return node.lineno, node.col_offset, node.end_lineno or 0, node.end_col_offset or 0


def _nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _nested(constant)


_OF_EXCEPTIONS = ("CHECK_EXC_MATCH", "CHECK_EG_MATCH", "WITH_EXCEPT_START")
_BETWEEN = ("TO_BOOL", "COPY", "CACHE", "EXTENDED_ARG")
"""Instructions that may stand between the one that computes what is tested and the jump."""


def _branches(code: CodeType, source: _Source) -> tuple[list[Branch], dict[int, _Jump]]:
    """The branches of a code object, and its jumps by their offsets."""
    instructions = list(dis.get_instructions(code))
    places = {instruction.offset: place for place, instruction in enumerate(instructions)}
    branches: list[Branch] = []
    numbers: dict[object, int] = {}
    at: dict[int, _Jump] = {}
    for place, instruction in enumerate(instructions):
        name = instruction.opname
        if not ("JUMP" in name and "IF" in name) and name != "FOR_ITER":
            continue
        tested = place
        if "NONE" not in name and name != "FOR_ITER":
            # Some versions of Python give a jump the place of another part of its statement.
            tested -= 1
            while tested and instructions[tested].opname in _BETWEEN:
                tested -= 1
        if instructions[tested].opname in _OF_EXCEPTIONS:
            continue  # whether a handler is the right one for what was raised: no case of it is asked for
        positions = instructions[tested].positions
        if positions is None or positions.lineno is None or place + 1 >= len(instructions):
            continue
        where = (positions.lineno, positions.col_offset or 0, positions.end_lineno or 0, positions.end_col_offset or 0)
        condition = source.loops.get(where) or source.text(*where)
        ways, jumps_first = _ways(name, condition)
        target = places.get(int(instruction.argval), place)
        raising = [_only_raises(instructions, places, way) for way in (target, place + 1)]
        raises = (raising[0], raising[1]) if jumps_first else (raising[1], raising[0])
        number = numbers.setdefault((where, name == "FOR_ITER"), len(branches))
        if number == len(branches):
            branches.append(Branch(positions.lineno, condition, ways, raises))
        else:
            first = branches[number]
            both = first.only_raises[0] and raises[0], first.only_raises[1] and raises[1]
            branches[number] = replace(first, only_raises=both)
        jump = _Jump(number, instructions[place + 1].offset, 1 if jumps_first else 2, 2 if jumps_first else 1)
        at[instruction.offset] = jump
        earlier = place - 1
        while earlier >= 0 and instructions[earlier].opname == "EXTENDED_ARG":  # tracing reports the offset of this one
            at[instructions[earlier].offset] = jump
            earlier -= 1
    return branches, at


def _ways(opname: str, condition: str) -> tuple[tuple[str, str], bool]:
    """The two ways of a branch, in words that follow "never", and whether the branch jumps on the first."""
    if opname == "FOR_ITER":
        return ("runs", "ends"), False
    if "NONE" in opname:
        jumps_on_none = "NOT_NONE" not in opname
        if condition.endswith(" is not None"):
            return ("true", "false"), not jumps_on_none
        if condition.endswith(" is None"):
            return ("true", "false"), jumps_on_none
        return ("None", "anything but None"), jumps_on_none
    return ("true", "false"), "TRUE" in opname


_ENDS = ("RAISE_VARARGS", "RERAISE")
_RETURNS = ("RETURN_VALUE", "RETURN_CONST", "YIELD_VALUE", "RETURN_GENERATOR")


def _only_raises(instructions: list[dis.Instruction], places: dict[int, int], start: int) -> bool:
    """Whether every path from an instruction ends in an exception that the code raises."""
    left, seen, raised = [start], set(), False
    while left:
        place = left.pop()
        while place < len(instructions) and place not in seen:
            seen.add(place)
            instruction = instructions[place]
            name = instruction.opname
            if name in _ENDS:
                raised = True
                break
            if name in _RETURNS or name == "FOR_ITER" or (name.startswith("JUMP") and "BACKWARD" in name):
                return False
            if name.startswith("JUMP_FORWARD"):
                place = places[int(instruction.argval)]
                continue
            if "JUMP" in name and "IF" in name:
                left.append(places[int(instruction.argval)])
            place += 1
    return raised
