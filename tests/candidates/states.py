"""Losses that are wrong only in a state or in a form of their arguments: next-token losses, each with its law.

`RIGHT` are losses that ask about the same states and forms, and are right.
"""

import random
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

IGNORED = -100


def _rows(logits, labels, shift=1):
    length = labels.shape[1]
    return logits[:, : length - shift].float().reshape(-1, logits.shape[-1]), labels[:, shift:].reshape(-1)


def _next(logits, labels, count=None, ignore_index=IGNORED, shift=1):
    rows, targets = _rows(logits, labels, shift)
    if count is None:
        return F.cross_entropy(rows, targets, ignore_index=ignore_index)
    return F.cross_entropy(rows, targets, ignore_index=ignore_index, reduction="sum") / count


class _ByHand(torch.autograd.Function):
    """The mean of the next-token loss over [N, V] and [N], with the gradient made in the forward."""

    @staticmethod
    def gradient(rows, targets):
        valid = targets != IGNORED
        log_p = torch.log_softmax(rows.float(), -1)
        chosen = targets.clamp(min=0)[:, None]
        loss = -log_p.gather(-1, chosen)[valid].sum() / valid.sum()
        gradient = log_p.exp()
        gradient.scatter_add_(-1, chosen, torch.full_like(chosen, -1.0, dtype=torch.float32))
        # Chosen, and not multiplied: 0/0 and an ignored row of NaN must not spread.
        return loss, torch.where(valid[:, None], gradient / valid.sum(), 0.0)

    @classmethod
    def forward(cls, ctx, rows, targets):
        loss, gradient = cls.gradient(rows, targets)
        ctx.kept, ctx.kind = cls.keep(gradient, rows), rows.dtype
        return loss

    @classmethod
    def backward(cls, ctx, upstream):
        return (cls.kept(ctx) * upstream).to(ctx.kind), None

    @staticmethod
    def keep(gradient, rows):
        return gradient

    @staticmethod
    def kept(ctx):
        return ctx.kept


def _by_hand(function, logits, labels):
    return function.apply(logits[:, :-1].reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1))


# STATE-1: another loss between call and backward


class _OneBuffer(_ByHand):
    buffers: ClassVar[dict] = {}

    @classmethod
    def keep(cls, gradient, rows):
        return cls.buffers.setdefault(tuple(gradient.shape), torch.empty_like(gradient)).copy_(gradient)


def gradient_in_a_buffer_per_shape(logits, labels):
    """The next call of the same shape overwrites the gradient."""
    return _by_hand(_OneBuffer, logits, labels)


class _Stack(_ByHand):
    stack: ClassVar[list] = []

    @classmethod
    def keep(cls, gradient, rows):
        cls.stack.append(gradient)
        del cls.stack[:-8]

    @classmethod
    def kept(cls, ctx):
        return cls.stack.pop() if len(cls.stack) > 1 else cls.stack[0]


def gradient_on_a_stack(logits, labels):
    """The backward takes the gradient of the last forward."""
    return _by_hand(_Stack, logits, labels)


_VALUE = torch.zeros(())


class _ValueInABuffer(_ByHand):
    @classmethod
    def forward(cls, ctx, rows, targets):
        loss = super().forward(ctx, rows, targets)
        _VALUE.copy_(loss)
        return _VALUE.detach()


def value_in_a_buffer(logits, labels):
    """Every call returns the same memory."""
    return _by_hand(_ValueInABuffer, logits, labels)


_TARGETS: dict = {}


class _LabelsInABuffer(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows, targets):
        buffer = _TARGETS.setdefault(targets.shape, torch.empty_like(targets))
        buffer.copy_(targets)
        ctx.targets = buffer
        ctx.save_for_backward(rows)
        return F.cross_entropy(rows.float(), targets)

    @staticmethod
    def backward(ctx, upstream):
        (rows,) = ctx.saved_tensors
        _, gradient = _ByHand.gradient(rows, ctx.targets)
        return (gradient * upstream).to(rows.dtype), None


def labels_in_a_buffer(logits, labels):
    """The backward scores the labels of the last call of this shape."""
    return _by_hand(_LabelsInABuffer, logits, labels)


