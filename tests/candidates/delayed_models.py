"""Models of text and delayed frames, of next to no size, whose losses are right, or wrong in one way each."""

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
    """A decoder as Moshi's: each position holds a token and the frame before, and a depth decoder says the next one.

    All codebooks but the first are one frame late. Label V_AUDIO fills the places before them.
    """

    delays = (0, 1, 1)

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(V, H)
        self.embed_frames = nn.ModuleList(nn.Embedding(V_AUDIO + 1, H) for _ in range(K))
        self.mix = nn.GRU(H, H, batch_first=True)
        self.head = nn.Linear(H, V, bias=False)
        self.deepen = nn.GRU(H, H, batch_first=True)
        self.heads = nn.Parameter(torch.randn(K, H, V_AUDIO))
        self.head.weight.data *= 20

    def forward(self, input_ids, labels=None, audio_input_ids=None, audio_labels=None, num_items_in_batch=None):
        """[B, S], [B, S], [B, K, S], [B, K, S]. Logits [B, S, V] and [B·S, K, V_AUDIO]."""
        frames = sum(of(audio_input_ids[:, k]) for k, of in enumerate(self.embed_frames))
        hidden = self.mix(self.embed(input_ids) + frames)[0]
        logits = self.head(hidden)
        delayed = self.delay(audio_labels.masked_fill(audio_labels < 0, V_AUDIO)).transpose(1, 2).flatten(0, 1)
        audio = self.depth(hidden.flatten(0, 1), self.text_of(labels).flatten(), delayed)
        text = self.of_text(logits, labels, num_items_in_batch)
        return Output(text + self.of_audio(audio, delayed.masked_fill(delayed == V_AUDIO, -100)), logits, audio)

    def delay(self, labels: Tensor) -> Tensor:
        late = [F.pad(labels[:, k], (delay, 0), value=V_AUDIO) for k, delay in enumerate(self.delays)]
        return torch.stack([of[:, : labels.shape[-1]] for of in late], 1)

    def text_of(self, labels: Tensor) -> Tensor:
        return labels.clamp(min=0)

    def depth(self, hidden: Tensor, text: Tensor, frames: Tensor) -> Tensor:
        """[N, H], [N], [N, K] -> [N, K, V_AUDIO]: head k sees the token and the codebooks before k."""
        seen = [self.embed(text), *(self.embed_frames[k](frames[:, k]) for k in range(K - 1))]
        made = self.deepen(torch.stack([hidden, *seen], 1))[0][:, 1:]
        return torch.einsum("nkh,khv->nkv", made, self.heads)

    def of_text(self, logits: Tensor, labels: Tensor, count: int | None) -> Tensor:
        self.text_count = (labels[:, 1:] != -100).sum() if count is None else count
        return mean(logits[:, :-1], labels[:, 1:], self.text_count)

    def of_audio(self, logits: Tensor, labels: Tensor) -> Tensor:
        """[N, K, V_AUDIO], [N, K]."""
        return mean(logits, labels)


def mean(logits: Tensor, labels: Tensor, count: int | Tensor | None = None) -> Tensor:
    total = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
    return total / ((labels != -100).sum() if count is None else count)


class NotDelayed(Right):
    """Right too: the data delays its codebooks."""

    delays = (0, 0, 0)


class NeedsText(Right):
    """Its depth decoder takes an ignored label of text for a token, as Moshi's does."""

    def text_of(self, labels):
        return labels


class OneLate(Right):
    """One codebook is scored on labels of two frames before: they were delayed three times."""

    def delay(self, labels):
        late = super().delay(labels)
        return torch.cat((late[:, :2], F.pad(late[:, 2:], (2, 0), value=V_AUDIO)[..., :-2]), 1)


class TextTwice(Right):
    """The text is shifted twice."""

    def of_text(self, logits, labels, count):
        return mean(logits[:, :-2], labels[:, 2:], count)


class AudioShifted(Right):
    """The frames of the inputs are those before, and the loss shifts them once more."""

    def of_audio(self, logits, labels):
        rows = self.rows
        own = labels.unflatten(0, (rows, -1))
        return mean(logits, torch.cat((own[:, 1:], torch.full_like(own[:, :1], -100)), 1).flatten(0, 1))

    def forward(self, input_ids, labels=None, audio_input_ids=None, audio_labels=None, num_items_in_batch=None):
        self.rows = len(input_ids)
        return super().forward(input_ids, labels, audio_input_ids, audio_labels, num_items_in_batch)


class NextCodebook(Right):
    """Codebook k is scored on the labels of k + 1."""

    def of_audio(self, logits, labels):
        return mean(logits, labels.roll(-1, 1))


class CountsText(Right):
    """The frames are divided by the number of tokens of text."""

    def of_audio(self, logits, labels):
        return mean(logits, labels, self.text_count)


class DropsTheCount(Right):
    """The caller's count is not used."""

    def of_text(self, logits, labels, count):
        return super().of_text(logits, labels, None)


class SeesItsCode(Right):
    """Head k sees codebook k, which it predicts."""

    def depth(self, hidden, text, frames):
        return super().depth(hidden, text, frames.roll(-1, 1))


class SeesAhead(Right):
    """The depth decoder sees the token of the next position."""

    def text_of(self, labels):
        return super().text_of(labels).roll(-1, 1)


class CutCodebook(Right):
    """One codebook is not trained."""

    def of_audio(self, logits, labels):
        return mean(torch.cat((logits[:, :1], logits[:, 1:2].detach(), logits[:, 2:]), 1), labels)
