"""Build a tiny model of any class of an installed model library, so that its loss can be judged by its own logits.

`language_models.py` finds the classes, `tiny_config.py` makes the configuration, `tiny_inputs.py` what forward needs
besides token ids, `tiny_weights.py` weights that tell one token from another.
"""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from .tiny_config import VOCABULARY, tiny_config
from .tiny_inputs import Side, is_known, sides
from .tiny_weights import NotSharpened, sharpen, widen
from .tracebacks import exception_message

_SEED = 5
_BATCH, _LENGTH = 4, 12


class CannotBuild(Exception):
    """Of this class no tiny model could be made. The message is the reason, in one line."""

    def __init__(self, reason: str) -> None:
        super().__init__(" ".join(reason.split())[:400])


class TinyModel(torch.nn.Module):
    """A model that needs nothing but token ids and labels.

    Attributes:
        inner: the model itself.
        vocab_size: V, the number of classes of its logits. Token ids and labels may be any of 0 … V−1.
        side_inputs: the names of the arguments that are added to every call.
        reads_input_ids: whether the model is handed the token ids. A model of speech or images with a decoder has no
            parameter for them: with labels it makes its decoder's inputs from those, without labels they are token ids.
        is_encoder_decoder: what the configuration says.
        accepts_loss_kwargs: what `transformers.Trainer` concludes, and so whether it hands over `num_items_in_batch`.
        gives_logits: whether `.logits` is there when labels are given, as it isn't in a fused loss.
        documentation: what the forward's docstring says of `labels`, and what sentences of the class's speak of shifts.
    """

    def __init__(self, inner: torch.nn.Module, side: Mapping[str, Side]) -> None:
        super().__init__()
        self.inner = inner
        self._side = dict(side)
        self._parameters_of_forward = inspect.signature(inner.forward).parameters
        self.side_inputs = tuple(side)
        self.reads_input_ids = "input_ids" in self._parameters_of_forward
        config: Any = inner.config
        self.is_encoder_decoder = bool(getattr(config, "is_encoder_decoder", False))
        self.accepts_loss_kwargs = accepts_loss_kwargs(inner)
        self.documentation = documentation(type(inner))
        self.vocab_size = VOCABULARY
        self.gives_logits = True

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor | None = None, **rest: Any) -> Any:
        """The inner model's own output.

        Args:
            input_ids: [B, S] int64.
            labels: [B, S] int64; −100 is ignored.
            **rest: goes to the inner model, and takes the place of what would be added.
        """
        floats = next(self.inner.parameters())
        arguments: dict[str, Any] = {name: side.rows(input_ids, floats.dtype) for name, side in self._side.items()}
        accepted = self._parameters_of_forward
        if self.reads_input_ids:
            arguments["input_ids"] = input_ids
        if labels is not None:
            arguments["labels"] = labels
        elif "decoder_input_ids" in accepted:
            arguments["decoder_input_ids"] = input_ids
        if "use_cache" in accepted:
            arguments["use_cache"] = bool(getattr(self.inner.config, "use_cache", False))
        if "return_dict" in accepted:
            arguments["return_dict"] = True
        return self.inner(**{**arguments, **rest})


def build_tiny(model_class: type[torch.nn.Module]) -> TinyModel:
    """A tiny model of this class: float32, on the CPU, in eval mode, the same weights each time.

    Raises:
        CannotBuild: whatever it is that fails, with its reason.
    """
    inner = _instance(model_class)
    refusals: dict[str, str] = {}
    for side in _ways(inner):
        model = TinyModel(inner, side)
        try:
            return _tried(model)
        except _Refused as refused:
            refusals.setdefault(str(refused), f"with {', '.join(side)}: " if side else "")
    reasons = [f"{way}{reason}" for reason, way in refusals.items()]
    shape = re.search(r"of shape `?(\([^()]*\))", documentation(model_class))
    if shape is not None and shape.group(1).count(",") != 1:
        reasons.insert(0, f"its labels are {shape.group(1)}, as it documents")
    raise CannotBuild("; ".join(reasons))


class _Refused(Exception):
    """A model can't be called in this way."""


def _instance(model_class: type) -> torch.nn.Module:
    """The model, with widened weights."""
    missing = getattr(model_class, "_backends", None)
    if missing:
        raise CannotBuild(f"it needs {', '.join(missing)}, and not all of them are installed")
    config_class = getattr(model_class, "config_class", None)
    if config_class is None:
        raise CannotBuild("the class does not say what its configuration is")
    try:
        inner = _made(model_class, tiny_config(config_class))
    except Exception as error:
        raise CannotBuild(f"it cannot be made: {_told(error)}") from error
    with torch.no_grad():
        widen(inner)
    return inner


