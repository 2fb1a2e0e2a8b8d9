"""Where a model's logits are, if it returns its loss alone, or both in a tuple."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from .training import Output


class LogitsWatch:
    """Notes what the parts of a model return while it is called, to find the logits that its loss is made of.

    Logits are the last such tensor through which the whole loss flows: on the way from it to the loss, no parameter is
    met, and nothing scales, caps or moves it first. A fused loss, which makes none, has none.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        self._module = module
        self._names = {part: name for name, part in module.named_modules()}
        self._seen: list[tuple[str, torch.Tensor]] = []
        self._is_needed = False
        self._place: str | None = None  # the part that returned them, for calls without a graph

    def call(self, function: Callable[[], Any]) -> Any:
        """Call the model, and complete its result. It is watched from the first result on that lacks logits."""
        if not self._is_needed:
            result = function()
            completed = self._completed(result)
            if completed is not None:
                return completed
            self._is_needed = True
        self._seen = []
        hooks = [part.register_forward_hook(self._note) for part in self._names]
        try:
            result = function()
        finally:
            for hook in hooks:
                hook.remove()
        completed = self._completed(result)
        self._seen = []
        return result if completed is None else completed

    def _note(self, part: torch.nn.Module, arguments: Any, result: Any) -> None:
        name = self._names[part]
        for each in result if isinstance(result, tuple) else (getattr(result, "logits", result),):
            if isinstance(each, torch.Tensor) and each.is_floating_point() and each.dim() >= 2:
                self._seen.append((name, each))

    def _completed(self, result: Any) -> Any:
        """The result with its loss and its logits by name. None if it has a loss, and its logits are not known."""
        of_its_own = isinstance(result, Mapping) and "logits" in result
        if of_its_own or not isinstance(result, tuple | list | torch.Tensor | Mapping) or hasattr(result, "logits"):
            return result
        loss, logits = _told_apart(result)
        if loss is None:
            return result
        logits = self._found(loss) if logits is None else logits
        return None if logits is None else Output(loss=loss, logits=logits)

    def _found(self, loss: torch.Tensor) -> torch.Tensor | None:
        if loss.grad_fn is None:
            return next((each for name, each in reversed(self._seen) if name == self._place), None)
        for name, each in reversed(self._seen):
            if each.grad_fn is not None and _is_cut(loss.grad_fn, each.grad_fn):
                self._place = name
                return each
        return None


def _told_apart(result: Any) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """The loss and the logits in a result: a scalar, and what has a row for each token."""
    if isinstance(result, torch.Tensor):
        return result, None
    values = [result.get("loss")] if isinstance(result, Mapping) else list(result)
    tensors = [each for each in values if isinstance(each, torch.Tensor) and each.is_floating_point()]
    loss = next((each for each in tensors if each.dim() == 0), None)
    return loss, next((each for each in tensors if each.dim() >= 2), None)


def _is_cut(loss: Any, logits: Any) -> bool:
    """Whether the whole loss is made of the logits as they are: without them, no parameter is reached from it."""
    waiting, seen = [loss], {loss}
    takers: dict[Any, list[Any]] = {}  # node -> the nodes that take its result
    while waiting:
        node = waiting.pop()
        if hasattr(node, "variable"):  # the leaf of a parameter
            return False
        for following, _ in () if node is logits else node.next_functions:
            if following is not None:
                takers.setdefault(following, []).append(node)
                if following not in seen:
                    seen.add(following)
                    waiting.append(following)
    if logits not in seen:
        return False
    waiting = [logits]
    while waiting:
        for taker in takers.get(waiting.pop(), ()):
            name = type(taker).__name__.rstrip("0123456789")
            if name in _CHANGES:
                return False
            if name in _ARRANGES:
                waiting.append(taker)
    return True


_CHANGES = {
    f"{name}Backward"
    for name in (
        *("Mul", "Div", "Tanh", "Add", "Pow", "Sigmoid", "Clamp", "Hardtanh"),
        *("MaskedFill", "MaskedScatter", "Where", "IndexFill", "IndexPut", "Scatter", "CopySlices"),
    )
}
"""What makes other logits of logits, before a loss is made of them."""

_ARRANGES = {
    f"{name}Backward"
    for name in (
        *("View", "UnsafeView", "ReshapeAlias", "Slice", "Select", "ToCopy", "Transpose", "Permute", "T", "Clone"),
        *("Alias", "Expand", "Squeeze", "Unsqueeze", "Index", "Cat", "ConstantPadNd", "Split", "SplitWithSizes"),
        *("Unbind", "MaskedSelect", "Stack", "AsStrided", "Narrow", "IndexSelect", "Roll", "Movedim"),
    )
}
"""What leaves each logit as it is."""
