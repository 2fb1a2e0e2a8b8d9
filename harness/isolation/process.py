"""One child process with a line protocol, from its start to its certain end. Independent of candidates.

How the process was started is the matter of its *handle*: `Spawned` here, `Forked` in nursery.py.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ..worker.protocol import LONGEST_LINE, ProtocolError, decode_line

_TAIL = 64 << 10  # bytes of output that are kept
_CHUNK = 1 << 16
_SLICE = 0.1  # seconds between checks whether a process whose pipe is open still lives
_FAREWELL = 2.0  # seconds that a process may take to end after it has closed its pipe


@dataclass(frozen=True, slots=True)
class Ending:
    """How a process ended."""

    exit_code: int | None
    """None if a signal ended it, or if we did."""

    signal: str | None
    """None if it exited, or if we ended it."""

    output: str
    """The end of its stdout and stderr, at most 64 KiB."""


class Ended(Exception):
    """The process ended, or closed its end of the protocol, before it answered."""


class DeadlinePassed(Exception):
    """The process did not answer in time."""


class _Drain:
    """Reads the output of a process, so that the process never blocks on us, and keeps only the end of it."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._kept = bytearray()
        self._thread = threading.Thread(target=self._read, name="shiftproof-drain", daemon=True)
        self._thread.start()

    def finish(self, seconds: float) -> str:
        """Wait up to `seconds` for the end of the output. A grandchild in its own session may hold the pipe open."""
        self._thread.join(seconds)
        return bytes(self._kept[-_TAIL:]).decode("utf-8", errors="replace")

    def _read(self) -> None:
        try:
            while chunk := os.read(self._fd, _CHUNK):
                self._kept += chunk
                if len(self._kept) > 2 * _TAIL:
                    del self._kept[:-_TAIL]
        finally:
            os.close(self._fd)


class Handle(Protocol):
    """A process that was started: its number, whether it lives, and how it ended."""

    @property
    def pid(self) -> int:
        """The process id, which is also that of its process group."""

    @property
    def refusal(self) -> str:
        """Why the process never began, or ``""``. Known once it has ended."""

    @property
    def tampering(self) -> str:
        """What it did to the processes that look after it, or ``""``."""

    def is_alive(self) -> bool:
        """Whether the process still runs."""

    def end(self) -> int | None:
        """End the process and its group at once, and leave no zombie. Return what `Popen.returncode` would be.

        None if that is not known. Called once.
        """


class Spawned:
    """A process that this one has started, in its own session."""

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        self._popen = popen

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def refusal(self) -> str:
        return ""

    @property
    def tampering(self) -> str:
        return ""

    def is_alive(self) -> bool:
        # A process that has ended stays a zombie until `end` waits for it.
        if self._popen.returncode is not None:
            return False
        try:
            return os.waitid(os.P_PID, self._popen.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        except ChildProcessError:  # other code in this process has waited for it
            return False

    def end(self) -> int | None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            # Before waiting for the process: until then no other group can have its number.
            os.killpg(self._popen.pid, signal.SIGKILL)
        return self._popen.wait()


def spawn(command: list[str], cwd: str, environment: Mapping[str, str]) -> ChildProcess:
    """Start `command` in the folder `cwd`, in its own session.

    Raises:
        OSError: it cannot be started.
    """
    popen = subprocess.Popen(
        command,
        cwd=cwd,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        start_new_session=True,
    )
    assert popen.stdin is not None
    assert popen.stdout is not None
    assert popen.stderr is not None
    # Duplicates, because `Popen` closes its own.
    streams = [os.dup(stream.fileno()) for stream in (popen.stdin, popen.stdout, popen.stderr)]
    for stream in (popen.stdin, popen.stdout, popen.stderr):
        stream.close()
    return ChildProcess(Spawned(popen), *streams)


class ChildProcess:
    """A process in its own session, and the pipes to it. All its descendants in that session end with it."""

    def __init__(self, handle: Handle, stdin: int, stdout: int, stderr: int) -> None:
        """Take over the descriptors of our ends of its pipes."""
        self.handle = handle
        self._stdin, self._stdout = stdin, stdout
        self._drain = _Drain(stderr)  # from here on the descriptor belongs to the thread, and only the thread closes it
        os.set_blocking(stdin, False)
        self._unread = bytearray()
        self._ending: Ending | None = None

    @property
    def pid(self) -> int:
        """The process id, which is also that of its process group."""
        return self.handle.pid

    def send(self, line: bytes, deadline: float) -> None:
        """Write one line. If the process is gone, the next `receive` raises.

        Raises:
            DeadlinePassed: the process, for example a stopped one, did not read a line longer than its pipe's buffer.
        """
        poll = select.poll()
        poll.register(self._stdin, select.POLLOUT)
        rest = memoryview(line)
        try:
            while rest:
                try:
                    rest = rest[os.write(self._stdin, rest) :]
                except BlockingIOError:
                    if not poll.poll(1000 * max(0.0, deadline - time.monotonic())):
                        raise DeadlinePassed from None
        except BrokenPipeError:
            pass

    def receive(self, deadline: float) -> dict[str, Any]:
        """Return the next message. `deadline` is a time of time.monotonic().

        Raises:
            Ended: the process ended without a message.
            DeadlinePassed: no message came in time. A message that is already there is read even after the deadline.
            ProtocolError: the line is not a message.
        """
        return decode_line(self.receive_line(deadline))

    def receive_line(self, deadline: float) -> bytes:
        """Receive as `receive` does, but return the raw line."""
        poll = select.poll()
        poll.register(self._stdout, select.POLLIN)
        while (end := self._unread.find(b"\n")) < 0:
            if len(self._unread) > LONGEST_LINE:
                raise ProtocolError(f"a line of more than {LONGEST_LINE} bytes")
            remaining = deadline - time.monotonic()
            # In slices, because a dead process may have left a fork that holds the pipe open.
            if poll.poll(1000 * max(0.0, min(remaining, _SLICE))):
                chunk = os.read(self._stdout, _CHUNK)
                if not chunk:
                    raise Ended
                self._unread += chunk
            elif not self.handle.is_alive() and not poll.poll(
                0
            ):  # it may have answered since the last check, and then ended
                raise Ended
            elif remaining <= 0:
                raise DeadlinePassed
        line = bytes(self._unread[: end + 1])
        del self._unread[: end + 1]
        return line

    def farewell(self) -> Ending:
        """After `Ended`: let the process end by itself, so that the exit code is its own. Then `kill`."""
        give_up = time.monotonic() + _FAREWELL
        while self.handle.is_alive() and time.monotonic() < give_up:
            time.sleep(0.002)
        return self.kill()

    def kill(self) -> Ending:
        """End the process and its group at once, leave no zombie, and return how it ended. May be called again."""
        if self._ending is None:
            by_us = self.handle.is_alive()
            code = self.handle.end()
            os.close(self._stdin)
            os.close(self._stdout)
            output = self._drain.finish(1.0)
            if by_us or code is None:
                self._ending = Ending(None, None, output)
            elif code < 0:
                self._ending = Ending(None, _signal_name(-code), output)
            else:
                self._ending = Ending(code, None, output)
        return self._ending


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
