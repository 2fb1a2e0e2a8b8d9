"""One child process with a line protocol, from its start to its certain end. Independent of candidates."""

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
from typing import Any

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


class ChildProcess:
    """A process in its own session. All its descendants in that session end with it."""

    def __init__(self, command: list[str], cwd: str, environment: Mapping[str, str] | None = None) -> None:
        """Start `command` in the folder `cwd`, with our environment and the changes in `environment`.

        Raises:
            OSError: it cannot be started.
        """
        self._popen = subprocess.Popen(
            command,
            cwd=cwd,
            # One thread unless the user sets a number: small cases are four times faster, and sums repeat exactly.
            env={"OMP_NUM_THREADS": "1", **os.environ, **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        assert self._popen.stderr is not None
        self._stdin, self._stdout = self._popen.stdin, self._popen.stdout
        # A duplicate: from here on the descriptor belongs to the thread, and only the thread closes it.
        self._drain = _Drain(os.dup(self._popen.stderr.fileno()))
        self._popen.stderr.close()
        os.set_blocking(self._stdin.fileno(), False)
        self._unread = bytearray()
        self._ending: Ending | None = None

    @property
    def pid(self) -> int:
        """The process id, which is also that of its process group."""
        return self._popen.pid

    def send(self, line: bytes, deadline: float) -> None:
        """Write one line. If the process is gone, the next `receive` raises.

        Raises:
            DeadlinePassed: the process, for example a stopped one, did not read a line longer than its pipe's buffer.
        """
        poll = select.poll()
        poll.register(self._stdin.fileno(), select.POLLOUT)
        rest = memoryview(line)
        try:
            while rest:
                try:
                    rest = rest[os.write(self._stdin.fileno(), rest) :]
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
        poll.register(self._stdout.fileno(), select.POLLIN)
        while (end := self._unread.find(b"\n")) < 0:
            if len(self._unread) > LONGEST_LINE:
                raise ProtocolError(f"a line of more than {LONGEST_LINE} bytes")
            remaining = deadline - time.monotonic()
            # In slices, because a dead process may have left a fork that holds the pipe open.
            if poll.poll(1000 * max(0.0, min(remaining, _SLICE))):
                chunk = os.read(self._stdout.fileno(), _CHUNK)
                if not chunk:
                    raise Ended
                self._unread += chunk
            elif not self._is_alive() and not poll.poll(0):  # it may have answered since the last check, and then ended
                raise Ended
            elif remaining <= 0:
                raise DeadlinePassed
        line = bytes(self._unread[: end + 1])
        del self._unread[: end + 1]
        return line

    def farewell(self) -> Ending:
        """After `Ended`: let the process end by itself, so that the exit code is its own. Then `kill`."""
        give_up = time.monotonic() + _FAREWELL
        while self._is_alive() and time.monotonic() < give_up:
            time.sleep(0.002)
        return self.kill()

    def kill(self) -> Ending:
        """End the process and its group at once, leave no zombie, and return how it ended. May be called again."""
        if self._ending is None:
            by_us = self._is_alive()
            with contextlib.suppress(ProcessLookupError, PermissionError):
                # Before waiting for the process: until then no other group can have its number.
                os.killpg(self._popen.pid, signal.SIGKILL)
            code = self._popen.wait()
            self._stdin.close()
            self._stdout.close()
            output = self._drain.finish(1.0)
            if by_us:
                self._ending = Ending(None, None, output)
            elif code < 0:
                self._ending = Ending(None, _signal_name(-code), output)
            else:
                self._ending = Ending(code, None, output)
        return self._ending

    def _is_alive(self) -> bool:
        """Whether the process still runs. A process that has ended stays a zombie until `kill` waits for it."""
        if self._popen.returncode is not None:
            return False
        try:
            return os.waitid(os.P_PID, self._popen.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        except ChildProcessError:  # other code in this process has waited for it
            return False


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
