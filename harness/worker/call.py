"""Call a candidate once, with its backward. Runs in the candidate's process."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from time import perf_counter, process_time
from typing import Any

import torch

from .arguments import Arguments, bind, prepare
from .call_shapes import Shaped
from .device import device_of
from .exchange import (
    OTHER_AFTER_LAST_BACKWARD,
    OTHER_BEFORE,
    Call,
    Outcome,
    OutOfMemory,
    Phase,
    Raised,
    Returned,
    Unusable,
    ValueKind,
    Window,
)
from .global_state import OF_A_CALL, changed, random_states, settings, step
from .load import Loaded, module_of
from .memory import MemoryLimit, is_out_of_memory
from .shield import shielded
from .tracebacks import exception_message, exception_name, exception_traceback
from .training import Rehearsal
from .watching import Watch

_EXPECTED = (
    'a tensor, a number, a tuple or list that begins with one, a dict with "loss" or "labels", or an object with .loss'
)
_KEYS = ("loss", "labels")  # the keys of a mapping that may hold the answer, in this order

_NO_LOSS: tuple[torch.Tensor, ValueKind] = (torch.tensor(torch.nan, dtype=torch.float64), "none")  # for a trainer

_LARGER = 1 << 20  # bytes by which a value may be larger than all arguments of the candidate


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """The answer of one call."""

    outcome: Outcome
    seconds: float
    """Time spent in the candidate and its backward, without the waits for a processor that others use."""

    spoiled: bool = False
    """Whether this process cannot take another call: it ran out of memory, or its CUDA context is lost."""


class _NotALoss(Exception):
    """A candidate returned something from which no loss can be read."""


class _Stopwatch:
    """Adds up the time of the code that runs within it. Synchronises the device at both ends.

    It counts the wall time, or the processor time if that is less: then others had the processor.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device_of(device)
        self._started = 0.0, 0.0
        self.seconds = 0.0

    def __enter__(self) -> None:
        self._device.settle()
        self._started = perf_counter(), process_time()

    def __exit__(self, kind: object, error: object, frames: object) -> None:
        # After an exception the device may be lost, and synchronising it would raise another exception.
        if error is None:
            self._device.settle()
        wall, busy = self._started
        self.seconds += min(perf_counter() - wall, process_time() - busy)


