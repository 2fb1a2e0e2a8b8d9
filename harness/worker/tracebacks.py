"""The text of a candidate's exception, without our own frames. Standard library only."""

from __future__ import annotations

import os
import traceback
from types import TracebackType

_HARNESS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_OUR_FOLDERS = tuple(os.path.join(_HARNESS, room) + os.sep for room in ("worker", "isolation"))
_LONGEST = 32 << 10  # characters; a RecursionError or a tensor in a message can be far longer, and must fit one line


_NAME = type.__dict__["__name__"]
_TRACEBACK = BaseException.__dict__["__traceback__"]


def exception_name(error: BaseException) -> str:
    """The real name of the exception's class, even if a metaclass of the candidate hides it."""
    return str(_NAME.__get__(type(error)))


def exception_message(error: BaseException) -> str:
    """`str(error)`, cut to `_LONGEST` characters, even if the exception's own __str__ is broken."""
    try:
        message = str.__str__(str(error))  # a plain str: __str__ may return a subclass
    except BaseException as second:  # the candidate's code may raise anything
        message = f"<its __str__ raised {exception_name(second)}>"
    return message if len(message) <= _LONGEST else message[:_LONGEST] + " …"


def exception_traceback(error: BaseException) -> str:
    """The traceback from the candidate's first frame on. If it is long, only its end."""
    frames: TracebackType | None = _TRACEBACK.__get__(error)
    while frames is not None and _is_machinery(frames.tb_frame.f_code.co_filename):
        frames = frames.tb_next
    try:
        text = "".join(traceback.format_exception(type(error), error, frames))
    except BaseException:  # the exception's own __str__ or __repr__ may raise anything
        text = f"{exception_name(error)}: {exception_message(error)}\n"
    return text if len(text) <= _LONGEST else "… " + text[-_LONGEST:]


def _is_machinery(filename: str) -> bool:
    return filename.startswith((*_OUR_FOLDERS, "<frozen importlib")) or filename.endswith(
        os.path.join("importlib", "__init__.py")
    )
