"""Reaching other people's losses: their own modules, as installed, without the world that a package's top imports.

Most of these packages train whole models, and bring along data loaders, loggers and kernels that a loss never touches.
They are therefore installed without dependencies (`nox -s peers`), and a module is loaded by its dotted name: its
parent packages are entered without running their `__init__`, and imports that the loss does not reach are met by
stand-ins, empty modules whose every attribute is an empty class. What runs of the package is its own unmodified code.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import torch


class Missing(Exception):
    """A package is not installed, or does not load here. The message says why."""


@cache
def _without_compilers() -> None:
    """What a package compiles runs as it is written. Before any package is imported."""
    os.environ["NO_TORCH_COMPILE"] = "1"  # moshi's
    torch.compiler.set_stance("force_eager")


@cache
def interpret_kernels() -> None:
    """Gives Triton's interpreter what a kernel of a loss meets only when it is compiled.

    A Python float among the arguments becomes an fp32 scalar, and libdevice's `tanh` and `log1p`, which have no body
    outside CUDA, are numpy's. A module with kernels binds them by name as it is imported, so this comes before any is:
    `conftest.py` calls it, since other tests build models of transformers, which import fla where that is installed.

    Raises:
        Missing: without Triton, or when kernels are to be compiled, which the environment decides as it is imported.
    """
    if os.environ.get("TRITON_INTERPRET") != "1":
        raise Missing("its kernels need a GPU, or TRITON_INTERPRET=1 in the environment")
    try:
        import triton.language as tl
        from triton.language.extra import libdevice
        from triton.runtime import interpreter
    except ImportError as error:
        raise Missing(f"triton does not load: {error}") from error
    convert = interpreter._implicit_cvt

    def convert_floats_too(argument: object) -> object:
        if isinstance(argument, float):
            return tl.tensor(interpreter.TensorHandle(np.array([argument], dtype=np.float32), tl.float32), tl.float32)
        return convert(argument)

    def of_numpy(function: np.ufunc) -> Any:
        return lambda x: tl.tensor(interpreter.TensorHandle(function(x.handle.data), x.dtype.scalar), x.type)

    interpreter._implicit_cvt = convert_floats_too
    libdevice.tanh, libdevice.log1p = of_numpy(np.tanh), of_numpy(np.log1p)


@cache
def load(name: str, stand_ins: tuple[str, ...] = ()) -> ModuleType:
    """One module of an installed package.

    Without ``stand_ins`` it is imported as anyone would; with them the parent packages' `__init__` do not run, and the
    modules named (with all below them) are stood in for. ``("",)`` skips the parents and stands in for nothing.

    Raises:
        Missing: when the package is not installed, or fails to load.
    """
    _without_compilers()
    try:
        if not stand_ins:
            return importlib.import_module(name)
        with _bare(name, [stand_in for stand_in in stand_ins if stand_in]) as loaded:
            module = importlib.import_module(name)
        _LOADED[name, stand_ins] = loaded
        return module
    except Exception as error:  # whatever the package's own code raises as it loads
        raise Missing(f"{name} does not load: {type(error).__name__}: {str(error).strip().splitlines()[:1]}") from error


@contextmanager
def entered(name: str, stand_ins: tuple[str, ...]) -> Iterator[ModuleType]:
    """`load`, with the package and its stand-ins importable within: for code that imports as it runs.

    Raises:
        Missing: as `load` does.
    """
    module = load(name, stand_ins)
    modules = _LOADED[name, stand_ins]
    hidden = {key: sys.modules[key] for key in modules if key in sys.modules}
    sys.modules.update(modules)
    try:
        yield module
    finally:
        for key in modules:
            sys.modules.pop(key, None)
        sys.modules.update(hidden)


_LOADED: dict[tuple[str, tuple[str, ...]], dict[str, ModuleType]] = {}
"""What `load` was given -> the modules that it took out of `sys.modules` again."""


def version_of(distribution: str) -> str:
    """The installed version.

    Raises:
        Missing: when it is not installed.
    """
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        raise Missing(f"{distribution} is not installed") from None


@contextmanager
def _bare(name: str, stand_ins: Sequence[str]) -> Iterator[dict[str, ModuleType]]:
    """Within it, ``name`` can be imported; afterwards `sys.modules` is as before, and what it held is in the dict."""
    parts = name.split(".")
    paths: dict[str, list[str]] = {}
    spec = importlib.util.find_spec(parts[0])
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError(f"no package {parts[0]} is installed")
    folders = list(spec.submodule_search_locations)
    for end in range(1, len(parts)):
        paths[".".join(parts[:end])] = folders
        folders = [os.path.join(folder, parts[end]) for folder in folders]
    finder = _Finder(paths, stand_ins)
    hidden = {key: module for key, module in sys.modules.items() if key in paths or finder.is_stood_in_for(key)}
    before = set(sys.modules)
    for key in hidden:
        del sys.modules[key]
    sys.meta_path.insert(0, finder)
    loaded: dict[str, ModuleType] = {}
    try:
        yield loaded
    finally:
        sys.meta_path.remove(finder)
        own = parts[0] + "."
        for key in list(sys.modules):
            new = key.startswith(own) and key not in before
            if new or key in paths or finder.is_stood_in_for(key):
                loaded[key] = sys.modules.pop(key)
        sys.modules.update(hidden)


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds packages without their `__init__`, and stand-ins."""

    def __init__(self, paths: dict[str, list[str]], stand_ins: Sequence[str]) -> None:
        self._paths = paths
        self._stand_ins = stand_ins

    def is_stood_in_for(self, name: str) -> bool:
        return any(name == stand_in or name.startswith(f"{stand_in}.") for stand_in in self._stand_ins)

    def find_spec(self, fullname: str, *args: object) -> importlib.machinery.ModuleSpec | None:
        if self.is_stood_in_for(fullname):
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        if fullname in self._paths:
            spec = importlib.machinery.ModuleSpec(fullname, self, is_package=True)
            spec.submodule_search_locations = self._paths[fullname]
            return spec
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return _StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


class _Anything(type):
    """The type of stand-in classes: they have every attribute, can be subclassed, and as decorators change nothing."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _anything(name)

    def __getitem__(cls, item: object) -> Any:
        return cls

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if "_is_stand_in" not in cls.__dict__:  # a subclass that the package defines
            return super().__call__(*args, **kwargs)
        if len(args) == 1 and not kwargs and isinstance(args[0], FunctionType | type):
            return args[0]
        return super().__call__()


def _anything(name: str) -> _Anything:
    def call(self: object, *args: Any, **kwargs: Any) -> Any:
        return args[0] if len(args) == 1 and isinstance(args[0], FunctionType | type) else None

    def attribute(self: object, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _anything(name)

    members = {"_is_stand_in": True, "__call__": call, "__getattr__": attribute, "__bool__": lambda self: False}
    return _Anything(name, (), members)


class _StandIn(ModuleType):
    """A module that was not run: it has every attribute but its submodules, which are to be imported."""

    def __getattr__(self, name: str) -> Any:
        if name == "__version__":
            return "0"
        below = [os.path.join(folder, name) for folder in self.__dict__.get("__path__", ())]
        if name.startswith("__") or any(os.path.isdir(path) or os.path.isfile(f"{path}.py") for path in below):
            raise AttributeError(name)
        return _anything(name)
