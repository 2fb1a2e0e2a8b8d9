"""A worker for losses in numpy and in JAX. It speaks docs/protocol.md, and needs neither torch nor shiftproof.

A loss in numpy returns its gradient itself: ``(loss, {"logits": gradient})``. A loss in JAX returns the loss alone, and
``jax.vjp`` differentiates it. A file that imports jax holds losses of the second kind.
"""

import importlib
import importlib.util
import inspect
import json
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

import numpy as np

DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"} | {
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}
KINDS = {
    inspect.Parameter.POSITIONAL_ONLY: "positional",
    inspect.Parameter.POSITIONAL_OR_KEYWORD: "either",
    inspect.Parameter.KEYWORD_ONLY: "keyword",
}
NEVER = ["autocast", "compile", "inference_mode", "layouts", "settings", "branches"]
NOT_IN_NUMPY = ["no_grad", "backward"]  # it records nothing, and has no backward


class Refused(Exception):
    """The candidate cannot be named, loaded or called in this way: the verb and the fields of the answer."""

    def __init__(self, verb: str, **fields: Any) -> None:
        super().__init__(verb)
        self.verb, self.fields = verb, fields


# Tensors in files --------------------------------------------------------------------------------------------------


def read_tensors(path: str) -> dict[str, np.ndarray]:
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        data = file.read()
    header.pop("__metadata__", None)
    return {name: _read(data, **entry) for name, entry in header.items()}


def _read(data: bytes, dtype: str, shape: list[int], data_offsets: list[int]) -> np.ndarray:
    begin, end = data_offsets
    # A copy, which the candidate may write to.
    return np.frombuffer(data[begin:end], dtype_of(DTYPES[dtype])).reshape(shape).copy()


def dtype_of(name: str) -> np.dtype:
    if name == "bfloat16":  # numpy itself has none
        try:
            import ml_dtypes
        except ImportError:
            not_judged("numpy has no bfloat16; install ml_dtypes, or judge it with --dtype float32")
        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


def write_tensors(path: str, arrays: Mapping[str, np.ndarray]) -> None:
    names = {dtype: name for name, dtype in DTYPES.items()}
    header, chunks, begin = {}, [], 0
    for name, array in arrays.items():
        chunks.append(array.tobytes())
        end = begin + len(chunks[-1])
        header[name] = {"dtype": names[array.dtype.name], "shape": list(array.shape), "data_offsets": [begin, end]}
        begin = end
    encoded = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded + b"".join(chunks))


# Loading -----------------------------------------------------------------------------------------------------------


def load(target: str, device: str) -> Callable[..., Any]:
    """Find ``path/file.py:attribute`` or ``package.module:attribute``. Raises Refused."""
    if device != "cpu":
        cannot_load("interpreter", f"this worker runs on the CPU alone, not on {device}")
    place, _, attribute = target.rpartition(":")
    is_file = place.endswith(".py")
    if is_file and not os.path.isfile(place):
        cannot_load("no such file", f"{place} does not exist")
    try:
        module = _module_of_file(place) if is_file else importlib.import_module(place)
    except Exception as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == place
        reason = "no such module" if missing else "import failed"
        cannot_load(reason, f"{place} cannot be imported: {error}", "" if missing else traceback.format_exc())
    function = getattr(module, attribute, None)
    if function is None:
        cannot_load("no such attribute", f"{place} has no attribute {attribute!r}")
    if not callable(function):
        cannot_load("not callable", f"{target} is not a function")
    return function


