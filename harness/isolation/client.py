"""The harness's side of a candidate in another process."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import sys
import time
import weakref
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from ..worker.exchange import Call, Died, NotAnswered, Outcome, OutOfMemory, Side, TimedOut
from ..worker.guards import Traced, decode_traced
from ..worker.memory import is_out_of_memory
from ..worker.protocol import (
    HELLO,
    LOADING,
    PROTOCOL_VERSION,
    UNANSWERED,
    ProtocolError,
    check_answer,
    decode_line,
    encode_line,
)
from ..worker.scratch import CASE_FILE, RESULT_FILE, ScratchFolder
from ..worker.target import LoadFailure, Target, TargetDescription
from ..worker.wire import decode_description, decode_failure, decode_outcome, encode_call, room_for
from . import nursery
from .branch_record import BranchRecord
from .process import ChildProcess, DeadlinePassed, Ended, spawn
from .settings import WorkerSettings

_LONGEST_PREAMBLE = 1000  # lines that an interpreter's start-up files may print before the worker says hello


class Worker:
    """A candidate in its own process. The process is restarted after each crash, hang or memory exhaustion.

    >>> with Worker("mytrainer.losses:text_loss", WorkerSettings(call_deadline=5)) as worker:
    ...     outcome = worker.call(Call({"logits": logits, "labels": labels}, gradients=("logits",)))

    Not thread-safe. Closed at the latest when it is garbage collected, or when the interpreter ends.
    """

    def __init__(self, target: Target | str, settings: WorkerSettings | None = None) -> None:
        self._wanted = target if isinstance(target, Target) else Target(target)
        self.target = self._wanted.name
        self.settings = settings if settings is not None else WorkerSettings()
        self.restarts = 0
        """The number of restarts of the process."""
        self.seconds_in_candidate = 0.0
        """The time spent in the candidate, measured by its own process. Calls without an answer add nothing."""
        self.branches = BranchRecord()
        """What its processes reported of the branches of its code."""

        self._seq = 0
        self._starts = 0
        self._may_fork = self.settings.may_fork
        self._was_loaded = False
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
        """Begin to load the candidate. Do not wait, and do not report failures: `describe` does both.

        Raises:
            RuntimeError: the worker is closed.
        """
        if not self._finalizer.alive:
            raise RuntimeError(f"the worker of {self.target} is closed")
        if self._held.child is not None or self._failure is not None:
            return
        try:
            python, cwd = _interpreter(self.settings.python), _working_directory(self.settings.cwd)
            child = self._start_process(python, cwd)
        except LoadFailure as failure:
            self._failure = failure
            return
        self._held.child = child
        self._greeted = False
        self._starts += 1
        self.restarts = self._starts - 1
        self._send_load(child, cwd)

    def _start_process(self, python: str, cwd: str) -> ChildProcess:
        """Fork a worker, or spawn it where that is not possible.

        Raises:
            LoadFailure: the interpreter cannot be started.
        """
        # One thread unless the user sets a number: small cases are four times faster, and sums repeat exactly.
        environment = {"OMP_NUM_THREADS": "1", **os.environ, **self.settings.environment}
        try:
            if self._may_fork:
                with contextlib.suppress(nursery.NoNursery):
                    return nursery.fork(python, cwd, environment)
            return spawn([python, "-u", nursery.BOOTSTRAP], cwd, environment)
        except OSError as error:
            raise LoadFailure("interpreter", f"{python} cannot be started: {error.strerror or error}") from None

    def turn_to(self, target: Target | str) -> None:
        """Load another candidate in the same process, which keeps its imported modules. Does not wait, like `start`.

        Raises:
            RuntimeError: as `start`.
        """
        if self._description is None and self._failure is None:
            self._stop()  # the answer to the last `load` is still due, and must not be taken for an answer to the next
        self._wanted = target if isinstance(target, Target) else Target(target)
        self.target = self._wanted.name
        self._description = self._failure = None
        self._was_loaded = False
        self.branches = BranchRecord()
        child = self._held.child
        if child is None:
            self.start()
            return
        self._send_load(child, _working_directory(self.settings.cwd))

    def _send_load(self, child: ChildProcess, cwd: str) -> None:
        self._description = None
        self._load_deadline = time.monotonic() + self.settings.load_deadline
        self._seq = _new_seq()
        load = {
            **self._wanted.message(),
            "cwd": cwd,
            "device": self.settings.device,
            "memory_limit": self.settings.memory_limit,
            "branches": self.settings.watches_branches,
        }
        child.send(encode_line({"seq": self._seq, "load": load}), self._load_deadline)

    def describe(self) -> TargetDescription:
        """Wait until the candidate is loaded, and describe it.

        Raises:
            LoadFailure: it could not be loaded. Further calls raise the same failure and do not try again.
        """
        self.start()
        if self._failure is not None:
            raise self._failure
        if self._description is None:
            try:
                self._description = self._await_loading()
            except LoadFailure as failure:
                if failure.reason not in ("not built", "no pairs"):  # these do no harm to the process
                    self._stop()
                self._failure = failure
                raise
            except BaseException:  # an interrupt too: a late answer would be taken for the answer to another question
                self._stop()
                raise
        self._was_loaded = True
        return self._description

    def call(self, call: Call, meanwhile: Callable[[], None] = lambda: None) -> Outcome:
        """Call the candidate once. If it is not loaded, load it first. Loading has its own deadline.

        ``meanwhile`` runs in this process while the candidate computes. An answer that came by then is in time.

        If no answer comes, the reason is the outcome, and the next call gets a fresh process.

        Raises:
            LoadFailure: the candidate was never loaded; as `describe`.
            ValueError: a tensor of the call cannot be written to a file.
        """
        answer = self._ask_on(call, "call", {}, meanwhile)
        if isinstance(answer, Outcome):
            return answer
        verb, fields, result = answer
        try:
            outcome, seconds = decode_outcome(verb, fields, call, result)
        except BaseException:
            self._stop()
            raise
        try:
            if self.settings.watches_branches and "branches" in fields:
                self.branches.add(fields["branches"])
        except (KeyError, TypeError, ValueError) as error:
            message = f"what it reports of its branches does not follow the protocol: {type(error).__name__}: {error}"
            return self._not_answered("candidate", message)
        self.seconds_in_candidate += seconds
        if isinstance(outcome, (OutOfMemory, NotAnswered)) or fields.get("spoiled") is True:
            self._stop()
        return outcome

    def trace(self, call: Call, now: Mapping[str, int], least: Mapping[str, int], most: int) -> Traced | Outcome:
        """Return the questions that the candidate asks of the sizes of a call. See ``worker/guards.py``.

        A candidate that was traced may have kept tensors without values. Use another worker to judge it.

        Raises:
            LoadFailure, ValueError: as `call`.
        """
        answer = self._ask_on(call, "trace", {"now": dict(now), "least": dict(least), "most": most})
        if isinstance(answer, Outcome):
            return answer
        verb, fields, _ = answer
        try:
            if verb == "failed":
                return NotAnswered("candidate", str(fields.get("message", "it gives no reason")))
            return decode_traced(fields)
        except (KeyError, TypeError, ValueError) as error:
            return self._not_answered("candidate", f"its trace cannot be read: {type(error).__name__}: {error}")

    def _ask_on(
        self, call: Call, verb: str, more: dict[str, Any], meanwhile: Callable[[], None] = lambda: None
    ) -> tuple[str, dict[str, Any], str] | Outcome:
        """Ask a question about a call. Return the answer, and the path of its result file. Raises as `call`."""
        loaded = self._loaded()
        if isinstance(loaded, Outcome):
            return loaded
        try:
            folder = self._held.scratch.for_bytes(room_for(call))
            case, result = os.path.join(folder, CASE_FILE), os.path.join(folder, RESULT_FILE)
            body = encode_call(call, case, result)
            # The last call's result must not be taken for this call's.
            if os.path.exists(result):
                os.unlink(result)
        except (OSError, MemoryError, RuntimeError) as error:
            if not isinstance(error, OSError) and not is_out_of_memory(error):
                raise
            return self._not_answered("judge", f"the case cannot be written: {type(error).__name__}: {error}")
        answer = self._exchange(loaded, verb, {**body, **more}, meanwhile)
        return answer if isinstance(answer, Outcome) else (*answer, result)

    def ask(self, verb: str, body: dict[str, Any]) -> tuple[str, dict[str, Any]] | Outcome:
        """Send any other question. Return the verb and the fields of the answer, or the outcome if none comes.

        Raises:
            LoadFailure: as `call`.
        """
        loaded = self._loaded()
        return loaded if isinstance(loaded, Outcome) else self._exchange(loaded, verb, body)

    def folder_for(self, size: int) -> str:
        """The path of a folder that both processes can read, with room for files of `size` bytes."""
        return self._held.scratch.for_bytes(size)

    @property
    def pid(self) -> int | None:
        """The id of the process, or None if there is none."""
        return self._held.child.pid if self._held.child is not None else None

    def close(self) -> None:
        """End the process and remove its files. May be called again."""
        self._finalizer()

    def _loaded(self) -> ChildProcess | Outcome:
        """The process with the loaded candidate, or the outcome if the candidate cannot be loaded again after a crash.

        Raises:
            LoadFailure: the candidate was never loaded.
        """
        try:
            self.describe()
        except LoadFailure as failure:
            if not self._was_loaded:
                raise
            return NotAnswered("candidate", f"it was ended, and could not be loaded again: {failure}")
        child = self._held.child
        assert child is not None
        return child

    def _exchange(
        self, child: ChildProcess, verb: str, body: dict[str, Any], meanwhile: Callable[[], None] = lambda: None
    ) -> tuple[str, dict[str, Any]] | Outcome:
        self._seq = _new_seq()
        begun = time.monotonic()
        try:
            child.send(encode_line({"seq": self._seq, verb: body}), begun + self.settings.call_deadline)
            meanwhile()
            answer = self._answer(child, begun)
            tampering = child.handle.tampering
            return self._not_answered("candidate", tampering) if tampering else answer
        except Ended:
            return self._died(child)
        except DeadlinePassed:
            self._stop()
            loading = time.monotonic() - begun >= self._longest_call
            return TimedOut(self._longest_call if loading else self.settings.call_deadline)
        except ProtocolError as error:
            return self._not_answered("candidate", f"its message is not a valid answer: {error}")
        except OSError as error:
            return self._not_answered("judge", f"communication with the candidate's process failed: {error}")
        except BaseException:
            self._stop()
            raise

    def _answer(self, child: ChildProcess, begun: float) -> tuple[str, dict[str, Any]]:
        """Wait for the answer to the last question.

        Each notice that the candidate is loading restarts the call's deadline, until the load deadline has passed too.
        """
        deadline, last = begun + self.settings.call_deadline, begun + self._longest_call
        while True:
            verb, fields = check_answer(child.receive(deadline), self._seq)
            if verb != LOADING:
                return verb, fields
            now = time.monotonic()
            if now >= last:  # or endless notices would be read for ever
                raise DeadlinePassed
            deadline = min(now + self.settings.call_deadline, last)

    @property
    def _longest_call(self) -> float:
        return max(self.settings.call_deadline, self.settings.load_deadline)

    def _await_loading(self) -> TargetDescription:
        child = self._held.child
        assert child is not None
        try:
            if not self._greeted:
                self._greet(child)
            self._greeted = True
            verb, body = check_answer(child.receive(self._load_deadline), self._seq)
            if tampering := child.handle.tampering:
                raise LoadFailure("broken", f"while {self.target} was loaded, {tampering}")
        except DeadlinePassed:
            self._stop()
            seconds = self.settings.load_deadline
            raise LoadFailure("timed out", f"loading {self.target} took longer than {seconds:g} s") from None
        except ProtocolError as error:
            raise LoadFailure("broken", f"loading {self.target} got an answer that cannot be read: {error}") from None
        except Ended:
            ending = child.farewell()
            if child.handle.refusal:
                return self._spawn_instead()
            died = self._died(child)
            if isinstance(died, NotAnswered):
                raise LoadFailure("broken", f"loading {self.target} got no answer: {died.message}") from None
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
            raise LoadFailure("broken", f"loading {self.target} was answered by {verb!r}; expected loaded or failed")
        if "made" not in body and (asked := [name for name in ("init", "kwargs") if getattr(self._wanted, name)]):
            raise LoadFailure(
                "not callable",
                f"{asked[0]} of {self.target} is not followed by the worker under {self._python}; write a function "
                "that needs none, and name that",
            )
        return decode_description(body, self.target)

    def _spawn_instead(self) -> TargetDescription:
        """Load the candidate in a process that is not a fork, because none could be made."""
        nursery.refuse(_interpreter(self.settings.python))
        self._may_fork = False
        self._stop()
        self._starts -= 1
        self.start()
        return self._await_loading()

    def _greet(self, child: ChildProcess) -> None:
        """Wait for the worker's hello. Skip other lines that the interpreter prints at its start."""
        for _ in range(_LONGEST_PREAMBLE):
            line = child.receive_line(self._load_deadline)
            try:
                hello = decode_line(line)
            except ProtocolError:
                continue
            if HELLO in hello:
                break
        else:
            raise LoadFailure("interpreter", f"{self._python} did not become a worker: it prints other lines")
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

    def _died(self, child: ChildProcess) -> Outcome:
        """The outcome of a process that has ended by itself."""
        ending = child.farewell()
        self._stop()
        if tampering := child.handle.tampering:
            return NotAnswered("candidate", tampering)
        if ending.exit_code == UNANSWERED or (ending.exit_code is None and ending.signal is None):
            return NotAnswered("candidate", f"it lost its connection to the judge{_last_line(ending.output)}")
        if ending.signal == "SIGKILL":
            # Not sent by us, or there would be no signal. In practice the kernel sends it when memory runs out.
            limit = self.settings.memory_limit if self.settings.device == "cpu" else None
            return OutOfMemory(limit or 0, "the process was killed by SIGKILL, as the kernel does when memory runs out")
        return Died(ending.exit_code, ending.signal, ending.output)

    def _not_answered(self, side: Side, message: str) -> Outcome:
        self._stop()
        return NotAnswered(side, message)

    def _stop(self) -> None:
        """End the process and remove its files, which the candidate may have changed. The next call starts another."""
        child, self._held.child = self._held.child, None
        if child is not None:
            child.kill()
        self._held.scratch.remove()

    @property
    def _python(self) -> str:
        return self.settings.python or sys.executable


class _Held:
    """The resources to release when a worker ends. A separate class, because a finalizer must not keep the worker."""

    def __init__(self) -> None:
        self.child: ChildProcess | None = None
        self.scratch = ScratchFolder()
        self._owner = os.getpid()

    def release(self) -> None:
        """Release the resources, once."""
        if os.getpid() != self._owner:
            return  # a fork of the harness must not end the harness's workers
        child, self.child = self.child, None
        if child is not None:
            child.kill()
        self.scratch.remove()


def _interpreter(python: str | None) -> str:
    """The interpreter's full path. Links are not resolved, because a virtual environment is found by its link."""
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


def _new_seq() -> int:
    """A number that cannot be guessed, so that a candidate cannot forge answers by counting."""
    return secrets.randbits(52)  # JSON's numbers are exact up to 2⁵³ everywhere


def _last_line(output: str) -> str:
    lines = output.strip().splitlines()
    return f", saying {lines[-1].strip()!r}" if lines else ""
