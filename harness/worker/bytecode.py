"""The branches of a function, from its bytecode and its source. Python 3.11 and later.

A *branch* is a conditional jump: an ``if``, an ``and``, a conditional expression, a loop. Each has two ways.
"""

from __future__ import annotations

import ast
import dis
import os
import re
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any

_COMPREHENSION = re.compile(r"\.<locals>\.<(?:list|set|dict)comp>")
_MOST_TEXT = 80  # characters of a condition


@dataclass(frozen=True, slots=True)
class Branch:
    """One branch, and what each of its ways is.

    Attributes:
        line, column: where it is in the file. Columns count bytes.
        condition: the text of what it tests.
        ways: its two ways in words, as in "true" and "false".
        only_raises: for each way, whether all that follows on it is an exception.
    """

    line: int
    column: int
    condition: str
    ways: tuple[str, str]
    only_raises: tuple[bool, bool]


@dataclass(frozen=True, slots=True)
class Jump:
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


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """The text of a file, the headers of its loops, and its functions in the order in which they stand there."""

    lines: list[str]
    loops: dict[tuple[int, int, int, int], str]
    functions: dict[object, int]

    def number(self, code: CodeType) -> int | None:
        """The number of a function in this file, or None if its code was made at run time.

        Several functions of one line may share a name, so only their positions tell them apart.
        """
        return self.functions.get(_identity(code))

    def text(self, line: int, column: int, end_line: int, end_column: int) -> str:
        """A part of the text in one line. Columns count bytes."""
        lines = [text.encode() for text in self.lines[line - 1 : end_line]]
        if not lines:
            return ""
        lines[-1] = lines[-1][:end_column]
        lines[0] = lines[0][column:]
        found = " ".join(b" ".join(lines).decode("utf-8", "replace").split())
        return found if len(found) <= _MOST_TEXT else f"{found[: _MOST_TEXT - 1]}…"


def source_of(file: str) -> Source | None:
    """A file as it is now, or None if it is not readable as Python."""
    try:
        state = os.stat(file)
    except OSError:
        return None
    return _parsed(file, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=64)
def _parsed(file: str, changed: int, size: int) -> Source | None:
    try:
        with tokenize.open(file) as opened:
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
    functions: dict[object, int] = {_identity(code): number for number, code in enumerate(_nested(top))}
    return Source(text.splitlines(), loops, functions)


def _identity(code: CodeType) -> object:
    return code.co_qualname, code.co_firstlineno, code.co_code, tuple(code.co_positions())


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


def branches_of(code: CodeType, source: Source) -> tuple[list[Branch], dict[int, Jump]]:
    """The branches of a code object, and its jumps by their offsets."""
    instructions = list(dis.get_instructions(code))
    places = {instruction.offset: place for place, instruction in enumerate(instructions)}
    branches: list[Branch] = []
    numbers: dict[object, int] = {}
    at: dict[int, Jump] = {}
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
            branches.append(Branch(where[0], where[1], condition, ways, raises))
        else:
            first = branches[number]
            both = first.only_raises[0] and raises[0], first.only_raises[1] and raises[1]
            branches[number] = replace(first, only_raises=both)
        jump = Jump(number, instructions[place + 1].offset, 1 if jumps_first else 2, 2 if jumps_first else 1)
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


def name_of(code: CodeType) -> str:
    """The qualified name of a function. From Python 3.12 on, a comprehension is part of the function around it."""
    return _COMPREHENSION.sub("", code.co_qualname)


def numbers_read_by(code: CodeType) -> tuple[list[int], bool]:
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
