"""Losses with the right answer that keep their process from giving it, or make it hard to read.

NEVER call these outside a process of their own. A name in ``ON_LOADING`` does its harm while it is loaded, the other
functions while they are called; all answer as the ordinary loss does. What each comes to is in
tests/harness/worker/test_not_answered.py.
"""

import builtins
import contextlib
import fcntl
import os
import resource
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

_kept: list[Any] = []  # what must outlive the call


def right(logits: Tensor, labels: Tensor) -> Tensor:
    """Right, and well-behaved."""
    scores = logits[:, :-1].float()
    return F.cross_entropy(scores.reshape(-1, scores.shape[-1]), labels[:, 1:].reshape(-1), ignore_index=-100)


def _reply_pipe() -> int:
    """The number under which this process answers the judge."""
    for fd in range(200, 300):
        with contextlib.suppress(OSError):
            if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY:
                return fd
    raise RuntimeError("there is no such pipe")


# --- cannot write its answer ------------------------------------------------------------------------------------------


def _use_up_descriptors() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    with contextlib.suppress(OSError):
        while True:
            _kept.append(os.open(os.devnull, os.O_RDONLY))


def uses_up_descriptors(logits: Tensor, labels: Tensor) -> Tensor:
    """Opens files and never closes one, until there are no numbers left."""
    _use_up_descriptors()
    return right(logits, labels)


def limits_file_size(logits: Tensor, labels: Tensor) -> Tensor:
    """No file may have more than 0 bytes from here on."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    return right(logits, labels)


def fills_the_disk(logits: Tensor, labels: Tensor) -> Tensor:
    """No file can be opened for writing for want of room: said by a patch, since other processes need theirs."""
    builtins.open = _no_room  # type: ignore[assignment]
    return right(logits, labels)


def _no_room(*arguments: Any, **keywords: Any) -> NoReturn:
    raise OSError(28, "No space left on device")


def deletes_scratch_files(logits: Tensor, labels: Tensor) -> Tensor:
    """Tidies up what it takes for rubbish: the folder by which its process gets its arguments."""
    shutil.rmtree(os.path.dirname(_main_loop()._case))
    return right(logits, labels)


def _main_loop() -> Any:
    """What answers the judge in this process, found by its frame."""
    frame: Any = sys._getframe()
    while "server" not in frame.f_locals:
        frame = frame.f_back
    return frame.f_locals["server"]


# --- says something else ----------------------------------------------------------------------------------------------


def writes_junk(logits: Tensor, labels: Tensor) -> Tensor:
    """Prints to whatever pipe it finds."""
    os.write(_reply_pipe(), b"loss: 0.5\n")
    return right(logits, labels)


def writes_without_end(logits: Tensor, labels: Tensor) -> Tensor:
    """A line that does not end, of more than any answer has."""
    pipe = _reply_pipe()
    for _ in range(17 << 4):
        os.write(pipe, b"x" * 65536)
    return right(logits, labels)


def forges_by_counting(logits: Tensor, labels: Tensor) -> Tensor:
    """An answer that it made itself, to the question that it takes this for, and then the real one."""
    os.write(
        _reply_pipe(),
        b'{"seq": 2, "raised": {"type": "E", "message": "", "traceback": "", "during": "call", "seconds": 0}}\n',
    )
    return right(logits, labels)


def forges_another_verb(logits: Tensor, labels: Tensor) -> Tensor:
    """JSON, and not of this protocol."""
    os.write(_reply_pipe(), b'{"jsonrpc": "2.0", "result": 0.5}\n')
    return right(logits, labels)


def forges_a_result(logits: Tensor, labels: Tensor) -> Tensor:
    """An answer to the right question, which it read from the main loop, about a result file that is not there."""
    fields = b'"kind": "tensor", "requires_grad": true, "gradients": [], "mutated": [], "seconds": 0'
    os.write(_reply_pipe(), b'{"seq": %d, "returned": {%s}}\n' % (_main_loop()._asked, fields))
    time.sleep(1)  # until that has been read
    return right(logits, labels)


# --- loses its process or its pipes -----------------------------------------------------------------------------------


def closes_everything(logits: Tensor, labels: Tensor) -> Tensor:
    """Closes all files, as daemons do."""
    os.closerange(0, 4096)
    return right(logits, labels)


def replaces_everything(logits: Tensor, labels: Tensor) -> Tensor:
    """Lets every file be /dev/null."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2, *range(200, 204)):
        os.dup2(nothing, fd)
    return right(logits, labels)


def exits_while_it_answers(logits: Tensor, labels: Tensor) -> Tensor:
    """A thread ends the process a moment after the loss was returned."""
    builtins.open = lambda *arguments, **keywords: time.sleep(60)  # type: ignore[assignment]
    threading.Timer(0.1, os._exit, (5,)).start()
    return right(logits, labels)


