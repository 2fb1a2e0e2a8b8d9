"""The protocol between the two processes: one numbered JSON line each way. Standard library only.

The whole protocol, with examples, is in docs/protocol.md. This file has its version and its words, and writes and reads
one line. `wire.py` has the form of a call and of an outcome inside a line.
"""

from __future__ import annotations

import json
import math
from typing import Any

PROTOCOL_VERSION = 2
"""To be increased when a worker of the older version would misunderstand a harness of the newer one, or vice versa."""

HELLO = "shiftproof_worker"
"""The key of the first message of a worker. Its value is the protocol's version."""

LONGEST_LINE = 16 << 20
"""Bytes. A longer line is not our message. Reading on would let a broken worker fill the harness's memory."""

LOADING = "loading"
"""The verb of the notice, before an answer, that the candidate is compiling or importing."""

UNANSWERED = 74
"""The exit code of a worker that has lost its pipes and can no longer answer. EX_IOERR of sysexits.h."""

Scalar = int | float | str | bool | list[int] | None


class ProtocolError(RuntimeError):
    """The other side broke the protocol: a malformed line, or an answer to another question."""


def encode_line(message: dict[str, Any]) -> bytes:
    """One message as one line of ASCII JSON, newline included.

    Raises:
        ValueError: a float is not finite. Pass arguments that may not be finite through `encode_scalar` first.
    """
    return json.dumps(message, allow_nan=False, separators=(",", ":")).encode("ascii") + b"\n"


def decode_line(line: bytes) -> dict[str, Any]:
    """Read the message of one line.

    Raises:
        ProtocolError: the line is not a JSON object.
    """
    try:
        message = json.loads(line)
    except ValueError:
        raise ProtocolError(f"expected one line of JSON, got {_excerpt(line)}") from None
    if not isinstance(message, dict):
        raise ProtocolError(f"expected a JSON object, got {_excerpt(line)}")
    return message


def check_answer(message: dict[str, Any], seq: int) -> tuple[str, dict[str, Any]]:
    """The verb and the body of an answer to question `seq`.

    Raises:
        ProtocolError: the message answers another question, or is not `{"seq": …, verb: {…}}`.
    """
    if message.get("seq") != seq:
        raise ProtocolError(f"expected the answer to message {seq}, got one with seq={message.get('seq')!r}")
    verbs = [key for key in message if key != "seq"]
    if len(verbs) != 1 or not isinstance(message[verbs[0]], dict):
        raise ProtocolError(f"expected an answer with one verb and its fields, got the keys {sorted(message)}")
    return verbs[0], message[verbs[0]]


def encode_scalar(value: Scalar) -> Any:
    """Encode a scalar argument for JSON, which has no NaN or infinity: {"float": "nan" | "inf" | "-inf"}."""
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}
    return value


def decode_scalar(value: Any) -> Scalar:
    """Invert `encode_scalar`.

    Raises:
        ProtocolError: `value` is neither a JSON scalar, nor an array of integers, nor such an object.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, dict) and value.get("float") in ("nan", "inf", "-inf"):
        return float(value["float"])
    if isinstance(value, list) and all(type(item) is int for item in value):
        return value
    raise ProtocolError(f"expected a scalar, got {value!r}")


def _excerpt(line: bytes) -> str:
    return repr(line[:200]) + (" …" if len(line) > 200 else "")
