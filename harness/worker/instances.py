"""From what a name stands for to what can be called: a class is instantiated, a factory called."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping
from typing import Any

import torch

from .target import LoadFailure, LoadReason, Target
from .tracebacks import exception_message, exception_name, exception_traceback


def instance_of(owner: Any, found: Any, target: Target) -> Callable[..., Any]:
    """What to call. ``found`` is an attribute of ``owner``, which is a module, a class, or anything else.

    Raises:
        LoadFailure: there is nothing to call, or making it raised.
    """
    made = _made(owner, found, target)
    if isinstance(made, torch.nn.Module) and _has_no_forward(made):
        steps = [name for name in ("training_step", "loss", "compute_loss") if callable(getattr(made, name, None))]
        hint = f": name its method, as {target.name}.{steps[0]}" if steps else ""
        raise LoadFailure("not callable", f"{target.name} is a torch.nn.Module without a forward{hint}")
    if not callable(made):
        of = f"makes a {type(made).__name__}" if made is not found else f"is of type {type(made).__name__}"
        raise LoadFailure("not callable", f"{target.name} {of}, which cannot be called")
    return made  # type: ignore[no-any-return]


def _has_no_forward(module: torch.nn.Module) -> bool:
    return getattr(type(module).forward, "__name__", "") == "_forward_unimplemented"


def _made(owner: Any, found: Any, target: Target) -> Any:
    its_class = found if isinstance(found, type) else getattr(found, "__self__", None)
    if isinstance(its_class, type) and issubclass(its_class, torch.autograd.Function):
        raise LoadFailure(
            "no signature",
            f"{target.name} is a torch.autograd.Function, whose arguments have no names: wrap it in a function",
        )
    if isinstance(owner, type) and isinstance(found, types.FunctionType):
        name = found.__name__
        if isinstance(inspect.getattr_static(owner, name, None), types.FunctionType):
            return getattr(_self_for(owner, target), name)
    if isinstance(found, type):
        if target.init is None and issubclass(found, torch.nn.Module) and getattr(found, "config_class", None):
            return _tiny(found)
        return _instance(found, target)
    return found if target.init is None else _from_factory(found, target.init, target.name)


def _self_for(owner: type, target: Target) -> Any:
    """An instance whose method is judged. One that needs arguments, and gets none, is made without its __init__.

    So is a Trainer, whose __init__ wants a model and a dataset, and whose compute_loss may need neither.
    """
    if target.init is None and issubclass(owner, torch.nn.Module) and getattr(owner, "config_class", None):
        return _tiny(owner)
    if target.init is not None or issubclass(owner, torch.nn.Module):
        return _instance(owner, target)
    try:
        return owner()
    except Exception:
        return owner.__new__(owner)


def _instance(of: type, target: Target) -> Any:
    init = target.init or {}
    hint = "give its arguments as init = { name = value } (--init name=value), or name an instance"
    _check_arguments(of, init, f"{target.name} is a class that cannot be made{_with(init)}", hint)
    return _called(of, init, target.name)


def _from_factory(function: Any, init: Mapping[str, Any], target: str) -> Any:
    hint = (
        "init is for a class, or for a factory that makes the loss; an argument of every call is given by "
        "--kwarg name=value"
    )
    _check_arguments(function, init, f"{target} cannot be called{_with(init)}", hint)
    return _called(function, init, target)


def _check_arguments(function: Any, init: Mapping[str, Any], what: str, hint: str) -> None:
    """Refuse arguments that a class or a factory does not take, before it is called."""
    try:
        inspect.signature(function).bind(**init)
    except TypeError as error:
        raise LoadFailure("not callable", f"{what} ({error}): {hint}") from None
    except ValueError:  # it has no signature to look at
        pass


def _with(init: Mapping[str, Any]) -> str:
    return f" with {', '.join(init)}" if init else " without arguments"


def _called(function: Any, init: Mapping[str, Any], target: str) -> Any:
    """Call a class or a factory."""
    try:
        return function(**init)
    except Exception as error:
        raise LoadFailure(
            "import failed",
            f"making a {target}{_with(init)} raised {exception_name(error)}: {exception_message(error)}",
            exception_traceback(error),
        ) from error


def _tiny(model_class: type[torch.nn.Module]) -> torch.nn.Module:
    """Build a tiny model of a transformers class."""
    from .tiny.build import CannotBuild, NoPairs, build_tiny

    try:
        return build_tiny(model_class)
    except CannotBuild as error:
        reason: LoadReason = "no pairs" if isinstance(error, NoPairs) else "not built"
        raise LoadFailure(reason, str(error)) from error
