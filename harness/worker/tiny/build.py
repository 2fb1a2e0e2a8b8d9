"""Build a tiny model of any class of an installed model library, so that its loss can be judged by its own logits.

`find.py` finds the classes. `config.py` makes the configuration. `inputs.py` makes the inputs that forward needs
besides token ids. `weights.py` makes weights with which tokens have different logits.
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
import re
from collections.abc import Iterator
from typing import Any

import torch

from ..tracebacks import exception_message
from . import duplex, streams
from .config import VOCABULARY, tiny_config
from .configured import Configured, is_configured
from .embedded import Embedded
from .forward import parameters_of
from .inputs import Side, is_known, numbers_of_codebooks, sides
from .listening import Listening
from .model import TinyModel, accepts_loss_kwargs, documentation
from .no_pairs import evidence_of_no_pairs
from .steps import Steps, takes_steps
from .weights import NotSharpened, sharpen, widen

_SEED = 5
_BATCH, _LENGTH = 4, 12
_HEADS = ("use_text_head",)  # of a stream whose labels are dropped without one
_TYPES = ("token_type_ids", "mm_token_type_ids")  # which some models need in train mode alone
_TEXT = 5  # tokens of an encoder's text


class CannotBuild(Exception):
    """No tiny model of this class could be built. The message is the reason, in one line."""

    def __init__(self, reason: str) -> None:
        super().__init__(" ".join(reason.split())[:400])


class NoPairs(CannotBuild):
    """Its loss pairs no row of logits with a label. The message is the evidence."""


def build_tiny(model_class: type[torch.nn.Module]) -> TinyModel | streams.OfStreams:
    """Build a tiny model of this class: float32, on the CPU, in eval mode, with the same weights each time.

    Raises:
        NoPairs: no model of token ids could be built, and calling it shows that its loss has no pairs.
        CannotBuild: any step fails. The message is the reason.
    """
    inner = _instance(model_class)
    of_class = documentation(model_class), accepts_loss_kwargs(inner)
    try:
        if streams.takes_streams(model_class):
            return streams.sharpened(streams.TinyStreams(inner, *of_class))
        if duplex.takes_duplex(model_class):
            return streams.sharpened(duplex.TinyDuplex(inner, *of_class))
    except Exception as error:
        raise CannotBuild(f"with text and frames of codebooks: {_told(error)}") from error
    refusals: dict[str, str] = {}
    in_eval_mode: list[TinyModel] = []
    for model in _of_tokens(inner):
        try:
            tried = _tried(model)
            if _trains(tried):
                return tried
            in_eval_mode.append(tried)
        except _Refused as refused:
            side = ", ".join(model.side_inputs)
            refusals.setdefault(str(refused), f"with {side}: " if side else "")
    if in_eval_mode:
        return in_eval_mode[0]
    for model in _of_codebooks(inner):
        with contextlib.suppress(_Refused):
            found = _tried_codebooks(model)
            return Configured.of(found) if is_configured(inner) else found
    for codebooks in numbers_of_codebooks(inner.config):
        with contextlib.suppress(_Refused):
            return _tried(Listening(inner, codebooks))
    if evidence := evidence_of_no_pairs(inner):
        raise NoPairs(evidence)
    reasons = [f"{way}{reason}" for reason, way in refusals.items()]
    shape = re.search(r"of shape `?(\([^()]*\))", documentation(model_class))
    if shape is not None and shape.group(1).count(",") != 1:
        reasons.insert(0, f"its labels are {shape.group(1)}, as it documents")
    raise CannotBuild("; ".join(reasons))


class _Refused(Exception):
    """The model cannot be called in this way."""


def _instance(model_class: type) -> torch.nn.Module:
    """Make the model, with widened weights."""
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
    """Make the model from this configuration, or from the part of the configuration that belongs to the class."""
    config._attn_implementation = "eager"  # other implementations need more than a CPU, or round differently
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_SEED)
            heads = {name: True for name in _HEADS if name in inspect.signature(model_class).parameters}
            return model_class(config, **heads).float().eval()  # type: ignore[no-any-return]
    except AttributeError:
        for part in vars(config).values():
            if hasattr(part, "to_dict"):
                with contextlib.suppress(Exception):
                    return _made(model_class, part)
        raise


def _of_tokens(inner: torch.nn.Module) -> Iterator[TinyModel]:
    """Yield the ways to give a model its tokens, and what it needs beside them."""
    if takes_steps(type(inner)):
        yield Steps(inner, next(sides(["backbone_last_hidden_state"], inner.config)))
    for side in _ways(inner):
        yield TinyModel(inner, side)
    accepted = parameters_of(type(inner))
    if "inputs_embeds" in accepted:
        if getattr(inner.config, "is_encoder_decoder", False):
            yield from (TinyModel(inner, side) for side in sides(["inputs_embeds"], inner.config))
        else:
            yield Embedded(inner, {})
            if "attention_mask" in accepted:
                yield Embedded(inner, next(sides(["attention_mask"], inner.config)))


def _ways(inner: torch.nn.Module) -> Iterator[dict[str, Side]]:
    """Yield the arguments to try: first only the required ones, then the main input too, then all with a rule."""
    parameters = parameters_of(type(inner))
    apart = ("attention_mask", "inputs_embeds", *_TYPES)
    known = [name for name in parameters if is_known(name) and name not in apart]
    needed = [name for name in known if parameters[name].default is inspect.Parameter.empty]
    main = [getattr(inner, "main_input_name", "input_ids")]
    seen: list[list[str]] = []
    mask = [name for name in parameters if name == "attention_mask"]
    types = [name for name in parameters if name in _TYPES]
    for names in (needed, needed + types, needed + mask, [name for name in known if name in needed + main], known):
        if names not in seen:
            seen.append(names)
            yield from sides(names, inner.config)


def _of_codebooks(inner: torch.nn.Module) -> Iterator[TinyModel]:
    """Yield the ways to take a model for one of codebooks. A decoder beside an encoder gets text for that."""
    accepted = parameters_of(type(inner))
    side, tokens = {}, "input_ids"
    if "decoder_input_ids" in accepted:
        side, tokens = {"input_ids": Side((_TEXT,), below=VOCABULARY)}, "decoder_input_ids"
    if tokens in accepted:
        for codebooks in numbers_of_codebooks(inner.config):
            yield TinyModel(inner, side, codebooks, tokens)


def _tried(model: TinyModel) -> TinyModel:
    """Call the model once and sharpen its logits. Return the model.

    Raises:
        _Refused: the model cannot be called in this way, or its answer is not that of a language model.
        CannotBuild: the model can be called, but its logits are not useful.
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
    if logits is None and (head := _only_head(model.inner)) is not None:
        model.gives_logits = True
        model.read_at(head)
        with torch.no_grad():
            logits = model(ids, labels).logits
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