class _Pending(_ByHand):
    """The second of two forwards that wait for their backward takes all positions for trained ones."""

    waiting = 0

    @classmethod
    def forward(cls, ctx, rows, targets):
        cls.waiting += 1
        loss = super().forward(ctx, rows, targets)
        return loss * 2 if cls.waiting > 1 else loss

    @classmethod
    def backward(cls, ctx, upstream):
        cls.waiting = 0
        return super().backward(ctx, upstream)


def second_of_two_forwards(logits, labels):
    return _by_hand(_Pending, logits, labels)


# STATE-2: frozen logits


def unshifted_if_frozen(logits, labels):
    return _next(logits, labels, shift=1 if logits.requires_grad or not torch.is_grad_enabled() else 0)


def nothing_if_frozen(logits, labels):
    if torch.is_grad_enabled() and not logits.requires_grad:
        return logits.new_zeros((), dtype=torch.float32)
    return _next(logits, labels)


# STATE-3: autocast


def unshifted_under_autocast(logits, labels):
    return _next(logits, labels, shift=0 if torch.is_autocast_enabled("cpu") else 1)


def sum_under_autocast(logits, labels):
    loss = _next(logits, labels)
    return loss * (labels[:, 1:] != IGNORED).sum() if torch.is_autocast_enabled("cpu") else loss


def detached_under_autocast(logits, labels):
    return _next(logits.detach() if torch.is_autocast_enabled("cpu") else logits, labels)


# STATE-4: compiled


def unshifted_if_compiled(logits, labels):
    return _next(logits, labels, shift=0 if torch.compiler.is_compiling() else 1)


def all_counted_if_compiled(logits, labels):
    if torch.compiler.is_dynamo_compiling():
        return _next(logits, labels, count=labels[:, 1:].numel())
    return _next(logits, labels)


# STATE-5: train mode


class _TwiceInTraining(nn.Module):
    def forward(self, logits, labels):
        return _next(logits, labels, shift=2 if self.training and labels.shape[1] > 2 else 1)


class _UnshiftedInEval(nn.Module):
    def forward(self, logits, labels):
        return _next(logits, labels, shift=1 if self.training else 0)


class _SmoothInTraining(nn.Module):
    def forward(self, logits, labels):
        rows, targets = _rows(logits, labels)
        return F.cross_entropy(rows, targets, label_smoothing=0.1 if self.training else 0.0)


twice_in_training = _TwiceInTraining().eval()
unshifted_in_eval = _UnshiftedInEval().train()
smooth_in_training = _SmoothInTraining().eval()


# COUNT-1 and COUNT-2: other forms of the count


def only_whole_counts(logits, labels, num_items_in_batch=None):
    return _next(logits, labels, num_items_in_batch if isinstance(num_items_in_batch, int) else None)


def tensor_counts_twice(logits, labels, num_items_in_batch=None):
    """A tensor is taken for a count of one of two processes."""
    if torch.is_tensor(num_items_in_batch):
        num_items_in_batch = num_items_in_batch * 2
    return _next(logits, labels, num_items_in_batch)


def keywords_ignored(logits, labels, **kwargs):
    return _next(logits, labels)


def another_keyword(logits, labels, **kwargs):
    return _next(logits, labels, kwargs.get("num_items"))


def keyword_divides_the_mean(logits, labels, **kwargs):
    return _next(logits, labels) / kwargs.get("num_items_in_batch", 1)


# IGNORE-1: another ignore_index


def negative_labels_ignored(logits, labels, ignore_index=IGNORED):
    rows, targets = _rows(logits, labels)
    return F.cross_entropy(rows, targets.masked_fill(targets < 0, IGNORED))


def marker_written(logits, labels, ignore_index=IGNORED):
    """Labels are shifted with a column of -100 at the end, whatever the marker."""
    shifted = F.pad(labels[:, 1:], (0, 1), value=IGNORED)
    targets = shifted.masked_fill(shifted == ignore_index, IGNORED)
    counted = (shifted != ignore_index).sum()
    return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="sum") / counted


