"""From what happened to the exit code of the command; 1 is only said of a candidate that was judged and is wrong."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable
from types import FrameType

from .candidate import UsageError
from .verdict import CandidateResult, Overall

CONFORMS, FAILS, USAGE, UNJUDGED = 0, 1, 2, 3
_BY_SIGNAL = 128


class Terminated(KeyboardInterrupt):
    """The process was asked to end by SIGTERM. What passes an interrupt on, as pytest does, passes this on too."""


def verdict_code(results: Iterable[CandidateResult]) -> int:
    """2 where a declaration matches nothing any more; 1 where a candidate is wrong, or right where its declaration says
    that it is wrong; 3 where one was not or not fully judged; else 0."""
    results = tuple(results)
    if any(result.stale for result in results):
        return USAGE
    unexpected = [result for result in results if not result.as_expected]
    if any(result.verdict in (Overall.FAILS, Overall.CONFORMS) for result in unexpected):
        return FAILS
    return UNJUDGED if unexpected or not results else CONFORMS


def exit_code_of(command: Callable[[], int]) -> int:
    """Run a command; whatever it raises becomes an exit code, and a sentence on stderr.

    130 and 143 after SIGINT and SIGTERM, 141 where nobody reads what is printed, 2 for a UsageError, and 3 for all
    else: a judge that cannot write, print or allocate has judged nothing.
    """
    before = _on_sigterm(_terminate)
    try:
        code = command()
        sys.stdout.flush()
        return code
    except UsageError as error:
        return _say(str(error), USAGE)
    except Terminated:
        return _say("terminated", _BY_SIGNAL + signal.SIGTERM)
    except KeyboardInterrupt:
        return _say("interrupted", _BY_SIGNAL + signal.SIGINT)
    except BrokenPipeError:
        _drop_output()
        return _BY_SIGNAL + signal.SIGPIPE
    except OSError as error:
        _drop_output()
        return _say(f"the judge could not go on: {error}", UNJUDGED)
    except MemoryError:
        return _say("the judge ran out of memory", UNJUDGED)
    except BaseException as error:
        # What pytest raises to end a test is no Exception, and after that Python would exit with 1.
        with contextlib.suppress(Exception):
            print("".join(traceback.format_exception(error)).rstrip(), file=sys.stderr)
        return _say(f"the judge itself failed ({type(error).__name__}); no verdict follows from that", UNJUDGED)
    finally:
        _on_sigterm(before)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated


def _on_sigterm(handler: object) -> object:
    """Set what SIGTERM does, and return what it did; None where this is not the main thread, which alone may."""
    with contextlib.suppress(ValueError):
        return signal.signal(signal.SIGTERM, handler or signal.SIG_DFL)  # type: ignore[arg-type]
    return None


def _say(sentence: str, code: int) -> int:
    with contextlib.suppress(OSError, ValueError):  # where stderr is gone, or closed
        print(f"shiftproof: {sentence}", file=sys.stderr)
        sys.stderr.flush()
    return code


def _drop_output() -> None:
    """Python flushes stdout at its end, and would exit with a code of its own where that fails."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
