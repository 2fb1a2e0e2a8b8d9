"""Candidates whose arguments hold others: a model's output, a batch, a model.

The names of a signature tell how it is called: ``compute_loss_func(outputs, labels, num_items_in_batch)`` of
transformers, ``compute_loss(model, inputs)`` of its Trainer, ``training_step(batch, batch_idx)`` of Lightning,
``loss(batch)``. Such a candidate is described as one that takes ``logits``, ``labels``, ``input_ids``, …, and what it
is given is made of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from .arguments import bind
from .model_outputs import LogitsWatch
from .target import Parameter, Target
from .training import Output, TableModel

COMPOSITES = {
    "outputs": ("outputs", "output", "model_outputs", "model_output"),
    "inputs": ("inputs",),
    "batch": ("batch",),
    "model": ("model",),
    "batch_idx": ("batch_idx", "batch_index"),
}
"""An argument that holds others -> the names that it goes by, unless a rename says another."""

_LOGITS = ("logits", "audio_logits", "depth_logits", "mtp_logits")
_LABELS = ("labels", "label", "targets", "target")
_OF_A_LOSS = {
    *("logits", "input", "hidden_states", "audio_logits", "input_ids", "micro_batches"),
    *("depth_logits", "mtp_logits", "lm_head_weight", "linear_weight"),
}
_IN_A_BATCH = (
    *("input_ids", "labels", "attention_mask", "loss_mask", "token_weights", "position_ids", "segment_ids"),
    *("cu_seqlens", "audio_labels", "audio_input_ids"),
)
_TOKENS = ("input_ids", "idx", "ids", "tokens", "token_ids", "input_tokens", "x", "input", "inputs", "seq")
_TARGETS = ("labels", "targets", "target", "y")


class Outputs(Output):
    """What a model of transformers returns: ``.logits``, ``["logits"]`` and ``[0]`` are the same. """

    def __getattr__(self, name: str) -> Any:
        # A model that was given no labels has a loss too: None.
        return None if name == "loss" and name not in self else super().__getattr__(name)

    def __getitem__(self, key: Any) -> Any:
        return tuple(self.values())[key] if isinstance(key, int | slice) else super().__getitem__(key)

    def to_tuple(self) -> tuple[Any, ...]:
        return tuple(self.values())


class Batch(Output):
    """A batch of a collator: a dict whose entries are also attributes, and that moves to a device."""

    def to(self, device: Any, **_: Any) -> Batch:
        return Batch({name: value.to(device) if hasattr(value, "to") else value for name, value in self.items()})


class StandIn(TableModel):
    """A model that returns the logits of the case, as ``.logits`` or as they are, for its whole batch of tokens."""

    def __init__(self, logits: Mapping[str, torch.Tensor], is_bare: bool) -> None:
        super().__init__(torch.zeros(1, next(iter(logits.values())).shape[-1]), 1, -100)
        self.given = dict(logits)
        self.is_bare = is_bare

    def forward(self, *args: Any, labels: torch.Tensor | None = None, **named: Any) -> Any:
        first = next(iter(self.given.values()))
        tokens = named.get("input_ids", args[0] if args else None)
        if isinstance(tokens, torch.Tensor) and tokens.shape[0] != first.shape[0] and first.dim() > 2:
            raise RuntimeError(
                f"the model was called on tokens {list(tokens.shape)}, but the batch has {first.shape[0]} rows; a loss "
                "that calls its model on parts of a batch is judged as a trainer, which takes model and micro_batches"
            )
        if self.is_bare:
            return first
        loss = {} if labels is None else {"loss": self.loss(first, labels, named.get("num_items_in_batch"))}
        return Outputs(**loss, **self.given)


@dataclass(slots=True, eq=False)
class Shaped:
    """A candidate that is called in another shape than it is described in. It is called with plain arguments by name.

    Attributes:
        function: the candidate, and its parameters.
        makes: its composite parameters -> what they are: a key of ``COMPOSITES``, or the name of a plain argument.
        fixed: arguments that every call gets.
        ways: whether outputs and a model's answer are bare tensors, in the order in which that is tried.
        watch: of a model, to find the logits that it does not return.
    """

    function: Callable[..., Any]
    parameters: tuple[Parameter, ...]
    makes: Mapping[str, str]
    fixed: Mapping[str, Any]
    ways: tuple[bool, ...] = (False,)
    watch: LogitsWatch | None = None

    def __call__(self, **plain: Any) -> Any:
        """Call the candidate. Of several ways, the first that does not raise is taken from then on."""
        if len(self.ways) == 1:
            return self._call(plain, self.ways[0])
        first: Exception | None = None
        for way in self.ways:
            try:
                result = self._call(plain, way)
            except Exception as error:
                first = first or error
                continue
            self.ways = (way,)
            return result
        assert first is not None
        raise first

    @property
    def renames(self) -> dict[str, str]:
        """The parameters that are not what they are called."""
        return {name: kind for name, kind in self.makes.items() if name != kind}

    def around(self, function: Callable[..., Any], module: torch.nn.Module | None = None) -> Shaped:
        """The same shape of another function, such as the compiled one, or of one of another module."""
        watch = self.watch if module is None or self.watch is None else LogitsWatch(module)
        return replace(self, function=function, watch=watch)

    def _call(self, plain: dict[str, Any], is_bare: bool) -> Any:
        positional, named = bind(self.parameters, self._arguments(plain, is_bare), {})
        if self.watch is None:
            return self.function(*positional, **named)
        return self.watch.call(lambda: self.function(*positional, **named))

    def _arguments(self, plain: dict[str, Any], is_bare: bool) -> dict[str, Any]:
        own = {parameter.name for parameter in self.parameters} - set(self.makes)
        logits = {name: plain[name] for name in _LOGITS if name in plain}
        batch = {name: plain[name] for name in _IN_A_BATCH if name in plain}
        arguments = {
            name: value for name, value in plain.items() if name in own or name not in (*_LOGITS, *_IN_A_BATCH)
        }
        holds_logits = not {"model", "outputs"} & set(self.makes.values()) and not own & set(logits)
        for name, kind in self.makes.items():
            if kind == "outputs":
                arguments[name] = next(iter(logits.values())) if is_bare else Outputs(logits)
            elif kind == "model":
                arguments[name] = StandIn(logits, is_bare)
            elif kind in ("inputs", "batch"):
                arguments[name] = Batch({**(logits if holds_logits else {}), **batch})
            elif kind == "batch_idx":
                arguments[name] = 0
            elif kind in plain:
                arguments[name] = plain[kind]
                if kind != name and kind not in own:
                    arguments.pop(kind, None)
        return {**arguments, **self.fixed}


def shaped(
    function: Callable[..., Any], parameters: tuple[Parameter, ...], target: Target
) -> tuple[Callable[..., Any], tuple[Parameter, ...]]:
    """What to call with plain arguments, and the plain parameters. The function itself, if its shape is plain."""
    open_parameters = tuple(each for each in parameters if each.name not in target.kwargs)
    names = {parameter.name for parameter in open_parameters}
    makes = _composites(names, target.rename)
    of_model = _model_of(function, names, makes, target.rename)
    if of_model is not None:
        makes, plain = _in_a_model(open_parameters, makes, target.rename)
        return Shaped(function, parameters, makes, target.kwargs, watch=LogitsWatch(of_model)), plain
    kinds = set(makes.values())
    if (names | set(target.rename)) & {"micro_batches"} or not _is_composed(names, kinds):
        makes, kinds = {}, set()
    if "model" in kinds and not kinds & {"inputs", "batch"}:
        makes |= _tokens_and_targets(open_parameters, target.rename)
        kinds = set(makes.values())
    if not makes:
        fixed = Shaped(function, parameters, {}, target.kwargs) if target.kwargs else function
        return fixed, open_parameters
    plain = _plain(open_parameters, makes)
    ways = (False, True) if kinds & {"outputs", "model"} else (False,)
    return Shaped(function, parameters, makes, target.kwargs, ways), plain


def _is_composed(names: set[str], kinds: set[str]) -> bool:
    """Whether composite parameters tell how a loss is called."""
    if "model" in kinds or "batch" in kinds:
        return "model" not in kinds or bool(kinds & {"inputs", "batch"} or names & {*_LABELS, *_TARGETS})
    return "outputs" in kinds and not names & _OF_A_LOSS and bool(names & {*_LABELS})


def _plain(parameters: tuple[Parameter, ...], makes: Mapping[str, str]) -> tuple[Parameter, ...]:
    """The plain parameters of a loss whose composite ones are made."""
    kinds = set(makes.values())
    own = [each for each in parameters if each.name not in makes and each.name not in _SET_BY_US]
    taken = {each.name for each in own}
    made = [] if taken & _OF_A_LOSS and "model" not in kinds else [Parameter("logits", True, "either")]
    made += [Parameter(name, False, "either") for name in _LOGITS[1:] if made]
    made += [Parameter(kind, True, "either") for kind in ("input_ids", "labels") if kind in kinds]
    if kinds & {"inputs", "batch"}:
        made += [Parameter(name, False, "either") for name in _IN_A_BATCH if name not in taken]
    return (*made, *(Parameter(each.name, each.required, "either") for each in own))


_SET_BY_US = ("return_outputs", "optimizer_idx", "dataloader_idx")  # their defaults are right


def _composites(names: set[str], rename: Mapping[str, str]) -> dict[str, str]:
    """Parameter -> which composite it is."""
    found: dict[str, str] = {}
    for kind, known in COMPOSITES.items():
        name = rename.get(kind) or next((each for each in known if each in names), None)
        if name is not None and name in names:
            found[name] = kind
    return found


def _model_of(
    function: Callable[..., Any], names: set[str], makes: Mapping[str, str], rename: Mapping[str, str]
) -> torch.nn.Module | None:
    """The model that a candidate is, or is a method of: a module that embeds tokens, and is given no logits.

    None too for one whose arguments and results are those of transformers' models, as the tiny models are.
    """
    module = function if isinstance(function, torch.nn.Module) else getattr(function, "__self__", None)
    if not isinstance(module, torch.nn.Module) or type(module).__module__.startswith("_shiftproof_worker"):
        return None
    if {"logits", "hidden_states"} & (names | set(rename)) or {"model", "outputs"} & set(makes.values()):
        return None
    return module if any(isinstance(part, torch.nn.Embedding) for part in module.modules()) else None


def _in_a_model(
    parameters: tuple[Parameter, ...], makes: Mapping[str, str], rename: Mapping[str, str]
) -> tuple[dict[str, str], tuple[Parameter, ...]]:
    """What a model's parameters are, and its plain parameters."""
    found = {name: kind for name, kind in makes.items() if kind in ("batch", "batch_idx")}
    holds_batch = "batch" in found.values()
    if not holds_batch:
        found |= _tokens_and_targets(parameters, rename)
    required = {found[each.name]: each.required for each in parameters if each.name in found}
    made = [
        Parameter(name, required.get(name, True), "either")
        for name in ("input_ids", "labels")
        if holds_batch or name in found.values()
    ]
    made += [Parameter("attention_mask", False, "either")] if holds_batch else []
    own = (each for each in parameters if each.name not in found and each.name not in _SET_BY_US)
    return found, (*made, *(Parameter(each.name, each.required, "either") for each in own))


def _tokens_and_targets(parameters: tuple[Parameter, ...], rename: Mapping[str, str]) -> dict[str, str]:
    """Which parameter takes the tokens, and which the labels, whatever their names are."""
    names = [parameter.name for parameter in parameters]
    found = {}
    for ours, known in (("input_ids", _TOKENS), ("labels", _TARGETS)):
        name = rename.get(ours) or next((each for each in known if each in names), None)
        if name is not None and name in names:
            found[name] = ours
    return found
