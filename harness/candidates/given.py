"""Candidates that are Python objects: a closure, a lambda, a notebook's function, a module.

They travel to the worker by value, as cloudpickle writes them: code of the user's own files and of ``__main__`` is in
the pickle; installed packages are imported there anew. What cannot be pickled stays in this process.
"""

from __future__ import annotations

import functools
import inspect
import io
import os
import pickle
import site
import sys
import sysconfig
import tempfile
import types
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..worker.fingerprint import fingerprint

_OURS = ("shiftproof", "_pytest", "pytest")
_NO_FILE = "<dynamic-code>"  # what cloudpickle puts in the place of a file; branches and tracebacks need the file


@dataclass(frozen=True, eq=False)
class Given:
    """A Python object on trial.

    Attributes:
        found: the object, in this process.
        pickle: the file that holds it. None if it cannot be pickled.
        marks: what its code is, by :func:`.fingerprint`.
        path: this process's ``sys.path``.
        stays: why it runs in this process, or "".
        has_name: whether another process can find it by name, for ``shiftproof replay``.
    """

    found: Callable[..., Any]
    pickle: str | None = None
    marks: Mapping[str, str] = field(default_factory=dict)
    path: tuple[str, ...] = ()
    stays: str = ""
    has_name: bool = False


def give(found: Callable[..., Any], *, stays: bool = False) -> Given:
    """Pickle a callable. ``stays`` leaves it in this process.

    The file is removed when the result is no longer used.
    """
    has_name = _has_name(found)
    if stays:
        return Given(found, stays="in_process was asked for", has_name=has_name)
    try:
        data = _pickled(found)
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        return Given(found, stays=f"it cannot be pickled ({reason[:200]})", has_name=has_name)
    descriptor, path = tempfile.mkstemp(prefix="shiftproof-", suffix=".pkl")
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    folders = tuple(os.path.abspath(folder) for folder in sys.path)
    given = Given(found, path, fingerprint(found), folders, has_name=has_name)
    weakref.finalize(given, _remove, path, os.getpid())
    return given


def name_of(found: Any) -> str:
    """What reports call a Python object: ``path/file.py:name``, or its name alone if it is in no file."""
    inner = found
    while isinstance(inner, functools.partial):
        inner = inner.func
    inner = getattr(inner, "_torchdynamo_orig_callable", inner)
    name = getattr(inner, "__qualname__", None) or f"{type(inner).__qualname__}()"
    owner = getattr(inner, "__self__", None)
    if owner is not None and not isinstance(owner, type | types.ModuleType):
        name = f"{type(owner).__qualname__}().{inner.__name__}"
    if inner is not found and isinstance(found, functools.partial):
        name = f"partial({name})"
    file = _file_of(inner)
    if file is None:
        return name
    if _is_installed(file):
        return f"{getattr(inner, '__module__', type(inner).__module__)}:{name}"
    return f"{min(file, os.path.relpath(file), key=len)}:{name}"


def _has_name(found: Any) -> bool:
    """Whether another process that loads its file finds the same object under its name."""
    name, module = getattr(found, "__qualname__", None), sys.modules.get(getattr(found, "__module__", None) or "")
    if name is None or module is None or module.__name__ == "__main__":
        return False
    here: Any = module
    for part in name.split("."):
        here = getattr(here, part, None)
    return here is found


def _file_of(found: Any) -> str | None:
    for each in (found, type(found)):
        with suppress(TypeError, OSError):
            file = inspect.getsourcefile(inspect.unwrap(each))
            if file is not None and os.path.isfile(file):
                return os.path.abspath(file)
    return None


def _pickled(found: Any) -> bytes:
    """The object by value, as far as it is the user's own code.

    Raises:
        Exception: something in it cannot be pickled.
    """
    with _by_value():
        return _dumped(found)


def _dumped(found: Any) -> bytes:
    import cloudpickle

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # it has no types
        def reducer_override(self, obj: Any) -> Any:
            if isinstance(obj, types.CodeType) and obj.co_filename != _NO_FILE:
                return functools.partial(types.CodeType.replace, co_filename=obj.co_filename), (
                    obj.replace(co_filename=_NO_FILE),
                )
            compiled = _recompiled(obj)
            return super().reducer_override(obj) if compiled is None else compiled

    buffer = io.BytesIO()
    Pickler(buffer, protocol=pickle.HIGHEST_PROTOCOL).dump(found)
    return buffer.getvalue()


def _recompiled(found: Any) -> Any:
    """How to make a compiled function again, or None. Its compiled code cannot be pickled."""
    original = getattr(found, "_torchdynamo_orig_callable", None)
    if not isinstance(found, types.FunctionType) or original is None:
        return None
    cells = (cell.cell_contents for cell in found.__closure__ or ())
    context = next(each for each in cells if hasattr(each, "callback") and hasattr(each, "fullgraph"))
    backend = context.callback
    while hasattr(backend, "_torchdynamo_orig_backend"):
        backend = backend._torchdynamo_orig_backend
    how: dict[str, Any] = {"fullgraph": context.fullgraph, "dynamic": backend.dynamic}
    if hasattr(backend, "config"):  # inductor's, which has a name too
        how["options"] = dict(backend.config) or None
    else:
        how["backend"] = backend.compiler_name if isinstance(backend.compiler_name, str) else backend.compiler_fn
        how["options"] = backend.kwargs.get("options")
    return functools.partial(torch.compile, **how), (original,)


@contextmanager
def _by_value() -> Iterator[None]:
    """Let cloudpickle write the code of the user's own modules into the pickle."""
    import cloudpickle

    registered = []
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and name.partition(".")[0] not in _OURS and not _is_installed(file):
            with suppress(Exception):
                cloudpickle.register_pickle_by_value(module)
                registered.append(module)
    try:
        yield
    finally:
        for module in registered:
            with suppress(Exception):
                cloudpickle.unregister_pickle_by_value(module)


def _is_installed(file: str) -> bool:
    """Whether a file belongs to Python or to an installed package, so that a worker can import it."""
    return "site-packages" in file or "dist-packages" in file or os.path.realpath(file).startswith(_library())


@functools.cache
def _library() -> tuple[str, ...]:
    """The folders of Python and of installed packages."""
    paths = [sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    return tuple({os.path.realpath(each) + os.sep for each in (*paths, site.getusersitepackages())})


def _remove(path: str, owner: int) -> None:
    if os.getpid() == owner:
        Path(path).unlink(missing_ok=True)