def _made(model_class: type, config: Any) -> torch.nn.Module:
    """The model as its class makes it: of this configuration, or of the part of it that the class is the model of."""
    config._attn_implementation = "eager"  # the others need more than a CPU, or round differently
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_SEED)
            return model_class(config).float().eval()  # type: ignore[no-any-return]
    except AttributeError:
        for part in vars(config).values():
            if hasattr(part, "to_dict"):
                with contextlib.suppress(Exception):
                    return _made(model_class, part)
        raise


def _ways(inner: torch.nn.Module) -> Iterator[dict[str, Side]]:
    """What may be added to a call: as little as the signature lets, its main input, all that there are rules for."""
    parameters = inspect.signature(inner.forward).parameters
    known = [name for name in parameters if is_known(name) and name != "attention_mask"]
    needed = [name for name in known if parameters[name].default is inspect.Parameter.empty]
    main = [getattr(inner, "main_input_name", "input_ids")]
    seen: list[list[str]] = []
    mask = [name for name in parameters if name == "attention_mask"]
    for names in (needed, needed + mask, [name for name in known if name in needed + main], known):
        if names not in seen:
            seen.append(names)
            yield from sides(names, inner.config)


def _tried(model: TinyModel) -> TinyModel:
    """The model, after a first call and with sharpened logits.

    Raises:
        _Refused: it can't be called in this way, or its answer is not that of a language model.
        CannotBuild: it can, but its logits are of no use.
    """
    generator = torch.Generator().manual_seed(_SEED)
    ids = torch.randint(VOCABULARY, (_BATCH, _LENGTH), generator=generator)
    labels = torch.randint(VOCABULARY, (_BATCH, _LENGTH), generator=generator)
    shape = f"[{_BATCH}, {_LENGTH}]"
    try:
        with torch.no_grad():
            output = model(ids, labels)
    except Exception as error:
        raise _Refused(f"{_told(error)}{_without_labels(model, ids)}") from error
    loss, logits = getattr(output, "loss", None), getattr(output, "logits", None)
    if loss is None:
        raise _Refused(f"labels {shape} give no loss")
    if logits is None:
        model.gives_logits = False
        logits = _logits_without_labels(model, ids)
    if logits is None or logits.dim() != 3 or logits.shape[0] != _BATCH or logits.shape[1] < _LENGTH:
        raise _Refused(f"for labels {shape} its logits are {_shape(logits)}, not [B, S or more, V]")
    model.vocab_size = logits.shape[-1]

    def answer() -> torch.Tensor:
        output = model(ids, labels) if model.gives_logits else model(ids)
        return output.logits  # type: ignore[no-any-return]

    try:
        with torch.no_grad():
            sharpen(model.inner, answer)
    except NotSharpened as error:
        raise CannotBuild(str(error)) from error
    return model


def _without_labels(model: TinyModel, ids: torch.Tensor) -> str:
    """What the logits are like when there are no labels, if that tells something."""
    logits = _logits_without_labels(model, ids)
    return "" if logits is None else f"; without labels its logits are {_shape(logits)}"


def _logits_without_labels(model: TinyModel, ids: torch.Tensor) -> torch.Tensor | None:
    """None where there are none, or where the call fails."""
    try:
        with torch.no_grad():
            return getattr(model(ids), "logits", None)
    except Exception:
        return None


def _shape(logits: object) -> str:
    return str(list(logits.shape)) if isinstance(logits, torch.Tensor) else "none"


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {exception_message(error)}"


def accepts_loss_kwargs(model: torch.nn.Module) -> bool:
    """Whether `transformers.Trainer` hands this model `num_items_in_batch`: `Trainer.__init__` of 4.46 and later."""
    said = getattr(model, "accepts_loss_kwargs", None)
    if said is not None:
        return bool(said)
    return any(each.kind is each.VAR_KEYWORD for each in inspect.signature(model.forward).parameters.values())


def documentation(model_class: type[torch.nn.Module]) -> str:
    """What is said of `labels` where forward documents its arguments, and the class's own sentences on shifting."""
    text = inspect.cleandoc(model_class.forward.__doc__ or "")
    entry = re.search(r"^( *)labels\b.*(\n(?:\1 +.*)?$)*", text, re.MULTILINE)
    sentences = re.split(r"(?<=[.!?])\s+", inspect.cleandoc(model_class.__doc__ or ""))
    shifting = [" ".join(each.split()) for each in sentences if re.search(r"\bshift", each, re.IGNORECASE)]
    return "\n".join([*([inspect.cleandoc(entry.group())] if entry else []), *shifting])
