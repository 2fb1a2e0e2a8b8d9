"""The parameters of a model's forward."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

import torch


def parameters_of(model_class: type[torch.nn.Module]) -> Mapping[str, inspect.Parameter]:
    """The parameters of a class's forward.

    One that has ``**kwargs`` and does not name the tokens passes them on to the class that it is derived from. So it
    takes the parameters of that one too.
    """
    found: dict[str, inspect.Parameter] = {}
    for each in model_class.__mro__:
        if "forward" not in vars(each) or each is torch.nn.Module:
            continue
        own = inspect.signature(vars(each)["forward"]).parameters
        found = {**own, **found}
        if "input_ids" in own or not any(of.kind is of.VAR_KEYWORD for of in own.values()):
            break
    return found