def perform(
    loaded: Loaded,
    call: Call,
    device: torch.device,
    memory: MemoryLimit | None = None,
    around: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Answer:
    """Call a candidate with the arguments of `call`, and run backward from its value if gradients are asked for.

    The candidate and its backward run within ``around()``.

    Raises:
        SystemExit, KeyboardInterrupt: the candidate raised it. Its other exceptions are outcomes.
    """
    loaded = loaded.in_dtype(call.model_dtype)
    watch = _Stopwatch(device)
    phase: Phase = "call"
    lists = {name: list(value) for name, value in call.scalars.items() if isinstance(value, list)}  # its own copies
    with _mode(call.grad_mode), _train_mode(loaded, call.train_mode):
        try:
            with shielded():
                arguments = prepare(call.tensors, call.layouts, call.gradients, device)
                other = prepare(call.other, {}, tuple(set(call.gradients) & set(call.other)), device)
                rehearsal = None if call.training is None else Rehearsal(call.training, arguments)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            return failure(error, phase, watch.seconds, device, memory)
        windows: list[Window] = []
        attached_to = () if call.outputs_apart else call.outputs
        watched = Watch(_watched_of(loaded.function)) if call.watch else None

        def ask(handed: Mapping[str, Any], watched: Watch | None = watched) -> Any:
            positional, keywords = bind(
                loaded.description.parameters, {**call.scalars, **lists, **handed}, loaded.defaults
            )
            autocast = torch.autocast(device.type, getattr(torch, call.autocast)) if call.autocast else nullcontext()
            # Tracing sees nothing of compiled code, and keeps dynamo from compiling it.
            with watch, watched or nullcontext(), nullcontext() if call.backend else around(), autocast:
                return loaded.under(call.backend)(*positional, **keywords)

        def in_eval_mode() -> Any:
            again = prepare(call.tensors, call.layouts, (), device)
            with torch.no_grad(), _train_mode(loaded, False):
                return ask(again.handed, None)

        with shielded():
            step()
            drawn = random_states()
        # Those of a call are set anew for each. All others stay as they were left, so they are compared with the first.
        before = {**loaded.settings, **settings(OF_A_CALL)}

        # Only the candidate's own code: an exception elsewhere is our fault, and must not become an outcome.
        try:
            with memory.applied(arguments.nbytes) if memory is not None else nullcontext():
                if rehearsal is None:
                    of_other = ask(other.handed, None) if call.other and call.order == OTHER_BEFORE else None
                    result = ask(arguments.handed)
                    if call.other and call.order != OTHER_BEFORE:
                        of_other = ask(other.handed, None)
                    with _reading("what it returned"):
                        value, kind = loss_in(result)
                else:
                    result = of_other = None
                    for value, kind in _rehearse(rehearsal, ask):
                        with _reading("what it returned"):
                            windows.append(rehearsal.report(_plain(value), kind))
                with _reading("what it returned"):
                    other_value = None if of_other is None else loss_in(of_other)[0]
                    outputs = {name: _output_in(result, name) for name in attached_to}
                    # A copy, made now: the backward may write to the memory of the value.
                    snapshot = _plain(value, arguments.nbytes + _LARGER)
                    shown = {name: _plain(output) for name, output in outputs.items()}
                    attached = bool(value.requires_grad)
                    wanted = call.gradients or outputs or call.nudge
                    goes_backward = call.grad_mode == "enabled" and wanted and rehearsal is None
                    if goes_backward and attached:
                        grad_output = _upstream(call.grad_output, value)
                        for output in outputs.values():
                            if output.requires_grad:
                                output.retain_grad()
                        if watched is not None:
                            watched.aim(value, outputs, nudges=bool(call.nudge))
                if goes_backward and attached:
                    phase = "backward"
                    with watch, around():
                        if call.order == OTHER_AFTER_LAST_BACKWARD:
                            _backward_of_other(other_value)
                        for left in reversed(range(call.n_backward)):
                            torch.autograd.backward((value,), (grad_output,), retain_graph=left > 0)
                        if call.order != OTHER_AFTER_LAST_BACKWARD:
                            _backward_of_other(other_value)
                    if watched is not None and call.nudge:
                        phase = "call"
                        again = prepare(call.tensors, call.layouts, (), device)
                        once_more = in_eval_mode if call.outputs_apart else lambda: ask(again.handed, None)
                        watched.nudge(call.nudge, lambda: _output_in(once_more(), "logits"))
                if call.outputs_apart:
                    phase = "call"
                    of_eval_mode = in_eval_mode()
                    with _reading("what it returned"):
                        shown = {name: _plain(_output_in(of_eval_mode, name)) for name in call.outputs}
                with _reading("the gradient that it gave"):
                    gradients = _gradients(arguments, call.gradients)
                    given = {name: output.grad for name, output in outputs.items()}
                    output_gradients = {name: _plain(each) for name, each in given.items() if each is not None}
        except (SystemExit, KeyboardInterrupt):
            raise
        except _NotALoss as error:
            return Answer(Unusable(str(error)), watch.seconds)
        except BaseException as error:
            return failure(error, phase, watch.seconds, device, memory)
        finally:
            if watched is not None:
                watched.close()
        state = changed(before)
        with shielded():
            mutated = arguments.mutated()
            moved = random_states()
            found = {} if watched is None else watched.report()
        returned = Returned(
            value=snapshot,
            kind=kind,
            requires_grad=attached,
            gradients=gradients,
            # By repr, because a candidate may have put objects into a list that cannot be compared.
            mutated=(*mutated, *(name for name in lists if repr(lists[name]) != repr(call.scalars[name]))),
            seconds=watch.seconds,
            state=state,
            random={name: digest for name, digest in moved.items() if drawn.get(name) not in (None, digest)},
            outputs=shown,
            output_gradients=output_gradients,
            watched=found,
            windows=tuple(windows),
        )
    return Answer(returned, watch.seconds)


@contextmanager
def _mode(grad_mode: str) -> Iterator[None]:
    """Set the grad mode of a call, whatever mode the candidate has left on."""
    with torch.inference_mode(grad_mode == "inference"):
        if grad_mode == "inference":
            yield
        else:
            with torch.set_grad_enabled(grad_mode == "enabled"):
                yield


@contextmanager
def _train_mode(loaded: Loaded, wanted: bool | None) -> Iterator[None]:
    """Put a module into train mode or out of it. Afterwards, each of its modules is as it was."""
    module = module_of(loaded.function)
    if wanted is None or module is None:
        yield
        return
    was = {each: each.training for each in module.modules()}
    module.train(wanted)
    try:
        yield
    finally:
        for each, training in was.items():
            each.training = training


def _watched_of(function: Callable[..., Any]) -> Any:
    return module_of(function) if isinstance(function, Shaped) else function


def _backward_of_other(value: torch.Tensor | None) -> None:
    if value is not None and value.requires_grad:
        torch.autograd.backward((value,), (torch.ones_like(value),))


@contextmanager
def _reading(what: str) -> Iterator[None]:
    """Read tensors of the candidate, which may be of its own class. An exception here means that there is no answer.

    It is not `Raised`: a candidate reports that it does not support something by raising while it is called, not while
    its answer is read.

    Raises:
        _NotALoss: reading failed. Out-of-memory and CUDA errors pass through.
    """
    try:
        with shielded():
            yield
    except (_NotALoss, SystemExit, KeyboardInterrupt):
        raise
    except BaseException as error:
        if is_out_of_memory(error) or _is_cuda_error(error):
            raise
        reason = f"{exception_name(error)}: {exception_message(error)}"
        raise _NotALoss(f"could not be read: {what} raises {reason}") from None


def _rehearse(
    rehearsal: Rehearsal, ask: Callable[[Mapping[str, Any]], Any]
) -> Iterator[tuple[torch.Tensor, ValueKind]]:
    """Run the windows of a trainer, and yield the loss of each after it. Raises _NotALoss."""
    for window in range(rehearsal.windows):
        with shielded():
            handed = rehearsal.handed(window)
        with rehearsal.window():
            result = ask(handed)
        if rehearsal.trains_padding:
            raise _NotALoss("trained the padding that it added itself; expected its labels to be ignored")
        yield _NO_LOSS if result is None else loss_in(result)


def failure(
    error: BaseException, phase: Phase, seconds: float, device: torch.device, memory: MemoryLimit | None
) -> Answer:
    """Turn an exception from a candidate into an answer."""
    if is_out_of_memory(error):
        if device.type == "cuda":
            limit = device_of(device).total_memory()
        else:
            limit = (memory.limit if memory is not None else None) or 0
        return Answer(OutOfMemory(limit, exception_message(error)), seconds, spoiled=True)
    raised = Raised(exception_name(error), exception_message(error), exception_traceback(error), phase)
    return Answer(raised, seconds, spoiled=device.type == "cuda" and _is_cuda_error(error))


def _is_cuda_error(error: BaseException) -> bool:
    """Whether CUDA itself failed. Then every later call in the same process fails with the same error."""
    accelerator_error = getattr(torch, "AcceleratorError", None)  # since torch 2.8
    if accelerator_error is not None and issubclass(type(error), accelerator_error):
        return True
    return issubclass(type(error), RuntimeError) and "CUDA error" in exception_message(error)


def loss_in(result: Any) -> tuple[torch.Tensor, ValueKind]:
    """Find the loss, or the labels, in the result of a candidate. Raises _NotALoss."""
    found, place = result, ""
    if not isinstance(result, torch.Tensor) and _number(result) is None:
        found, place = _unwrap(result)
    if isinstance(found, torch.Tensor):
        return found, "tensor"
    number = _number(found)
    if number is not None:
        return torch.tensor(number, dtype=torch.float64, device="cpu"), "number"
    what = f"{place} {_describe(found)}" if place else _describe(found)
    raise _NotALoss(f"returned {what}; expected {_EXPECTED}")


def _unwrap(result: Any) -> tuple[Any, str]:
    """Find the answer in a composite result. Return it, and words for its place. Raises _NotALoss."""
    if isinstance(result, Mapping):
        for key in _KEYS:
            if key in result:
                return result[key], f'{_describe(result)} whose "{key}" is'
        keys = ", ".join(repr(key) for key in list(result)[:8])
        what = f'{_describe(result)} without "loss" or "labels" (it has {keys or "no keys"})'
        raise _NotALoss(f"returned {what}; expected {_EXPECTED}")
    if hasattr(result, "loss"):  # before sequences, so that the field of a named tuple counts
        return result.loss, f"{_describe(result)} whose .loss is"
    if isinstance(result, (tuple, list)) and result:
        return result[0], f"{_describe(result)} that begins with"
    return result, ""


def _output_in(result: Any, name: str) -> torch.Tensor:
    """Find the output `name` in the result of a candidate, beside its loss. Raises _NotALoss."""
    found = result.get(name) if isinstance(result, Mapping) else getattr(result, name, None)
    if isinstance(found, torch.Tensor):
        return found
    what = f"without {name}" if found is None else f"whose {name} is {_describe(found)}"
    raise _NotALoss(
        f"returned {_describe(result)} {what}; expected both, as in (loss, {name}): a model is judged against its own "
        f"{name}"
    )


def _number(value: Any) -> float | None:
    """Return a plain real number, including numpy's (numpy need not be installed). None for all else, bools too."""
    if getattr(value, "shape", None) == () and hasattr(value, "dtype") and hasattr(value, "item"):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    return float(value)


def _describe(value: Any) -> str:
    if value is None:
        return "None"
    if callable(value) and not isinstance(value, torch.Tensor):
        return f"the function {getattr(value, '__name__', type(value).__name__)} (if it makes the loss, add --init '')"
    if isinstance(value, str):
        return f"the str {value[:40]!r}"
    if isinstance(value, (tuple, list)) and not value:
        return f"an empty {type(value).__name__}"
    name = type(value).__name__
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def _plain(value: torch.Tensor, most: int | None = None) -> torch.Tensor:
    """Make a dense copy on the CPU with the same shape and dtype.

    Raises:
        _NotALoss: there is nothing to copy, or more than ``most`` bytes.
    """
    if value.device.type == "meta":
        raise _NotALoss(f"returned a {value.dtype} tensor on the meta device, which has no values")
    size = value.numel() * value.element_size()
    if most is not None and size > most:
        raise _NotALoss(
            f"returned a {value.dtype} tensor of shape {list(value.shape)}, {size} bytes; expected a loss no larger "
            f"than its inputs ({most} bytes at most)"
        )
    dense = value.detach() if value.layout is torch.strided else value.detach().to_dense()
    copy = dense.to("cpu", copy=True)
    if copy.numel() and not copy.untyped_storage().data_ptr():
        raise _NotALoss(f"returned a {type(value).__name__}, which has no values")
    return copy


def _upstream(grad_output: float | torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """The incoming gradient in the shape, dtype and device of the value. Raises _NotALoss if it does not fit."""
    if not isinstance(grad_output, torch.Tensor):
        return torch.full_like(value.detach(), grad_output)
    if grad_output.numel() != value.numel():
        raise _NotALoss(
            f"returned a tensor of shape {list(value.shape)} ({value.numel()} elements); "
            f"expected {grad_output.numel()}, one for each element of the incoming gradient"
        )
    return grad_output.to(device=value.device, dtype=value.dtype).reshape(value.shape)


def _gradients(arguments: Arguments, wanted: tuple[str, ...]) -> dict[str, torch.Tensor | None]:
    gradients: dict[str, torch.Tensor | None] = {}
    for name in wanted:
        gradient = arguments.originals[name].grad
        if gradient is not None:
            gradient = _plain(gradient)
        gradients[name] = gradient
    return gradients