def _module_of_file(path: str) -> Any:
    sys.path.insert(0, os.path.dirname(os.path.abspath(path)))  # a script finds its neighbours
    name = os.path.basename(path).removesuffix(".py")
    spec = importlib.util.spec_from_file_location(name, path)
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def describe(function: Callable[..., Any]) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters.values()
    libraries = [sys.modules[name] for name in ("numpy", "jax", "ml_dtypes") if name in sys.modules]
    return {
        "parameters": [
            {"name": each.name, "required": each.default is each.empty, "kind": KINDS[each.kind]}
            for each in parameters
            if each.kind in KINDS
        ],
        "accepts_any_keyword": any(each.kind is each.VAR_KEYWORD for each in parameters),
        "file": inspect.getsourcefile(inspect.unwrap(function)),
        "versions": {
            "python": platform.python_version(),
            "platform": f"{platform.system()}-{platform.release()}",
            **{library.__name__: library.__version__ for library in libraries},
        },
        "documentation": inspect.getdoc(function) or "",
        "device_name": platform.processor() or platform.machine(),
        "lacks": NEVER if uses_jax() else NEVER + NOT_IN_NUMPY,
    }


def uses_jax() -> bool:
    return "jax" in sys.modules


# Calling -----------------------------------------------------------------------------------------------------------

Backward = Callable[[np.ndarray], Mapping[str, Any]]
"""From the incoming gradient to the gradient at each argument that has one."""


def begin_in_numpy(function: Callable[..., Any], given: dict[str, Any], wanted: list[str]) -> tuple[Any, Backward]:
    """Call a loss that returns its gradients itself."""
    returned = function(**given)
    pair = isinstance(returned, tuple) and len(returned) == 2 and isinstance(returned[1], Mapping)
    loss, gradients = returned if pair else (returned, {})

    def backward(upstream: np.ndarray) -> Mapping[str, Any]:
        if upstream.size != 1:
            not_judged("a loss in numpy gives the gradient of one number, and takes no incoming gradient a token")
        found = {name: np.asarray(gradients[name]) for name in wanted if name in gradients}
        return {name: each * upstream.astype(each.dtype).reshape(()) for name, each in found.items()}

    return loss_in(loss), backward


def begin_in_jax(function: Callable[..., Any], given: dict[str, Any], wanted: list[str]) -> tuple[Any, Backward]:
    """Call a loss that JAX differentiates. Without ``wanted``, nothing is recorded."""
    import jax

    if not jax.config.jax_enable_x64 and any(getattr(each, "dtype", None) == np.float64 for each in given.values()):
        not_judged("JAX has float64 only where JAX_ENABLE_X64=1 is set")
    given = {name: jax.numpy.asarray(each) if isinstance(each, np.ndarray) else each for name, each in given.items()}
    if not wanted:
        return jax.block_until_ready(loss_in(function(**given))), lambda upstream: {}
    leaves = {name: given.pop(name) for name in wanted}
    value, pull = jax.vjp(lambda leaves: loss_in(function(**given, **leaves)), leaves)

    def backward(upstream: np.ndarray) -> Mapping[str, Any]:
        (gradients,) = pull(jax.numpy.asarray(upstream, value.dtype).reshape(value.shape))
        return jax.block_until_ready(gradients)

    return jax.block_until_ready(value), backward


def loss_in(returned: Any) -> Any:
    """Find the loss where docs/protocol.md looks for it. Raises Refused."""
    if isinstance(returned, Mapping):
        found = returned.get("loss", returned.get("labels"))
    elif isinstance(returned, (tuple, list)):
        found = returned[0] if returned else None
    else:
        found = getattr(returned, "loss", returned)
    if not hasattr(found, "dtype") and not isinstance(found, (int, float)):
        raise Refused("unusable", description=f"returned {type(found).__name__}; expected a loss")
    return found


