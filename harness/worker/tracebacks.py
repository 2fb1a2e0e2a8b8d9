"""An exception of a candidate's, told without our own frames. Standard library only."""

from __future__ import annotations

import os
import traceback
from types import TracebackType

_OUR_FOLDER = os.path.dirname(os.path.abspath(__file__)) + os.sep
_LONGEST = 32 << 10  # characters; a RecursionError or a tensor in a message can be far longer, and has to fit one line


_NAME = type.__dict__["__name__"]
_TRACEBACK = BaseException.__dict__["__traceback__"]


def exception_name(error: BaseException) -> str:
    """The name of its class, whatever a metaclass of the candidate's makes of that."""
    return str(_NAME.__get__(type(error)))


def exception_message(error: BaseException) -> str:
    """`str(error)`, cut to a sane length, even where the exception's own __str__ is broken."""
    try:
        message = str.__str__(str(error))  # a plain one: what __str__ returns may be of a class of its own
    except BaseException as second:  # it is the candidate's code, and may raise what it likes
        message = f"<its __str__ raised {exception_name(second)}>"
    return message if len(message) <= _LONGEST else message[:_LONGEST] + " …"


def exception_traceback(error: BaseException) -> str:
    """The traceback from the candidate's first frame on, cut to its end if it is long."""
    frames: TracebackType | None = _TRACEBACK.__get__(error)
    while frames is not None and _is_machinery(frames.tb_frame.f_code.co_filename):
        frames = frames.tb_next
    try:
        text = "".join(traceback.format_exception(type(error), error, frames))
    except BaseException:  # the exception's own __str__ or __repr__ may raise anything
        text = f"{exception_name(error)}: {exception_message(error)}\n"
    return text if len(text) <= _LONGEST else "… " + text[-_LONGEST:]


def _is_machinery(filename: str) -> bool:
    return filename.startswith((_OUR_FOLDER, "<frozen importlib")) or filename.endswith(
        os.path.join("importlib", "__init__.py")
    )
