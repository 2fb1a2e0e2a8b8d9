"""Models of codebooks, of next to no size, whose losses are right, or wrong in one way each."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from models import Output
from torch import Tensor, nn

V, K, H = 23, 3, 24


class Delayed(nn.Module):
    """A decoder as MusicGen's: it is given the frames before, and scores row t on frame t. The mean of K means."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.ModuleList(nn.Embedding(V + 1, H) for _ in range(K))
        self.mix = nn.GRU(H, H, batch_first=True)
        self.heads = nn.ModuleList(nn.Linear(H, V, bias=False) for _ in range(K))
        for head in self.heads:
            head.weight.data *= 20

    def hidden(self, ids: Tensor) -> Tensor:
        """``ids`` [B, K, S] -> [B, S, H]."""
        return self.mix(sum(embed(ids[:, k]) for k, embed in enumerate(self.embed)))[0]

    def forward(self, input_ids, labels=None):
        """``input_ids`` [B·K, S], ``labels`` [B, S, K]; the logits are [B·K, S, V]."""
        logits = self.of(self.hidden(input_ids.reshape(-1, K, input_ids.shape[-1])), labels)
        return Output(None if labels is None else self.loss(logits, labels), logits.flatten(0, 1))

    def of(self, hidden: Tensor, labels: Tensor) -> Tensor:
        """[B, S, H] -> [B, K, S, V]."""
        return torch.stack([head(hidden) for head in self.heads], 1)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        labels = labels.masked_fill(labels == V, -100)
        return sum(self.of_codebook(k, logits[:, k], labels[..., k]) for k in range(K)) / K

    def of_codebook(self, k: int, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits.reshape(-1, V), labels.reshape(-1))


class Shifted(Delayed):
    """Its inputs are shifted, and its loss shifts once more."""

    def of_codebook(self, k, logits, labels):
        return super().of_codebook(k, logits[:, :-1], labels[:, 1:])


class NextCodebook(Delayed):
    """Codebook k is scored on the labels of k + 1."""

    def loss(self, logits, labels):
        return super().loss(logits, labels.roll(-1, -1))


class Summed(Delayed):
    """The sum of K means."""

    def loss(self, logits, labels):
        return K * super().loss(logits, labels)


class CountsTheFirst(Delayed):
    """Each sum is divided by the number of labels of the first codebook."""

    def of_codebook(self, k, logits, labels):
        if k == 0:
            self.count = (labels != -100).sum()
        return F.cross_entropy(logits.reshape(-1, V), labels.reshape(-1), reduction="sum") / self.count


class SeesItsFrame(Delayed):
    """The last codebook sees the first one of its own frame."""

    def of(self, hidden, labels):
        logits = super().of(hidden, labels)
        seen = self.embed[0](labels[..., 0].clamp(0, V))
        return torch.cat((logits[:, :-1], self.heads[-1](hidden + seen)[:, None]), 1)


class CutGradient(Delayed):
    """One codebook is not trained."""

    def of_codebook(self, k, logits, labels):
        return super().of_codebook(k, logits.detach() if k == 1 else logits, labels)


class Weighted(Delayed):
    """As Parler: tokens [B, K, S], weights of codebooks, a label that never counts, and an input that ends a text."""

    def forward(self, input_ids, labels, codebook_weights, bos_token_id, eos_token_id):
        logits = torch.stack([head(self.hidden(input_ids)) for head in self.heads], 1)
        kept = self.kept(input_ids.transpose(1, 2), labels, eos_token_id) & (labels != -100) & (labels != bos_token_id)
        losses = [F.cross_entropy(logits[:, k][kept[..., k]], labels[..., k][kept[..., k]]) for k in range(K)]
        return Output(self.weighted(torch.stack(losses), codebook_weights), logits.flatten(0, 1))

    def kept(self, inputs: Tensor, labels: Tensor, eos: int) -> Tensor:
        return inputs != eos

    def weighted(self, losses: Tensor, weights: Tensor) -> Tensor:
        return (losses * weights).sum() / weights.sum()


class WeightedPastTheEnd(Weighted):
    """What stands after an end is trained too."""

    def kept(self, inputs, labels, eos):
        return torch.ones_like(inputs, dtype=torch.bool)


class WeightedUntilItsLabel(Weighted):
    """The end itself is not trained: the mask looks at the labels."""

    def kept(self, inputs, labels, eos):
        return labels != eos


class WeightedAlike(Weighted):
    """The weights are not used."""

    def weighted(self, losses, weights):
        return losses.mean()


class WeightedSeesItsFrame(Weighted):
    """Each position sees its own frame."""

    def hidden(self, ids):
        return super().hidden(ids.roll(-1, -1))


class Flat(Delayed):
    """As Dia: [B·K, S] labels too, and one mean over all codebooks; the caller's count, where there is one."""

    def forward(self, input_ids, labels=None, num_items_in_batch=None):
        logits = self.of(self.hidden(input_ids.view(-1, K, input_ids.shape[-1])), labels).flatten(0, 1)
        return Output(None if labels is None else self.mean(logits, labels, num_items_in_batch), logits)

    def mean(self, logits: Tensor, labels: Tensor, count: int | None) -> Tensor:
        total = F.cross_entropy(logits.reshape(-1, V), labels.reshape(-1), reduction="sum")
        return total / (count or (labels != -100).sum())


class FlatNextCodebook(Flat):
    def mean(self, logits, labels, count):
        return super().mean(logits, labels.view(-1, K, labels.shape[-1]).roll(-1, 1).flatten(0, 1), count)


class FlatUncounted(Flat):
    def mean(self, logits, labels, count):
        return super().mean(logits, labels, None)


class Wide(Flat):
    """[B, S, K] in, and logits [B, S, K·V]."""

    def forward(self, input_ids, labels=None):
        logits = self.of(self.hidden(input_ids.transpose(1, 2)), labels).permute(0, 2, 1, 3)
        wide = logits.flatten(2)
        return Output(None if labels is None else self.mean(wide.unflatten(2, (K, V)), labels, None), wide)
