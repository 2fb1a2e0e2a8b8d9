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
import pickle
import pkgutil
import platform
import re
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from types import CodeType, ModuleType
from typing import Any

import torch

from .alone import stands_alone
from .call_shapes import Shaped, shaped
from .device import cuda_devices, device_of
from .fingerprint import changed
from .global_state import settings
from .instances import instance_of
from .target import LoadFailure, Parameter, Target, TargetDescription
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
            own = self.function.function if isinstance(self.function, Shaped) else self.function
            function = copied if module is own else getattr(copied, own.__name__)
            if isinstance(self.function, Shaped):
                function = self.function.around(function, copied)
            self.cast[dtype] = replace(self, function=function, compiled={}, cast={})
        return self.cast[dtype]

    def under(self, backend: str) -> Callable[..., Any]:
        """What to call: the candidate itself, or what torch.compile makes of it."""
        if not backend:
            return self.function
        if backend not in self.compiled:
            own = self.function
            self.compiled[backend] = (
                own.around(torch.compile(own.function, backend=backend))
                if isinstance(own, Shaped)
                else torch.compile(own, backend=backend)
            )
        return self.compiled[backend]


def module_of(function: Callable[..., Any]) -> torch.nn.Module | None:
    """The module that a candidate is, or whose method it is, or None."""
    function = function.function if isinstance(function, Shaped) else function
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


def load(target: Target | str, cwd: str, device: torch.device) -> Loaded:
    """Import what ``target`` names with ``cwd`` first on `sys.path`, or unpickle it, and describe it.

    A class is instantiated, with ``target.init`` or without arguments. For a model class of transformers, a tiny model
    is built. With ``target.init``, a function is a factory. A method of a class gets an instance of it. Any module is
    moved to `device`.

    Raises:
        LoadFailure: with any reason except "died" and "timed out". "interpreter" means that the device is missing.
        SystemExit, KeyboardInterrupt: the candidate's module raised it.
    """
    wanted = target if isinstance(target, Target) else Target(target)
    check_device(device)
    if wanted.object is not None or wanted.pickle is not None:
        owner, found = None, _given(wanted, cwd)
        module, package = sys.modules.get(getattr(found, "__module__", None) or ""), None
    else:
        owner, found, module, package = _named(wanted.name, cwd)
    function = instance_of(owner, found, wanted)
    loaded = describe_function(function, wanted, device, _source_file(function, module), package)
    of = module_of(function)
    if of is not None:
        of.to(device)
        # In a model, dropout is noise. A loss may depend on whether it is training.
        names = {parameter.name for parameter in loaded.description.parameters}
        if "input_ids" in names and not names & {"logits", "audio_logits"}:
            of.eval()
    return loaded


def _named(target: str, cwd: str) -> tuple[Any, Any, ModuleType, str | None]:
    """What ``target`` names and what that is an attribute of, its module, and its package unless it is a lone file."""
    path, colon, attribute = target.rpartition(":")
    is_file = path.endswith(".py") or "/" in path or os.sep in path
    if not colon or not path or not attribute:
        raise LoadFailure(
            "no such attribute",
            f"{target!r} does not say what to call: write package.module:attribute or path/file.py:attribute",
        )
    module = _load_file(path, cwd) if is_file else _load_module(path, cwd)
    owner, found = _attribute(module, attribute, path)
    lone = is_file and not module.__package__
    return owner, found, module, None if lone else module.__name__.partition(".")[0]


def _given(target: Target, cwd: str) -> Any:
    """The Python object of a target: itself, or as it was pickled in another process."""
    if target.object is not None:
        return target.object
    assert target.pickle is not None
    sys.path[:] = [*sys.path, *(folder for folder in target.path if folder not in sys.path)]
    _put_first_on_path(cwd)
    try:
        with open(target.pickle, "rb") as file:
            found = pickle.load(file)
    except Exception as error:
        raise LoadFailure(
            "import failed",
            f"{target.name} could not be taken over from the process that asks: unpickling it raised "
            f"{exception_name(error)}: {exception_message(error)}",
            exception_traceback(error),
        ) from error
    if name := changed(target.marks, found):
        raise LoadFailure(
            "other code",
            f"{target.name} uses {name}, whose code is not the same in the process that judges it: it was patched "
            "after it was imported, and an installed package is imported anew there. Write a function that patches and "
            'returns the loss, and give that with init={}, or name it as "path/file.py:function"',
        )
    return found


