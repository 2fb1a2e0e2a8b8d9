"""A candidate in this process, for use with a debugger: the same answers, but no protection."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from types import TracebackType

import torch

from ..worker.call import perform
from ..worker.exchange import Call, Died, NotAnswered, Outcome
from ..worker.load import Loaded, load
from ..worker.target import LoadFailure, Target, TargetDescription
from ..worker.tracebacks import exception_message, exception_name
from .settings import WorkerSettings


class InProcess:
    """The interface of `Worker` without another process. Of the settings, only `cwd` and `device` apply.

    A candidate that exits is still reported as dead. A candidate that crashes or hangs takes the harness with it. A
    module that this process has already imported is not imported again.
    """

    def __init__(self, target: Target | str, settings: WorkerSettings | None = None) -> None:
        self._wanted = target if isinstance(target, Target) else Target(target)
        self.target = self._wanted.name
        self.settings = settings if settings is not None else WorkerSettings()
        self.restarts = 0
        """Always 0."""
        self.seconds_in_candidate = 0.0
        """The time spent in the candidate."""

        self._device = torch.device(self.settings.device)
        self._loaded: Loaded | None = None
        self._failure: LoadFailure | None = None
        self._path_before: list[str] = []
        self._path_added: list[str] = []
        self._modules_before: frozenset[str] = frozenset()

    def __enter__(self) -> InProcess:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Load the candidate now."""
        if self._loaded is not None or self._failure is not None:
            return
        cwd = os.path.abspath(self.settings.cwd if self.settings.cwd is not None else os.getcwd())
        self._path_before = list(sys.path)
        self._modules_before = frozenset(sys.modules)
        try:
            if not os.path.isdir(cwd):
                raise LoadFailure("no such file", f"the working directory {cwd} does not exist")
            self._loaded = load(self._wanted, cwd, self._device)
        except LoadFailure as failure:
            self._failure = failure
        except SystemExit as exit_request:
            died = Died(_exit_code(exit_request), None, "")
            self._failure = LoadFailure("died", f"loading {self.target} {died.describe()}")
        except Exception as error:  # ours
            reason = f"{exception_name(error)}: {exception_message(error)}"
            self._failure = LoadFailure("broken", f"loading {self.target} failed on the judge's side: {reason}")
        self._path_added = [entry for entry in sys.path if entry not in self._path_before]

    def describe(self) -> TargetDescription:
        """Describe the loaded candidate.

        Raises:
            LoadFailure: it could not be loaded.
        """
        return self._ready().description

    def call(self, call: Call, meanwhile: Callable[[], None] = lambda: None) -> Outcome:
        """Call the candidate once. ``meanwhile`` does not run: this process computes the answer itself.

        Raises:
            LoadFailure: it could not be loaded.
        """
        loaded = self._ready()
        try:
            answer = perform(loaded, call, self._device)
        except SystemExit as exit_request:
            return Died(_exit_code(exit_request), None, "")
        except Exception as error:  # ours: the candidate's exceptions are already outcomes
            return NotAnswered("candidate", f"{exception_name(error)}: {exception_message(error)}")
        self.seconds_in_candidate += answer.seconds
        return answer.outcome

    def close(self) -> None:
        """Remove the candidate's folders from `sys.path`, and the modules that came from them from `sys.modules`."""
        self._loaded = self._failure = None
        for entry in self._path_added:
            if entry in sys.path:
                sys.path.remove(entry)
        for name, module in list(sys.modules.items()):
            # Two candidates' folders may each have a losses.py. Modules that our own packages import late stay.
            known = name in self._modules_before or name.partition(".")[0] in self._modules_before
            if not known and self._is_its_own(getattr(module, "__file__", None) or ""):
                del sys.modules[name]
        self._path_added = []

    def _is_its_own(self, file: str) -> bool:
        """Whether a module's file was found through one of the candidate's folders.

        A virtual environment may be inside such a folder. Its modules, such as those that torch imports late, cannot be
        imported twice.
        """
        entries = (entry for entry in (*self._path_before, *self._path_added) if file.startswith(entry + os.sep))
        return max(entries, key=len, default="") in self._path_added

    def _ready(self) -> Loaded:
        self.start()
        if self._failure is not None:
            raise self._failure
        assert self._loaded is not None
        return self._loaded


def _exit_code(request: SystemExit) -> int:
    """The exit code that a process would have."""
    if request.code is None:
        return 0
    return request.code & 0xFF if isinstance(request.code, int) else 1
