"""A process that has imported torch and forks workers, so that each starts in milliseconds. Linux only.

The harness asks for a worker in one packet on a socket: where it runs, and its streams. The nursery forks a *guard*,
and the guard forks the worker. The guard ends the worker with all its descendants, and reports how it ended. So a
candidate that kills its parent has killed its own guard, and no other candidate's.

The nursery runs no operation of torch and starts no thread: only then is a fork of it as good as a new process.
``isolation/nursery.py`` is the harness's side.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import io
import json
import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Iterable
from typing import Any

from .device import is_cuda_initialised

PACKET = 1 << 17
"""Bytes. A longer request does not fit a socket's buffer on every machine."""

END = b"end"
"""What the harness sends to a guard that shall end its worker."""

STREAMS = 4
"""The file descriptors of a request: the worker's standard input, output and error, and the guard's control socket."""

_GRACE = 2.0  # seconds for a worker whose harness died: it removes the harness's files, and ends itself
_PATIENCE = 5  # seconds that a nursery waits for its last guards
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_LIBC = ctypes.CDLL(None, use_errno=True)


def serve(requests: socket.socket) -> None:
    """Fork a worker for each request. Return in the worker, and end the process when the harness has gone."""
    gc.collect()
    gc.freeze()  # else the collector of each worker would copy all pages of torch's objects
    while True:
        packet, descriptors, _, _ = socket.recv_fds(requests, PACKET, STREAMS)
        _reap(os.WNOHANG)
        if not packet:
            signal.alarm(_PATIENCE)
            _reap(0)
            os._exit(0)
        *streams, control = descriptors
        if _forks(control):
            requests.close()
            if _guard(json.loads(packet), streams, control):
                return
        for descriptor in descriptors:
            os.close(descriptor)


def _forks(control: int) -> bool:
    """Fork a guard, and return True in it. Say so if that is not possible."""
    try:
        if reason := unfit():
            _say(control, refused=reason)
            return False
        return os.fork() == 0
    except OSError as error:  # no memory, or too many processes
        _say(control, refused=f"it could not fork: {error}")
        return False


def _reap(options: int) -> None:
    """Wait for guards that have ended, or with 0 for all. So their processor time is counted as this process's."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, options) != (0, 0):
            pass


def unfit() -> str:
    """Why a fork of this process would not be as good as a new process, or ``""``."""
    threads = len(os.listdir("/proc/self/task"))
    if threads > 1:
        return f"importing torch started {threads - 1} threads"
    return "importing torch initialised CUDA" if is_cuda_initialised() else ""


def _guard(request: dict[str, Any], streams: list[int], control: int) -> bool:
    """Fork the worker, and return True in it. Else end the process, once the worker and its descendants have ended."""
    worker = -1
    try:
        os.setsid()  # a candidate that kills its parent's group kills its guard alone
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
        guard = os.getpid()
        worker = os.fork()
        if worker == 0:
            os.close(control)
            _become(request, streams, guard)
            return True
        for stream in streams:
            os.close(stream)
        _say(control, pid=worker, guard=guard)
        _await_the_end(worker, control)
        with contextlib.suppress(OSError):  # its group ends before its number is free for another process
            os.killpg(worker, signal.SIGKILL)
        _, status = os.waitpid(worker, 0)
        _end_descendants()
        _say(control, status=os.waitstatus_to_exitcode(status))
    except BaseException as error:
        if worker == 0:
            traceback.print_exc()
        else:
            _say(control, refused=f"its guard failed: {type(error).__name__}: {error}")
    os._exit(1)


def _become(request: dict[str, Any], streams: list[int], guard: int) -> None:
    """Make this process one that ``PYTHON -u bootstrap.py`` would have started."""
    os.setsid()
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != guard:
        os._exit(1)
    for public, stream in enumerate(streams):
        os.dup2(stream, public)
        os.close(stream)
    os.chdir(request["cwd"])
    for name in request["removed"]:
        os.environ.pop(name, None)
    os.environ.update(request["changed"])
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115  it lives as long as we do
    sys.stdout = _unbuffered(1)
    sys.stderr = _unbuffered(2)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()  # as a new process would; the standard library's generator does so by itself


def _unbuffered(descriptor: int) -> io.TextIOWrapper:
    raw = open(descriptor, "wb", buffering=0, closefd=False)  # noqa: SIM115
    return io.TextIOWrapper(raw, encoding="utf-8", write_through=True)


def _await_the_end(worker: int, control: int) -> None:
    """Return when the worker has ended, or is to be ended: the harness says so, or has died a while ago."""
    handle = os.pidfd_open(worker)
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    poll.register(control, select.POLLIN)
    is_over = any(descriptor == handle for descriptor, _ in poll.poll())
    if not is_over and os.read(control, len(END)) != END:
        poll.unregister(control)
        poll.poll(1000 * _GRACE)
    os.close(handle)


def _end_descendants() -> None:
    """End what the worker has left in other sessions. As their subreaper, this process has become their parent."""
    while children := _children():
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        for child in children:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child, 0)


def _children() -> Iterable[int]:
    try:
        with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
            return [int(child) for child in file.read().split()]
    except FileNotFoundError:  # a kernel without CONFIG_PROC_CHILDREN
        return []


def _say(control: int, **fields: object) -> None:
    with contextlib.suppress(OSError):  # the harness has gone
        os.write(control, json.dumps(fields).encode("ascii"))


def _prctl(option: int, value: int) -> None:
    if _LIBC.prctl(option, value, 0, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
