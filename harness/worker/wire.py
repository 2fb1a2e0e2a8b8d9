"""Calls, outcomes and descriptions as the fields of a message, and their tensors as a file."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch

from .exchange import Call, NotAnswered, Outcome, OutOfMemory, Raised, Returned, Training, Unusable, Window
from .memory import is_out_of_memory
from .protocol import decode_scalar, encode_scalar
from .target import USAGE_REASONS, LoadFailure, Parameter, TargetDescription
from .tensors import read_tensors, write_tensors

_ARGUMENT = "argument."
_UPSTREAM = "upstream"
_VALUE = "value"
_GRADIENT = "gradient."
_OUTPUT = "output."
_OUTPUT_GRADIENT = "output_gradient."
_WATCHED = "watched."
_WINDOW = "window."
_OF_WINDOW = ("value", "before", "after")  # and the gradient, where there is one

_ROOM = 1 << 20  # bytes to spare for headers, and for a value larger than the arguments
_ROOM_FOR_OUTPUTS = 1 << 30  # a model's logits, and the gradient at them


def encode_call(call: Call, case: str, result: str) -> dict[str, Any]:
    """Write the tensors of a call to the file `case`; return the body of its message.

    Raises:
        ValueError: a tensor cannot be written.
    """
    tensors = {_ARGUMENT + name: tensor for name, tensor in call.tensors.items()}
    upstream: Any = None
    if isinstance(call.upstream, torch.Tensor):
        tensors[_UPSTREAM] = call.upstream
    else:
        upstream = encode_scalar(float(call.upstream))
    write_tensors(case, tensors)
    return {
        "case": case,
        "result": result,
        "scalars": {name: encode_scalar(value) for name, value in call.scalars.items()},
        "layouts": dict(call.layouts),
        "gradients": list(call.gradients),
        "upstream": upstream,
        "grad_mode": call.grad_mode,
        "backwards": call.backwards,
        "outputs": list(call.outputs),
        "watch": call.watch,
        "nudge": call.nudge,
        "training": None if call.training is None else asdict(call.training),
    }


def decode_call(body: Mapping[str, Any]) -> Call:
    """The call of a message.

    Raises:
        ProtocolError: a field is missing or of the wrong kind.
        OSError, ValueError: its tensors cannot be read.
    """
    tensors = read_tensors(body["case"], mapped=True)  # what the candidate gets are copies in any case
    upstream: Any = tensors[_UPSTREAM] if body["upstream"] is None else decode_scalar(body["upstream"])
    return Call(
        tensors={name.removeprefix(_ARGUMENT): tensors[name] for name in tensors if name.startswith(_ARGUMENT)},
        scalars={name: decode_scalar(value) for name, value in body["scalars"].items()},
        layouts=body["layouts"],
        gradients=tuple(body["gradients"]),
        upstream=upstream,
        grad_mode=body["grad_mode"],
        backwards=int(body.get("backwards", 1)),
        outputs=tuple(body.get("outputs", ())),
        watch=bool(body.get("watch", False)),
        nudge=float(body.get("nudge", 0.0)),
        training=Training(**body["training"]) if body.get("training") else None,
    )


def encode_outcome(outcome: Outcome, seconds: float, result: str) -> tuple[str, dict[str, Any]]:
    """Write the tensors of an outcome to the file `result`; return the verb and the body of its message."""
    if isinstance(outcome, Returned):
        tensors = {_VALUE: outcome.value}
        tensors |= {_GRADIENT + name: grad for name, grad in outcome.gradients.items() if grad is not None}
        tensors |= {_OUTPUT + name: output for name, output in outcome.outputs.items()}
        tensors |= {_OUTPUT_GRADIENT + name: grad for name, grad in outcome.output_gradients.items()}
        tensors |= {_WATCHED + name: tensor for name, tensor in outcome.watched.items()}
        for index, window in enumerate(outcome.windows):
            tensors |= {f"{_WINDOW}{index}.{name}": getattr(window, name) for name in _OF_WINDOW}
            if window.gradient is not None:
                tensors[f"{_WINDOW}{index}.gradient"] = window.gradient
        try:
            write_tensors(result, tensors)
        except ValueError as error:
            return "unusable", {"description": f"returned what cannot be handed back: {error}", "seconds": seconds}
        return "returned", {
            "kind": outcome.kind,
            "requires_grad": outcome.requires_grad,
            "gradients": [name for name, grad in outcome.gradients.items() if grad is not None],
            "mutated": list(outcome.mutated),
            "windows": [
                {name: getattr(window, name) for name in ("kind", "steps", "others", "backwards", "late")}
                for window in outcome.windows
            ],
            "seconds": seconds,
        }
    if isinstance(outcome, Unusable):
        return "unusable", {"description": outcome.description, "seconds": seconds}
    if isinstance(outcome, Raised):
        return "raised", {
            "type": outcome.type,
            "message": outcome.message,
            "traceback": outcome.traceback,
            "during": outcome.during,
            "seconds": seconds,
        }
    if isinstance(outcome, OutOfMemory):
        return "out_of_memory", {"limit": outcome.limit, "message": outcome.message, "seconds": seconds}
    raise TypeError(f"a worker cannot report {type(outcome).__name__} of itself")


def room_for(call: Call) -> int:
    """Bytes that the two files of a call may take: what it is given, and gradients and a value that are no larger. How
    large other outputs are, only the candidate knows."""
    given = [*call.tensors.values(), *([call.upstream] if isinstance(call.upstream, torch.Tensor) else [])]
    size = sum(tensor.numel() * tensor.element_size() for tensor in given)
    return 2 * size + _ROOM + (_ROOM_FOR_OUTPUTS if call.outputs else 0)


def decode_outcome(verb: str, body: Mapping[str, Any], call: Call, result: str) -> tuple[Outcome, float]:
    """The outcome of a message, and the seconds that the worker says were spent in the candidate.

    A message or a result file that is not as the protocol has it is an outcome too: the candidate is `NotAnswered`.
    """
    if verb == "failed":
        return NotAnswered("candidate", str(body.get("message", "it does not say why"))), 0.0
    try:
        return _decode_outcome(verb, body, call, result)
    except (KeyError, TypeError, ValueError, AttributeError, FileNotFoundError) as error:
        told = f"its answer {verb!r} is not as the protocol has it: {type(error).__name__}: {error}"
        return NotAnswered("candidate", told), 0.0
    except (OSError, MemoryError, RuntimeError) as error:
        if not isinstance(error, OSError) and not is_out_of_memory(error):
            raise
        return NotAnswered("judge", f"the answer cannot be read: {type(error).__name__}: {error}"), 0.0


def _decode_outcome(verb: str, body: Mapping[str, Any], call: Call, result: str) -> tuple[Outcome, float]:
    seconds = float(body["seconds"])
    if not 0 <= seconds < math.inf:
        raise ValueError(f"seconds {seconds}")
    if verb == "returned":
        size, room = os.path.getsize(result), room_for(call)
        if size > room:  # not read, lest it be more than this process has memory for
            raise ValueError(f"a result file of {size} bytes; expected {room} at most")
        tensors = read_tensors(result)
        gradients: dict[str, torch.Tensor | None] = dict.fromkeys(call.gradients)
        for name in body["gradients"]:
            gradient = tensors[_GRADIENT + name]
            if name not in gradients or gradient.shape != call.tensors[name].shape:
                raise ValueError(f"gradient {name!r} of shape {list(gradient.shape)} was not asked for")
            gradients[name] = gradient
        if body["kind"] not in ("tensor", "number", "none"):
            raise ValueError(f"kind {body['kind']!r}")
        returned = Returned(
            value=tensors[_VALUE],
            kind=body["kind"],
            requires_grad=bool(body["requires_grad"]),
            gradients=gradients,
            mutated=tuple(str(name) for name in body["mutated"]),
            seconds=seconds,
            outputs={name: tensors[_OUTPUT + name] for name in call.outputs},
            output_gradients={
                name: tensors[_OUTPUT_GRADIENT + name] for name in call.outputs if _OUTPUT_GRADIENT + name in tensors
            },
            watched={
                name.removeprefix(_WATCHED): tensor for name, tensor in tensors.items() if name.startswith(_WATCHED)
            },
            windows=_decode_windows(body.get("windows", ()), tensors, call),
        )
        return returned, seconds
    if verb == "unusable":
        return Unusable(str(body["description"])), seconds
    if verb == "raised":
        if body["during"] not in ("call", "backward"):
            raise ValueError(f"during {body['during']!r}")
        raised = Raised(str(body["type"]), str(body["message"]), str(body["traceback"]), body["during"])
        return raised, seconds
    if verb == "out_of_memory":
        return OutOfMemory(int(body["limit"]), str(body["message"])), seconds
    raise ValueError("no such outcome")


def _decode_windows(bodies: Any, tensors: Mapping[str, torch.Tensor], call: Call) -> tuple[Window, ...]:
    wanted = 0 if call.training is None else call.training.windows
    if len(bodies) != wanted:
        raise ValueError(f"{len(bodies)} windows of a trainer where {wanted} were asked for")
    windows = []
    for index, body in enumerate(bodies):
        if body["kind"] not in ("tensor", "number", "none"):
            raise ValueError(f"kind {body['kind']!r}")
        windows.append(
            Window(
                value=tensors[f"{_WINDOW}{index}.value"],
                kind=body["kind"],
                steps=int(body["steps"]),
                others=int(body["others"]),
                backwards=int(body["backwards"]),
                late=int(body["late"]),
                before=tensors[f"{_WINDOW}{index}.before"],
                after=tensors[f"{_WINDOW}{index}.after"],
                gradient=tensors.get(f"{_WINDOW}{index}.gradient"),
            )
        )
    return tuple(windows)


def encode_description(description: TargetDescription) -> dict[str, Any]:
    """The body of the message "loaded"."""
    return {
        "parameters": [
            {"name": parameter.name, "required": parameter.required, "kind": parameter.kind}
            for parameter in description.parameters
        ],
        "accepts_any_keyword": description.accepts_any_keyword,
        "file": description.file,
        "versions": description.versions,
        "documentation": description.documentation,
        "device_name": description.device_name,
    }


def decode_description(body: Mapping[str, Any], target: str) -> TargetDescription:
    """The inverse of `encode_description`.

    Raises:
        LoadFailure: a field is missing or of the wrong kind: the candidate's process is broken.
    """
    try:
        parameters = tuple(Parameter(str(p["name"]), bool(p["required"]), p["kind"]) for p in body["parameters"])
        odd = [parameter.kind for parameter in parameters if parameter.kind not in ("positional", "keyword", "either")]
        if odd:
            raise ValueError(f"parameter kind {odd[0]!r}")
        return TargetDescription(
            target=target,
            parameters=parameters,
            accepts_any_keyword=bool(body["accepts_any_keyword"]),
            file=body["file"],
            versions={str(name): str(version) for name, version in body["versions"].items()},
            documentation=str(body.get("documentation", "")),
            device_name=str(body["device_name"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        told = f"loading {target} got no answer as the protocol has it: {type(error).__name__}: {error}"
        raise LoadFailure("broken", told) from None


def encode_failure(failure: LoadFailure) -> dict[str, Any]:
    """The body of the message "failed" in answer to "load"."""
    return {"reason": failure.reason, "message": failure.message, "traceback": failure.traceback}


def decode_failure(body: Mapping[str, Any]) -> LoadFailure:
    """The inverse of `encode_failure`; any reason that is none of a candidate's own says that its process is broken."""
    reason, message, traceback = body.get("reason"), str(body.get("message", "")), str(body.get("traceback", ""))
    if reason in USAGE_REASONS or reason in ("import failed", "not built", "interpreter"):
        return LoadFailure(reason, message, traceback)
    return LoadFailure("broken", f"the candidate's own process failed while it loaded it: {message}", traceback)
