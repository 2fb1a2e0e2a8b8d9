"""Models of text and codebooks, of next to no size, whose losses are right, or wrong in one way each."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

V, V_AUDIO, K, H = 29, 13, 3, 24


@dataclass
class Output:
    loss: Tensor | None
    logits: Tensor
    audio_logits: Tensor


class Right(nn.Module):
    """A decoder as Higgs audio's: each position holds a token or a frame of K codes, and two heads read it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(V, H)
        self.embed_frames = nn.ModuleList(nn.Embedding(V_AUDIO, H) for _ in range(K))
        self.mix = nn.GRU(H, H, batch_first=True)
        self.head = nn.Linear(H, V, bias=False)
        self.audio_head = nn.Linear(H, K * V_AUDIO, bias=False)
        for head in (self.head, self.audio_head):
            head.weight.data *= 20

    def forward(self, input_ids, labels=None, audio_input_ids=None, audio_labels=None, num_items_in_batch=None):
        """[B, S], [B, S], [B, S, K] with −1 where there is no frame, [B, S, K]."""
        here = (audio_input_ids >= 0).all(-1, keepdim=True)
        frames = sum(of(audio_input_ids[..., k].clamp(min=0)) for k, of in enumerate(self.embed_frames))
        hidden = self.mix(torch.where(here, frames, self.embed(input_ids)))[0]
        logits, audio = self.head(hidden), self.audio(hidden, audio_input_ids).unflatten(-1, (K, V_AUDIO))
        loss = None
        if labels is not None:
            loss = self.of_text(logits, labels, num_items_in_batch)
            for k in range(K):
                loss = loss + self.of_codebook(k, audio[:, :, k], audio_labels, num_items_in_batch)
        return Output(loss, logits, audio)

    def audio(self, hidden: Tensor, audio_input_ids: Tensor) -> Tensor:
        return self.audio_head(hidden)

    def of_text(self, logits: Tensor, labels: Tensor, count: int | None) -> Tensor:
        self.text_count = (labels[:, 1:] != -100).sum()
        return causal(logits, labels, count)

    def of_codebook(self, k: int, logits: Tensor, labels: Tensor, count: int | None) -> Tensor:
        return causal(logits, labels[..., k], count)


def causal(logits: Tensor, labels: Tensor, count: int | Tensor | None, shift: int = 1) -> Tensor:
    targets = labels[:, shift:]
    total = F.cross_entropy(logits[:, : targets.shape[1]].flatten(0, 1), targets.flatten(), reduction="sum")
    return total / ((targets != -100).sum() if count is None else count)


class TextTwice(Right):
    """The text is shifted twice."""

    def of_text(self, logits, labels, count):
        return causal(logits, labels, count, shift=2)


class AudioTwice(Right):
    """The frames are shifted twice."""

    def of_codebook(self, k, logits, labels, count):
        return causal(logits, labels[..., k], count, shift=2)


class NextCodebook(Right):
    """Codebook k is scored on the labels of k + 1."""

    def of_codebook(self, k, logits, labels, count):
        return causal(logits, labels[..., (k + 1) % K], count)


class CountsText(Right):
    """The frames are divided by the number of tokens of text."""

    def of_codebook(self, k, logits, labels, count):
        return causal(logits, labels[..., k], self.text_count if count is None else count)


class SeesItsTarget(Right):
    """The frames' head sees the next frame."""

    def audio(self, hidden, audio_input_ids):
        ahead = self.embed_frames[0](audio_input_ids[..., 0].clamp(min=0)).roll(-1, 1)
        return self.audio_head(hidden + ahead)


class CutGradient(Right):
    """One codebook is not trained."""

    def of_codebook(self, k, logits, labels, count):
        return super().of_codebook(k, logits.detach() if k == 1 else logits, labels, count)


class CutText(Right):
    """The text is not trained."""

    def of_text(self, logits, labels, count):
        return super().of_text(logits.detach(), labels, count)


class Reshaped(Right):
    """It returns another view of the frames' logits than its loss is made of."""

    def forward(self, input_ids, labels=None, audio_input_ids=None, audio_labels=None, num_items_in_batch=None):
        found = super().forward(input_ids, labels, audio_input_ids, audio_labels, num_items_in_batch)
        return Output(found.loss, found.logits, found.audio_logits.flatten(-2))


class Copied(Right):
    """No gradient reaches what it returns."""

    def forward(self, input_ids, labels=None, audio_input_ids=None, audio_labels=None, num_items_in_batch=None):
        found = super().forward(input_ids, labels, audio_input_ids, audio_labels, num_items_in_batch)
        return Output(found.loss, found.logits.detach(), found.audio_logits.detach().clone())


class CopiedAudioTwice(Copied, AudioTwice):
    """As Copied, and the frames are shifted twice."""


class CopiedCutText(Copied, CutText):
    """As Copied, and the text is not trained."""
