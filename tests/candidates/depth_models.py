"""Models with a depth decoder, of next to no size, whose losses are right, or wrong in one way each."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

V, K, H = 19, 4, 24


@dataclass
class Output:
    loss: Tensor | None
    logits: Tensor
    depth_logits: Tensor


class Right(nn.Module):
    """A backbone that predicts codebook 0, and a decoder that predicts each further one from those before it.

    The decoder is run on the frames that have labels for it, as CSM's is. Its first input is what the backbone made of
    the frames before.
    """

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.ModuleList(nn.Embedding(V, H) for _ in range(K))
        self.mix = nn.GRU(H, H, batch_first=True)
        self.head = nn.Linear(H, V, bias=False)
        self.deepen = nn.GRU(H, H, batch_first=True)
        self.heads = nn.Parameter(torch.randn(K - 1, H, V))
        self.head.weight.data *= 20

    def forward(self, input_ids, labels=None, num_items_in_batch=None):
        """``input_ids`` and ``labels`` [B, S, K]; logits [B, S, V] and depth_logits [N, K − 1, V]."""
        hidden = self.mix(sum(of(input_ids[..., k]) for k, of in enumerate(self.embed)))[0]
        logits = self.head(hidden)
        before = torch.cat((torch.zeros_like(hidden[:, :1]), hidden[:, :-1]), 1)
        here = (labels[..., 1:] >= 0).any(-1)
        frames = labels[here].clamp(min=0)
        depth = self.depth(before[here], frames)
        loss = self.of_backbone(logits, labels[..., 0], num_items_in_batch)
        if len(frames):
            loss = loss + self.of_depth(depth, labels[here], num_items_in_batch)
        return Output(loss, logits, depth)

    def depth(self, hidden: Tensor, frames: Tensor) -> Tensor:
        """[N, H], [N, K] -> [N, K − 1, V]: head j sees the codebooks up to j."""
        seen = [self.embed[k](frames[:, k]) for k in range(K - 1)]
        made = self.deepen(torch.stack([hidden, *seen], 1))[0][:, 1:]
        return torch.einsum("nkh,khv->nkv", made, self.heads)

    def of_backbone(self, logits: Tensor, labels: Tensor, count: int | None) -> Tensor:
        self.count = (labels[:, 1:] != -100).sum()
        return mean(logits[:, :-1], labels[:, 1:], count)

    def of_depth(self, logits: Tensor, labels: Tensor, count: int | None) -> Tensor:
        return mean(logits, labels[:, 1:], count)


def mean(logits: Tensor, labels: Tensor, count: int | Tensor | None) -> Tensor:
    total = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
    return total / ((labels != -100).sum() if count is None else count)


class NeedsWholeFrames(Right):
    """Its decoder takes ignored labels for codes, as CSM's does."""

    def forward(self, input_ids, labels=None, num_items_in_batch=None):
        here = (labels[..., 1:] >= 0).any(-1)
        if bool((labels[here] < 0).any()):
            raise IndexError("index out of range in self")
        return super().forward(input_ids, labels, num_items_in_batch)


class NeedsAFrame(Right):
    """Its decoder raises where no frame has labels for it, as CSM's does."""

    def forward(self, input_ids, labels=None, num_items_in_batch=None):
        if not bool((labels[..., 1:] >= 0).any()):
            raise RuntimeError("cannot reshape tensor of 0 elements")
        return super().forward(input_ids, labels, num_items_in_batch)


class BackboneTwice(Right):
    """The backbone's labels are shifted twice."""

    def of_backbone(self, logits, labels, count):
        return mean(logits[:, :-2], labels[:, 2:], count)


class DepthTwice(Right):
    """Each head is scored on the codebook after its own, as in qwen-tts."""

    def of_depth(self, logits, labels, count):
        return mean(logits[:, :-1], labels[:, 2:], count)


class CountsBackbone(Right):
    """The decoder's sum is divided by the number of labels of the backbone."""

    def of_depth(self, logits, labels, count):
        return mean(logits, labels[:, 1:], self.count if count is None else count)


class SeesItsCode(Right):
    """Head j sees codebook j + 1, which it predicts."""

    def depth(self, hidden, frames):
        return super().depth(hidden, frames.roll(-1, 1))


class WrapsAround(Right):
    """The first frame sees what the backbone made of the last one: an index of −1."""

    def depth(self, hidden, frames):
        return super().depth(hidden.roll(1, 0), frames)


class CutHead(Right):
    """One head is not trained."""

    def of_depth(self, logits, labels, count):
        cut = torch.cat((logits[:, :1], logits[:, 1:2].detach(), logits[:, 2:]), 1)
        return super().of_depth(cut, labels, count)
