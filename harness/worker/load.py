"""Find a candidate by its name, and describe it. Runs in the candidate's process."""

from __future__ import annotations

import copy
import difflib
import importlib
import importlib.machinery
import importlib.metadata
import importlib.util
import inspect
import os
import pkgutil
import platform
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from types import CodeType, ModuleType
from typing import Any

import torch

from .device import cuda_devices, device_of
from .global_state import settings
from .target import LoadFailure, LoadReason, Parameter, TargetDescription
from .tracebacks import exception_message, exception_name, exception_traceback


@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """A candidate, ready to be called."""

    function: Callable[..., Any]
    description: TargetDescription
    defaults: dict[str, Any]
    """Parameter name -> default value, for the parameters that have one."""

    package: str | None = None
    """The top-level package that it belongs to. None for a lone file."""

    settings: dict[str, Any] = field(default_factory=settings)
    """The settings of the process after loading."""

    compiled: dict[str, Callable[..., Any]] = field(default_factory=dict)
    """Backend -> what torch.compile made of it."""

    cast: dict[str, Loaded] = field(default_factory=dict)
    """Dtype -> the same candidate with its module cast to it."""

    def in_dtype(self, dtype: str) -> Loaded:
        """The same candidate with a copy of its module cast to this dtype. Itself for "".

        Raises:
            TypeError: it is neither a module nor a method of one.
        """
        if not dtype:
            return self
        if dtype not in self.cast:
            module = module_of(self.function)
            if module is None:
                raise TypeError(f"only a torch.nn.Module can be cast to {dtype}, and this is none")
            copied = _cast(module, getattr(torch, dtype))
            function = copied if module is self.function else getattr(copied, self.function.__name__)
            self.cast[dtype] = replace(self, function=function, compiled={}, cast={})
        return self.cast[dtype]

    def under(self, backend: str) -> Callable[..., Any]:
        """What to call: the candidate itself, or what torch.compile makes of it."""
        if not backend:
            return self.function
        if backend not in self.compiled:
            self.compiled[backend] = torch.compile(self.function, backend=backend)
        return self.compiled[backend]


def module_of(function: Callable[..., Any]) -> torch.nn.Module | None:
    """The module that a candidate is, or whose method it is, or None."""
    for each in (function, getattr(function, "__self__", None)):
        if isinstance(each, torch.nn.Module):
            return each
    return None


def _cast(module: torch.nn.Module, dtype: torch.dtype) -> torch.nn.Module:
    """A copy of a module in another dtype. What transformers keeps in float32 whatever the dtype stays as it is."""
    copied = copy.deepcopy(module)
    kept = {
        f"{prefix}.{name}".lstrip(".")
        for prefix, part in module.named_modules()
        for pattern in getattr(part, "_keep_in_fp32_modules_strict", None) or ()
        for name, _ in (*part.named_parameters(), *part.named_buffers())
        if re.search(pattern, name)
    }
    for name, tensor in (*copied.named_parameters(), *copied.named_buffers()):
        if tensor.is_floating_point() and name not in kept:
            tensor.data = tensor.data.to(dtype)
    return copied


def load(target: str, cwd: str, device: torch.device) -> Loaded:
    """Import `target` with `cwd` first on `sys.path`, and describe it.

    A class derived from torch.nn.Module is instantiated without arguments. For a model class of transformers, a tiny
    model is built. Any module is moved to `device`.

    Raises:
        LoadFailure: with any reason except "died" and "timed out". "interpreter" means that the device is missing.
        SystemExit, KeyboardInterrupt: the candidate's module raised it.
    """
    check_device(device)
    path, colon, attribute = target.rpartition(":")
    is_file = path.endswith(".py") or "/" in path or os.sep in path
    if not colon or not path or not attribute:
        raise LoadFailure(
            "no such attribute",
            f"{target!r} does not say what to call: write package.module:attribute or path/file.py:attribute",
        )
    module = _load_file(path, cwd) if is_file else _load_module(path, cwd)
    function = _callable(_attribute(module, attribute, path), target, device)
    file = _source_file(function, module)
    return describe_function(function, target, device, file, None if is_file else path.partition(".")[0])


