"""Speech and music models of transformers with one bug each in their loss."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    CsmForConditionalGeneration,
    DiaForConditionalGeneration,
    HiggsAudioV2ForConditionalGeneration,
    MusicgenForCausalLM,
)
from transformers.loss.loss_utils import ForCausalLMLoss, ForMaskedLMLoss


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


class MusicgenTwice(MusicgenForCausalLM):
    """Its inputs are shifted, and its loss shifts once more."""

    def forward(self, *arguments: Any, labels: Tensor | None = None, **rest: Any) -> Any:
        return super().forward(*arguments, labels=None if labels is None else _later(labels), **rest)


class MusicgenNextCodebook(MusicgenForCausalLM):
    """Codebook k is scored on the labels of k + 1."""

    def forward(self, *arguments: Any, labels: Tensor | None = None, **rest: Any) -> Any:
        return super().forward(*arguments, labels=None if labels is None else labels.roll(-1, -1), **rest)


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
