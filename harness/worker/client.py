"""A candidate in another process, as the harness sees it."""

from __future__ import annotations

import os
import shutil
import sys
import time
import weakref
from types import TracebackType
from typing import Any

from .exchange import Call, Died, Outcome, OutOfMemory, TimedOut
from .process import ChildProcess, DeadlinePassed, Ended, Ending
from .protocol import HELLO, PROTOCOL_VERSION, ProtocolError, check_answer, decode_line, encode_line
from .scratch import CASE_FILE, RESULT_FILE, ScratchFolder
from .settings import WorkerSettings
from .target import LoadFailure, TargetDescription
from .wire import decode_description, decode_failure, decode_outcome, encode_call

_BOOTSTRAP = os.path.join(os.path.dirname(os.path.abspath(__file__)), "bootstrap.py")
_LONGEST_PREAMBLE = 1000  # lines that an interpreter's start-up files may print before the worker says hello
_ROOM = 1 << 20  # bytes to spare in the scratch folder for headers and for a value larger than its arguments


class Worker:
    """A candidate in a process of its own, started again after each crash, hang or exhaustion of its memory.

    >>> with Worker("mytrainer.losses:text_loss", WorkerSettings(call_deadline=5)) as worker:
    ...     outcome = worker.call(Call({"logits": logits, "labels": labels}, gradients=("logits",)))

    Not for use by several threads at once. Closed when it is garbage collected, or when the interpreter ends, at the
    latest.
    """

    def __init__(self, target: str, settings: WorkerSettings | None = None) -> None:
        self.target = target
        self.settings = settings if settings is not None else WorkerSettings()
        self.restarts = 0
        """How often the process was started again."""
        self.seconds_in_candidate = 0.0
        """The time spent in the candidate, by its own process's measure; calls that never answered add nothing."""

        self._seq = 0
        self._starts = 0
        self._greeted = False
        self._load_deadline = 0.0
        self._description: TargetDescription | None = None
        self._failure: LoadFailure | None = None
        self._held = _Held()
        self._finalizer = weakref.finalize(self, _Held.release, self._held)

    def __enter__(self) -> Worker:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Begin to load the candidate, without waiting for it and without complaint: `describe` has that.

        Raises:
            RuntimeError: the worker is closed.
        """
        if not self._finalizer.alive:
            raise RuntimeError(f"the worker of {self.target} is closed")
        if self._held.child is not None or self._failure is not None:
            return
        try:
            python, cwd = _interpreter(self.settings.python), _working_directory(self.settings.cwd)
            try:
                child = ChildProcess([python, "-u", _BOOTSTRAP], cwd, self.settings.environment)
            except OSError as error:
                raise LoadFailure("interpreter", f"{python} cannot be started: {error.strerror or error}") from None
        except LoadFailure as failure:
            self._failure = failure
            return
        self._held.child = child
        self._greeted = False
        self._starts += 1
        self.restarts = self._starts - 1
        self._send_load(child, cwd)

    def turn_to(self, target: str) -> None:
        """Load another candidate in the same process, which keeps what it has imported. Waits for nothing, as `start`.

        Raises:
            RuntimeError: as `start`.
        """
        self.target = target
        self._description = self._failure = None
        child = self._held.child
        if child is None:
            self.start()
            return
        self._send_load(child, _working_directory(self.settings.cwd))

    def _send_load(self, child: ChildProcess, cwd: str) -> None:
        self._description = None
        self._load_deadline = time.monotonic() + self.settings.load_deadline
        self._seq += 1
        load = {
            "target": self.target,
            "cwd": cwd,
            "device": self.settings.device,
            "memory_limit": self.settings.memory_limit,
        }
        child.send(encode_line({"seq": self._seq, "load": load}))

    def describe(self) -> TargetDescription:
        """The loaded candidate; waits until it is.

        Raises:
            LoadFailure: it could not be loaded. The same one again at each further call: nothing is tried twice.
            ProtocolError: the process is not a worker of ours, or a broken one.
        """
        self.start()
        if self._failure is not None:
            raise self._failure
        if self._description is None:
            try:
                self._description = self._await_loading()
            except LoadFailure as failure:
                if failure.reason != "not built":  # of which the process is none the worse
                    self._stop()
                self._failure = failure
                raise
            except BaseException:  # an interrupt too: the answer, if it came later, would meet another question
                self._stop()
                raise
        return self._description

    def call(self, call: Call) -> Outcome:
        """Call the candidate once. Loads it first if it is not, which counts towards the load's deadline alone.

        Raises:
            LoadFailure: as `describe`; also if the candidate cannot be loaded again after a crash.
            ProtocolError: the worker, not the candidate, misbehaved. The next call starts another.
            ValueError: a tensor of the call cannot be written to a file.
        """
        self.describe()
        child = self._held.child
        assert child is not None
        folder = self._held.scratch.for_bytes(_file_bytes(call))
        case, result = os.path.join(folder, CASE_FILE), os.path.join(folder, RESULT_FILE)
        body = encode_call(call, case, result)
        # The last call's result must not pass for this one's.
        if os.path.exists(result):
            os.unlink(result)
        answer = self._exchange(child, "call", body)
        if isinstance(answer, Outcome):
            return answer
        verb, fields = answer
        try:
            outcome, seconds = decode_outcome(verb, fields, call, result)
        except BaseException:
            self._stop()
            raise
        self.seconds_in_candidate += seconds
        if isinstance(outcome, OutOfMemory) or fields.get("spoiled") is True:
            self._stop()
        return outcome

    def ask(self, verb: str, body: dict[str, Any]) -> tuple[str, dict[str, Any]] | Outcome:
        """Any other question: the verb and the fields of its answer, or how the process failed to give one.

        Raises:
            LoadFailure, ProtocolError: as `call`.
        """
        self.describe()
        child = self._held.child
        assert child is not None
        return self._exchange(child, verb, body)

    def folder_for(self, size: int) -> str:
        """A folder that both processes see, with room for files of `size` bytes."""
        return self._held.scratch.for_bytes(size)

    @property
    def pid(self) -> int | None:
        """The id of the process; None while there is none."""
        return self._held.child.pid if self._held.child is not None else None

    def close(self) -> None:
        """End the process and remove its files. May be called again."""
        self._finalizer()

    def _exchange(self, child: ChildProcess, verb: str, body: dict[str, Any]) -> tuple[str, dict[str, Any]] | Outcome:
        self._seq += 1
        try:
            child.send(encode_line({"seq": self._seq, verb: body}))
            return check_answer(child.receive(time.monotonic() + self.settings.call_deadline), self._seq)
        except Ended:
            return self._died(child.farewell())
        except DeadlinePassed:
            self._stop()
            return TimedOut(self.settings.call_deadline)
        except BaseException:
            self._stop()
            raise

    def _await_loading(self) -> TargetDescription:
        child = self._held.child
        assert child is not None
        try:
            if not self._greeted:
                self._greet(child)
            self._greeted = True
            verb, body = check_answer(child.receive(self._load_deadline), self._seq)
        except DeadlinePassed:
            self._stop()
            seconds = self.settings.load_deadline
            raise LoadFailure("timed out", f"loading {self.target} took longer than {seconds:g} s") from None
        except Ended:
            ending = child.farewell()
            died = self._died(ending)
            if self._greeted:
                raise LoadFailure("died", f"loading {self.target} {died.describe()}", ending.output) from None
            raise LoadFailure(
                "interpreter",
                f"{self._python} did not become a worker: it {died.describe()}{_last_line(ending.output)}",
                ending.output,
            ) from None
        if verb == "failed":
            raise decode_failure(body)
        if verb != "loaded":
            raise ProtocolError(f"expected loaded or failed, got {verb!r}")
        return decode_description(body, self.target)

    def _greet(self, child: ChildProcess) -> None:
        """Wait for the worker's hello, passing over what else the interpreter prints at its start."""
        for _ in range(_LONGEST_PREAMBLE):
            line = child.receive_line(self._load_deadline)
            try:
                hello = decode_line(line)
            except ProtocolError:
                continue
            if HELLO in hello:
                break
        else:
            raise LoadFailure("interpreter", f"{self._python} did not become a worker: it prints other things")
        version = hello[HELLO]
        if version != PROTOCOL_VERSION:
            raise LoadFailure(
                "interpreter",
                f"the worker under {self._python} speaks version {version!r} of the protocol, "
                f"this harness speaks version {PROTOCOL_VERSION}",
            )
        if hello.get("missing"):
            raise LoadFailure(
                "interpreter",
                f"{self._python} (Python {hello.get('python')}) cannot import {hello['missing']} "
                f"({hello.get('problem')}); the candidate's interpreter needs torch and safetensors: "
                f"{self._python} -m pip install torch safetensors",
            )

    def _died(self, ending: Ending) -> Outcome:
        self._held.child = None
        if ending.signal == "SIGKILL":
            # Not ours, or there would be no signal: in practice the kernel's, for want of memory.
            limit = self.settings.memory_limit if self.settings.device == "cpu" else None
            return OutOfMemory(limit or 0, "the process was killed by SIGKILL, as the kernel does when memory runs out")
        return Died(ending.exit_code, ending.signal, ending.output)

    def _stop(self) -> None:
        """End the process; the next call starts another."""
        child, self._held.child = self._held.child, None
        if child is not None:
            child.kill()

    @property
    def _python(self) -> str:
        return self.settings.python or sys.executable