def describe_function(
    function: Callable[..., Any],
    target: Target,
    device: torch.device,
    file: str | None = None,
    package: str | None = None,
) -> Loaded:
    """Describe a function as a candidate. `package` is the top-level package that it belongs to.

    Raises:
        LoadFailure: the names of its arguments are unknown.
    """
    signature = _signature(function, target.name)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    for name in target.kwargs:
        if name not in signature.parameters and not takes_any:
            known = _did_you_mean(name, signature.parameters)
            raise LoadFailure("not callable", f"kwargs has {name!r}, which {target.name} does not take{known}")
    call, parameters = shaped(function, tuple(_parameters(signature)), target)
    return Loaded(
        function=call,
        description=TargetDescription(
            target=target.name,
            parameters=parameters,
            # A transformers model may declare **kwargs and yet not take num_items_in_batch.
            accepts_any_keyword=takes_any
            and not (isinstance(call, Shaped) and call.watch is not None and bool(call.renames))
            and bool(getattr(function, "accepts_loss_kwargs", True)),
            file=file,
            versions=versions_of(package),
            documentation=_documentation(function),
            device_name=device_of(device).name(),
            is_module=module_of(function) is not None,
            made=call.renames if isinstance(call, Shaped) else {},
            stands_in=isinstance(call, Shaped) and "model" in call.makes.values(),
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
    if not file.endswith(".py"):
        raise LoadFailure("no such file", f"{file} is not a Python file: its name must end in .py")
    root, dotted = _place_in_package(file)
    name = dotted.rpartition(".")[2]
    _put_first_on_path(root, cwd)
    if dotted != name or file.endswith("__init__.py"):
        return _load_in_package(dotted, file, root)
    return _executed(_free(name), file)


def _free(name: str) -> str:
    """A name for a lone file. A candidate in torch.py must not replace torch, which it probably imports."""
    return f"_shiftproof_candidate_{name}" if name in sys.modules else name


def _place_in_package(file: str) -> tuple[str, str]:
    """The folder that belongs on `sys.path`, and the dotted name of a file's module there.

    As in pytest, a folder with an ``__init__.py`` is a package, and so on upwards.
    """
    folder, name = os.path.split(file)
    parts = [] if name == "__init__.py" else [os.path.splitext(name)[0]]
    while (parts and all(map(str.isidentifier, parts))) or name == "__init__.py":
        above, package = os.path.split(folder)
        if not os.path.isfile(os.path.join(folder, "__init__.py")) or not package.isidentifier():
            break
        folder, parts = above, [package, *parts]
    return folder, ".".join(parts or [os.path.splitext(name)[0]])


def _load_in_package(dotted: str, file: str, root: str) -> ModuleType:
    """Import a file as a module of its package in the folder ``root``, so that its relative imports work."""
    parent, _, name = dotted.rpartition(".")
    try:
        package = _load_module(parent, root) if parent else None
    except LoadFailure as failure:
        # Such as for a dependency that is not installed here, which a loss that is on its own does not need.
        if isinstance(failure.__cause__, ImportError) and stands_alone(file, dotted):
            with suppress(LoadFailure):
                return _executed(_free(name), file)
        raise
    found = sys.modules.get(dotted) or _executed(dotted, file)  # the package may have imported it
    if not os.path.samefile(getattr(found, "__file__", None) or os.devnull, file):
        raise LoadFailure(
            "import failed",
            f"{file} is the module {dotted} of its package, but another {dotted} is imported already, from "
            f"{getattr(found, '__file__', None)}: rename the package, or name the loss as {dotted}:…",
        )
    if package is not None:
        setattr(package, name, found)
    return found


def _executed(name: str, file: str) -> ModuleType:
    """Run a file as the module ``name``."""
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
        in_src = os.path.join("src", *error.name.split("."))
        if any(os.path.exists(os.path.join(cwd, in_src + end)) for end in ("", ".py")):
            path = os.path.join("src", *name.split(".")) + ".py"
            raise LoadFailure(
                "no such module",
                f"there is no module {error.name!r} in {cwd}, but {in_src} is there: install the project "
                f"(pip install -e .), or name the file, as {path}:…",
            ) from None
        known = [each for each in _module_names(parent) if each not in sys.stdlib_module_names]
        message = f"there is no module {error.name!r}{_did_you_mean(error.name, known)}"
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


def _attribute(module: ModuleType, dotted: str, where: str) -> tuple[Any, Any]:
    """What an attribute of an attribute … of a module is an attribute of, and itself."""
    found: Any = module
    owner, separator = found, ":"
    for name in dotted.split("."):
        try:
            owner, found = found, getattr(found, name)
        except AttributeError:
            guess = _did_you_mean(name, (known for known in dir(found) if not known.startswith("__")))
            raise LoadFailure("no such attribute", f"{where} has no attribute {name!r}{guess}") from None
        except Exception as error:  # a lazy package imports an attribute when it is first read
            raise _import_failed(f"{where}{separator}{name}", error) from error
        where, separator = f"{where}{separator}{name}", "."
    return owner, found


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


def _source_file(function: Any, module: ModuleType | None) -> str | None:
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