def describe_function(
    function: Callable[..., Any],
    target: str,
    device: torch.device,
    file: str | None = None,
    package: str | None = None,
) -> Loaded:
    """Describe a function as a candidate. `package` is the top-level package that it belongs to.

    Raises:
        LoadFailure: the names of its arguments are unknown.
    """
    signature = _signature(function, target)
    return Loaded(
        function=function,
        description=TargetDescription(
            target=target,
            parameters=tuple(_parameters(signature)),
            # A transformers model may declare **kwargs and yet not take num_items_in_batch.
            accepts_any_keyword=any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
            and bool(getattr(function, "accepts_loss_kwargs", True)),
            file=file,
            versions=versions_of(package),
            documentation=_documentation(function),
            device_name=device_of(device).name(),
            is_module=module_of(function) is not None,
        ),
        defaults={name: p.default for name, p in signature.parameters.items() if p.default is not p.empty},
        package=package,
    )


def check_device(device: torch.device) -> None:
    """Check that `device` exists.

    Raises:
        LoadFailure: with the reason "interpreter", because the torch of that interpreter does not see the device.
    """
    if device.type != "cuda":
        return
    count = cuda_devices()
    if (device.index or 0) >= count:
        raise LoadFailure(
            "interpreter",
            f"there is no device {str(device)!r} for torch {torch.__version__} under {sys.executable}: "
            f"it sees {count} CUDA device{'' if count == 1 else 's'}",
        )


def _load_file(path: str, cwd: str) -> ModuleType:
    file = os.path.abspath(os.path.join(cwd, path))
    if not os.path.isfile(file):
        folder = os.path.dirname(file)
        siblings = [name for name in _listdir(folder) if name.endswith(".py")]
        raise LoadFailure("no such file", f"there is no file {file}{_did_you_mean(os.path.basename(file), siblings)}")
    _put_first_on_path(os.path.dirname(file), cwd)
    name = os.path.splitext(os.path.basename(file))[0]
    if name in sys.modules:
        # A candidate in torch.py must not replace torch, which it probably imports.
        name = f"_shiftproof_candidate_{name}"
    if not file.endswith(".py"):
        raise LoadFailure("no such file", f"{file} is not a Python file: its name must end in .py")
    spec = importlib.util.spec_from_file_location(name, file, loader=_FromSource(name, file))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        sys.modules.pop(name, None)
        raise _import_failed(file, error) from error
    return module


class _FromSource(importlib.machinery.SourceFileLoader):
    """Compiles the source each time. Python takes bytecode for current if the source has the same second and size."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


def _load_module(name: str, cwd: str) -> ModuleType:
    _put_first_on_path(cwd)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # The target itself, or a parent package of it. Any other missing module is a fault inside the target.
        if error.name is None or not (name == error.name or name.startswith(error.name + ".")):
            raise _import_failed(name, error) from error
        parent = error.name.rpartition(".")[0]
        message = f"there is no module {error.name!r}{_did_you_mean(error.name, _module_names(parent))}"
        if not parent:
            message += f"; looked in {cwd} and in the packages of {sys.executable}"
        raise LoadFailure("no such module", message) from None
    except (ValueError, TypeError) as error:
        if name.startswith(".") or not all(part.isidentifier() for part in name.split(".")):
            raise LoadFailure("no such module", f"{name!r} is not the name of a module") from None
        raise _import_failed(name, error) from error
    except BaseException as error:
        raise _import_failed(name, error) from error


def _import_failed(what: str, error: BaseException) -> BaseException:
    """The exception to raise for an exception from a candidate's module. One that ends a process stays as it is."""
    if isinstance(error, (SystemExit, KeyboardInterrupt)):
        return error
    return LoadFailure(
        "import failed",
        f"importing {what} raised {exception_name(error)}: {exception_message(error)}",
        exception_traceback(error),
    )


def _attribute(module: ModuleType, dotted: str, where: str) -> Any:
    found: Any = module
    separator = ":"
    for name in dotted.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            guess = _did_you_mean(name, (known for known in dir(found) if not known.startswith("__")))
            raise LoadFailure("no such attribute", f"{where} has no attribute {name!r}{guess}") from None
        except Exception as error:  # a lazy package imports an attribute when it is first read
            raise _import_failed(f"{where}{separator}{name}", error) from error
        where, separator = f"{where}{separator}{name}", "."
    return found


def _callable(found: Any, target: str, device: torch.device) -> Callable[..., Any]:
    owner = found if isinstance(found, type) else getattr(found, "__self__", None)
    if isinstance(owner, type) and issubclass(owner, torch.autograd.Function):
        raise LoadFailure(
            "no signature",
            f"{target} is a torch.autograd.Function, whose arguments have no names: wrap it in a function",
        )
    if isinstance(found, type) and issubclass(found, torch.nn.Module):
        found = _instance(found, target) if getattr(found, "config_class", None) is None else _tiny(found)
    if isinstance(found, torch.nn.Module):
        # In a model, dropout is noise. A loss may depend on whether it is training.
        return (found.eval() if "input_ids" in _signature(found, target).parameters else found).to(device)
    if not callable(found):
        raise LoadFailure("not callable", f"{target} is of type {type(found).__name__}, which cannot be called")
    return found  # type: ignore[no-any-return]


