"""Models whose loss does not flow through the logits that they return: right ones, and ones that learn otherwise."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from models import Output, Prefixed, Right, Seq2Seq, V, cross_entropy
from torch import Tensor, nn


def returned(loss: Tensor, logits: Tensor) -> Output:
    return Output(loss, logits.detach().clone())


class Copied(Right):
    """Returns a copy; what the loss is made of is for others to say."""

    def forward(self, input_ids, labels=None, num_items_in_batch=None):
        logits = self.logits(input_ids)
        return Output(self.loss(logits, labels, num_items_in_batch), self.copy(logits, input_ids))

    def copy(self, logits: Tensor, input_ids: Tensor) -> Tensor:
        return logits.detach().clone()


class ThroughNumpy(Copied):
    def copy(self, logits, input_ids):
        return torch.from_numpy(np.array(logits.tolist(), dtype=np.float32))


class ComputedTwice(Copied):
    @torch.no_grad()
    def copy(self, logits, input_ids):
        return self.logits(input_ids)


class CastCopy(Copied):
    """The loss is made of the logits in fp32, which are returned in fewer bits."""

    def copy(self, logits, input_ids):
        return logits.detach().half().float()


class CappedCopy(Copied):
    def logits(self, input_ids):
        return 5 * torch.tanh(super().logits(input_ids) / 5)


class PrefixedCopy(Prefixed, Copied):
    pass


class Seq2SeqCopy(Seq2Seq):
    def forward(self, input_ids, labels=None, num_items_in_batch=None):
        output = super().forward(input_ids, labels=labels, num_items_in_batch=num_items_in_batch)
        return returned(output.loss, output.logits)


class OfShortLogits(Right):
    """The loss is made of rows that have a label to come, and all rows are computed again for whoever asks."""

    def forward(self, input_ids, labels=None, num_items_in_batch=None):
        states = self.states(input_ids)
        loss = cross_entropy(self.head(states[:, :-1]), labels[:, 1:], num_items_in_batch)
        with torch.no_grad():
            return Output(loss, self.head(states))

    def states(self, input_ids: Tensor) -> Tensor:
        return self.mix(self.embed(input_ids))[0]


class FusedLoss(torch.autograd.Function):
    """Σ CE(W·h, y) / count, whose logits are gone when it returns. ``factor`` is a bug where it is not 1."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, labels: Tensor, count: int, factor: float) -> Tensor:
        logits = states @ weight.T
        kept = labels != -100
        log = F.log_softmax(logits, -1)
        loss = -log[torch.arange(len(labels)), labels.clamp_min(0)][kept].sum() / count
        gradient = (log.exp() - F.one_hot(labels.clamp_min(0), len(weight))) * kept[:, None] / count * factor
        ctx.save_for_backward(gradient @ weight, gradient.T @ states)
        return loss

    @staticmethod
    def backward(ctx: Any, coming: Tensor) -> Any:
        of_states, of_weight = ctx.saved_tensors
        return of_states * coming, of_weight * coming, None, None, None


class Fused(OfShortLogits):
    """As Liger's: hidden states and weight in, a loss out; the logits are made apart."""

    factor = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(24, V, bias=False)
        self.head.weight.data *= 20

    def forward(self, input_ids, labels=None, num_items_in_batch=None):
        states = self.states(input_ids)
        flat, targets = states[:, :-1].reshape(-1, 24), labels[:, 1:].reshape(-1)
        loss = self.fused(flat, targets, num_items_in_batch or int((targets != -100).sum()))
        with torch.no_grad():
            return Output(loss, self.head(states))

    def fused(self, states: Tensor, targets: Tensor, count: int) -> Tensor:
        return FusedLoss.apply(states, self.head.weight, targets, count, self.factor)


class FusedScaled(Fused):
    """The head's input is scaled within the kernel, as the logits are that it returns."""

    def forward(self, input_ids, labels=None, num_items_in_batch=None):
        output = super().forward(input_ids, labels=labels, num_items_in_batch=num_items_in_batch)
        return Output(output.loss, output.logits * 0.5)

    def fused(self, states, targets, count):
        return FusedLoss.apply(Halved.apply(states), self.head.weight, targets, count, 1.0)


