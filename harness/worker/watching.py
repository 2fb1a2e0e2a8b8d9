"""Find the tensors from which a model's loss is computed, among the tensors that torch made during the model's call.

The logits that a model returns may be a copy that no gradient reaches. Then the original of that copy has the same
values, and gets the gradient. If a fused loss makes no logits, the hidden states and the weight whose product the
returned logits are get the gradient. Both are found by their values, whatever the names of the model's modules.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from types import TracebackType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from .heads import link
from .nudging import directions, nudged, slope

_SAME = 1e-5  # of the largest logit: how much the same arithmetic in another order may differ
_NARROW = (torch.bfloat16, torch.float16)


class Watch:
    """Watches a model that is called within it. Call :meth:`aim` between the model's call and its backward."""

    def __init__(self, model: Any) -> None:
        # The parameters of the model, if it is a module, or else of the modules that it calls; and the loss's leaves.
        self._parameters: dict[int, torch.Tensor] = {}
        self._is_module = isinstance(model, torch.nn.Module)
        if self._is_module:
            self._add_parameters(model.parameters())
        self._seen: dict[int, torch.Tensor] = {}
        self._found: dict[str, torch.Tensor] = {}
        self._gradients: dict[str | int, torch.Tensor] = {}  # key: the name of a found tensor, or the id of a parameter
        self._mode = _Listener(self._note)
        self._hooks: list[RemovableHandle] = []

    def __enter__(self) -> None:
        self._listening = torch.nn.modules.module.register_module_forward_hook(self._after_module)
        self._mode.__enter__()  # type: ignore[no-untyped-call]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None
    ) -> None:
        self._mode.__exit__(kind, error, frames)  # type: ignore[no-untyped-call]
        self._listening.remove()

    def aim(self, loss: torch.Tensor, outputs: Mapping[str, torch.Tensor], nudges: bool = False) -> None:
        """Collect gradients in the backward of `loss`: at the original of each output, and at the head of `logits`.

        The head is looked for if `logits` are [B, L, V]. If the parameters will be nudged, gradients are collected at
        all of them too. Without logits, at the parameters alone.
        """
        for output in outputs.values():
            self._note(output)
        seen, self._seen = list(self._seen.values()), {}
        logits = outputs.get("logits")
        readable = logits is None or (logits.dim() == 3 and logits.is_floating_point())
        if loss.grad_fn is None:
            return
        if readable:
            graph = _Graph(loss.grad_fn)
            self._add_parameters(graph.leaves())
            if nudges:
                for key, parameter in self._parameters.items():
                    self._hooks.append(parameter.register_hook(lambda gradient, key=key: self._add(key, gradient)))
            if logits is not None:
                self._aim_at_copies(seen, "logits", logits, _ways)
                self._aim_at_head(seen, logits, graph)
        for name, output in outputs.items():
            if name != "logits" or not readable:
                self._aim_at_copies(seen, name, output, _flat_ways)

    def nudge(self, length: float, logits: Callable[[], torch.Tensor]) -> None:
        """Find how the logits move with the parameters. `logits` calls the model."""
        parameters = list(self._parameters.values())
        gradients = [self._gradients.get(key) for key in self._parameters]
        if parameters:
            direction = directions(parameters, gradients)
            self._found["slope"] = slope(gradients, direction)
            self._found["nudged"] = nudged(parameters, direction, length, logits)

    def close(self) -> None:
        """Remove the hooks, because parameters outlive a call."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def report(self) -> dict[str, torch.Tensor]:
        """Each output, `hidden`, `weight` and `bias`, if they were found, and `X_gradient`, if X got a gradient."""
        given = {f"{name}_gradient": each for name, each in self._gradients.items() if isinstance(name, str)}
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in {**self._found, **given}.items()}

    def _aim_at_copies(self, seen: list[torch.Tensor], name: str, output: torch.Tensor, ways: Ways) -> None:
        copies = [(tensor, way) for tensor in seen for way in ways(tensor, output) if _is_copy(tensor, way, output)]
        for tensor, way in _first(copies):
            self._found.setdefault(name, way(tensor.detach()))
            self._collect(name, tensor, way)

    def _aim_at_head(self, seen: list[torch.Tensor], logits: torch.Tensor, graph: _Graph) -> None:
        classes = logits.shape[-1]
        rows = logits.detach().double().reshape(-1, classes)
        leaves = list(graph.leaves())
        weights = {id(each): each for each in (*leaves, *seen) if each.dim() == 2 and classes in each.shape}
        biases = [None, *(each.detach().double() for each in leaves if each.shape == (classes,))]
        for weight, bias in itertools.product(weights.values(), biases):
            turned = weight.shape[0] != classes
            of_classes = (weight.detach().T if turned else weight.detach()).double()
            if not bool(of_classes.isfinite().all()):
                continue
            states = self._hidden(seen, of_classes, bias, rows, logits)
            if not states:
                continue
            for tensor, way in _first(states):
                self._found.setdefault("hidden", way(tensor.detach()))
                self._collect("hidden", tensor, way)
            if bias is not None:
                self._found["bias"] = bias
            self._found["weight"] = weight.detach().T.contiguous() if turned else weight.detach()
            if weight.requires_grad:
                self._gradients["weight"] = torch.zeros_like(self._found["weight"], dtype=torch.float64)
                lay = _turned if turned else _as_it_is
                if not graph.hook_uses(weight, partial(self._add_laid, "weight", lay)):
                    self._collect("weight", weight, lay)
            return

    def _hidden(
        self,
        seen: list[torch.Tensor],
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        rows: torch.Tensor,
        logits: torch.Tensor,
    ) -> list[tuple[torch.Tensor, Way]]:
        """Find the tensors that are the hidden states for a weight [V, H] and a bias [V]. All have the same values."""
        found: list[tuple[torch.Tensor, Way]] = []
        shape = (*logits.shape[:-1], weight.shape[1])
        for tensor in reversed(seen):
            if not tensor.requires_grad:
                continue
            for way in _ways(tensor, torch.empty(shape, device="meta")):
                states = way(tensor.detach()).double().reshape(-1, shape[-1])
                if found:
                    known, of_known = found[0]
                    if torch.equal(states, of_known(known.detach()).double().reshape(-1, shape[-1])):
                        found.append((tensor, way))
                elif link(states @ weight.T + (0.0 if bias is None else bias), rows) is not None:
                    found.append((tensor, way))
        return found[::-1]

    def _collect(self, name: str, tensor: torch.Tensor, way: Way) -> None:
        self._hooks.append(tensor.register_hook(partial(self._add_laid, name, way)))

    def _add_laid(self, name: str, way: Way, gradient: torch.Tensor) -> None:
        self._add(name, way(gradient))

    def _add(self, name: str | int, gradient: torch.Tensor) -> None:
        gradient = gradient.detach()
        gradient = (gradient if gradient.layout is torch.strided else gradient.to_dense()).double()
        before = self._gradients.get(name)
        self._gradients[name] = gradient if before is None else before + gradient

    def _after_module(self, module: torch.nn.Module, args: Any, output: Any) -> None:
        self._note(output)
        if not self._is_module:
            self._add_parameters(module.parameters(recurse=False))

    def _add_parameters(self, tensors: Iterable[torch.Tensor]) -> None:
        self._parameters.update({id(each): each for each in tensors if each.requires_grad})

    def _note(self, value: Any) -> None:
        for tensor in _tensors(value):
            plain = tensor.is_floating_point() and tensor.layout is torch.strided and tensor.dim() >= 2
            if plain and (tensor.requires_grad or tensor.dim() == 2):
                self._seen.setdefault(id(tensor), tensor)


Way = Callable[[torch.Tensor], torch.Tensor]
"""A function that brings a tensor into the shape in which it is compared."""

Ways = Callable[[torch.Tensor, torch.Tensor], Iterable[Way]]


def _turned(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.T


def _as_it_is(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


class _Listener(TorchFunctionMode):
    """Notes the inputs and the outputs of torch functions."""

    def __init__(self, note: Callable[[Any], None]) -> None:
        super().__init__()
        self._note = note

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self._note(args)
        self._note(list((kwargs or {}).values()))
        self._note(result)
        return result


class _Graph:
    """The autograd graph of a loss."""

    def __init__(self, root: Any) -> None:
        self._nodes = list(_above(root))

    def leaves(self) -> Iterator[torch.Tensor]:
        for node in self._nodes:
            if hasattr(node, "variable"):
                yield node.variable

    def hook_uses(self, weight: torch.Tensor, take: Callable[[torch.Tensor], None]) -> bool:
        """Pass to `take` the gradient of a tied weight, without the part from the lookups of tokens in it.

        Return whether the weight is tied. If it is not, nothing is hooked: part of its gradient may come by no edge of
        this graph, for example from a checkpoint.
        """
        edges = [
            (node, index)
            for node in self._nodes
            for index, (parent, _) in enumerate(node.next_functions)
            if parent is not None and getattr(parent, "variable", None) is weight
        ]
        uses = [(node, index) for node, index in edges if not node.name().startswith("EmbeddingBackward")]
        if len(uses) == len(edges):
            return False
        for node, index in uses:
            node.register_hook(lambda given, _, index=index: take(given[index]) if given[index] is not None else None)
        return True


def _above(root: Any, end: Any = None) -> Iterator[Any]:
    """Yield a node of a graph and all its ancestors. Do not go past the node `end`."""
    known, waiting = {root}, [root]
    while waiting:
        node = waiting.pop()
        yield node
        if node is end:
            continue
        for parent, _ in node.next_functions:
            if parent is not None and parent not in known:
                known.add(parent)
                waiting.append(parent)


def _first(found: list[tuple[torch.Tensor, Way]]) -> list[tuple[torch.Tensor, Way]]:
    """Keep the tensors that are not computed from any of the others. The gradient of the others flows through them.

    If one was computed from another by a normalisation, the later one counts. A normalisation leaves a normalised
    tensor unchanged, but not its gradient.
    """
    by_node = {tensor.grad_fn: (tensor, way) for tensor, way in found if tensor.grad_fn is not None}
    dropped = set()
    for node in by_node:
        for other in by_node:
            if other is not node and other in (between := list(_above(node, other))) and _normalises(between):
                dropped.add(other)
    kept = {node: each for node, each in by_node.items() if node not in dropped}
    first = [each for node, each in kept.items() if not any(up in kept and up is not node for up in _above(node))]
    return first + [(tensor, way) for tensor, way in found if tensor.grad_fn is None]


def _normalises(nodes: Iterable[Any]) -> bool:
    """Whether the nodes are a normalisation made only of torch's own functions, whose derivatives are right."""
    names = [node.name() for node in nodes]
    own = any(isinstance(node, torch.autograd.function.BackwardCFunction) for node in nodes)
    return not own and any("Rsqrt" in name or "Norm" in name for name in names)


