"""The specs of label builders, by name: collators, processors and the code between the data and the loss.

A builder is an ordinary function from integers to integers, such as ``build_labels(audio_codes, delays, bos_token_id,
eos_token_id)``. It gets the arguments that its signature names. Its result is compared exactly: the same shape, and the
same integers in any integer dtype.

A spec defines the rule: what is trained, what is ignored, and how far labels move. Everything else is in the batch,
even if the spec leaves no choice. For example, ``delays`` are in the batch under ``delay.moshi``, always 0, 1, 1, ….
So a builder that knows its own pattern need not take them, and a builder for any pattern can.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .delay import apply_delay, labels_boson, labels_filled, labels_hf, undo_delay

Build = Callable[..., Tensor]
"""A builder: a function from some of a batch's fields, by name, to one integer tensor."""


class BuilderError(ValueError):
    """A builder's inputs do not fit together, or one is missing. The message says which."""


_SHAPES = {
    "audio_codes": "B K T",
    "delayed_codes": "B K F",
    "input_ids": "B S",
    "attention_mask": "B S",
    "loss_mask": "B S",
    "prompt_lengths": "B",
    "assistant_mask": "B S",
    "assistant_turns": "B N 2",
    "seq_lengths": "D",
}


@dataclass(frozen=True, eq=False)
class BuilderBatch:
    """The arguments that a builder may take, by name. All tensors hold integers.

    Shapes, with B rows, K codebooks, T frames, F = T + max(delays), S tokens, N turns, D documents:

    - ``audio_codes`` [B, K, T], without special ids; ``delayed_codes`` [B, K, F], the same codes delayed
    - ``delays``: one int ≥ 0 per codebook
    - ``input_ids`` [B, S]; for packing [1, S], all documents in one row
    - ``attention_mask`` [B, S]: 0 at padding, which is on one side of a row
    - ``loss_mask`` [B, S]: 1 where the token at the same place of ``input_ids`` is trained on
    - ``prompt_lengths`` [B]: the number of real tokens of a row, from its first real one, that are prompt
    - ``assistant_mask`` [B, S]: 1 at an assistant's tokens, including its end of turn
    - ``assistant_turns`` [B, N, 2]: the first and the last place of each turn, both inclusive; −1, −1 for none
    - ``seq_lengths`` [D]: the number of tokens of each packed document, at least one
    - ``bos_token_id``, ``eos_token_id``, ``pad_token_id`` (may be equal to ``eos_token_id``), ``ignore_index``: ints

    Raises:
        BuilderError: a shape does not fit.
    """

    audio_codes: Tensor | None = None
    delayed_codes: Tensor | None = None
    delays: tuple[int, ...] | None = None
    input_ids: Tensor | None = None
    attention_mask: Tensor | None = None
    loss_mask: Tensor | None = None
    prompt_lengths: Tensor | None = None
    assistant_mask: Tensor | None = None
    assistant_turns: Tensor | None = None
    seq_lengths: Tensor | None = None
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    pad_token_id: int | None = None
    ignore_index: int = -100

    def __post_init__(self) -> None:
        sizes = {"2": 2}
        if self.delays is not None:
            sizes["K"] = len(self.delays)
        for name, axes in _SHAPES.items():
            tensor = getattr(self, name)
            if tensor is None:
                continue
            found, expected = list(tensor.shape), axes.split()
            if tensor.is_floating_point() or tensor.dtype == torch.bool:
                raise BuilderError(f"{name} are {tensor.dtype}; expected integers")
            fits = len(found) == len(expected)
            if not fits or any(sizes.setdefault(*pair) != pair[1] for pair in zip(expected, found, strict=True)):
                known = [str(sizes.get(axis, axis)) for axis in expected]
                raise BuilderError(f"{name} have shape {found}; expected [{axes}] = [{' '.join(known)}]")
        if self.seq_lengths is not None:
            lengths = self.seq_lengths.tolist()
            if min(lengths, default=1) < 1:
                raise BuilderError(f"seq_lengths are {lengths}; expected documents of at least one token")
            if self.input_ids is not None and self.input_ids.shape != (1, sum(lengths)):
                raise BuilderError(
                    f"input_ids have shape {list(self.input_ids.shape)}; expected one row of all documents, "
                    f"[1, {sum(lengths)}] for seq_lengths {lengths}"
                )


@dataclass(frozen=True)
class BuilderSpec:
    """The spec of one builder.

    Attributes:
        name: as in ``--spec``.
        formula: the output, in one line.
        source: the code from which the rule was read.
        output: the shape of the output, in the letters of :class:`BuilderBatch`.
        build: the right builder, written to be read.
        inputs: the fields of a batch that ``build`` reads. A candidate may take others too.
    """

    name: str
    formula: str
    source: str
    output: str
    build: Build

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(inspect.signature(self.build).parameters)


def answer(build: Build, batch: BuilderBatch) -> Tensor:
    """Call ``build`` with the fields of ``batch`` that its signature names. Return its result.

    Raises:
        BuilderError: the batch does not have one of these fields.
    """
    values: dict[str, Any] = {}
    for name in inspect.signature(build).parameters:
        values[name] = getattr(batch, name, None)
        if values[name] is None:
            raise BuilderError(f"this builder reads {name}, but the batch has none; give it one")
    return build(**values)


BUILDERS: dict[str, BuilderSpec] = {}


def _builder(name: str, *, formula: str, source: str, output: str) -> Callable[[Build], Build]:
    """Register the decorated function under ``name``. Return it unchanged."""

    def register(build: Build) -> Build:
        if name in BUILDERS:
            raise ValueError(f"two builders are called {name!r}")
        BUILDERS[name] = BuilderSpec(name, formula, source, output, build)
        return build

    return register


# Codebook delays ------------------------------------------------------------------------------------------------------


@_builder(
    "delay.apply",
    formula="out[k, t + delays[k]] = code[k, t]; BOS before it, EOS after it",
    source="transformers HiggsAudioV2Processor.build_delay_pattern, boson-ai/higgs-audio build_delay_pattern_mask",
    output="B K F",
)
def delay_codes(audio_codes: Tensor, delays: tuple[int, ...], bos_token_id: int, eos_token_id: int) -> Tensor:
    return apply_delay(audio_codes, delays, before=bos_token_id, after=eos_token_id)


@_builder(
    "delay.undo",
    formula="out[k, t] = delayed[k, t + delays[k]]",
    source="transformers HiggsAudioV2Processor.revert_delay_pattern, boson-ai/higgs-audio revert_delay_pattern",
    output="B K T",
)
def undo_codes(delayed_codes: Tensor, delays: tuple[int, ...]) -> Tensor:
    return undo_delay(delayed_codes, delays)


@_builder(
    "delay.labels.boson",
    formula="BOS, the codes, EOS, delayed; only codes and each codebook's own EOS are trained: K(T+1) targets",
    source="boson-ai/higgs-audio boson_multimodal/data_collator/higgs_audio_collator.py",
    output="B K F+2",
)
def boson_labels(audio_codes: Tensor, delays: tuple[int, ...], eos_token_id: int, ignore_index: int) -> Tensor:
    return labels_boson(audio_codes, delays, eos_token_id, ignore_index)


@_builder(
    "delay.labels.filled",
    formula="BOS, the codes, EOS, delayed; the fill is trained like the codes: K(T+K) targets after the shift",
    source="a public Higgs-audio trainer, whose labels are the delayed inputs",
    output="B K F+2",
)
def filled_labels(audio_codes: Tensor, delays: tuple[int, ...], bos_token_id: int, eos_token_id: int) -> Tensor:
    return labels_filled(audio_codes, delays, bos_token_id, eos_token_id)


@_builder(
    "delay.labels.hf",
    formula="BOS, the codes, EOS, delayed; only the codes are trained: K·T targets",
    source="transformers models/higgs_audio_v2/processing_higgs_audio_v2.py, output_labels=True",
    output="B K F+2",
)
def hf_labels(audio_codes: Tensor, delays: tuple[int, ...], ignore_index: int) -> Tensor:
    return labels_hf(audio_codes, delays, ignore_index)


@_builder(
    "delay.moshi",
    formula="delays 0, 1, 1, …, BOS before; as many frames as before, so the acoustic books lose their last",
    source="transformers MoshiForConditionalGeneration.build_delay_pattern_mask, kyutai-labs/moshi lm.py",
    output="B K T",
)
def moshi_labels(audio_codes: Tensor, delays: tuple[int, ...], bos_token_id: int) -> Tensor:
    frames = audio_codes.shape[-1]
    return apply_delay(audio_codes, delays, before=bos_token_id, after=bos_token_id)[..., :frames]


@_builder(
    "delay.dia",
    formula="BOS, the codes, EOS, delayed by 0, 8, 9, …, cut at the front by one; codes and EOS trained",
    source="transformers models/dia/processing_dia.py, output_labels=True",
    output="B·K F+1",
)
def dia_labels(audio_codes: Tensor, delays: tuple[int, ...], eos_token_id: int, ignore_index: int) -> Tensor:
    # The data is shifted: the model's inputs are these values one frame earlier.
    return labels_boson(audio_codes, delays, eos_token_id, ignore_index)[..., 1:].flatten(0, 1)


# Shifts ---------------------------------------------------------------------------------------------------------------


@_builder(
    "shift.pad",
    formula="label[t] = id[t+1], the last one ignored",
    source="torchtune recipes, transformers loss/loss_utils.py shift_labels",
    output="B S",
)
def shift_and_pad(input_ids: Tensor, ignore_index: int) -> Tensor:
    labels = torch.full_like(input_ids, ignore_index)
    labels[:, :-1] = input_ids[:, 1:]
    return labels