def _trains(model: TinyModel) -> bool:
    """Whether it can be called in train mode too."""
    ids = torch.arange(_BATCH * _LENGTH).reshape(_BATCH, _LENGTH) % VOCABULARY
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            model.train()(ids, ids)
        return True
    except Exception:
        return False
    finally:
        model.eval()


def _only_head(inner: torch.nn.Module) -> torch.nn.Module | None:
    """The layer with as many outputs as the vocabulary, if there is one and no other."""
    layers = [each for each in inner.modules() if isinstance(each, torch.nn.Linear)]
    heads = [each for each in layers if each.out_features == VOCABULARY]
    return heads[0] if len(heads) == 1 else None


def _tried_codebooks(model: TinyModel) -> TinyModel:
    """As :func:`_tried`, with tokens and labels of codebooks in some layout."""
    generator = torch.Generator().manual_seed(_SEED)
    frames = torch.randint(VOCABULARY, (_BATCH, model.codebooks, _LENGTH), generator=generator)
    layouts = (frames.transpose(1, 2).contiguous(), frames.flatten(0, 1), frames)
    for ids, labels in itertools.product(layouts, layouts):
        try:
            with torch.no_grad():
                output = model(ids, labels)
        except Exception:
            continue
        logits = getattr(output, "logits", None)
        if getattr(output, "loss", None) is None or logits is None:
            continue
        if getattr(output, "depth_logits", None) is not None and logits.shape[:2] == (_BATCH, _LENGTH):
            return _with_depth(model, ids, labels)
        classes = _classes_of(logits, model.codebooks)
        if classes is None:
            continue
        model.vocab_size = classes

        def answer(ids: torch.Tensor = ids, labels: torch.Tensor = labels, classes: int = classes) -> torch.Tensor:
            return model(ids, labels).logits.reshape(-1, classes)  # type: ignore[no-any-return]

        try:
            with torch.no_grad():
                sharpen(model.inner, answer)
        except NotSharpened as error:
            raise CannotBuild(str(error)) from error
        return model
    raise _Refused("tokens and labels of codebooks give no loss and logits")


def _classes_of(logits: torch.Tensor, codebooks: int) -> int | None:
    """V, by the logits of frames of K codebooks, with rows before those of the labels or not. None if they are not."""
    places = _BATCH * _LENGTH * codebooks
    if logits.dim() == 3 and logits.shape[0] == _BATCH * codebooks and logits.shape[1] >= _LENGTH:
        return logits.shape[-1]
    classes = logits.numel() // places
    return (
        classes if logits.numel() == places * classes and logits.shape[-1] in (classes, classes * codebooks) else None
    )


def _with_depth(model: TinyModel, ids: torch.Tensor, labels: torch.Tensor) -> TinyModel:
    """Sharpen the logits of a backbone and of its depth decoder."""
    try:
        with torch.no_grad():
            model.vocab_size = model(ids, labels).logits.shape[-1]
            sharpen(model.inner, lambda: model(ids, labels).logits)
            sharpen(model.inner, lambda: model(ids, labels).depth_logits)
    except NotSharpened as error:
        raise CannotBuild(str(error)) from error
    return model


def _without_labels(model: TinyModel, ids: torch.Tensor) -> str:
    """The shape of the logits without labels, in words, or "" if there are none."""
    logits = _logits_without_labels(model, ids)
    return "" if logits is None else f"; without labels its logits are {_shape(logits)}"


def _logits_without_labels(model: TinyModel, ids: torch.Tensor) -> torch.Tensor | None:
    """The logits without labels. None if there are none, or if the call fails."""
    try:
        with torch.no_grad():
            return getattr(model(ids), "logits", None)
    except Exception:
        return None


def _shape(logits: object) -> str:
    return str(list(logits.shape)) if isinstance(logits, torch.Tensor) else "none"


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {exception_message(error)}"
