"""The main loop of the candidate's process: read a message, answer it."""

from __future__ import annotations

import contextlib
import errno
import faulthandler
import gc
import os
import select
import signal
import sys
import threading
from collections.abc import Iterator
from time import sleep
from typing import IO, Any, NoReturn

import torch

from .bench import Bench, of_reference, write_timed
from .branches import BranchWatch
from .call import failure, perform
from .guards import encode_traced, trace
from .load import Loaded, describe_function, load, versions_of
from .loading import Stacks
from .memory import MemoryLimit
from .protocol import LOADING, UNANSWERED, ProtocolError, decode_line, encode_line
from .scratch import remove_orphan
from .shield import shielded
from .target import LoadFailure, Target, target_in
from .tiny.find import language_models
from .tracebacks import exception_message, exception_name, exception_traceback
from .wire import decode_call, encode_description, encode_failure, encode_outcome

_GRACE = 0.5
"""Seconds between the harness's end and ours, if a call is running."""

_LOOK_EVERY = 0.1
"""Seconds between checks whether a running call is still loading."""

_WHY = {
    errno.EMFILE: "its process has used up its file descriptors",
    errno.ENFILE: "the machine has used up its file descriptors",
    errno.EFBIG: "its process has a limit on file size, RLIMIT_FSIZE",
    errno.ENOSPC: "no space is left in shared memory or on the disk",
    errno.EDQUOT: "no space is left in shared memory or on the disk",
    errno.ENOENT: "the judge's files were removed",
}


def serve(requests: int, replies: int) -> NoReturn:
    """Answer messages from the file descriptor `requests` on `replies` until the harness is gone. Then end."""
    faulthandler.enable(sys.stderr)  # then a segmentation fault prints its place
    server = _Server(replies)
    threading.Thread(target=_watch, args=(requests, server), name="shiftproof-watch", daemon=True).start()
    try:
        with open(requests, "rb", closefd=False) as lines:
            for line in _lines(lines, os.fstat(requests)):
                server.answer(line)
    except SystemExit as exit_request:
        # At once, because threads of the candidate could block an orderly exit for ever.
        _exit(exit_request)
    server.vanish()


def _lines(file: IO[bytes], pipe: os.stat_result) -> Iterator[bytes]:
    """Yield the lines of the harness, until it ends.

    Raises:
        SystemExit: the candidate has closed or replaced the pipe. This must not be taken for the harness's end.
    """
    while True:
        try:
            line = file.readline()
            if not line and not os.path.samestat(os.fstat(file.fileno()), pipe):
                raise OSError("it is another file now")
        except OSError as error:
            raise _Lost(error) from None
        if not line:
            return
        yield line


class _Lost(SystemExit):
    """The candidate has closed or replaced a pipe to the harness."""

    def __init__(self, error: OSError) -> None:
        super().__init__(UNANSWERED)
        with contextlib.suppress(Exception):  # standard error may be gone too
            print(f"the pipe to the judge was closed or replaced: {error}", file=sys.stderr)


