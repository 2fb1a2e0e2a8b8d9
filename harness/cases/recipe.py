"""A recipe: the few ints and enums that define one case completely.

Tensors are a pure function of a recipe (``build.py``), so only recipes are stored, shrunk, replayed and shown.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any


class Mask(StrEnum):
    """Which labels of one row are ignored. Rows of a batch take the recipe's masks in turn."""

    NONE = "none"
    FIRST = "first"  # the first label only
    PROMPT = "prompt"  # the first half: real tokens that are not trained on
    PADDING = "padding"  # the last third
    LEFT = "left"  # the first third, as padding
    HOLES = "holes"  # every third label, in the middle of a row too
    LAST_ONLY = "last_only"  # all but the last label
    ALL = "all"


class Ids(StrEnum):
    """How label ids are chosen."""

    COUNTING = "counting"  # label position i has id i, or one base-V digit of i if V is too small
    SEEDED = "seeded"
    EDGES = "edges"  # seeded, with 0 and V−1 at every other position in turn


class Count(StrEnum):
    """The num_items_in_batch that a case passes."""

    ABSENT = "absent"
    VALID = "valid"  # the count of this batch
    FEWER = "fewer"  # about half of this batch's: all of it is trained on, whatever the caller counted
    GLOBAL = "global"  # more than this batch has, as under gradient accumulation or data parallelism


class ShiftLabels(StrEnum):
    """Whether the caller passes labels that are already shifted."""

    ABSENT = "absent"
    PADDED = "padded"  # the last column ignored
    SHARDED = "sharded"  # the last column valid: the next shard's first token


class Regime(StrEnum):
    """The kind of numbers in the logits."""

    CALM = "calm"  # spread 1, to read pairs back: every probability is far from 0 and 1
    NORMAL = "normal"  # spread 3, so that losses are far from ln V
    SHARP = "sharp"  # rows in turn: near one-hot off the target, near one-hot on it, and spread out
    TIES = "ties"  # small integers: several classes share the maximum
    HUGE = "huge"  # ±1e4
    MINUS_INF = "minus_inf"  # a third of the classes off the target are −inf
    NAN_IGNORED = "nan_ignored"  # NaN in the rows that are not scored
    NAN_VALID = "nan_valid"  # NaN in one row that counts
    PLUS_INF = "plus_inf"  # one class off the target is +inf in one row that counts
    TARGET_MINUS_INF = "target_minus_inf"  # the target is −inf in one row that counts


class Stride(StrEnum):
    """The memory layout of the logits."""

    CONTIGUOUS = "contiguous"
    TRANSPOSED = "transposed"
    STRIDED = "strided"
    OFFSET = "offset"
    SLICED = "sliced"  # [:, :-1] of a longer buffer
    SEQUENCE_FIRST = "sequence_first"  # [S, B, V] in memory
    EXPANDED = "expanded"  # all rows share storage; regimes whose rows differ are contiguous instead


class Streams(StrEnum):
    """Which streams of a batch have labels to train on. BOTH if the spec has only one stream."""

    BOTH = "both"
    FIRST = "first"  # only the text: every label of the other stream is ignored
    SECOND = "second"  # only the audio
    NEITHER = "neither"


class Delay(StrEnum):
    """The delays of the codebooks, in frames. Their first and last labels are fill, and are ignored."""

    NONE = "none"
    STEP = "step"  # 0, 1, …, K−1
    AFTER_FIRST = "after_first"  # 0, 1, 1, …


class Hollow(StrEnum):
    """The codebooks or heads in which no label counts."""

    NONE = "none"
    FIRST = "first"
    LAST = "last"
    ALTERNATE = "alternate"  # every second one
    DROPPED = "dropped"  # the last one, but for its first label, which a shift drops


class Weights(StrEnum):
    """The numbers in token_weights, codebook_weights and class_weights."""

    QUARTERS = "quarters"  # 1/4 to 2, exact in every dtype
    ZEROS = "zeros"  # the same, and a third of them is 0
    TENTHS = "tenths"  # 0.1 to 0.8, which bf16 cannot hold


class AudioClasses(StrEnum):
    """V of the second stream. It always differs from that of the first, so that the two cannot be confused."""

    MORE = "more"  # V + 2
    FEWER = "fewer"  # V // 2 + 1: most ids of the text are beyond it


class AudioLength(StrEnum):
    """S of the second stream."""

    SAME = "same"
    LONGER = "longer"  # S + 3 frames
    SHORTER = "shorter"  # S // 2 + 1 frames


HIDDEN_MULTIPLE = 32
"""H is a multiple of it, as in real models. With other H, oneDNN's bf16 product on CPUs with AMX reads past
the end of a row and multiplies that by zero. A NaN in the next row then gets into this row
(uxlfoundation/oneDNN#5717)."""