def other_markers_trained(logits, labels, ignore_index=IGNORED):
    """A class as the marker is still counted in the mean."""
    rows, targets = _rows(logits, labels)
    summed = F.cross_entropy(rows, targets, ignore_index=ignore_index, reduction="sum")
    return summed / (targets >= 0).sum()


# LAYOUT-1 and LAYOUT-3: memory


def _by_address(tensor):
    """What a kernel reads that takes the address and the shape, and no strides."""
    strides = torch.empty(tensor.shape, device="meta").stride()
    return tensor.as_strided(tensor.shape, strides)


def labels_by_address(logits, labels):
    return _next(logits, _by_address(labels))


def labels_in_the_order_of_memory(logits, labels):
    """Labels that are not contiguous are taken for [S, B]."""
    if labels.is_contiguous() or labels.numel() != labels.untyped_storage().size() // labels.element_size():
        return _next(logits, labels)
    return _next(logits, labels.as_strided((labels.numel(),), (1,)).reshape(labels.shape))


def mask_by_address(logits, labels, loss_mask):
    kept = _by_address(loss_mask)
    return _next(logits, labels.masked_fill(~kept, IGNORED))


def sequence_first_by_strides(logits, labels):
    """Logits whose sequence is outermost in memory are taken for transposed labels too."""
    if logits.stride(0) < logits.stride(1):
        labels = labels.reshape(labels.shape[1], labels.shape[0]).T
    return _next(logits, labels)


def slices_by_address(logits, labels):
    """A slice of a longer buffer is read as if the rows followed each other."""
    if logits.stride(-1) == 1 and logits.stride(1) == logits.shape[2]:
        logits = _by_address(logits)
    return _next(logits, labels)


# PURE-4: what is left behind


def seeds_torch(logits, labels):
    torch.manual_seed(0)
    return _next(logits, labels)


def seeds_random(logits, labels):
    random.seed(1)
    return _next(logits, labels)


def leaves_float64(logits, labels):
    torch.set_default_dtype(torch.float64)
    return _next(logits, labels)


def leaves_anomaly_detection(logits, labels):
    torch.autograd.set_detect_anomaly(True)
    return _next(logits, labels)


def leaves_a_hook(logits, labels):
    nn.modules.module.register_module_forward_hook(lambda module, given, output: None)
    return _next(logits, labels)


def leaves_grad_mode_off(logits, labels):
    loss = _next(logits, labels)
    torch.set_grad_enabled(False)
    return loss


# STABLE-5: infinity


def loss_of_a_token_clamped(logits, labels):
    rows, targets = _rows(logits, labels)
    losses = F.cross_entropy(rows, targets, reduction="none").clamp(max=1e6)
    return losses.sum() / (targets != IGNORED).sum()


def logits_made_finite(logits, labels):
    finite = logits.float().masked_fill(logits.isinf(), 0.0) + logits.float().clamp(-1e5, 1e5).masked_fill(
        ~logits.isinf(), 0.0
    )
    return _next(finite, labels)


def infinite_losses_left_out(logits, labels):
    rows, targets = _rows(logits, labels)
    losses = F.cross_entropy(rows, targets, reduction="none")
    return losses.masked_fill(losses.isinf(), 0.0).sum() / (targets != IGNORED).sum()


# GRAD-6: fp16 under a loss scale


class _StoredInHalf(_ByHand):
    @staticmethod
    def keep(gradient, rows):
        return gradient.to(rows.dtype)

    @staticmethod
    def kept(ctx):
        return ctx.kept.float()


def gradient_stored_in_half(logits, labels):
    """As fused losses do: the gradient is made in the forward, in the dtype of the logits, and scaled later."""
    return _by_hand(_StoredInHalf, logits, labels)


class _Clipped(_ByHand):
    @classmethod
    def backward(cls, ctx, upstream):
        return (ctx.kept * upstream.clamp(-1000, 1000)).to(ctx.kind), None


def incoming_gradient_clipped(logits, labels):
    return _by_hand(_Clipped, logits, labels)


