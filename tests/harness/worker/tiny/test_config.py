"""The rules by which a configuration becomes tiny, on classes made up for it."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

import pytest

from shiftproof.harness.worker.tiny import config as module
from shiftproof.harness.worker.tiny.config import LAYERS, VOCABULARY, tiny_config


class Config:
    """What every class of a library has."""

    model_type = "ours"

    def to_dict(self) -> dict[str, Any]:
        return vars(self)


class VisionConfig(Config):
    model_type = "ours_vision"

    def __init__(self, image_size: int = 224, patch_size: int = 14, hidden_size: int = 1024, **rest: Any) -> None:
        self.image_size, self.patch_size, self.hidden_size = image_size, patch_size, hidden_size
        self.rest = rest


class TextConfig(Config):
    def __init__(
        self,
        vision_config: dict[str, Any] | None = None,
        vocab_size: int = 32000,
        num_hidden_layers: int = 24,
        num_attention_heads: int = 32,
        num_key_value_heads: int = 8,
        num_experts_per_tok: int = 8,
        head_dim: int | None = None,
        layer_types: Sequence[str] | None = None,
        full_indexes: Sequence[int] = (7, 15, 23),
        attention_dropout: float = 0.1,
        rope_theta: float = 10000.0,
        sliding_window: int = 4096,
        use_cache: bool = True,
        image_token_id: int = 31999,
        eos_token_id: int = 2,
        audio_token_id: int = 31998,
        is_decoder: bool = False,
    ) -> None:
        self.is_decoder = is_decoder
        self.vision_config = VisionConfig(**(vision_config or {}))
        self.num_hidden_layers, self.num_attention_heads = num_hidden_layers, num_attention_heads
        self.num_key_value_heads, self.num_experts_per_tok = num_key_value_heads, num_experts_per_tok
        self.vocab_size, self.head_dim, self.full_indexes = vocab_size, head_dim, full_indexes
        self.attention_dropout, self.rope_theta = attention_dropout, rope_theta
        self.sliding_window, self.use_cache = sliding_window, use_cache
        self.ids = (image_token_id, eos_token_id, audio_token_id)
        self.layer_types = layer_types or ["sliding"] * (num_hidden_layers - 1) + ["full"]


def test_a_configuration_is_made_small() -> None:
    config = tiny_config(TextConfig)
    assert config.vocab_size == VOCABULARY
    assert (config.num_hidden_layers, config.num_attention_heads, config.num_key_value_heads) == (LAYERS, 4, 2)
    assert config.num_experts_per_tok == 2
    assert config.head_dim == 16
    assert config.layer_types == ["sliding", "full"], "a layer of each kind, though the class works the kinds out"
    assert config.full_indexes == (LAYERS - 1,)
    assert config.attention_dropout == 0
    assert (config.rope_theta, config.sliding_window) == (10000.0, 4096), "no rule speaks of them"
    assert not config.use_cache
    assert config.ids == (VOCABULARY - 1, 2, VOCABULARY - 2), "within the vocabulary, each another"
    assert config.is_decoder, "a model that may look ahead is told not to"
    vision = config.vision_config
    assert (vision.image_size, vision.patch_size, vision.hidden_size) == (16, 8, 64)
    assert vision.rest == {"model_type": "ours_vision"}


def test_as_many_keys_as_queries_stay_so() -> None:
    class EqualHeads(Config):
        def __init__(self, num_attention_heads: int = 32, num_key_value_heads: int = 32) -> None:
            self.num_attention_heads, self.num_key_value_heads = num_attention_heads, num_key_value_heads

    config = tiny_config(EqualHeads)
    assert config.num_attention_heads == config.num_key_value_heads == 4


def test_a_fix_takes_the_place_of_a_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    class Composite(Config):
        model_type = "composite"

        def __init__(self, vocab_size: int = 32000, **parts: Any) -> None:
            if "encoder" not in parts:
                raise ValueError("an encoder is needed")
            self.vocab_size, self.parts = vocab_size, parts

    library = type(sys)("library_of_configs")
    library.CONFIG_MAPPING = {"ours_vision": VisionConfig}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "library_of_configs", library)
    Composite.__module__ = "library_of_configs.models"
    fixes = {"composite": {"vocab_size": 500, "encoder": {"model_type": "ours_vision", "image_size": 7}}}
    monkeypatch.setattr(module, "_fixes", lambda: fixes)
    config = tiny_config(Composite)
    assert config.vocab_size == 500
    part = {"image_size": 7, "patch_size": 8, "hidden_size": 64, "model_type": "ours_vision"}
    assert config.parts == {"encoder": part}


def test_an_encoder_decoder_has_a_token_to_begin_with() -> None:
    class Both(Config):
        def __init__(self, is_encoder_decoder: bool = True, decoder_start_token_id: int | None = None) -> None:
            self.is_encoder_decoder, self.decoder_start_token_id = is_encoder_decoder, decoder_start_token_id

    config = tiny_config(Both)
    assert (config.decoder_start_token_id, config.pad_token_id) == (0, 0)


def test_every_fix_says_why_and_no_model_has_two() -> None:
    path = module.__file__.replace("config.py", "fixes.json")
    with open(path, encoding="utf-8") as file:
        entries = json.load(file)
    assert all(set(entry) == {"model_types", "why", "fields"} and entry["why"] and entry["fields"] for entry in entries)
    names = [name for entry in entries for name in entry["model_types"]]
    assert len(names) == len(set(names))
