"""Models of next to no size whose losses are right, or wrong in one way each."""

from __future__ import annotations

import types
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

V = 61


@dataclass
class Output:
    loss: Tensor | None
    logits: Tensor | None


class Right(nn.Module):
    """A decoder that shifts inside, as its caller is told."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(V, 24)
        self.mix = nn.GRU(24, 24, batch_first=True)
        self.head = nn.Linear(24, V)
        self.head.weight.data *= 20

    def logits(self, input_ids: Tensor) -> Tensor:
        return self.head(self.mix(self.embed(input_ids))[0])

    def forward(self, input_ids, attention_mask=None, labels=None, num_items_in_batch=None):
        """Args: labels: [B, S]. Note that the labels **are shifted** inside the model."""
        logits = self.logits(input_ids)
        return Output(self.loss(logits, labels, num_items_in_batch), logits)

    def loss(self, logits: Tensor, labels: Tensor, count: int | None) -> Tensor:
        return cross_entropy(logits[:, :-1], labels[:, 1:], count)


def cross_entropy(logits: Tensor, labels: Tensor, count: int | None = None) -> Tensor:
    scores = F.cross_entropy(logits.reshape(-1, V), labels.reshape(-1), reduction="sum")
    return scores / (count or (labels != -100).sum())


class DoubleShift(Right):
    def loss(self, logits, labels, count):
        return super().loss(logits[:, :-1], labels[:, 1:], count)


class FlatDoubleShift(Right):
    """As GIT did: shifted, flattened, and shifted again."""

    def loss(self, logits, labels, count):
        flat, targets = logits[:, :-1].reshape(-1, V), labels[:, 1:].reshape(-1)
        return cross_entropy(flat[:-1], targets[1:], count)


class Uncounted(Right):
    def loss(self, logits, labels, count):
        return super().loss(logits, labels, None)


class NeverCounts(Right):
    """Says that it takes no count."""

    def forward(self, input_ids, labels=None):
        return super().forward(input_ids, labels=labels)


class DropsShiftLabels(Right):
    """Takes whatever a trainer passes, and looks at none of it but the count."""

    def forward(self, input_ids, labels=None, num_items_in_batch=None, **kwargs):
        return super().forward(input_ids, labels=labels, num_items_in_batch=num_items_in_batch)


class Unshifted(Right):
    def forward(self, input_ids, labels=None, **kwargs):
        """Args: labels: labels for computing the loss, [B, S], −100 where ignored."""
        return super().forward(input_ids, labels=labels, **kwargs)

    def loss(self, logits, labels, count):
        return cross_entropy(logits, labels, count)


class UnshiftedAgainstItsWord(Unshifted):
    def forward(self, input_ids, labels=None, **kwargs):
        """Computes something. Note that the labels **are shifted** inside the model. It is tiny."""
        return super().forward(input_ids, labels=labels, **kwargs)


class Copies(Right):
    """The loss does not flow through the logits that are returned."""

    def forward(self, input_ids, labels=None, num_items_in_batch=None):
        output = super().forward(input_ids, labels=labels, num_items_in_batch=num_items_in_batch)
        return {"loss": output.loss, "logits": output.logits.clone()}


class Upcasts(Right):
    """The loss of logits of any dtype is computed in float32, as transformers' ForCausalLMLoss does."""

    def loss(self, logits, labels, count):
        return super().loss(logits.float(), labels, count)


class UpcastsDoubleShift(Upcasts):
    def loss(self, logits, labels, count):
        return super().loss(logits[:, :-1], labels[:, 1:], count)


class CopiesInPart(Right):
    """Half of the loss flows through the logits that are returned, and half through those that they are a view of."""

    def forward(self, input_ids, labels=None, num_items_in_batch=None):
        logits = self.logits(input_ids)
        returned = logits.view_as(logits)
        halves = [self.loss(each, labels, num_items_in_batch) for each in (logits[..., :], returned)]
        return Output(sum(halves) / 2, returned)


class CopiesInPartDoubleShift(CopiesInPart):
    """Right through the returned logits, and shifted twice through those that they are a view of."""

    def forward(self, input_ids, labels=None, num_items_in_batch=None):
        logits = self.logits(input_ids)
        returned = logits.view_as(logits)
        later = F.pad(labels[:, 1:], (0, 1), value=-100)
        halves = [self.loss(*each, num_items_in_batch) for each in ((logits[..., :], later), (returned, labels))]
        return Output(sum(halves) / 2, returned)


class CopiesDoubleShift(Copies, DoubleShift):
    pass


class OfOtherLogits(Right):
    """Trained on a second head besides, whose logits nobody sees."""

    def forward(self, input_ids, labels=None, num_items_in_batch=None):
        logits = self.logits(input_ids)
        loss = self.loss(logits, labels, None) + self.loss(logits.flip(-1) * 2, labels, None)
        return Output(loss, logits.clone())


class SeesAhead(Right):
    def logits(self, input_ids):
        return super().logits(input_ids.flip(1)).flip(1)


class SeesOtherRows(Right):
    def logits(self, input_ids):
        return super().logits(input_ids) + self.head(self.embed(input_ids).mean(0, keepdim=True))


class LabelsInLogits(Right):
    def forward(self, input_ids, labels=None):
        logits = self.logits(input_ids) + F.one_hot(labels.clamp_min(0), V)
        return Output(self.loss(logits, labels, None), logits)


class Prefixed(Right):
    """Three rows of logits of an image before those of the text."""

    def logits(self, input_ids):
        image = torch.arange(3).expand(len(input_ids), 3)
        return super().logits(torch.cat([image, input_ids], 1))

    def loss(self, logits, labels, count):
        return super().loss(logits[:, 3:], labels, count)