class Halved(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor) -> Tensor:
        return states / 2

    @staticmethod
    def backward(ctx: Any, coming: Tensor) -> Tensor:
        return coming / 2


class FusedCapped(Fused):
    """With a cap of 5 on its logits, which its kernel knows of."""

    def forward(self, input_ids, labels=None, num_items_in_batch=None):
        output = super().forward(input_ids, labels=labels, num_items_in_batch=num_items_in_batch)
        return Output(output.loss, 5 * torch.tanh(output.logits / 5))

    def fused(self, states, targets, count):
        return Capped.apply(states, self.head.weight, targets, count)


class Capped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, targets: Tensor, count: int) -> Tensor:
        with torch.enable_grad():
            own, head = states.detach().requires_grad_(), weight.detach().requires_grad_()
            loss = F.cross_entropy(5 * torch.tanh(F.linear(own, head) / 5), targets, reduction="sum") / count
            gradients = torch.autograd.grad(loss, (own, head))
        ctx.save_for_backward(*gradients)
        return loss.detach()

    @staticmethod
    def backward(ctx: Any, coming: Tensor) -> Any:
        return *(gradient * coming for gradient in ctx.saved_tensors), None, None


class FusedFrozen(Fused):
    """Whose head is not to learn."""

    def __init__(self) -> None:
        super().__init__()
        self.head.weight.requires_grad_(False)


class NormedTwice(Right):
    """As xLSTM: what is normalised is normalised again, which changes no value."""

    def logits(self, input_ids):
        states = self.mix(self.embed(input_ids))[0]
        for _ in range(2):
            states = states * torch.rsqrt(states.square().mean(-1, keepdim=True))
        return self.head(states)


class FusedTied(Fused):
    """The head's weight is the embedding too."""

    def __init__(self) -> None:
        super().__init__()
        self.embed.weight = self.head.weight


class FusedPrefixed(Fused):
    def forward(self, input_ids, labels=None, num_items_in_batch=None):
        image = torch.arange(3).expand(len(input_ids), 3)
        longer = F.pad(labels, (3, 0), value=-100)
        longer[:, 3] = -100  # no row of the image is scored
        return super().forward(torch.cat([image, input_ids], 1), longer, num_items_in_batch)


class FusedOfLiving(Fused):
    """The logits are returned with their graph, in which the loss has no part."""

    def forward(self, input_ids, labels=None, num_items_in_batch=None):
        output = super().forward(input_ids, labels=labels, num_items_in_batch=num_items_in_batch)
        return Output(output.loss, self.head(self.states(input_ids)))


class Opaque(Fused):
    """All of the model within one function: no hidden states, no logits."""

    def forward(self, input_ids, labels=None, num_items_in_batch=None):
        with torch.no_grad():
            logits = self.logits(input_ids)
        targets = labels[:, 1:].reshape(-1)
        count = num_items_in_batch or int((targets != -100).sum())
        return Output(WholeModel.apply(self, input_ids, targets, count, *self.parameters()), logits)

    def logits(self, input_ids):
        return self.head(self.states(input_ids)) + self.head(self.states(input_ids)).cos()


class WholeModel(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, model: Opaque, ids: Tensor, targets: Tensor, count: int, *parameters: Tensor) -> Tensor:
        with torch.enable_grad():
            loss = cross_entropy(model.logits(ids)[:, :-1], targets, count)
        ctx.save_for_backward(*torch.autograd.grad(loss, parameters))
        return loss.detach()

    @staticmethod
    def backward(ctx: Any, coming: Tensor) -> Any:
        return None, None, None, None, *(gradient * coming for gradient in ctx.saved_tensors)


class OfAnother(Opaque):
    """The logits that it returns are another model's, which no parameter of this one moves."""

    def forward(self, input_ids, labels=None, num_items_in_batch=None):
        output = super().forward(input_ids, labels=labels, num_items_in_batch=num_items_in_batch)
        return Output(output.loss, OPAQUE.logits(input_ids).detach())