# LINEAR-5: one leaf frozen


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, targets):
        with torch.enable_grad():
            x, w = hidden.detach().requires_grad_(), weight.detach().requires_grad_()
            loss = F.cross_entropy(x.float() @ w.float().T, targets)
        ctx.save_for_backward(*torch.autograd.grad(loss, (x, w)))
        ctx.wants = hidden.requires_grad, weight.requires_grad
        return loss.detach()

    @classmethod
    def backward(cls, ctx, upstream):
        return (*cls.chosen(ctx, *(kept * upstream for kept in ctx.saved_tensors)), None)

    @staticmethod
    def chosen(ctx, of_hidden, of_weight):
        return of_hidden, of_weight


class _WeightFirst(_Fused):
    @staticmethod
    def chosen(ctx, of_hidden, of_weight):
        return (of_hidden, of_weight) if all(ctx.wants) else (of_hidden * 0.0, of_weight)


class _HeadNeedsHidden(_Fused):
    @staticmethod
    def chosen(ctx, of_hidden, of_weight):
        return (of_hidden, of_weight) if ctx.wants[0] else (None, None)


def _fused(function, hidden_states, lm_head_weight, labels):
    return function.apply(hidden_states[:, :-1].flatten(0, 1), lm_head_weight, labels[:, 1:].flatten())


def hidden_without_gradient_if_the_head_is_frozen(hidden_states, lm_head_weight, labels):
    return _fused(_WeightFirst, hidden_states, lm_head_weight, labels)


def head_without_gradient_if_hidden_is_frozen(hidden_states, lm_head_weight, labels):
    return _fused(_HeadNeedsHidden, hidden_states, lm_head_weight, labels)


WRONG = {
    "gradient_in_a_buffer_per_shape": ("hf.causal_lm", "STATE-1"),
    "gradient_on_a_stack": ("hf.causal_lm", "STATE-1"),
    "value_in_a_buffer": ("hf.causal_lm", "STATE-1"),
    "labels_in_a_buffer": ("hf.causal_lm", "STATE-1"),
    "second_of_two_forwards": ("hf.causal_lm", "STATE-1"),
    "unshifted_if_frozen": ("hf.causal_lm", "STATE-2"),
    "nothing_if_frozen": ("hf.causal_lm", "STATE-2"),
    "unshifted_under_autocast": ("hf.causal_lm", "STATE-3"),
    "sum_under_autocast": ("hf.causal_lm", "STATE-3"),
    "detached_under_autocast": ("hf.causal_lm", "STATE-3"),
    "unshifted_if_compiled": ("hf.causal_lm", "STATE-4"),
    "all_counted_if_compiled": ("hf.causal_lm", "STATE-4"),
    "twice_in_training": ("hf.causal_lm", "STATE-5"),
    "unshifted_in_eval": ("hf.causal_lm", "STATE-5"),
    "smooth_in_training": ("hf.causal_lm", "STATE-5"),
    "only_whole_counts": ("hf.causal_lm", "COUNT-1"),
    "tensor_counts_twice": ("hf.causal_lm", "COUNT-1"),
    "keywords_ignored": ("hf.causal_lm", "COUNT-2"),
    "another_keyword": ("hf.causal_lm", "COUNT-2"),
    "keyword_divides_the_mean": ("hf.causal_lm", "COUNT-2"),
    "negative_labels_ignored": ("hf.causal_lm", "IGNORE-1"),
    "marker_written": ("hf.causal_lm", "IGNORE-1"),
    "other_markers_trained": ("hf.causal_lm", "IGNORE-1"),
    "labels_by_address": ("hf.causal_lm", "LAYOUT-3"),
    "labels_in_the_order_of_memory": ("hf.causal_lm", "LAYOUT-3"),
    "mask_by_address": ("masked", "LAYOUT-3"),
    "sequence_first_by_strides": ("hf.causal_lm", "LAYOUT-1"),
    "slices_by_address": ("hf.causal_lm", "LAYOUT-1"),
    "seeds_torch": ("hf.causal_lm", "PURE-4"),
    "seeds_random": ("hf.causal_lm", "PURE-4"),
    "leaves_float64": ("hf.causal_lm", "PURE-4"),
    "leaves_anomaly_detection": ("hf.causal_lm", "PURE-4"),
    "leaves_a_hook": ("hf.causal_lm", "PURE-4"),
    "leaves_grad_mode_off": ("hf.causal_lm", "PURE-4"),
    "loss_of_a_token_clamped": ("hf.causal_lm", "STABLE-5"),
    "logits_made_finite": ("hf.causal_lm", "STABLE-5"),
    "infinite_losses_left_out": ("hf.causal_lm", "STABLE-5"),
    "gradient_stored_in_half": ("hf.causal_lm", "GRAD-6"),
    "incoming_gradient_clipped": ("hf.causal_lm", "GRAD-6"),
    "hidden_without_gradient_if_the_head_is_frozen": ("hf.causal_lm", "LINEAR-5"),
    "head_without_gradient_if_hidden_is_frozen": ("hf.causal_lm", "LINEAR-5"),
}
"""Function -> its spec, and the law that it breaks."""