_DTYPES = ("float32", "bfloat16", "float16", "float64")
_LABEL_DTYPES = ("int64", "int32")
_LEAST = {
    "rows": 0,
    "length": 0,
    "classes": 1,
    "codebooks": 1,
    "documents": 1,
    "extra": 0,
    "hidden_size": 0,
    "digit": 0,
    "seed": 0,
}


@dataclass(frozen=True)
class Recipe:
    """One case.

    Attributes:
        rows, length, classes: B, S and V.
        codebooks: K, or the number of heads.
        documents: the number of documents packed into each row.
        boundaries_ignored: whether the first label of each document is already ignored, as padding-free collators do.
        extra: the number of logits without a label position.
        hidden_size: the least H of hidden states and weight, for a loss that multiplies them itself. 0: as few columns
            as the logits need.
        dense: whether all numbers in hidden states and weight differ from 0. If not, each logit is one exact product.
        digit: the base-V digit of the position that Ids.COUNTING writes.
    """

    rows: int = 1
    length: int = 2
    classes: int = 2
    codebooks: int = 1
    masks: tuple[Mask, ...] = (Mask.NONE,)
    documents: int = 1
    boundaries_ignored: bool = False
    extra: int = 0
    streams: Streams = Streams.BOTH
    delay: Delay = Delay.NONE
    hollow: Hollow = Hollow.NONE
    hidden_size: int = 0
    dense: bool = False
    audio_classes: AudioClasses = AudioClasses.MORE
    audio_length: AudioLength = AudioLength.SAME
    ids: Ids = Ids.COUNTING
    digit: int = 0
    count: Count = Count.ABSENT
    weights: Weights = Weights.QUARTERS
    shift_labels: ShiftLabels = ShiftLabels.ABSENT
    regime: Regime = Regime.NORMAL
    stride: Stride = Stride.CONTIGUOUS
    dtype: str = "float32"
    label_dtype: str = "int64"
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        """The fields that differ from the simplest case, in field order."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        found["masks"] = [str(mask) for mask in self.masks]
        default = {field.name: field.default for field in fields(self)}
        default["masks"] = [str(Mask.NONE)]
        always = ("rows", "length", "classes", "dtype", "seed")
        return {
            name: str(value) if isinstance(value, StrEnum) else value
            for name, value in found.items()
            if name in always or value != default[name]
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Recipe:
        """Read a recipe from the output of ``to_json``.

        Raises:
            ValueError: ``data`` has an unknown field or an invalid value.
        """
        kinds: dict[str, Any] = {
            "streams": Streams,
            "delay": Delay,
            "hollow": Hollow,
            "audio_classes": AudioClasses,
            "audio_length": AudioLength,
            "ids": Ids,
            "count": Count,
            "weights": Weights,
            "shift_labels": ShiftLabels,
            "regime": Regime,
            "stride": Stride,
        }
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(data) - known)
        if unknown:
            raise ValueError(f"a recipe has no field {unknown[0]!r}; it has {', '.join(sorted(known))}")
        values = {name: kinds[name](value) if name in kinds else value for name, value in data.items()}
        if "masks" in values:
            if not isinstance(values["masks"], list | tuple):
                raise ValueError(f"masks are {values['masks']!r}; expected a list")
            values["masks"] = tuple(Mask(mask) for mask in values["masks"])
        recipe = cls(**values)
        for name, least in _LEAST.items():
            value = getattr(recipe, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name} is {value!r}; expected an integer from {least} up")
        for name in ("boundaries_ignored", "dense"):
            if not isinstance(getattr(recipe, name), bool):
                raise ValueError(f"{name} is {getattr(recipe, name)!r}; expected true or false")
        if recipe.seed >= 2**63:
            raise ValueError(f"seed is {recipe.seed}; expected less than 2**63")
        if not recipe.masks:
            raise ValueError("masks are empty; expected at least one, which the rows take in turn")
        for name, legal in (("dtype", _DTYPES), ("label_dtype", _LABEL_DTYPES)):
            if getattr(recipe, name) not in legal:
                raise ValueError(f"{name} is {getattr(recipe, name)!r}; expected one of {', '.join(legal)}")
        return recipe

    @property
    def audio_frames(self) -> int:
        """S of the second stream."""
        match self.audio_length:
            case AudioLength.SAME:
                return self.length
            case AudioLength.LONGER:
                return self.length + 3
            case AudioLength.SHORTER:
                return self.length // 2 + 1

    @property
    def size(self) -> int:
        """The size of the case, to compare it with other cases."""
        return self.rows * self.length * self.classes

    def canonical(self) -> str:
        """The canonical JSON text of this recipe: equal recipes have equal bytes."""
        return json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))


def digest(*parts: str) -> str:
    """Eight hex digits that name a stored case."""
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=4).hexdigest()
