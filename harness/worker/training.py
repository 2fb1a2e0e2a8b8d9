"""The arguments of a trainer: a model that is a table of logits, and rows cut into micro-batches.

The token at each place of a case has its own id, and the model looks up its logits by that id. So every token finds its
logits, however the trainer pads, packs or reorders tokens. And the gradient at the table, when the optimizer steps, is
the gradient at the logits that the trainer really used.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch.optim.optimizer import register_optimizer_step_pre_hook

from .arguments import Arguments
from .exchange import Training, ValueKind, Window
from .shield import shielded

_PAD = 0  # the id of no place, for padding that a collator adds


class Output(dict[str, Any]):
    """A mapping whose entries are also attributes, like a model's output in transformers."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the model's output has no {name!r}; it has {', '.join(self)}") from None


class TableModel(torch.nn.Module):
    """A language model whose logits at a token are the table's row for its id. No two places have the same id.

    Its loss is that of transformers' models: cross-entropy in fp32 of the logits at t and the label at t + ``shift``,
    summed, and divided by ``num_items_in_batch`` if that is given, or else by the number of labels that count.
    """

    main_input_name = "input_ids"
    accepts_loss_kwargs = True

    def __init__(self, table: torch.Tensor, shift: int, ignore_index: int) -> None:
        super().__init__()
        self.table = torch.nn.Parameter(table)
        self.shift = shift
        self.ignore_index = ignore_index
        # transformers' Trainer reads this to know whether the loss shifts, and counts labels accordingly.
        self.loss_type = "ForCausalLM" if shift else None
        self.config = SimpleNamespace(
            model_type="table", vocab_size=table.shape[-1], pad_token_id=_PAD, use_cache=False, is_encoder_decoder=False
        )

    @property
    def device(self) -> torch.device:
        return self.table.device

    @property
    def dtype(self) -> torch.dtype:
        return self.table.dtype

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **loss_kwargs: Any,  # by this name transformers 4.46 knows that the model takes a count
    ) -> Output:
        """``input_ids`` and ``labels`` [B, S] -> ``loss`` (if there are labels) and ``logits`` [B, S, V]."""
        logits = F.embedding(input_ids, self.table)
        if labels is None:
            return Output(logits=logits)
        return Output(loss=self.loss(logits, labels, num_items_in_batch), logits=logits)

    def loss(
        self, logits: torch.Tensor, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None
    ) -> torch.Tensor:
        targets = F.pad(labels, (0, self.shift), value=self.ignore_index)[:, self.shift :].flatten()
        scores = F.cross_entropy(logits.flatten(0, 1).float(), targets, ignore_index=self.ignore_index, reduction="sum")
        return scores / ((targets != self.ignore_index).sum() if num_items_in_batch is None else num_items_in_batch)


class Rehearsal:
    """The windows of a trainer: one call per window, with the same model in all of them.

    In each window, it records the gradient that the optimizer uses at every step.

    Attributes:
        windows: the number of windows.
        trains_padding: whether the padding token, which is not in the case, had a gradient.
    """

    def __init__(self, training: Training, arguments: Arguments) -> None:
        tensors = dict(arguments.handed)
        logits = tensors.pop(training.logits)
        rows = logits.detach().flatten(0, -2)
        places = torch.arange(1, len(rows) + 1, device=logits.device).reshape(logits.shape[:-1])
        self.windows = training.windows
        self._training = training
        self._whole = {"input_ids": places, **tensors}
        self._leaf = arguments.originals[training.logits]
        table = torch.cat([rows.new_zeros(1, rows.shape[-1]), rows])
        self._model = TableModel(table, training.shift, training.ignore_index)
        self._table = self._model.table  # a trainer may replace it by another, which then is not the one to train
        self._used: torch.Tensor | None = None
        self._before = self._logits(self._table)
        self._steps = self._others = self._backwards = self._late = 0
        self.trains_padding = False

    def handed(self, window: int) -> dict[str, Any]:
        """The arguments of one window, made from the call's tensors."""
        of_window = {name: tensor.chunk(self.windows)[window] for name, tensor in self._whole.items()}
        cut = {name: tensor.chunk(self._training.parts) for name, tensor in of_window.items()}
        return {
            self._training.model: self._model,
            self._training.micro_batches: [
                dict(zip(cut, part, strict=True)) for part in zip(*cut.values(), strict=True)
            ],
        }

    @contextmanager
    def window(self) -> Iterator[None]:
        """Record one window. The trainer is called once within it."""
        self._used = None
        self._before = self._logits(self._table)
        self._steps = self._others = self._backwards = self._late = 0
        hooks = [
            register_optimizer_step_pre_hook(self._before_step),
            self._table.register_post_accumulate_grad_hook(self._after_backward),
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
        if self._used is not None:
            with shielded():
                padding = self._used[_PAD]
                # NaN may have come from anywhere.
                self.trains_padding |= bool((padding.isfinite() & (padding != 0)).any())
                self._leaf.grad = self._used[1:].reshape(self._leaf.shape).to(self._leaf)

    def report(self, value: torch.Tensor, kind: ValueKind) -> Window:
        """Report the window that just ended, in which the trainer returned ``value``."""
        return Window(
            value=value,
            kind=kind,
            steps=self._steps,
            others=self._others,
            n_backward=self._backwards,
            late=self._late,
            before=self._before,
            after=self._logits(self._table),
            gradient=None if self._used is None else self._logits(self._used),
        )

    def _logits(self, table: torch.Tensor) -> torch.Tensor:
        """A copy of the table's rows for the case's places, in the shape of the case's logits."""
        with shielded():
            return table.detach()[1:].reshape(self._leaf.shape).to("cpu", copy=True)

    def _before_step(self, optimizer: Any, args: Any, kwargs: Any) -> Any:
        if not any(parameter is self._table for group in optimizer.param_groups for parameter in group["params"]):
            self._others += 1
            return None
        self._steps += 1
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if closure is None:
            self._look()
            return None

        def and_look() -> Any:  # the backward is still to come: the closure runs it, as in Lightning
            value = closure()
            self._look()
            return value

        return args[:1], {**kwargs, "closure": and_look}

    def _look(self) -> None:
        """Record the gradient that a step uses."""
        self._late = 0
        with shielded():
            self._used = None if self._table.grad is None else self._table.grad.detach().clone()

    def _after_backward(self, table: torch.Tensor) -> None:
        self._backwards += 1
        self._late += 1
        # A trainer that steps by hand may have deleted the gradient by the time it returns.
        if not self._steps:
            with shielded():
                self._used = None if table.grad is None else table.grad.detach().clone()