def call(function: Callable[..., Any], body: Mapping[str, Any]) -> dict[str, Any]:
    """Make one call, and write what it gave to the file ``result``. Return the fields of `returned`."""
    if body.get("training") or body.get("outputs"):
        not_judged("this worker judges losses, not models or trainers")
    if body.get("autocast") or body.get("backend"):
        not_judged("torch alone has autocast and torch.compile")
    tensors = read_tensors(body["case"])
    scalars = {name: decoded(scalar) for name, scalar in body["scalars"].items()}
    given, other = ({**scalars, **dict(named(tensors, kind))} for kind in ("argument.", "other."))
    before = {name: each.tobytes() for name, each in named(tensors, "argument.")}
    wanted = body["gradients"] if body["grad_mode"] == "enabled" else []
    upstream = tensors["grad_output"] if body["grad_output"] is None else np.asarray(decoded(body["grad_output"]))
    begin = begin_in_jax if uses_jax() else begin_in_numpy
    has_other, order = any(name.startswith("other.") for name in tensors), body.get("order", "after")
    results: dict[str, np.ndarray] = {}
    started, during = time.perf_counter(), "call"
    try:
        of_other = begin(function, other, wanted) if has_other and order == "before" else None
        value, backward = begin(function, given, wanted)
        if has_other and of_other is None:
            of_other = begin(function, other, wanted)
        kind = "tensor" if hasattr(value, "dtype") else "number"
        results["value"] = np.asarray(value, None if kind == "tensor" else np.float64)
        during = "backward"
        if of_other is not None and wanted:
            of_other[1](np.ones(np.shape(of_other[0]), np.float32))
        for _ in range(body.get("n_backward", 1) if wanted else 0):
            for name, gradient in backward(upstream).items():
                key = f"gradient.{name}"
                results[key] = np.asarray(gradient) + results.get(key, np.zeros((), np.asarray(gradient).dtype))
    except Refused as refusal:
        raise Refused(refusal.verb, **{"seconds": time.perf_counter() - started, **refusal.fields}) from None
    except Exception as error:
        raise Refused("raised", **raised(error, during), seconds=time.perf_counter() - started) from None
    seconds = time.perf_counter() - started
    write_tensors(body["result"], results)
    gradients = [name.removeprefix("gradient.") for name in results if name != "value"]
    return {
        "kind": kind,
        "requires_grad": bool(gradients),
        "gradients": gradients,
        "mutated": [name for name, was in before.items() if given[name].tobytes() != was],
        "seconds": seconds,
    }


def named(tensors: Mapping[str, np.ndarray], kind: str) -> Iterator[tuple[str, np.ndarray]]:
    return ((name.removeprefix(kind), each) for name, each in tensors.items() if name.startswith(kind))


def decoded(scalar: Any) -> Any:
    return float(scalar["float"]) if isinstance(scalar, dict) else scalar


# Answers -----------------------------------------------------------------------------------------------------------


def cannot_load(reason: str, message: str, traceback: str = "") -> NoReturn:
    raise Refused("failed", reason=reason, message=message, traceback=traceback)


def not_judged(why: str) -> NoReturn:
    """Answer as a candidate does that raises NotImplementedError: shiftproof then says that this was not judged."""
    raise Refused("raised", **raised(NotImplementedError(why), "call"), seconds=0.0)


def raised(error: Exception, during: str) -> dict[str, Any]:
    lines = "".join(traceback.format_exception(error))
    return {"type": type(error).__name__, "message": str(error), "traceback": lines, "during": during}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    questions = os.fdopen(os.dup(0), encoding="utf-8")
    os.dup2(2, 1)  # a candidate may print
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    function: Callable[..., Any] | None = None

    def say(**line: Any) -> None:
        print(json.dumps(line), file=answers, flush=True)

    say(shiftproof_worker=2, python=platform.python_version(), torch="none")
    for line in questions:
        question = json.loads(line)
        seq = question.pop("seq")
        ((verb, body),) = question.items()
        try:
            if verb == "load":
                for name in ("init", "kwargs"):
                    if body.get(name):
                        cannot_load("not callable", f"this worker follows no {name}: write a function that needs none")
                function = load(body["target"], body["device"])
                say(seq=seq, loaded=describe(function))
            elif verb == "call":
                say(seq=seq, returned=call(function, body))
            else:
                cannot_load("worker", f"this worker knows no {verb!r}")
        except Refused as refusal:
            say(seq=seq, **{refusal.verb: refusal.fields})
        except Exception as error:
            failed = {"reason": "worker", "message": f"{type(error).__name__}: {error}"}
            say(seq=seq, failed={**failed, "traceback": traceback.format_exc()})


if __name__ == "__main__":
    main()
