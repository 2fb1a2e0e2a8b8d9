"""Calls, outcomes and descriptions as the fields of a message, and their tensors as a file."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch

from .exchange import OTHER_AFTER, Call, NotAnswered, Outcome, OutOfMemory, Raised, Returned, Training, Unusable, Window
from .memory import is_out_of_memory
from .protocol import decode_scalar, encode_scalar
from .target import ABILITIES, USAGE_REASONS, LoadFailure, Parameter, TargetDescription
from .tensors import read_tensors, write_tensors

_ARGUMENT = "argument."
_OTHER = "other."
_UPSTREAM = "grad_output"
_VALUE = "value"
_GRADIENT = "gradient."
_OUTPUT = "output."
_OUTPUT_GRADIENT = "output_gradient."
_WATCHED = "watched."
_WINDOW = "window."
_OF_WINDOW = ("value", "before", "after")  # and the gradient, if there is one

_ROOM = 1 << 20  # spare bytes for headers, and for a value larger than the arguments
_ROOM_FOR_OUTPUTS = 1 << 30  # bytes for a model's logits and the gradient at them


def encode_call(call: Call, case: str, result: str) -> dict[str, Any]:
    """Write the tensors of a call to the file `case`. Return the body of its message.

    Raises:
        ValueError: a tensor cannot be written.
    """
    tensors = {_ARGUMENT + name: tensor for name, tensor in call.tensors.items()}
    tensors |= {_OTHER + name: tensor for name, tensor in call.other.items()}
    grad_output: Any = None
    if isinstance(call.grad_output, torch.Tensor):
        tensors[_UPSTREAM] = call.grad_output
    else:
        grad_output = encode_scalar(float(call.grad_output))
    write_tensors(case, tensors)
    return {
        "case": case,
        "result": result,
        "scalars": {name: encode_scalar(value) for name, value in call.scalars.items()},
        "layouts": dict(call.layouts),
        "gradients": list(call.gradients),
        "grad_output": grad_output,
        "grad_mode": call.grad_mode,
        "n_backward": call.n_backward,
        "autocast": call.autocast,
        "backend": call.backend,
        "train_mode": call.train_mode,
        "model_dtype": call.model_dtype,
        "order": call.order,
        "outputs": list(call.outputs),
        "outputs_apart": call.outputs_apart,
        "watch": call.watch,
        "nudge": call.nudge,
        "training": None if call.training is None else asdict(call.training),
    }


def decode_call(body: Mapping[str, Any]) -> Call:
    """Read the call of a message.

    Raises:
        ProtocolError: a field is missing or of the wrong kind.
        OSError, ValueError: its tensors cannot be read.
    """
    tensors = read_tensors(body["case"], mapped=True)  # the candidate always gets copies
    grad_output: Any = tensors[_UPSTREAM] if body["grad_output"] is None else decode_scalar(body["grad_output"])
    return Call(
        tensors=_named(tensors, _ARGUMENT),
        scalars={name: decode_scalar(value) for name, value in body["scalars"].items()},
        layouts=body["layouts"],
        gradients=tuple(body["gradients"]),
        grad_output=grad_output,
        grad_mode=body["grad_mode"],
        n_backward=int(body.get("n_backward", 1)),
        autocast=str(body.get("autocast", "")),
        backend=str(body.get("backend", "")),
        train_mode=body.get("train_mode"),
        model_dtype=str(body.get("model_dtype", "")),
        other=_named(tensors, _OTHER),
        order=str(body.get("order", OTHER_AFTER)),
        outputs=tuple(body.get("outputs", ())),
        outputs_apart=bool(body.get("outputs_apart", False)),
        watch=bool(body.get("watch", False)),
        nudge=float(body.get("nudge", 0.0)),
        training=Training(**body["training"]) if body.get("training") else None,
    )


def _named(tensors: Mapping[str, torch.Tensor], kind: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(kind): tensor for name, tensor in tensors.items() if name.startswith(kind)}


def encode_outcome(outcome: Outcome, seconds: float, result: str) -> tuple[str, dict[str, Any]]:
    """Write the tensors of an outcome to the file `result`. Return the verb and the body of its message."""
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
            return "unusable", {"description": f"returned a value that cannot be sent: {error}", "seconds": seconds}
        return "returned", {
            "kind": outcome.kind,
            "requires_grad": outcome.requires_grad,
            "gradients": [name for name, grad in outcome.gradients.items() if grad is not None],
            "mutated": list(outcome.mutated),
            "windows": [
                {name: getattr(window, name) for name in ("kind", "steps", "others", "n_backward", "late")}
                for window in outcome.windows
            ],
            "state": list(outcome.state),
            "random": dict(outcome.random),
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
    """The largest size of the two files of a call, in bytes: arguments, and gradients and a value that are no larger.

    The size of other outputs is unknown, so they get a fixed amount.
    """
    given = [
        *call.tensors.values(),
        *call.other.values(),
        *([call.grad_output] if isinstance(call.grad_output, torch.Tensor) else []),
    ]
    size = sum(tensor.numel() * tensor.element_size() for tensor in given)
    return 2 * size + _ROOM + (_ROOM_FOR_OUTPUTS if call.outputs else 0)


def decode_outcome(verb: str, body: Mapping[str, Any], call: Call, result: str) -> tuple[Outcome, float]:
    """Read the outcome of a message, and the seconds that the worker reports for the candidate.

    If the message or the result file does not follow the protocol, the outcome is `NotAnswered`.
    """
    if verb == "failed":
        return NotAnswered("candidate", str(body.get("message", "it gives no reason"))), 0.0
    try:
        return _decode_outcome(verb, body, call, result)
    except (KeyError, TypeError, ValueError, AttributeError, FileNotFoundError) as error:
        message = f"its answer {verb!r} does not follow the protocol: {type(error).__name__}: {error}"
        return NotAnswered("candidate", message), 0.0
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
        if size > room:  # not read, because it may need more memory than this process has
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
            state=tuple(str(each) for each in body.get("state", ())),
            random={str(name): str(digest) for name, digest in body.get("random", {}).items()},
            outputs={name: tensors[_OUTPUT + name] for name in call.outputs},
            output_gradients={
                name: tensors[_OUTPUT_GRADIENT + name] for name in call.outputs if _OUTPUT_GRADIENT + name in tensors
            },
            watched=_named(tensors, _WATCHED),
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
        raise ValueError(f"{len(bodies)} windows of a trainer; expected {wanted}")
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
                n_backward=int(body["n_backward"]),
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
        "is_module": description.is_module,
        "made": description.made,
        "stands_in": description.stands_in,
        "lacks": sorted(description.lacks),
    }


def decode_description(body: Mapping[str, Any], target: str) -> TargetDescription:
    """Invert `encode_description`.

    Raises:
        LoadFailure: a field is missing or of the wrong kind: the candidate's process is broken.
    """
    try:
        parameters = tuple(Parameter(str(p["name"]), bool(p["required"]), p["kind"]) for p in body["parameters"])
        odd = [parameter.kind for parameter in parameters if parameter.kind not in ("positional", "keyword", "either")]
        if odd:
            raise ValueError(f"parameter kind {odd[0]!r}")
        lacks = frozenset(map(str, body.get("lacks", ())))
        if unknown := sorted(lacks - ABILITIES.keys()):
            raise ValueError(f"it lacks {unknown[0]!r}, which is no ability")
        return TargetDescription(
            target=target,
            parameters=parameters,
            accepts_any_keyword=bool(body["accepts_any_keyword"]),
            file=body["file"],
            versions={str(name): str(version) for name, version in body["versions"].items()},
            documentation=str(body.get("documentation", "")),
            device_name=str(body["device_name"]),
            is_module=bool(body.get("is_module", False)),
            made={str(name): str(kind) for name, kind in body.get("made", {}).items()},
            stands_in=bool(body.get("stands_in", False)),
            lacks=lacks,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        message = f"loading {target} got an answer that does not follow the protocol: {type(error).__name__}: {error}"
        raise LoadFailure("broken", message) from None


def encode_failure(failure: LoadFailure) -> dict[str, Any]:
    """The body of the message "failed" in answer to "load"."""
    return {"reason": failure.reason, "message": failure.message, "traceback": failure.traceback}


def decode_failure(body: Mapping[str, Any]) -> LoadFailure:
    """Invert `encode_failure`. An unknown reason means that the candidate's process is broken."""
    reason, message, traceback = body.get("reason"), str(body.get("message", "")), str(body.get("traceback", ""))
    if reason in USAGE_REASONS or reason in ("import failed", "not built", "no pairs", "interpreter"):
        return LoadFailure(reason, message, traceback)
    return LoadFailure("broken", f"the candidate's own process failed while loading it: {message}", traceback)