def _tiny(model_class: type[torch.nn.Module]) -> torch.nn.Module:
    """Build a tiny model of a transformers class."""
    from .tiny.build import CannotBuild, NoPairs, build_tiny

    try:
        return build_tiny(model_class)
    except CannotBuild as error:
        reason: LoadReason = "no pairs" if isinstance(error, NoPairs) else "not built"
        raise LoadFailure(reason, str(error)) from error


def _instance(module_class: type[torch.nn.Module], target: str) -> torch.nn.Module:
    try:
        inspect.signature(module_class).bind()
    except TypeError as error:
        raise LoadFailure(
            "not callable",
            f"{target} is a torch.nn.Module that cannot be made without arguments ({error}): name an instance",
        ) from None
    try:
        return module_class()
    except Exception as error:
        raise LoadFailure(
            "import failed",
            f"making a {target} raised {exception_name(error)}: {exception_message(error)}",
            exception_traceback(error),
        ) from error


def _signature(function: Callable[..., Any], target: str) -> inspect.Signature:
    try:
        return inspect.signature(function.forward if isinstance(function, torch.nn.Module) else function)
    except (ValueError, TypeError):
        raise LoadFailure(
            "no signature", f"the names of the arguments of {target} are unknown: wrap it in a function"
        ) from None


def _parameters(signature: inspect.Signature) -> Iterable[Parameter]:
    for parameter in signature.parameters.values():
        required = parameter.default is parameter.empty
        if parameter.kind is parameter.POSITIONAL_ONLY:
            yield Parameter(parameter.name, required, "positional")
        elif parameter.kind is parameter.KEYWORD_ONLY:
            yield Parameter(parameter.name, required, "keyword")
        elif parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            yield Parameter(parameter.name, required, "either")


def _documentation(function: Callable[..., Any]) -> str:
    """The docstring of a candidate. A tiny model keeps the documentation of its class."""
    kept = getattr(function, "documentation", None)
    if isinstance(kept, str):
        return kept
    return inspect.getdoc(function.forward if isinstance(function, torch.nn.Module) else function) or ""


def _source_file(function: Any, module: ModuleType) -> str | None:
    while hasattr(function, "func") and hasattr(function, "keywords"):  # functools.partial
        function = function.func
    if isinstance(function, torch.nn.Module):
        function = type(function)
    try:
        return inspect.getsourcefile(inspect.unwrap(function))
    except (TypeError, ValueError):
        return getattr(module, "__file__", None)


def versions_of(package: str | None) -> dict[str, str]:
    """The versions of Python, torch and the platform, and of a package if its version is known."""
    versions = {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "platform": platform.platform(),
    }
    if package is not None and package not in versions:
        version = _package_version(package)
        if version is not None:
            versions[package] = version
    return versions


def _package_version(package: str) -> str | None:
    """The version of the distribution of a top-level package, or else the package's own `__version__`."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        pass
    own = getattr(sys.modules.get(package), "__version__", None)
    if isinstance(own, str):
        return own
    # Last, because it reads the file list of every installed distribution.
    distributions = importlib.metadata.packages_distributions().get(package, [])
    return importlib.metadata.version(distributions[0]) if distributions else None


def _put_first_on_path(*folders: str) -> None:
    wanted = list(dict.fromkeys(os.path.abspath(folder) for folder in folders))
    sys.path[:] = wanted + [entry for entry in sys.path if entry not in wanted]
    importlib.invalidate_caches()


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    """The text "; did you mean …?" with the most similar known name, ignoring case, or "" if none is similar."""
    by_lower = {candidate.lower(): candidate for candidate in known}
    nearest = difflib.get_close_matches(name.lower(), by_lower, n=1)
    return f"; did you mean {by_lower[nearest[0]]!r}?" if nearest else ""


def _module_names(package: str) -> list[str]:
    """Full names of the modules in `package`, or of all top-level modules if `package` is empty."""
    if not package:
        return [module.name for module in pkgutil.iter_modules()]
    search = getattr(sys.modules.get(package), "__path__", None)
    return [f"{package}.{module.name}" for module in pkgutil.iter_modules(search)] if search is not None else []


def _listdir(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []
