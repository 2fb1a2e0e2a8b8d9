"""Losses of every call shape, each with a twin that is wrong in one way. `SHIFTS` says what a twin's name means."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

V = 61


def shifted(logits: Tensor, labels: Tensor, by: int = 1, count: Any = None) -> Tensor:
    """Cross-entropy of the logits at t and the labels at t + ``by``, over ``count`` or the labels that count."""
    rows, targets = (logits[:, :-by], labels[:, by:]) if by else (logits, labels)
    rows, targets = rows.flatten(0, 1).float(), targets.flatten()
    if count is None:
        return F.cross_entropy(rows, targets)
    return F.cross_entropy(rows, targets, reduction="sum") / count


# transformers' compute_loss_func


def of_outputs(outputs, labels, num_items_in_batch=None):
    return shifted(outputs.logits, labels, 1, num_items_in_batch)


def of_outputs_twice(outputs, labels, num_items_in_batch=None):
    return shifted(outputs["logits"], labels, 2, num_items_in_batch)


def of_outputs_uncounted(outputs, labels, num_items_in_batch=None):
    return shifted(outputs[0], labels)


def of_bare_outputs(outputs, labels):
    return shifted(outputs.float(), labels)


def of_bare_outputs_unshifted(outputs, labels):
    return shifted(outputs.float(), labels, 0)


def of_a_result(result, labels):
    return shifted(result.logits, labels)


def of_a_result_unshifted(result, labels):
    return shifted(result.logits, labels, 0)


# transformers' Trainer


class TrainsWith:
    """It cannot be constructed here, as a Trainer cannot: it wants a model and a dataset."""

    by = 1

    def __init__(self, model, dataset):
        raise AssertionError("a Trainer is not constructed")

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        loss = shifted(outputs.logits, labels, self.by, num_items_in_batch)
        return (loss, outputs) if return_outputs else loss


class TrainsWithDoubleShift(TrainsWith):
    by = 2


class TrainsWithNoShift(TrainsWith):
    by = 0


class LeavesItToTheModel(TrainsWith):
    """The model has the labels, and computes the loss."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        return model(**inputs, num_items_in_batch=num_items_in_batch).loss


# Batches


def of_a_batch(batch):
    return shifted(batch["logits"], batch["labels"])


def of_a_batch_twice(batch):
    return shifted(batch["logits"], batch["labels"], 2)


def of_logits_and_a_batch(logits, batch):
    return shifted(logits, batch["labels"])


def of_logits_and_a_batch_unshifted(logits, batch):
    return shifted(logits, batch["labels"], 0)


def of_a_model_and_a_batch(model, batch):
    return shifted(model(batch["input_ids"]), batch["labels"])


def of_a_model_and_a_batch_twice(model, batch):
    return shifted(model(batch["input_ids"]), batch["labels"], 2)


def of_a_model_x_and_y(model, x, y):
    return shifted(model(x).logits, y)


def of_a_model_x_and_y_unshifted(model, x, y):
    return shifted(model(x).logits, y, 0)


# Models


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(V, 24)
        self.mixer = nn.GRU(24, 24, batch_first=True)
        self.head = nn.Linear(24, V)
        nn.init.normal_(self.head.weight, std=2.0)

    def forward(self, tokens):
        return self.head(self.mixer(self.embedding(tokens))[0])


class HasNetwork(nn.Module):
    by = 1

    def __init__(self) -> None:
        super().__init__()
        self.network = Network()


class Steps(HasNetwork):
    def training_step(self, batch, batch_idx):
        return shifted(self.network(batch["input_ids"]), batch["labels"], self.by)


class StepsTwice(Steps):
    by = 2


class StepsToADict(Steps):
    def training_step(self, batch, batch_idx):
        return {"loss": super().training_step(batch, batch_idx)}


class LogitsAndLoss(HasNetwork):
    """As in nanoGPT: for data that is shifted already."""

    by = 0

    def forward(self, idx, targets=None):
        logits = self.network(idx)
        return logits, None if targets is None else self.loss(logits, targets)

    def loss(self, logits, targets):
        rows, targets = (logits[:, : -self.by], targets[:, self.by :]) if self.by else (logits, targets)
        return F.cross_entropy(rows.flatten(0, 1), targets.flatten(), ignore_index=-1)


class LogitsAndLossShifted(LogitsAndLoss):
    by = 1


class LossAlone(HasNetwork):
    """As in x-transformers: its labels are its tokens, and the last token makes no logits."""

    def forward(self, x):
        logits = self.network(x[:, :-1])
        return F.cross_entropy(logits.transpose(1, 2), x[:, 1:])


class LossAloneTwice(HasNetwork):
    def forward(self, x):
        logits = self.network(x[:, :-1])
        return F.cross_entropy(logits[:, :-1].transpose(1, 2), x[:, 2:])


class LossAloneUnshifted(HasNetwork):
    def forward(self, x):
        logits = self.network(x[:, :-1])
        return F.cross_entropy(logits.transpose(1, 2), x[:, :-1])


class LossAloneOfLabels(HasNetwork):
    def forward(self, tokens, targets):
        return shifted(self.network(tokens), targets, self.by)


class LossAloneOfLabelsTwice(LossAloneOfLabels):
    by = 2


class ScaledInline(HasNetwork):
    """No module returns the logits of its loss, though one returns a tensor of their shape."""

    def forward(self, tokens, targets):
        return shifted(self.network(tokens) / 2, targets)


class CappedInline(HasNetwork):
    def forward(self, tokens, targets):
        return shifted(5 * torch.tanh(self.network(tokens) / 5), targets)


class MaskedInline(HasNetwork):
    def forward(self, tokens, targets):
        padding = torch.arange(V) >= V - 4
        return shifted(self.network(tokens).masked_fill(padding, -30.0), targets)


class ChosenInline(HasNetwork):
    def forward(self, tokens, targets):
        padding = torch.arange(V) >= V - 4
        return shifted(torch.where(padding, -30.0, self.network(tokens)), targets)


class FusedAlone(Network):
    """As a fused linear loss: the logits are made of hidden states and a weight, by no module."""

    def forward(self, tokens, targets):
        hidden = self.mixer(self.embedding(tokens))[0]
        return shifted(F.linear(hidden, self.head.weight), targets)


class AddsToItsLoss(HasNetwork):
    """A second part of the loss is made of a parameter, and not of the logits."""

    def forward(self, tokens, targets):
        return shifted(self.network(tokens), targets) + self.network.head.bias.square().sum()
