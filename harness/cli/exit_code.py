"""The exit code of the command. Code 1 always means that a candidate was judged and is wrong."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable
from types import FrameType

from ..candidates.declaration import UsageError
from ..results import CandidateResult, Overall

CONFORMS, FAILS, USAGE, UNJUDGED = 0, 1, 2, 3
_BY_SIGNAL = 128


class Terminated(KeyboardInterrupt):
    """SIGTERM asked the process to end. Code that passes an interrupt on, such as pytest, passes this on too."""


def verdict_code(results: Iterable[CandidateResult]) -> int:
    """Return the exit code of the results.

    2 if a declaration matches nothing any more; 1 if a candidate is wrong, or right although its declaration states
    that it is wrong; 3 if a candidate was not judged, or not fully; else 0.
    """
    results = tuple(results)
    if any(result.stale for result in results):
        return USAGE
    unexpected = [result for result in results if not result.as_expected]
    if any(result.verdict in (Overall.FAILS, Overall.CONFORMS) for result in unexpected):
        return FAILS
    return UNJUDGED if unexpected or not results else CONFORMS


def exit_code_of(command: Callable[[], int]) -> int:
    """Run a command, and turn any exception into an exit code and a sentence on stderr.

    The code is 130 after SIGINT, 143 after SIGTERM, 141 if nobody reads the output, 2 for a UsageError, and 3 for
    everything else: a judge that cannot write, print or allocate has judged nothing.
    """
    before = _on_sigterm(_terminate)
    try:
        code = command()
        sys.stdout.flush()
        return code
    except UsageError as error:
        return say(str(error), USAGE)
    except Terminated:
        return say("terminated", _BY_SIGNAL + signal.SIGTERM)
    except KeyboardInterrupt:
        return say("interrupted", _BY_SIGNAL + signal.SIGINT)
    except BrokenPipeError:
        _drop_output()
        return _BY_SIGNAL + signal.SIGPIPE
    except OSError as error:
        _drop_output()
        return say(f"the judge could not go on: {error}", UNJUDGED)
    except MemoryError:
        return say("the judge ran out of memory", UNJUDGED)
    except BaseException as error:
        # The exceptions with which pytest ends a test are not subclasses of Exception; Python would exit with 1.
        with contextlib.suppress(Exception):
            print("".join(traceback.format_exception(error)).rstrip(), file=sys.stderr)
        return say(f"the judge itself failed ({type(error).__name__}); no verdict follows from that", UNJUDGED)
    finally:
        _on_sigterm(before)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated


def _on_sigterm(handler: object) -> object:
    """Set the SIGTERM handler, and return the old one. Return None outside the main thread: only that may set it."""
    with contextlib.suppress(ValueError):
        return signal.signal(signal.SIGTERM, handler or signal.SIG_DFL)  # type: ignore[arg-type]
    return None


def say(sentence: str, code: int) -> int:
    """Print a sentence to stderr, if it exists, and return the code."""
    with contextlib.suppress(OSError, ValueError):  # stderr is missing or closed
        print(f"shiftproof: {sentence}", file=sys.stderr)
        sys.stderr.flush()
    return code


def _drop_output() -> None:
    """Drop the output. Python flushes stdout when it ends, and would exit with its own code if that fails."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
