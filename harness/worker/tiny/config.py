"""Make a tiny configuration of any configuration class: a rule on the name of each declared field makes it small.

`fixes.json` has the exceptions: model types, or the name of a class without one, the `fields` that replace those of the
rules, and `why`.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

VOCABULARY = 99
LAYERS = 2
_HIDDEN, _HEADS, _KEY_VALUE_HEADS, _HEAD_DIM = 64, 4, 2, 16
_PATCH = 8

_MOST: tuple[tuple[int, tuple[str, ...]], ...] = (
    (VOCABULARY, ("vocab_size", "vocab")),
    (2 * _HIDDEN // _HEAD_DIM, ("mamba_n_heads", "mamba_num_heads")),  # these heads share twice the hidden size
    (_KEY_VALUE_HEADS, ("linear_num_key_heads",)),
    (_HEADS, ("heads", "n_head")),
    (_HEAD_DIM, ("head_dim", "dim_head", "d_kv", "attention_head_size", "kv_channels", "rotary_dim")),
    (16, ("rank", "d_state", "state_size", "chunk_size", "attention_window")),
    (16, ("num_mel_bins", "n_mel_bins", "feature_size", "input_feat_size", "input_feat_per_channel")),
    (1, ("shared_experts", "n_group", "topk_group", "n_groups", "first_k_dense_replace", "num_dense_layers", "depths")),
    (2, ("topk", "top_k", "moe_k", "num_experts_per_tok")),
    (4, ("experts", "zero_expert_num", "num_filters")),
    (LAYERS, ("layers", "n_layer", "depth", "num_blocks")),
    (96, ("intermediate_size", "ffn_dim", "d_ff", "dff", "dim_ff", "ffn_hidden_size", "mlp_dim", "feed_forward_size")),
    (_HIDDEN, ("hidden_size", "hidden_dim", "d_model", "n_embd", "embed_dim", "emb_dim", "embedding_size")),
    (_HIDDEN, ("projection_dim", "projector_dim", "output_dim", "mid_dim")),
    (256, ("position_embeddings", "positions", "n_ctx", "max_seq_len", "context_length", "seq_len", "max_pos_emb")),
    (_PATCH, ("patch_size",)),
    (2 * _PATCH, ("image_size", "crop_size")),
    (32, ("channels",)),
)
"""(largest value, words): the first entry with a word in a field's name, as whole words, limits an integer field."""

_OFF = ("use_cache", "output_router_logits", "use_mamba_kernels", "apply_spec_augment")
_NOISE = ("mask_time_prob", "mask_feature_prob")  # of sound, in train mode, as dropout

_TOKEN = re.compile(r"(.*_)?(id|ids|index|token|codes)")


def tiny_config(config_class: type) -> Any:
    """Make an instance of `config_class` with two small layers, for a causal model.

    Raises:
        Exception: any exception of the class, if the rules and fixes do not suit it.
    """
    default = _default(config_class)
    if _read(default, "is_encoder_decoder"):
        fields = tiny_fields(config_class)
    else:
        # Encoders that can also be decoders need a flag.
        fields = tiny_fields(
            config_class, **{name: True for name in ("is_decoder", "causal") if _read(default, name) is False}
        )
    config = config_class(**fields)
    if getattr(config, "is_encoder_decoder", False):
        for name in ("pad_token_id", "decoder_start_token_id"):
            if getattr(config, name, None) is None:
                setattr(config, name, 0)
    return config


def tiny_fields(config_class: type, **given: Any) -> dict[str, Any]:
    """The fields that `tiny_config` passes to the class."""
    fix = {**_fixes().get(getattr(config_class, "model_type", "") or config_class.__name__, {}), **given}
    default: Any = _default(config_class)
    ids = _TokenIds()
    fields: dict[str, Any] = {}
    for name, parameter in inspect.signature(config_class).parameters.items():
        made = _read(default, name)
        old = parameter.default if _is_plain(parameter.default) else made
        new = _of_the_others(name, old, made, default)
        if new is None:
            new = _tiny(name, old, ids)
        if new is not old:
            fields[name] = new
    for name in _parts(config_class, default, fix):
        of_part = dict(fix.pop(name, {}))
        part_class = _class_of_part(name, of_part.pop("model_type", None), _read(default, name), config_class)
        if part_class is not None:
            fields[name] = {**tiny_fields(part_class, **of_part), "model_type": part_class.model_type}
    return {**fields, **fix}