class _Server:
    """The state between messages: the candidate, once loaded."""

    def __init__(self, replies: int) -> None:
        self._replies = replies
        self._loaded: Loaded | None = None
        self._branches: BranchWatch | None = None
        self._device = torch.device("cpu")
        self._memory = MemoryLimit(None)
        self._case = ""
        self._on_bench: Bench | None = None
        self._asked: int | None = None  # the number of the running call
        self._sending = threading.Lock()
        self._called = threading.Event()
        threading.Thread(target=self._tell_of_loading, name="shiftproof-loading", daemon=True).start()

    def answer(self, line: bytes) -> None:
        """Answer one message. Raises SystemExit if the candidate does, or if this process cannot take another call."""
        message = decode_line(line)
        seq = message.get("seq")
        spoiled = False
        try:
            if "load" in message:
                verb, body = self._load(message["load"])
            elif "call" in message:
                self._asked = seq
                self._called.set()
                verb, body, spoiled = self._call(message["call"])
            elif "seat" in message:
                verb, body = self._seat(message["seat"])
            elif "time" in message:
                verb, body, spoiled = self._time(message["time"])
            elif "copy" in message:
                verb, body = "copied", {"nanoseconds": self._bench().copy_seconds(**message["copy"])}
            elif "trace" in message:
                verb, body = self._trace(message["trace"])
            elif "models" in message:
                verb, body = _models(message["models"]["package"])
            else:
                raise ProtocolError(
                    f"expected load, call, trace, seat, time, copy or models, got the keys {sorted(message)}"
                )
            answer = encode_line({"seq": seq, verb: body})
        except Exception as error:
            # Ours: the candidate's exceptions are already outcomes. Reported as ours, so that it is not blamed.
            failed = {"reason": "worker", "message": _told(error), "traceback": exception_traceback(error)}
            answer = encode_line({"seq": seq, "failed": failed})
        with self._sending:
            self._asked = None
            try:
                self._send(answer)
            except OSError as error:
                raise _Lost(error) from None
        if spoiled:
            raise SystemExit(0)

    def vanish(self) -> NoReturn:
        """End this process and its group, and remove the files of a harness that died before it could do so."""
        if self._case:
            remove_orphan(self._case)
        if os.getpgrp() == os.getpid():
            os.killpg(0, signal.SIGKILL)
        os._exit(0)

    def _load(self, body: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        try:
            self._device = torch.device(body["device"])
            self._loaded = load(target_in(body), body["cwd"], self._device)
        except LoadFailure as load_failure:
            return "failed", encode_failure(load_failure)
        self._memory = MemoryLimit(body["memory_limit"] if self._device.type == "cpu" else None)
        if self._branches is not None:
            self._branches.stop()
        self._branches = BranchWatch(self._loaded) if body.get("branches") else None
        gc.freeze()  # trainers that collect garbage at every step then skip the loaded objects
        return "loaded", encode_description(self._loaded.description)

    def _call(self, body: dict[str, Any]) -> tuple[str, dict[str, Any], bool]:
        if self._loaded is None:
            raise ProtocolError("call before load")
        self._case = body["case"]
        with _saying("cannot read the case"), shielded():
            call = decode_call(body)
        try:
            if self._branches is None:
                answer = perform(self._loaded, call, self._device, self._memory)
            else:
                answer = perform(self._loaded, call, self._device, self._memory, self._branches.watching)
                self._branches.read_compiled(call, self._device)
        except KeyboardInterrupt as error:  # no keyboard can interrupt this process: the candidate raised it
            answer = failure(error, "call", 0.0, self._device, self._memory)
        with _saying("cannot write its answer"), shielded():
            verb, fields = encode_outcome(answer.outcome, answer.seconds, body["result"])
        if self._branches is not None and (news := self._branches.news()):
            fields["branches"] = news
        if answer.spoiled:
            fields["spoiled"] = True
        return verb, fields, answer.spoiled

    def _trace(self, body: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        if self._loaded is None:
            raise ProtocolError("trace before load")
        self._case = body["case"]
        with _saying("cannot read the case"), shielded():
            call = decode_call(body)
        return "traced", encode_traced(trace(self._loaded, call, body["now"], body["least"], body["most"]))

    def _bench(self) -> Bench:
        if self._loaded is None:
            raise ProtocolError("a question about speed before load")
        if self._on_bench is None:
            self._on_bench = Bench(self._device)
        return self._on_bench

    def _seat(self, body: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        try:
            if body.get("target") is not None:
                loaded = load(target_in(body), body["cwd"], self._device)
            else:
                function = of_reference(body["folder"], body["kind"], body["spec"])
                loaded = describe_function(function, Target(body["kind"]), self._device)
        except LoadFailure as load_failure:
            return "failed", encode_failure(load_failure)
        self._bench().seat(body["part"], loaded)
        return "loaded", encode_description(loaded.description)

    def _time(self, body: dict[str, Any]) -> tuple[str, dict[str, Any], bool]:
        bench = self._bench()
        self._case = body["case"]
        try:
            return "timed", write_timed(bench.time(body), body["result"]), False
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            answer = failure(error, "call", 0.0, self._device, self._memory)
        verb, fields = encode_outcome(answer.outcome, answer.seconds, body["result"])
        return verb, fields, answer.spoiled

    def _send(self, line: bytes) -> None:
        rest = memoryview(line)
        while rest:
            rest = rest[os.write(self._replies, rest) :]

    def _tell_of_loading(self) -> None:
        """While a call runs, send a notice at each check that finds it loading.

        A process that only times losses makes no checks.
        """
        stacks = Stacks()  # made before a candidate can use up the file descriptors
        self._called.wait()
        while True:
            sleep(_LOOK_EVERY)
            with self._sending:
                if self._asked is None or not stacks.is_loading():
                    continue
                try:
                    self._send(encode_line({"seq": self._asked, LOADING: {}}))
                except OSError:
                    return  # sending the answer will fail too, and report it


@contextlib.contextmanager
def _saying(what: str) -> Iterator[None]:
    """Add to a failure what could not be done."""
    try:
        yield
    except Exception as error:
        raise _Failed(f"{what}: {_told(error)}") from error


class _Failed(Exception):
    """This process could not do something. The message says what."""


def _told(error: Exception) -> str:
    """What failed and, if that is known, why."""
    if isinstance(error, _Failed):
        return str(error)
    why = _WHY.get(error.errno or 0) if isinstance(error, OSError) else None
    return f"{exception_name(error)}: {exception_message(error)}{f' ({why})' if why else ''}"


def _models(package: str) -> tuple[str, dict[str, Any]]:
    try:
        return "models", {"targets": language_models(package), "versions": versions_of(package)}
    except ModuleNotFoundError as error:
        return "failed", encode_failure(LoadFailure("no such module", str(error)))


def _watch(requests: int, server: _Server) -> None:
    """End a call that outlives the harness. If the harness dies by SIGKILL, nothing else enforces the deadline."""
    poll = select.poll()
    poll.register(requests, 0)  # hang-up and error are always reported
    if any(event & select.POLLNVAL for _, event in poll.poll()):
        return  # the candidate closed it: the code that reads from it reports that
    sleep(_GRACE)
    server.vanish()


def _exit(request: SystemExit) -> NoReturn:
    """End with the exit code that Python would use."""
    code = request.code
    if code is None:
        code = 0
    elif not isinstance(code, int):
        with contextlib.suppress(Exception):
            print(code, file=sys.stderr)
        code = 1
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # the candidate may have closed or replaced it
            stream.flush()
    os._exit(code & 0xFF)
