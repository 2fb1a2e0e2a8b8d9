"""The parent's side of the nurseries, from which workers are forked. The child's side is ``worker/nursery.py``.

A nursery has imported torch under one interpreter and one environment. A worker that is forked from it starts in
milliseconds, and is as good as a new process. Where forking is not safe, there is no nursery, and workers are spawned.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from ..worker.nursery import END, unfit
from .process import ChildProcess

BOOTSTRAP = str(Path(__file__).resolve().parents[1] / "worker" / "bootstrap.py")

_MOST = 4  # nurseries at a time; each takes the memory of an import of torch
_OF_THE_JUDGE = "PYTEST_"  # variables that a run of pytest sets, and changes with each test
_STARTS = 60.0  # seconds that the first worker of a nursery may wait for the import of torch
_ENDS = 5.0  # seconds that a guard may take to end its worker


class NoNursery(Exception):
    """No worker could be forked. It has to be spawned."""


class Nursery:
    """A process that forks workers. It ends when its socket is closed, at the latest with this process."""

    def __init__(self, requests: socket.socket, environment: Mapping[str, str], process: subprocess.Popen[bytes] | int):
        """``environment``: the one in which torch was imported. ``process``: or its number, if it was forked."""
        self.has_served = False
        """Whether any worker was ever forked."""
        self._requests = requests
        self._environment = dict(environment)
        self._process = process
        self._is_closed = False
        self._was_blamed = False

    def fork(self, cwd: str, environment: Mapping[str, str]) -> ChildProcess:
        """Fork a worker in the folder ``cwd``. Does not wait for it.

        Raises:
            NoNursery: the nursery has ended, or the environment is too large for a packet.
            OSError: this process has used up its file descriptors.
        """
        before = self._environment
        changed = {name: value for name, value in environment.items() if before.get(name) != value}
        removed = [name for name in before if name not in environment]
        packet = json.dumps({"cwd": cwd, "changed": changed, "removed": removed}).encode("ascii")
        opened: list[int] = []
        try:
            for _ in range(3):
                opened += os.pipe()
            control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError:
            _close(opened)
            raise
        in_read, in_write, out_read, out_write, err_read, err_write = opened
        try:
            socket.send_fds(self._requests, [packet], [in_read, out_write, err_write, theirs.fileno()])
        except OSError as error:
            control.close()
            _close([in_write, out_read, err_read])
            raise NoNursery(str(error)) from None
        finally:
            theirs.close()
            _close([in_read, out_write, err_write])
        return ChildProcess(Forked(self, control), in_write, out_read, err_read)

    def is_alive(self) -> bool:
        """Whether the nursery still serves."""
        if self._is_closed:
            return False
        poll = select.poll()
        poll.register(self._requests, 0)  # hang-up and error are always reported
        return not poll.poll(0)

    def blame(self) -> bool:
        """Whether the nursery was killed, and nobody has been blamed for it before. Who asks is blamed."""
        if self._was_blamed or self._is_closed or self.is_alive():
            return False
        self._was_blamed = True
        return True

    def retire(self) -> None:
        """Fork no more workers, and do not wait for the last ones. The nursery ends after them."""
        self._is_closed = True
        self._requests.close()
        _retired.append(self._process)

    def close(self) -> None:
        """End the nursery, after its last workers have ended."""
        self._is_closed = True
        self._requests.close()
        patience = _ENDS if self.has_served else 0.0  # one that has not served may be importing torch
        give_up = time.monotonic() + patience
        while not self._has_ended() and time.monotonic() < give_up:
            time.sleep(0.005)
        with contextlib.suppress(ProcessLookupError):  # a candidate may have stopped it
            if not self._has_ended():
                os.kill(self._pid, signal.SIGKILL)
        if isinstance(self._process, subprocess.Popen):
            self._process.wait()
        else:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._process, 0)

    def _has_ended(self) -> bool:
        """Whether the process has ended, and may still have to be waited for."""
        try:
            return os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:
            return True

    @property
    def _pid(self) -> int:
        return self._process.pid if isinstance(self._process, subprocess.Popen) else self._process


class Forked:
    """A worker that a nursery has forked: the handle of its process, by way of its guard."""

    def __init__(self, nursery: Nursery, control: socket.socket) -> None:
        self._nursery = nursery
        self._control = control
        self._known: dict[str, Any] = {}
        self._guard_ended = False
        self._is_closed = False

    @property
    def pid(self) -> int:
        """The process id, which is also that of its process group.

        Raises:
            NoNursery: it was never forked.
        """
        while "pid" not in self._known and not self._guard_ended:
            self._listen(_STARTS)
        if "pid" not in self._known:
            raise NoNursery(self.refusal)
        return int(self._known["pid"])

    @property
    def refusal(self) -> str:
        """Why it was never forked, or ``""``. Known once the process has ended."""
        return "" if "pid" in self._known else str(self._known.get("refused", "the nursery ended"))

    @property
    def tampering(self) -> str:
        self._listen(0)
        if self._guard_ended and "pid" in self._known and "status" not in self._known:
            return "it killed its parent process, which belongs to the judge"
        if self._nursery.has_served and self._nursery.blame():
            return "it killed the process from which the judge forks workers"
        return ""

    def is_alive(self) -> bool:
        self._listen(0)
        return not self._guard_ended

    def end(self) -> int | None:
        with contextlib.suppress(OSError):
            self._control.send(END)
        give_up = time.monotonic() + _ENDS
        while not self._guard_ended and (remaining := give_up - time.monotonic()) > 0:
            self._listen(remaining)
        self._control.close()
        self._is_closed = True
        if "pid" in self._known and "status" not in self._known:  # the guard was killed, or is stopped
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._known["pid"], signal.SIGKILL)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(self._known["guard"], signal.SIGKILL)
        return self._known.get("status")

    def _listen(self, seconds: float) -> None:
        """Read what the guard has said, and wait for its next message at most ``seconds``."""
        if self._is_closed:
            return
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        while not self._guard_ended and poll.poll(1000 * seconds):
            try:
                packet = self._control.recv(4096)
            except OSError:
                packet = b""
            if packet:
                self._known |= json.loads(packet)
                self._nursery.has_served |= "pid" in self._known
            self._guard_ended = not packet or "status" in self._known or "refused" in self._known
            seconds = 0


# The nurseries of this process ----------------------------------------------------------------------------------------

_Key = tuple[object, ...]
_nurseries: dict[_Key, Nursery] = {}  # the one used last comes last
_refused: set[str] = set()  # interpreters from which no worker can be forked
_retired: list[subprocess.Popen[bytes] | int] = []  # a Popen that is dropped while it runs warns
_lock = threading.Lock()


def fork(python: str, cwd: str, environment: Mapping[str, str]) -> ChildProcess:
    """Fork a worker from the nursery of an interpreter and an environment, which is started if there is none.

    Does not wait: not for the nursery either.

    Raises:
        NoNursery: a worker under this interpreter has to be spawned.
        OSError: this process has used up its file descriptors.
    """
    if not _can_fork(python):
        raise NoNursery("this system or interpreter has no nursery")
    key = _key(python, cwd, environment)
    with _lock:
        nursery = _nurseries.pop(key, None)
        if nursery is None or not nursery.is_alive():
            nursery = _started(python, cwd, environment)
        _nurseries[key] = nursery
        while len(_nurseries) > _MOST:
            _nurseries.pop(next(iter(_nurseries))).retire()
        return nursery.fork(cwd, environment)


def refuse(python: str) -> None:
    """Spawn the workers of an interpreter from now on, unless its nursery has served before."""
    with _lock:
        if not any(nursery.has_served for key, nursery in _nurseries.items() if key[0] == python):
            _refused.add(python)


def fork_here() -> None:
    """Fork a nursery from this process, which has imported torch and nothing yet that a candidate must not see.

    So a command imports torch once. It does nothing where a nursery could not be forked safely: it is spawned later.
    """
    if not _can_fork(sys.executable) or unfit():
        return
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        ours.close()
        _become_nursery(theirs)
    theirs.close()
    environment = dict(os.environ)
    _nurseries[_key(sys.executable, os.getcwd(), environment)] = Nursery(ours, environment, pid)


def _can_fork(python: str) -> bool:
    named = os.path.basename(python).startswith("python")  # a worker in another language has another name
    return sys.platform == "linux" and hasattr(os, "pidfd_open") and named and python not in _refused


def _key(python: str, cwd: str, environment: Mapping[str, str]) -> _Key:
    """What decides what an import of torch does. Only with a relative PYTHONPATH is that the folder too."""
    matters = {name: value for name, value in environment.items() if not name.startswith(_OF_THE_JUDGE)}
    entries = environment.get("PYTHONPATH", "").split(os.pathsep)
    folder = cwd if any(entry and not os.path.isabs(entry) for entry in entries) else ""
    return python, os.getpid(), folder, tuple(sorted(matters.items()))


def _started(python: str, cwd: str, environment: Mapping[str, str]) -> Nursery:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [python, "-u", BOOTSTRAP, str(theirs.fileno())],
            cwd=cwd,
            env=environment,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    return Nursery(ours, environment, process)


def _become_nursery(requests: socket.socket) -> NoReturn:
    """Serve as a nursery, and in each fork of it as a worker."""
    try:
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):  # a pipe to a reader must not stay open after the command has ended
            os.dup2(nothing, stream)
        os.close(nothing)
        sys.argv, sys.orig_argv = [BOOTSTRAP], []
        for name in [name for name in sys.modules if name.partition(".")[0] == "shiftproof"]:
            del sys.modules[name]
        sys.modules["__main__"] = main = types.ModuleType("__main__")
        main.__file__ = BOOTSTRAP
        spec = importlib.util.spec_from_file_location("_shiftproof_bootstrap", BOOTSTRAP)
        assert spec is not None
        assert spec.loader is not None
        bootstrap = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(bootstrap)
        bootstrap.become_nursery(requests)
        bootstrap.serve()
    finally:
        os._exit(1)


@atexit.register
def _end() -> None:
    for nursery in _nurseries.values():
        nursery.close()


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