def stops_itself(logits: Tensor, labels: Tensor) -> Tensor:
    """Waits for a debugger that nobody attaches."""
    os.kill(os.getpid(), signal.SIGSTOP)
    return right(logits, labels)


# --- returns what cannot be read --------------------------------------------------------------------------------------


class _Evil(Tensor):
    """A tensor of which every use raises."""

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> NoReturn:
        raise RuntimeError("nobody may use this tensor")


def _evil(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    def unreadable(self: Any, *arguments: Any) -> NoReturn:
        raise NotImplementedError(f"{name} is not for you")

    kind: Any = type("Lazy", (Tensor,), {name: property(unreadable)})

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return right(logits, labels).as_subclass(kind)

    return loss


requires_grad_raises = _evil("requires_grad")
shape_raises = _evil("shape")
dtype_raises = _evil("dtype")
detach_raises = _evil("detach")
numel_raises = _evil("numel")


def every_use_raises(logits: Tensor, labels: Tensor) -> Tensor:
    """Of a class whose __torch_function__ raises."""
    return right(logits, labels).as_subclass(_Evil)


class _Wrapper(Tensor):
    """A tensor without memory of its own, as lazy and distributed tensors are."""

    @staticmethod
    def __new__(cls, inner: Tensor) -> Any:
        return Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)  # type: ignore[attr-defined]

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _Wrapper(torch.zeros(()))


def has_no_memory(logits: Tensor, labels: Tensor) -> Tensor:
    """A tensor whose values lie nowhere."""
    return _Wrapper(right(logits, labels))


def ten_gigabytes(logits: Tensor, labels: Tensor) -> Tensor:
    """One loss for each of 2.5e9 tokens, which share one number."""
    return right(logits, labels).expand(2_500_000_000)


# --- raises what cannot be printed ------------------------------------------------------------------------------------


class _Nameless(type):
    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise RuntimeError("no name")


class Unprintable(Exception, metaclass=_Nameless):
    """Of which nothing can be told."""

    def __str__(self) -> str:
        raise KeyboardInterrupt

    __repr__ = __str__

    @property
    def __class__(self) -> Any:  # type: ignore[override]
        raise RuntimeError("no class")


def raises_unprintable(logits: Tensor, labels: Tensor) -> Tensor:
    """Raises, and says nothing."""
    raise Unprintable


class Untraceable(Exception):
    """Of which nobody can tell where it came from."""

    @property
    def __traceback__(self) -> Any:  # type: ignore[override]
        raise RuntimeError("no traceback")


def raises_untraceable(logits: Tensor, labels: Tensor) -> Tensor:
    """Raises, and hides where."""
    raise Untraceable


class UnprintableRuntime(RuntimeError):
    """Which has no text."""

    def __str__(self) -> str:
        raise ValueError("no text")


def raises_unprintable_runtime(logits: Tensor, labels: Tensor) -> Tensor:
    """Raises what the judge asks whether memory ran out."""
    raise UnprintableRuntime


# --- sets something for the whole process -----------------------------------------------------------------------------


class _Silent:
    """A standard output that raises."""

    def __getattr__(self, name: str) -> NoReturn:
        raise RuntimeError(f"no {name} here")


class _FunctionMode(TorchFunctionMode):
    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(function, "__name__", "") in ("clone", "to", "detach", "full_like"):
            raise RuntimeError("not under this mode")
        return function(*args, **(kwargs or {}))


class _DispatchMode(TorchDispatchMode):
    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if str(function) in ("aten.full_like.default", "aten.equal.default"):
            raise RuntimeError("not under this mode")
        return function(*args, **(kwargs or {}))


def _replace_output() -> None:
    sys.stdout = sys.stderr = _Silent()  # type: ignore[assignment]


def _answer_too_soon() -> None:
    os.write(_reply_pipe(), b"loading...\n")


ON_LOADING: dict[str, Callable[[], object]] = {
    "default_device_meta": lambda: torch.set_default_device("meta"),
    "default_device_cuda": lambda: torch.set_default_device("cuda"),
    "default_dtype_double": lambda: torch.set_default_dtype(torch.float64),
    "function_mode": lambda: _FunctionMode().__enter__(),
    "dispatch_mode": lambda: _DispatchMode().__enter__(),
    "gradients_off": lambda: torch.set_grad_enabled(False),
    "inference_on": lambda: torch.inference_mode().__enter__(),
    "output_replaced": _replace_output,
    "low_files_closed": lambda: os.closerange(0, 3),
    "descriptors_gone": _use_up_descriptors,
    "all_files_closed": lambda: os.closerange(0, 4096),
    "junk_while_loading": _answer_too_soon,
}


def __getattr__(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    if name not in ON_LOADING:
        raise AttributeError(name)
    ON_LOADING[name]()
    return right