class OpaqueDoubled(Opaque):
    def forward(self, input_ids, labels=None, num_items_in_batch=None):
        output = super().forward(input_ids, labels=labels, num_items_in_batch=num_items_in_batch)
        return Output(Twice.apply(output.loss), output.logits)


# Wrong: every one has the right value


class Twice(torch.autograd.Function):
    """The same number, and twice its gradient."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, coming: Tensor) -> Tensor:
        return 2 * coming


class DoubledAtTheLoss(Copied):
    def loss(self, logits, labels, count):
        return Twice.apply(super().loss(logits, labels, count))


class DoubledAtTheLogits(Copied):
    def loss(self, logits, labels, count):
        return super().loss(Twice.apply(logits), labels, count)


class DoubledByAHook(Copied):
    def loss(self, logits, labels, count):
        if logits.requires_grad:
            logits.register_hook(lambda gradient: 2 * gradient)
        return super().loss(logits, labels, count)


class DetachedFirstRow(Copied):
    def loss(self, logits, labels, count):
        return super().loss(torch.cat([logits[:1].detach(), logits[1:]]), labels, count)


class StraightThrough(Copied):
    """Reports the right loss, and learns from labels that are shifted twice."""

    def loss(self, logits, labels, count):
        right, wrong = super().loss(logits, labels, count), super().loss(logits[:, :-1], labels[:, 1:], count)
        return right.detach() + wrong - wrong.detach()


class StraightThroughAnother(Right):
    """The logits that are returned have the right gradient; the hidden states learn from others besides."""

    def forward(self, input_ids, labels=None, num_items_in_batch=None):
        states = self.mix(self.embed(input_ids))[0]
        logits = self.head(states)
        wrong = cross_entropy(self.head(2 * states)[:, :-1], labels[:, 1:], num_items_in_batch)
        loss = self.loss(logits, labels, num_items_in_batch)
        return Output(loss + wrong - wrong.detach(), logits)


class StraightThroughTwice(ComputedTwice, StraightThrough):
    pass


class NothingButItsValue(Copied):
    """The gradient goes nowhere but to a bias of another layer."""

    def loss(self, logits, labels, count):
        return super().loss(logits, labels, count).detach() + 0 * self.mix.bias_ih_l0.sum()


class DetachedHidden(OfShortLogits):
    """The head learns, and what lies before it does not."""

    def forward(self, input_ids, labels=None, num_items_in_batch=None):
        states = self.states(input_ids)
        logits = self.head(states.detach())
        return Output(self.loss(logits, labels, num_items_in_batch), logits)


class FusedDoubled(Fused):
    factor = 2.0


class FusedDoubledTied(FusedTied):
    factor = 2.0


class FusedScaledAtTheHidden(Fused):
    def fused(self, states, targets, count):
        return super().fused(Twice.apply(states), targets, count)


class FusedDetachedRows(Fused):
    def fused(self, states, targets, count):
        return super().fused(torch.cat([states[:1].detach(), states[1:]]), targets, count)


class FusedWithoutWeight(Fused):
    """As a kernel that leaves out the weight's gradient."""

    def fused(self, states, targets, count):
        return FusedLoss.apply(states, self.head.weight.detach(), targets, count, 1.0)


class FusedStraightThrough(Fused):
    def fused(self, states, targets, count):
        right = super().fused(states, targets, count)
        wrong = super().fused(states, targets.roll(1), count)
        return right.detach() + wrong - wrong.detach()


class FusedIgnoresUpstream(Fused):
    def fused(self, states, targets, count):
        return Once.apply(super().fused(states, targets, count))


class Once(torch.autograd.Function):
    """Whatever comes in, one goes out."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, coming: Tensor) -> Tensor:
        return torch.ones_like(coming)


def copied_by_a_function(input_ids, labels):
    return COPIED(input_ids, labels=labels)


def doubled_by_a_function(input_ids, labels):
    return DOUBLED(input_ids, labels=labels)


COPIED, DOUBLED, OPAQUE = Copied(), FusedDoubled(), Opaque()