class OfSound(Right):
    """Logits of ten frames of sound, which CTC aligns with labels of any length."""

    def logits(self, input_ids):
        return super().logits(torch.arange(10).expand(len(input_ids), 10))

    def loss(self, logits, labels, count):
        log_p = logits.log_softmax(-1).transpose(0, 1)
        kept = labels.clamp(min=1)
        lengths = [torch.full((len(labels),), size) for size in (10, labels.shape[1])]
        return F.ctc_loss(log_p, kept, *lengths)


class Seq2Seq(Right):
    """The labels, shifted right, are the decoder's inputs."""

    def forward(self, input_ids, labels=None, num_items_in_batch=None):
        inputs = F.pad(labels.clamp_min(0)[:, :-1], (1, 0))
        logits = self.logits(inputs) + self.logits(input_ids).mean(1, keepdim=True)
        return Output(self.loss(logits, labels, num_items_in_batch), logits)

    def loss(self, logits, labels, count):
        return cross_entropy(logits, labels, count)


class AlignedShift(Seq2Seq):
    """As Moonshine did: inputs shifted right, and labels shifted besides."""

    def loss(self, logits, labels, count):
        return cross_entropy(logits[:, :-1], labels[:, 1:], count)


class ReadsItsLabels(Right):
    """As BLIP's model of questions: the labels are the decoder's inputs, and the loss shifts them."""

    def forward(self, input_ids, labels=None, num_items_in_batch=None):
        logits = self.logits(labels.clamp_min(0)) + self.logits(input_ids).mean(1, keepdim=True)
        return Output(self.loss(logits, labels, num_items_in_batch), logits)


class Overwrites(Right):
    def forward(self, input_ids, labels=None, num_items_in_batch=None):
        output = super().forward(input_ids, labels=labels.clone(), num_items_in_batch=num_items_in_batch)
        labels[labels == -100] = 0
        return output


class Raises(Right):
    def logits(self, input_ids):
        raise RuntimeError("not today")


class RaisesInBackward(Right):
    def logits(self, input_ids):
        logits = super().logits(input_ids)
        logits.register_hook(_refuse)
        return logits


def _refuse(gradient):
    raise AssertionError("put me in training mode")


class LossAlone(Right):
    """It returns no logits, but one of its modules does."""

    def forward(self, input_ids, labels=None):
        return {"loss": super().forward(input_ids, labels=labels).loss}


class LossAloneShiftsTwice(LossAlone):
    def loss(self, logits, labels, count):
        return super().loss(logits[:, :-1], labels[:, 1:], count)


class WithoutLogits(LossAlone):
    """Nor does any of its modules: the loss is made of a multiple of what its head returns."""

    def logits(self, input_ids):
        return super().logits(input_ids) / 2


class Drops(Right):
    """Dropout is noise in training, and none where a model is judged."""

    def logits(self, input_ids):
        return F.dropout(super().logits(input_ids), 0.5, self.training)


class DoubleShiftInTraining(Right):
    def loss(self, logits, labels, count):
        if self.training:
            return super().loss(logits[:, :-1], labels[:, 1:], count)
        return super().loss(logits, labels, count)


class LossAloneInTraining(Right):
    """In train mode it makes no logits, as a fused loss does."""

    def loss(self, logits, labels, count):
        return super().loss(self.in_training(logits) if self.training else logits, labels, count)

    def in_training(self, logits):
        return logits

    def forward(self, input_ids, attention_mask=None, labels=None, num_items_in_batch=None):
        found = super().forward(input_ids, attention_mask, labels, num_items_in_batch)
        return types.SimpleNamespace(loss=found.loss, logits=None) if self.training else found


class LossAloneDoubleShift(LossAloneInTraining):
    def in_training(self, logits):
        return F.pad(logits, (0, 0, 1, 0))[:, :-1]


class LossAloneHalfGradient(LossAloneInTraining):
    def in_training(self, logits):
        return (logits + logits.detach()) / 2


class UnshiftedUnderAutocast(Right):
    def loss(self, logits, labels, count):
        if torch.is_autocast_enabled("cpu"):
            return cross_entropy(logits.float(), labels, count)
        return super().loss(logits, labels, count)


class ExcludesByBoolMask(Right):
    """Takes a mask of bools for one of the positions to leave out."""

    def forward(self, input_ids, attention_mask=None, labels=None, num_items_in_batch=None):
        if attention_mask is not None and attention_mask.dtype is torch.bool:
            labels = labels.masked_fill(attention_mask, -100)
        return super().forward(input_ids, None, labels, num_items_in_batch)


class MasksOneLate(Right):
    """Also masks the loss, by the mask of the logits and not of the labels."""

    def forward(self, input_ids, attention_mask=None, labels=None, num_items_in_batch=None):
        if attention_mask is not None:
            labels = labels.clone()
            labels[:, 1:][attention_mask[:, :-1] == 0] = -100
        return super().forward(input_ids, None, labels, num_items_in_batch)


class KeepsOneLogits(Right):
    """Keeps the logits for its backward in one buffer for each shape."""

    buffers: ClassVar[dict] = {}

    def loss(self, logits, labels, count):
        buffer = self.buffers.setdefault(logits.shape, torch.empty_like(logits))
        buffer.data.copy_(logits.data)
        return super().loss(_Through.apply(logits, buffer), labels, count)


class _Through(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, buffer):
        ctx.buffer = buffer
        ctx.at_forward = logits.detach().clone()
        return logits.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * (1 + (ctx.buffer != ctx.at_forward).any()), None


def as_function(input_ids, labels):
    """A model need not be a module."""
    return RIGHT(input_ids, labels=labels)


RIGHT = Right()