class _Held:
    """What must be given back when a worker ends. Apart from it, since a finalizer must not hold the worker alive."""

    def __init__(self) -> None:
        self.child: ChildProcess | None = None
        self.scratch = ScratchFolder()
        self._owner = os.getpid()

    def release(self) -> None:
        """Give it back, once."""
        if os.getpid() != self._owner:
            return  # a fork of the harness, which ends without taking the harness's workers with it
        child, self.child = self.child, None
        if child is not None:
            child.kill()
        self.scratch.remove()


def _interpreter(python: str | None) -> str:
    """The interpreter's full path. Not resolved through links, by which a virtual environment is known."""
    if python is None:
        return sys.executable
    found = shutil.which(os.path.expanduser(python))
    if found is None:
        what = "is not executable" if os.path.isfile(python) else "does not exist"
        raise LoadFailure("interpreter", f"the interpreter {python} {what}")
    return os.path.abspath(found)


def _working_directory(cwd: str | None) -> str:
    folder = os.path.abspath(cwd if cwd is not None else os.getcwd())
    if not os.path.isdir(folder):
        raise LoadFailure("no such file", f"the working directory {folder} does not exist")
    return folder


def _file_bytes(call: Call) -> int:
    """Bytes that the two files of a call may take: the arguments, and gradients and a value no larger."""
    return 2 * sum(tensor.numel() * tensor.element_size() for tensor in call.tensors.values()) + _ROOM


def _last_line(output: str) -> str:
    lines = output.strip().splitlines()
    return f", saying {lines[-1].strip()!r}" if lines else ""
