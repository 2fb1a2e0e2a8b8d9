"""The arguments that a label builder can take, by name: the fields of a :class:`BuilderBatch`."""

from __future__ import annotations

from dataclasses import fields

from torch import Tensor

from shiftproof.reference.builders import BuilderBatch, BuilderSpec

from ..candidates.arguments import Offer
from .cases import BuilderRecipe, build_inputs

BUILDER_ARGUMENTS: dict[str, str] = {
    "audio_codes": "[B, K, T], int64, none of them a special id",
    "delayed_codes": "[B, K, F], int64, delayed codes, F = T + the longest delay",
    "delays": "list of K ints ≥ 0, the delay of each codebook in frames",
    "input_ids": "[B, S], int64; for packing [1, S], the documents one after another",
    "attention_mask": "[B, S], int64, 0 at padding, which is on one side of a row",
    "loss_mask": "[B, S], int64, 1 where the token at the same place of input_ids is trained on",
    "prompt_lengths": "[B], int64, how many real tokens of a row are prompt",
    "assistant_mask": "[B, S], int64, 1 at an assistant's tokens, its end of turn included",
    "assistant_turns": "[B, N, 2], int64, the first and the last place of each turn; −1, −1 for none",
    "seq_lengths": "[D], int64, how many tokens each packed document has",
    "bos_token_id": "int, not an ordinary id",
    "eos_token_id": "int, not an ordinary id",
    "pad_token_id": "int, not an ordinary id; it can equal eos_token_id",
    "ignore_index": "int, the label that is never trained on",
}
assert set(BUILDER_ARGUMENTS) == {field.name for field in fields(BuilderBatch)}

_DATA = tuple(name for name in BUILDER_ARGUMENTS if not name.endswith(("_id", "_index")) and name != "delays")

TO_BUILDERS = Offer("a builder", BUILDER_ARGUMENTS.keys(), {}, _DATA, ("input_ids", "audio_codes"))
"""The arguments that builders can take under any spec."""


def offer_under(spec: BuilderSpec) -> Offer:
    """Return the arguments that the batches of ``spec`` have."""
    batch = build_inputs(spec, BuilderRecipe())
    names = tuple(name for name in BUILDER_ARGUMENTS if getattr(batch, name) is not None)
    data = tuple(name for name in names if isinstance(getattr(batch, name), Tensor))
    return Offer(f"a builder under {spec.name}", names, {}, data, tuple(name for name in spec.inputs if name in data))
