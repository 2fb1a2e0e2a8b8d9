"""Speech and music models of transformers with one bug each in their loss."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    CsmDepthDecoderForCausalLM,
    CsmForConditionalGeneration,
    DiaForConditionalGeneration,
    HiggsAudioV2ForConditionalGeneration,
    MoshiForConditionalGeneration,
    MusicgenForCausalLM,
)
from transformers.loss.loss_utils import ForCausalLMLoss, ForMaskedLMLoss
from transformers.models.moshi.modeling_moshi import MoshiDepthDecoder


def _later(labels: Tensor) -> Tensor:
    """Labels [B, S, …], each one place later."""
    return torch.cat((labels[:, 1:], torch.full_like(labels[:, :1], -100)), 1)


def _books_of(labels: Tensor, codebooks: int) -> Tensor:
    return labels.view(-1, codebooks, labels.shape[-1])


class HiggsAudioTwice(HiggsAudioV2ForConditionalGeneration):
    """The frames are shifted twice."""

    def loss_function(self, logits: Tensor, labels: Tensor, vocab_size: int, **rest: Any) -> Tensor:
        is_audio = vocab_size == self.config.codebook_size
        return ForCausalLMLoss(logits, _later(labels) if is_audio else labels, vocab_size, **rest)


class HiggsTextTwice(HiggsAudioV2ForConditionalGeneration):
    """The text is shifted twice."""

    def loss_function(self, logits: Tensor, labels: Tensor, vocab_size: int, **rest: Any) -> Tensor:
        is_audio = vocab_size == self.config.codebook_size
        return ForCausalLMLoss(logits, labels if is_audio else _later(labels), vocab_size, **rest)


class HiggsNextCodebook(HiggsAudioV2ForConditionalGeneration):
    """Codebook k is scored on the labels of k + 1."""

    def forward(self, *arguments: Any, audio_labels: Tensor | None = None, **rest: Any) -> Any:
        rolled = None if audio_labels is None else audio_labels.roll(-1, -1)
        return super().forward(*arguments, audio_labels=rolled, **rest)


class HiggsCountsText(HiggsAudioV2ForConditionalGeneration):
    """The frames are divided by the number of tokens of text."""

    def forward(self, *arguments: Any, labels: Tensor | None = None, **rest: Any) -> Any:
        self.count = None if labels is None else (labels[:, 1:] != -100).sum()
        return super().forward(*arguments, labels=labels, **rest)

    def loss_function(self, logits: Tensor, labels: Tensor, vocab_size: int, **rest: Any) -> Tensor:
        return ForCausalLMLoss(logits, labels, vocab_size, **{"num_items_in_batch": self.count, **rest})


class HiggsCutCodebook(HiggsAudioV2ForConditionalGeneration):
    """The first codebook is not trained."""

    def loss_function(self, logits: Tensor, labels: Tensor, vocab_size: int, **rest: Any) -> Tensor:
        is_first = vocab_size == self.config.codebook_size and logits.storage_offset() == 0
        return ForCausalLMLoss(logits.detach() if is_first else logits, labels, vocab_size, **rest)


class CsmBackboneTwice(CsmForConditionalGeneration):
    """The backbone's labels are shifted twice."""

    def loss_function(self, logits: Tensor, labels: Tensor, vocab_size: int, **rest: Any) -> Tensor:
        return ForCausalLMLoss(logits, _later(labels), vocab_size, **rest)


class CsmUncounted(CsmForConditionalGeneration):
    """The caller's count is dropped."""

    def forward(self, *arguments: Any, num_items_in_batch: Any = None, **rest: Any) -> Any:
        return super().forward(*arguments, **rest)