@_builder(
    "shift.trim",
    formula="label[t] = id[t+1] for the S−1 places that have a next token",
    source="nanoGPT, litgpt and their like: x = ids[:-1], y = ids[1:]",
    output="B S-1",
)
def shift_and_trim(input_ids: Tensor) -> Tensor:
    return input_ids[:, 1:]


@_builder(
    "shift.trim.inputs",
    formula="input[t] = id[t] for the S−1 places that have a next token",
    source="nanoGPT, litgpt and their like: x = ids[:-1], y = ids[1:]",
    output="B S-1",
)
def trim_inputs(input_ids: Tensor) -> Tensor:
    return input_ids[:, :-1]


@_builder(
    "shift.masked",
    formula="label[t] = id[t+1] where mask[t+1], else ignored: the mask moves with the labels",
    source="torchtitan and verl after their fixes (torchtitan#2755, verl#3287)",
    output="B S",
)
def shift_with_mask(input_ids: Tensor, loss_mask: Tensor, ignore_index: int) -> Tensor:
    return shift_and_pad(input_ids.masked_fill(loss_mask == 0, ignore_index), ignore_index)


# Packing --------------------------------------------------------------------------------------------------------------


@_builder(
    "packing.labels",
    formula="label[i] = id[i], ignored at the first token of every document",
    source="transformers data/data_collator.py DataCollatorWithFlattening",
    output="1 S",
)
def packed_labels(input_ids: Tensor, seq_lengths: Tensor, ignore_index: int) -> Tensor:
    labels = input_ids.clone()
    labels[0, packed_cu_seqlens(seq_lengths)[:-1]] = ignore_index
    return labels


@_builder(
    "packing.position_ids",
    formula="0, 1, 2, …, from 0 again at the first token of every document",
    source="transformers data/data_collator.py DataCollatorWithFlattening",
    output="1 S",
)
def packed_position_ids(seq_lengths: Tensor) -> Tensor:
    places = [place for length in seq_lengths.tolist() for place in range(length)]
    return torch.tensor([places], dtype=torch.long)


@_builder(
    "packing.cu_seqlens",
    formula="0, n₁, n₁ + n₂, …, S",
    source="transformers data/data_collator.py DataCollatorWithFlattening, cu_seq_lens_q",
    output="D+1",
)
def packed_cu_seqlens(seq_lengths: Tensor) -> Tensor:
    return torch.cat([seq_lengths.new_zeros(1), seq_lengths.cumsum(0)])


# Completion masks: the labels are the input ids, not yet shifted ------------------------------------------------------


@_builder(
    "mask.padding",
    formula="label[t] = id[t], ignored where attention_mask is 0; an eos that is the pad id too stays trained",
    source="what transformers#23530 asks for",
    output="B S",
)
def mask_padding(input_ids: Tensor, attention_mask: Tensor, ignore_index: int) -> Tensor:
    return input_ids.masked_fill(attention_mask == 0, ignore_index)


@_builder(
    "mask.prompt",
    formula="label[t] = id[t] after the first prompt_length tokens of a row; padding, on the right, ignored",
    source="TRL and verl supervised fine-tuning, prompt/completion data",
    output="B S",
)
@_builder(
    "mask.prompt.left",
    formula="label[t] = id[t] after a row's first prompt_length real tokens; padding, on either side, ignored",
    source="the same, where batches are padded on the left",
    output="B S",
)
def mask_prompt(input_ids: Tensor, attention_mask: Tensor, prompt_lengths: Tensor, ignore_index: int) -> Tensor:
    real_tokens_so_far = attention_mask.cumsum(1)  # 1 at a row's first real token, wherever it is
    trained = (attention_mask == 1) & (real_tokens_so_far > prompt_lengths[:, None])
    return input_ids.masked_fill(~trained, ignore_index)


@_builder(
    "mask.assistant",
    formula="label[t] = id[t] where the assistant speaks, end of turn included; padding ignored",
    source="transformers apply_chat_template return_assistant_tokens_mask, TRL assistant_only_loss",
    output="B S",
)
def mask_assistant(input_ids: Tensor, attention_mask: Tensor, assistant_mask: Tensor, ignore_index: int) -> Tensor:
    return input_ids.masked_fill((assistant_mask == 0) | (attention_mask == 0), ignore_index)


@_builder(
    "mask.turns",
    formula="label[a:b+1] = id[a:b+1] for every turn [a, b], b its end of turn",
    source="OpenRLHF multi-turn response ranges, after OpenRLHF#781",
    output="B S",
)
def mask_turns(input_ids: Tensor, assistant_turns: Tensor, ignore_index: int) -> Tensor:
    labels = torch.full_like(input_ids, ignore_index)
    for row, turns in enumerate(assistant_turns.tolist()):
        for first, last in turns:
            if first >= 0:
                labels[row, first : last + 1] = input_ids[row, first : last + 1]
    return labels