def _ways(tensor: torch.Tensor, like: torch.Tensor) -> Iterable[Way]:
    """Yield the ways to bring a tensor into the shape of `like` [B, L, …]: from that shape, flat, or places first."""
    if tensor.shape[-1] != like.shape[-1] or tensor.numel() != like.numel():
        return
    shape = like.shape
    if tensor.dim() == 3 and tensor.shape != shape:
        if tensor.shape[:2] == (shape[1], shape[0]):
            yield lambda each: each.transpose(0, 1)
        return
    yield lambda each: each.reshape(shape)
    if tensor.dim() == 3 and shape[0] == shape[1]:
        yield lambda each: each.transpose(0, 1)


def _flat_ways(tensor: torch.Tensor, like: torch.Tensor) -> Iterable[Way]:
    """Yield the way to bring a tensor into the shape of `like`, if it has as many elements."""
    if tensor.numel() == like.numel():
        yield lambda each: each.reshape(like.shape)


def _is_copy(tensor: torch.Tensor, way: Way, logits: torch.Tensor) -> bool:
    """Whether logits have the values of a tensor with a gradient, up to rounding or a cast to fewer bits."""
    if not tensor.requires_grad:
        return False
    found, right = way(tensor.detach()), logits.detach()
    if any(torch.equal(found.to(narrow).to(right.dtype), right) for narrow in (right.dtype, *_NARROW)):
        return True
    finite = right.isfinite()
    if not torch.equal(found.isfinite(), finite):
        return False
    scale = float(right[finite].abs().amax()) if bool(finite.any()) else 0.0
    return torch.allclose(found[finite].double(), right[finite].double(), rtol=0.0, atol=_SAME * scale)


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for each in value:
            yield from _tensors(each)
    elif isinstance(value, dict):
        for each in value.values():
            yield from _tensors(each)