def _read(default: Any, name: str) -> Any:
    """The value of a field in a default configuration. None if it has none, or raises because its layers differ."""
    try:
        return getattr(default, name)
    except Exception:
        return None


def _of_the_others(name: str, old: Any, made: Any, default: Any) -> Any:
    """The new value of a field that depends on the defaults of other fields. None if it depends on its own value."""
    heads = _read(default, "num_attention_heads")
    if name in ("num_key_value_heads", "num_kv_heads"):
        # If each query has its own key, some models support nothing else.
        return _KEY_VALUE_HEADS if isinstance(made, int) and made != heads else _HEADS
    if name == "head_dim" and old is None and made is None:
        return _HEAD_DIM
    layers = _read(default, "num_hidden_layers")
    if isinstance(made, (list, tuple)) and len(made) == layers and all(isinstance(each, str) for each in made):
        return [*dict.fromkeys(made), *made][:LAYERS]  # as many different kinds as possible
    return None


def _parts(config_class: type, default: Any, fix: Mapping[str, Any]) -> list[str]:
    """The fields that are configurations themselves: by declaration, by default, or by a fix with a model type."""
    by_default = [
        name for name in inspect.signature(config_class).parameters if hasattr(_read(default, name), "to_dict")
    ]
    by_fix = [name for name, value in fix.items() if isinstance(value, dict) and "model_type" in value]
    return list(dict.fromkeys([*getattr(config_class, "sub_configs", {}), *by_default, *by_fix]))


def _class_of_part(name: str, model_type: str | None, made: Any, config_class: type) -> Any:
    """The class of a part: by the model type of a fix, or by the default, or by declaration. None if it is no part."""
    if model_type is not None:
        package = importlib.import_module(config_class.__module__.partition(".")[0])
        if model_type in getattr(package, "CONFIG_MAPPING", {}):
            return package.CONFIG_MAPPING[model_type]
        # Early releases of transformers leave some out, and other packages have no mapping.
        beside = vars(importlib.import_module(config_class.__module__)).values()
        own = [each for each in beside if isinstance(each, type) and getattr(each, "model_type", None) == model_type]
        return own[0] if own else importlib.import_module("transformers").CONFIG_MAPPING[model_type]
    if hasattr(made, "to_dict"):
        return type(made)
    declared = getattr(config_class, "sub_configs", {}).get(name)
    return declared if getattr(declared, "model_type", None) else None


class _TokenIds:
    """Maps ids of special tokens outside the vocabulary to its last ids, a different one each."""

    def __init__(self) -> None:
        self._given: dict[int, int] = {}

    def __call__(self, old: int) -> int:
        if old < VOCABULARY:
            return old
        return self._given.setdefault(old, VOCABULARY - 1 - len(self._given))


def _tiny(name: str, old: Any, ids: _TokenIds) -> Any:
    """The new value of a field, or `old` itself if no rule applies."""
    if isinstance(old, bool):
        return False if name in _OFF and old else old
    if isinstance(old, float):
        return 0.0 if ("drop" in name or name in _NOISE) and old else old
    if isinstance(old, int):
        if _TOKEN.fullmatch(name):
            return ids(old)
        most = next((most for most, words in _MOST if any(f"_{word}_" in f"_{name}_" for word in words)), old)
        return min(old, most)
    if isinstance(old, (list, tuple)) and all(isinstance(each, int) for each in old):
        if name.endswith(("indexes", "indices")):
            return type(old)([LAYERS - 1])
        new = type(old)(_tiny(name, each, ids) for each in old)
        return old if new == old else new
    return old


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, (bool, int, float, str, list, tuple, dict))


def _default(config_class: type) -> Any:
    """An instance with the class's own defaults. None if it has none."""
    try:
        return config_class()
    except Exception:  # a composite of other configurations needs them as arguments
        return None


@cache
def _fixes() -> Mapping[str, Mapping[str, Any]]:
    """Model type -> fields."""
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "fixes.json"), encoding="utf-8") as file:
        entries = json.load(file)
    return {model_type: entry["fields"] for entry in entries for model_type in entry["model_types"]}
