"""The same right and wrong loss in every shape of a call. ``by`` is how far the labels are shifted: 1 is right."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import nn


def shifted(logits, labels, by, count=None):
    logits, targets = logits[:, :-by].flatten(0, 1).float(), labels[:, by:].flatten()
    if count is None:
        return F.cross_entropy(logits, targets)
    return F.cross_entropy(logits, targets, reduction="sum") / count


def of_outputs(outputs, labels, num_items_in_batch=None, *, by=1):
    return shifted(outputs.logits, labels, by, num_items_in_batch)


def of_outputs_by_key(outputs, labels, by=1):
    return shifted(outputs["logits"], labels, by)


def of_outputs_by_index(model_output, targets, by=1):
    return shifted(model_output[0], targets, by)


def of_bare_outputs(outputs, labels, by=1):
    return shifted(outputs, labels, by)


def of_batch(batch, by=1):
    return shifted(batch["logits"], batch["labels"], by)


def of_batch_by_attribute(batch, batch_idx, by=1):
    return shifted(batch.logits, batch.labels, by)


def of_logits_and_batch(logits, batch, by=1):
    return shifted(logits, batch["labels"], by)


def of_outputs_and_batch(outputs, batch, by=1):
    return shifted(outputs.logits, batch["labels"], by)


def of_model_and_inputs(model, inputs, return_outputs=False, num_items_in_batch=None, by=1):
    labels = inputs.pop("labels")
    outputs = model(**inputs)
    loss = shifted(outputs.logits, labels, by, num_items_in_batch)
    return (loss, outputs) if return_outputs else loss


def of_bare_model_and_batch(model, batch, by=1):
    return shifted(model(batch["input_ids"]), batch["labels"], by)


def of_model_and_tokens(model, x, y, by=1):
    return shifted(model(x), y, by)


class NeedsMuch:
    """Its constructor wants what no judge has, as a Trainer's does; its method needs none of it."""

    def __init__(self, model, arguments):
        raise RuntimeError("a dataset is missing")

    def compute_loss(self, model, inputs, by=1):
        return of_model_and_inputs(model, inputs, by=by)

    def twice(self, model, inputs):
        return self.compute_loss(model, inputs, by=2)


LOSSES = (
    *(of_outputs, of_outputs_by_key, of_outputs_by_index, of_bare_outputs, of_batch, of_batch_by_attribute),
    *(of_logits_and_batch, of_outputs_and_batch, of_model_and_inputs, of_bare_model_and_batch, of_model_and_tokens),
)
for _loss in LOSSES:
    _twice = functools.partial(_loss, by=2)
    functools.update_wrapper(_twice, _loss)
    globals()[f"{_loss.__name__}_twice"] = _twice


class Network(nn.Module):
    def __init__(self, classes=61, width=32):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(classes, width)
        self.mixer = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, classes)
        nn.init.normal_(self.head.weight, std=2.0)

    def forward(self, tokens):
        return self.head(self.mixer(self.embedding(tokens))[0])


class Model(nn.Module):
    by = 1

    def __init__(self):
        super().__init__()
        self.network = Network()

    def loss(self, logits, labels):
        return shifted(logits, labels, self.by)


class Step(Model):
    def training_step(self, batch, batch_idx):
        return self.loss(self.network(batch["input_ids"]), batch["labels"])


class StepTwice(Step):
    by = 2


class LossFirst(Model):
    def forward(self, tokens, targets):
        logits = self.network(tokens)
        return self.loss(logits, targets), logits


class LossFirstTwice(LossFirst):
    by = 2


class LossLast(Model):
    def forward(self, idx, targets=None):
        logits = self.network(idx)
        return logits, None if targets is None else self.loss(logits, targets)


class LossLastTwice(LossLast):
    by = 2


class FlatLogits(Model):
    def forward(self, input_ids, labels):
        logits = self.network(input_ids)
        return logits.flatten(0, 1), self.loss(logits, labels)


class FlatLogitsTwice(FlatLogits):
    by = 2


class MakesLabels(Model):
    def forward(self, x):
        return F.cross_entropy(self.network(x[:, :-1]).transpose(1, 2), x[:, 1:])


class MakesLabelsUnshifted(Model):
    def forward(self, x):
        return F.cross_entropy(self.network(x).transpose(1, 2), x)


class Halves(Model):
    """Its loss is made of half of what a module returns: no module returns its logits."""

    def forward(self, idx, targets):
        return self.loss(self.network(idx) / 2, targets)


class Fused(Model):
    """It makes no logits: hidden states and the weight go into the loss."""

    def forward(self, idx, targets):
        hidden, _ = self.network.mixer(self.network.embedding(idx))
        return self.loss(F.linear(hidden, self.network.head.weight, self.network.head.bias), targets)


class WithConstructor:
    def __init__(self, by, ignore_index=-100):
        self.by = by

    def __call__(self, logits, labels):
        return shifted(logits, labels, self.by)


def factory(by=1):
    return lambda logits, labels: shifted(logits, labels, by)