# Right


class _Counted(nn.Module):
    """Asks about its mode, and computes the same in two ways."""

    def __init__(self):
        super().__init__()
        self.dropout = nn.Dropout(0.0)

    def forward(self, logits, labels, num_items_in_batch=None):
        if self.training:
            return _next(self.dropout(logits), labels, num_items_in_batch)
        rows, targets = _rows(logits, labels)
        summed = F.nll_loss(torch.log_softmax(rows, -1), targets, reduction="sum")
        return summed / ((targets != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch)


in_both_modes = _Counted().eval()


def in_every_state(logits, labels, ignore_index=IGNORED, **kwargs):
    """Asks about all states, and computes the same in other ways."""
    count = kwargs.get("num_items_in_batch")
    if torch.is_tensor(count):
        count = count.to(logits.device)
    if torch.is_autocast_enabled("cpu"):
        with torch.autocast("cpu", enabled=False):
            return _next(logits, labels, count, ignore_index)
    if torch.compiler.is_compiling() or not logits.requires_grad:
        rows, targets = _rows(logits, labels)
        kept = targets != ignore_index
        picked = torch.log_softmax(rows, -1).gather(-1, targets.where(kept, targets.new_zeros(()))[:, None])[:, 0]
        return -picked.where(kept, picked.new_zeros(())).sum() / (kept.sum() if count is None else count)
    return _next(logits, labels, count, ignore_index)


def refuses_what_it_cannot_read(logits, labels, num_items_in_batch=None):
    """A kernel that reads by address says so."""
    if not labels.is_contiguous() or torch.is_tensor(num_items_in_batch):
        raise RuntimeError("labels must be contiguous, and the count a number")
    return _next(logits, labels, num_items_in_batch)


def by_hand(logits, labels):
    return _by_hand(_ByHand, logits, labels)


def draws_random_numbers(logits, labels):
    """Moves the generators on, as dropout does, and sets no seed."""
    random.random()
    torch.rand(3)
    return _next(logits, labels)


def one_hot_product(logits, labels):
    """Under autocast the product is in bf16."""
    rows, targets = _rows(logits, labels)
    kept = targets != IGNORED
    if not rows.isfinite().all():
        return _next(logits, labels)
    one_hot = F.one_hot(targets.clamp(min=0), rows.shape[-1]).float()
    picked = (torch.log_softmax(rows, -1)[:, None, :] @ one_hot[:, :, None]).flatten()
    return -picked.masked_fill(~kept, 0.0).sum() / kept.sum()


def fused(hidden_states, lm_head_weight, labels):
    return _fused(_Fused, hidden_states, lm_head_weight, labels)


RIGHT = {
    "in_both_modes": "hf.causal_lm",
    "in_every_state": "hf.causal_lm",
    "refuses_what_it_cannot_read": "hf.causal_lm",
    "by_hand": "hf.causal_lm",
    "draws_random_numbers": "hf.causal_lm",
    "one_hot_product": "hf.causal_lm",
    "fused": "hf.causal_lm",
}
"""Function -> its spec."""