class _Step(CsmDepthDecoderForCausalLM):
    """A depth decoder, row j of whose logits belongs to code j + 1 of a frame."""

    def loss_function(self, logits: Tensor, labels: None, vocab_size: int, shift_labels: Tensor, **rest: Any) -> Tensor:
        logits, codes = self.pairs(logits, shift_labels)
        return ForCausalLMLoss(logits.contiguous(), None, vocab_size, shift_labels=codes.contiguous(), **rest)

    def pairs(self, logits: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        return logits, codes


class _StepNextCodebook(_Step):
    def pairs(self, logits: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        return logits[:, :-1], codes[:, 1:]


class _StepCut(_Step):
    def pairs(self, logits: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        return torch.cat((logits[:, :1].detach(), logits[:, 1:]), 1), codes


class _StepCountsBackbone(_Step):
    count: Any

    def loss_function(self, logits: Tensor, labels: None, vocab_size: int, **rest: Any) -> Tensor:
        return super().loss_function(logits, labels, vocab_size, **{"num_items_in_batch": self.count, **rest})


class _StepSeesAll(_Step):
    def forward(self, input_ids: Tensor, **rest: Any) -> Any:
        rows, length = input_ids.shape
        return super().forward(input_ids, **{**rest, "attention_mask": torch.zeros(rows, 1, length, length)})


class CsmNextCodebook(CsmForConditionalGeneration):
    """The codes of a frame are shifted twice, so that a depth step is scored on the code after the next."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.depth_decoder.__class__ = _StepNextCodebook


class CsmCutCodebook(CsmForConditionalGeneration):
    """The first depth step is not trained."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.depth_decoder.__class__ = _StepCut


class CsmCountsBackbone(CsmForConditionalGeneration):
    """The depth decoder's codes are divided by the number of frames."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.depth_decoder.__class__ = _StepCountsBackbone

    def forward(self, *arguments: Any, labels: Tensor | None = None, **rest: Any) -> Any:
        self.depth_decoder.count = None if labels is None else (labels[:, 1:, 0] != -100).sum()
        return super().forward(*arguments, labels=labels, **rest)


class CsmSeesItsCodes(CsmForConditionalGeneration):
    """A depth step sees the code that it is scored on, and later ones."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.depth_decoder.__class__ = _StepSeesAll


class MusicgenTwice(MusicgenForCausalLM):
    """Its inputs are shifted, and its loss shifts once more."""

    def forward(self, *arguments: Any, labels: Tensor | None = None, **rest: Any) -> Any:
        return super().forward(*arguments, labels=None if labels is None else _later(labels), **rest)


class MusicgenNextCodebook(MusicgenForCausalLM):
    """Codebook k is scored on the labels of k + 1."""

    def forward(self, *arguments: Any, labels: Tensor | None = None, **rest: Any) -> Any:
        return super().forward(*arguments, labels=None if labels is None else labels.roll(-1, -1), **rest)


class MusicgenCutCodebook(MusicgenForCausalLM):
    """The first codebook is not trained."""

    def forward(self, *arguments: Any, labels: Tensor | None = None, **rest: Any) -> Any:
        output = super().forward(*arguments, labels=labels, **rest)
        if labels is not None:
            books = output.logits.view(-1, self.num_codebooks, *output.logits.shape[1:])
            cut = torch.cat((books[:, :1].detach(), books[:, 1:]), 1)
            own = labels.masked_fill(labels == self.config.pad_token_id, -100)
            each = zip(cut.unbind(1), own.unbind(-1), strict=True)
            output.loss = sum(F.cross_entropy(of.transpose(1, 2), on) for of, on in each) / self.num_codebooks
        return output


class DiaTwice(DiaForConditionalGeneration):
    """Its inputs are shifted, and its loss shifts once more."""

    def loss_function(self, logits: Tensor, labels: Tensor, vocab_size: int, **rest: Any) -> Tensor:
        return F.cross_entropy(logits[:, :-1].reshape(-1, vocab_size), labels[:, 1:].reshape(-1))


class DiaNextCodebook(DiaForConditionalGeneration):
    """Codebook k is scored on the labels of k + 1."""

    def loss_function(self, logits: Tensor, labels: Tensor, vocab_size: int, **rest: Any) -> Tensor:
        rolled = _books_of(labels, self.num_channels).roll(-1, 1)
        return F.cross_entropy(logits.reshape(-1, vocab_size), rolled.reshape(-1))


class DiaCutCodebook(DiaForConditionalGeneration):
    """One codebook is not trained."""

    def loss_function(self, logits: Tensor, labels: Tensor, vocab_size: int, **rest: Any) -> Tensor:
        books = logits.view(-1, self.num_channels, *logits.shape[1:])
        cut = torch.cat((books[:, :1].detach(), books[:, 1:]), 1)
        return ForMaskedLMLoss(cut.flatten(0, 1), labels, vocab_size, **rest)


class MoshiCounted(MoshiForConditionalGeneration):
    """Without what is wrong with Moshi: its count reaches the loss, and its depth decoder sees no later codebook."""

    def __init__(self, config: Any) -> None:
        for each in (config, config.depth_decoder_config):
            each._attn_implementation = "sdpa"
        super().__init__(config)

    def forward(self, *arguments: Any, num_items_in_batch: Any = None, **rest: Any) -> Any:
        return super().forward(*arguments, decoder_num_items_in_batch=num_items_in_batch, **rest)


class MoshiTextTwice(MoshiCounted):
    """The text is shifted twice."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.decoder.loss_function = lambda logits, labels, vocab_size, **rest: ForCausalLMLoss(
            logits, _later(labels), vocab_size, **rest
        )


class _Depth(MoshiDepthDecoder):
    """A depth decoder with a loss of its own."""

    def forward(self, *arguments: Any, labels: Tensor | None = None, **rest: Any) -> Any:
        output = super().forward(*arguments, labels=labels, **rest)
        if labels is not None:
            output.loss = self.of(output.logits, labels.masked_fill(labels == self.config.audio_vocab_size, -100))
        return output


class _NextCodebook(_Depth):
    def of(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits.flatten(0, 1), labels.roll(-1, 1).flatten())


class _Cut(_Depth):
    def of(self, logits: Tensor, labels: Tensor) -> Tensor:
        cut = torch.cat((logits[:, :1], logits[:, 1:2].detach(), logits[:, 2:]), 1)
        return F.cross_entropy(cut.flatten(0, 1), labels.flatten())


class _CountsText(_Depth):
    count: Any

    def of(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum") / self.count


class MoshiNextCodebook(MoshiCounted):
    """Codebook k is scored on the labels of k + 1."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.depth_decoder.__class__ = _NextCodebook


class MoshiCutCodebook(MoshiCounted):
    """One codebook is not trained."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.depth_decoder.__class__ = _Cut


class MoshiCountsText(MoshiCounted):
    """The frames are divided by the number of tokens of text, or by the caller's count."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.depth_decoder.__class__ = _CountsText

    def forward(self, *arguments: Any, text_labels: Any = None, num_items_in_batch: Any = None, **rest: Any) -> Any:
        counted = None if text_labels is None else text_labels[:, 1:].numel()
        self.depth_decoder.count = counted if num_items_in_batch is None else num_items_in_batch
        return super().forward(*arguments, text_labels=text_labels, num_items_in_batch=num_items_in_batch, **rest)
