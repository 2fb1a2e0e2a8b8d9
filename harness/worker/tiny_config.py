"""A tiny configuration of any configuration class: its own declared fields, each made small by a rule on its name.

What no rule gets right is in `tiny_fixes.json`: model types, the `fields` that take the place of the rules', and `why`.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

VOCABULARY = 99
LAYERS = 2
_HIDDEN, _HEADS, _KEY_VALUE_HEADS, _HEAD_DIM = 64, 4, 2, 16
_PATCH = 8

_SIZES: tuple[tuple[str, Callable[[int], int]], ...] = (
    (r"(.*_)?vocab(_size)?(_.*)?", lambda old: min(old, VOCABULARY)),
    (r"mamba_(n|num)_heads", lambda old: 2 * _HIDDEN // _HEAD_DIM),  # they share twice the hidden size
    (r"linear_num_key_heads", lambda old: min(old, _KEY_VALUE_HEADS)),
    (r"(.*_)?n?heads?", lambda old: min(old, _HEADS)),
    (r"(.*_)?(head_dim|dim_head|d_kv|d_head|attention_head_size|kv_channels)", lambda old: min(old, _HEAD_DIM)),
    (r"(.*_)?rank", lambda old: min(old, 16)),
    (r"(.*_)?(d_state|state_size)", lambda old: min(old, 16)),
    (r"(n|num)_shared_experts|(.*_)?num_shared_experts", lambda old: min(old, 1)),
    (r"(.*_)?experts(_per_tok)?|zero_expert_num", lambda old: min(old, 4)),
    (r"(.*_)?top_?k|moe_k|num_experts_per_tok", lambda old: min(old, 2)),
    (r"rotary_dim", lambda old: min(old, _HEAD_DIM)),
    (r"n_group|topk_group|(.*_)?n_?groups", lambda old: 1),
    (r"first_k_dense_replace|(.*_)?num_dense_layers", lambda old: min(old, 1)),
    (r"(.*_)?layers?|(.*_)?depth|num_blocks", lambda old: min(old, LAYERS)),
    (r"depths", lambda old: 1),
    (
        r"(.*_)?(intermediate_size|ffn_dim|d_ff|dff|dim_ff|ffn_hidden_size|mlp_dim|n_inner|feed_forward_size)(_.*)?",
        lambda old: min(old, 96),
    ),
    (
        r"(.*_)?(hidden_size|hidden_dim|d_model|n_embd|embed_dim|embedding_size|emb_dim|projection_dim|projector_dim|output_dim|proj_dim|width|mid_dim|hidden_units)(_.*)?",
        lambda old: min(old, _HIDDEN),
    ),
    (
        r"(max_.*position.*|n_positions|num_position_embeddings|n_ctx|max_seq_len|context_length|seq_len)",
        lambda old: min(old, 256),
    ),
    (r"(.*_)?(num_mel_bins|n_mel_bins|feature_size|input_feat_size|input_feat_per_channel)", lambda old: min(old, 16)),
    (r"(.*_)?patch_size", lambda old: min(old, _PATCH)),
    (r"(.*_)?image_size|crop_size", lambda old: min(old, 2 * _PATCH)),
    (r"(.*_)?channels", lambda old: min(old, 32)),
)
"""The first name that fits says what an integer becomes."""

_TOKEN = re.compile(r"(.*_)?(id|ids|index|token|codes)")


def tiny_config(config_class: type, **given: Any) -> Any:
    """An instance of `config_class` with two small layers; `given` fields, and those of the fixes, stay as they are."""
    config = config_class(**tiny_fields(config_class, **given))
    if getattr(config, "is_encoder_decoder", False):
        for name in ("pad_token_id", "decoder_start_token_id"):
            if getattr(config, name, None) is None:
                setattr(config, name, 0)
    return config


def tiny_fields(config_class: type, **given: Any) -> dict[str, Any]:
    """What `tiny_config` gives the class."""
    fix = {**_fixes().get(getattr(config_class, "model_type", ""), {}), **given}
    default = _default(config_class)
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
    parts = {**getattr(config_class, "sub_configs", {}), **{name: None for name in fix if _names_a_type(fix[name])}}
    for name in parts:
        asked = dict(fix.pop(name, {}))
        part_class = _class_of(asked.pop("model_type", None), _read(default, name), config_class)
        if part_class is not None:
            fields[name] = {**tiny_fields(part_class, **asked), "model_type": part_class.model_type}
    return {**fields, **fix}


def _read(default: Any, name: str) -> Any:
    """What a default has for a field; None where it has nothing, or refuses to say because its layers differ."""
    try:
        return getattr(default, name)
    except Exception:
        return None


def _of_the_others(name: str, old: Any, made: Any, default: Any) -> Any:
    """What a field becomes because of what other fields are by default; None where it is by its own value."""
    heads = _read(default, "num_attention_heads")
    if name in ("num_key_value_heads", "num_kv_heads"):
        # Where queries each have a key of their own, some models can't do otherwise.
        return _KEY_VALUE_HEADS if isinstance(made, int) and made != heads else _HEADS
    if name == "head_dim" and old is None and made is None:
        return _HEAD_DIM
    layers = _read(default, "num_hidden_layers")
    if isinstance(made, (list, tuple)) and len(made) == layers and all(isinstance(each, str) for each in made):
        return [*dict.fromkeys(made), *made][:LAYERS]  # of as many kinds as there can be
    return None


def _names_a_type(value: Any) -> bool:
    return isinstance(value, dict) and "model_type" in value


def _class_of(model_type: str | None, made: Any, config_class: type) -> Any:
    """The configuration class of a part: of the type that a fix asks for, or that of the default; None for no part."""
    if model_type is None:
        return type(made) if hasattr(made, "to_dict") else None
    package = importlib.import_module(config_class.__module__.partition(".")[0])
    return package.CONFIG_MAPPING[model_type]


class _TokenIds:
    """Ids of special tokens that lie outside the vocabulary become its last ones, each another."""

    def __init__(self) -> None:
        self._given: dict[int, int] = {}

    def __call__(self, old: int) -> int:
        if old < VOCABULARY:
            return old
        return self._given.setdefault(old, VOCABULARY - 1 - len(self._given))


def _tiny(name: str, old: Any, ids: _TokenIds) -> Any:
    """What a field becomes; `old` itself where no rule speaks of it."""
    if isinstance(old, bool):
        return False if name in ("use_cache", "output_router_logits") and old else old
    if isinstance(old, float):
        return 0.0 if "drop" in name and old else old
    if isinstance(old, int):
        if _TOKEN.fullmatch(name):
            return ids(old)
        rule = next((rule for pattern, rule in _SIZES if re.fullmatch(pattern, name)), None)
        return old if rule is None or old <= 0 else rule(old)
    if isinstance(old, (list, tuple)) and all(isinstance(each, int) for each in old):
        if name.endswith(("indexes", "indices")):
            return type(old)([LAYERS - 1])
        new = type(old)(_tiny(name, each, ids) for each in old)
        return old if new == old else new
    return old


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, (bool, int, float, str, list, tuple, dict))


def _default(config_class: type) -> Any:
    """The class's own defaults, made; None where it has none."""
    try:
        return config_class()
    except Exception:  # a composite of other configurations asks for them in its own way
        return None


@cache
def _fixes() -> Mapping[str, Mapping[str, Any]]:
    """Model type -> fields."""
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "tiny_fixes.json"), encoding="utf-8") as file:
        entries = json.load(file)
    return {model_type: entry["fields"] for entry in entries for model_type in entry["model_types"]}
