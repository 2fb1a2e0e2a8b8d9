"""Next-token losses over hidden states and the weight of the LM head: right ones, and wrong ones."""

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 2  # rows at once


def shifted(labels: Tensor) -> Tensor:
    return F.pad(labels, (0, 1), value=-100)[:, 1:].flatten()


# Right


def materialised(hidden_states, lm_head_weight, labels):
    logits = (hidden_states @ lm_head_weight.T).float()
    return F.cross_entropy(logits.flatten(0, 1), shifted(labels))


def biased(hidden_states, lm_head_weight, labels, lm_head_bias):
    logits = F.linear(hidden_states, lm_head_weight, lm_head_bias).float()
    return F.cross_entropy(logits.flatten(0, 1), shifted(labels))


def chunked(hidden_states, lm_head_weight, labels, lm_head_bias=None):
    targets, count = shifted(labels), (shifted(labels) != -100).sum()
    # Upcast once: upcast chunk by chunk, autograd would add up the weight's gradient in its own dtype.
    weight, bias = lm_head_weight.float(), None if lm_head_bias is None else lm_head_bias.float()
    sums = [_sum(*pair, weight, bias) for pair in _chunks(hidden_states, targets)]
    return torch.stack(sums).sum() / count


class _InForward(torch.autograd.Function):
    """All gradients are made in the forward, in fp32, and scaled in the backward."""

    unscaled: tuple[int, ...] = ()  # leaves that the backward forgets to scale
    kind = torch.float32  # of the sum that the weight's gradient is added up in

    @classmethod
    def forward(cls, ctx, hidden, weight, bias, targets):
        valid = targets != -100
        count = valid.sum()
        loss = torch.zeros(())
        of_hidden, of_bias = torch.zeros_like(hidden), torch.zeros(len(bias))
        of_weight = torch.zeros(weight.shape, dtype=cls.kind)
        for start in range(0, len(hidden), CHUNK):
            rows = slice(start, start + CHUNK)
            x, y, kept = hidden[rows].float(), targets[rows].clamp(min=0), valid[rows]
            log_p = torch.log_softmax(F.linear(x, weight.float(), bias.float()), -1)
            loss = loss - log_p.gather(-1, y[:, None])[kept].sum() / count
            # Not (p − 1)·kept, but chosen: a row that is ignored may hold anything.
            gradient = (log_p.exp() - F.one_hot(y, len(weight))) / count
            gradient = torch.where(kept[:, None], gradient, 0.0)
            of_hidden[rows] = (gradient @ weight.float()).to(hidden.dtype)
            of_weight += (gradient.T @ torch.where(kept[:, None], x, 0.0)).to(cls.kind)
            of_bias += gradient.sum(0)
        ctx.save_for_backward(of_hidden, of_weight.to(weight.dtype), of_bias.to(bias.dtype))
        return loss if bool(count) else loss + torch.nan

    @classmethod
    def backward(cls, ctx, upstream):
        saved = enumerate(ctx.saved_tensors)
        return *(each if leaf in cls.unscaled else each * upstream for leaf, each in saved), None


class _WeightUnscaled(_InForward):
    unscaled = (1,)


class _LowPrecision(_InForward):
    kind = torch.bfloat16


def gradients_in_the_forward(hidden_states, lm_head_weight, labels, lm_head_bias):
    return _InForward.apply(hidden_states.flatten(0, 1), lm_head_weight, lm_head_bias, shifted(labels))


class _RoundedGradient(torch.autograd.Function):
    """Logits in fp32, whose gradient is rounded to the dtype of the leaves before the products, as on matrix units."""

    @staticmethod
    def forward(ctx, hidden, weight):
        ctx.save_for_backward(hidden, weight)
        return hidden.float() @ weight.float().T

    @staticmethod
    def backward(ctx, upstream):
        hidden, weight = ctx.saved_tensors
        rounded = upstream.to(hidden.dtype).float()
        return (rounded @ weight.float()).to(hidden.dtype), (rounded.T @ hidden.float()).to(weight.dtype)


def rounds_the_gradient_of_its_logits(hidden_states, lm_head_weight, labels):
    logits = _RoundedGradient.apply(hidden_states.flatten(0, 1), lm_head_weight)
    return F.cross_entropy(logits, shifted(labels))


# Wrong


class _SummedInLowPrecision(torch.autograd.Function):
    """The gradient of the hidden states is added up over blocks of the vocabulary in their own dtype."""

    @staticmethod
    def forward(ctx, hidden, weight):
        ctx.save_for_backward(hidden, weight)
        return hidden.float() @ weight.float().T

    @staticmethod
    def backward(ctx, upstream):
        hidden, weight = ctx.saved_tensors
        of_hidden = torch.zeros_like(hidden)
        for part, rows in zip(upstream.split(128, dim=-1), weight.split(128), strict=True):
            of_hidden += (part @ rows.float()).to(hidden.dtype)
        return of_hidden, (upstream.T @ hidden.float()).to(weight.dtype)


def hidden_gradient_summed_in_bf16(hidden_states, lm_head_weight, labels):
    logits = _SummedInLowPrecision.apply(hidden_states.flatten(0, 1), lm_head_weight)
    return F.cross_entropy(logits, shifted(labels))


def weight_rounded_to_8_bits(hidden_states, lm_head_weight, labels):
    """The weight is rounded to a grid of 255 steps, and its gradient is passed on as if it were not."""
    step = lm_head_weight.detach().abs().amax() / 127 + 1e-30
    rounded = (lm_head_weight.detach() / step).round() * step
    weight = lm_head_weight + (rounded - lm_head_weight).detach()
    return chunked(hidden_states, weight, labels)


def double_shift(hidden_states, lm_head_weight, labels):
    return materialised(hidden_states, lm_head_weight, F.pad(labels, (0, 1), value=-100)[:, 1:])


def upstream_ignored_weight(hidden_states, lm_head_weight, labels, lm_head_bias):
    return _WeightUnscaled.apply(hidden_states.flatten(0, 1), lm_head_weight, lm_head_bias, shifted(labels))


def low_precision_accumulate(hidden_states, lm_head_weight, labels, lm_head_bias):
    return _LowPrecision.apply(hidden_states.flatten(0, 1), lm_head_weight, lm_head_bias, shifted(labels))


def low_precision_by_autograd(hidden_states, lm_head_weight, labels):
    """Every chunk upcasts the weight, so that autograd adds up its gradient in the dtype of the weight."""
    targets, count = shifted(labels), (shifted(labels) != -100).sum()
    sums = [_sum(*pair, lm_head_weight, None) for pair in _chunks(hidden_states, targets)]
    return torch.stack(sums).sum() / count


def detached_bias(hidden_states, lm_head_weight, labels, lm_head_bias):
    return biased(hidden_states, lm_head_weight, labels, lm_head_bias.detach())


def detached_last_hidden(hidden_states, lm_head_weight, labels):
    """The last row of logits that is scored, that before the last label, gives no gradient."""
    kept = torch.ones(hidden_states.shape[1], dtype=torch.bool)
    kept[-2:-1] = False
    cut = torch.where(kept[:, None], hidden_states, hidden_states.detach())
    return materialised(cut, lm_head_weight, labels)


def last_chunk_dropped(hidden_states, lm_head_weight, labels):
    """Rows beyond the last whole chunk are neither scored nor counted."""
    hidden, targets = hidden_states.flatten(0, 1), shifted(labels)
    whole = max(len(hidden) // 4 * 4, 4)
    return F.cross_entropy((hidden[:whole] @ lm_head_weight.T).float(), targets[:whole])


def double_shift_of_wide_rows(hidden_states, lm_head_weight, labels):
    if hidden_states.shape[-1] > 1000:
        labels = F.pad(labels[:, 1:], (0, 1), value=-100)
    return materialised(hidden_states, lm_head_weight, labels)


def bf16_product_of_wide_rows(hidden_states, lm_head_weight, labels):
    if hidden_states.shape[-1] > 600:
        return materialised(hidden_states, lm_head_weight, labels)
    return chunked(hidden_states, lm_head_weight, labels)


def bf16_product_of_long_rows(hidden_states, lm_head_weight, labels):
    if labels.shape[1] > 40:
        return materialised(hidden_states, lm_head_weight, labels)
    return chunked(hidden_states, lm_head_weight, labels)


def mean_of_chunk_means(hidden_states, lm_head_weight, labels):
    targets = shifted(labels)
    chunks = [(rows, own) for rows, own in _chunks(hidden_states, targets) if bool((own != -100).any())]
    if not chunks:
        return materialised(hidden_states, lm_head_weight, labels)
    means = [_sum(rows, own, lm_head_weight, None) / (own != -100).sum() for rows, own in chunks]
    return torch.stack(means).mean()


def forgets_the_bias(hidden_states, lm_head_weight, labels, lm_head_bias):
    return materialised(hidden_states, lm_head_weight, labels) + 0 * lm_head_bias.sum()


# With less than all that others can


def without_wide_classes(hidden_states, lm_head_weight, labels):
    if len(lm_head_weight) > 1 << 15:
        raise NotImplementedError("more than 32768 classes")
    return materialised(hidden_states, lm_head_weight, labels)


def without_anything(hidden_states, lm_head_weight, labels):
    raise NotImplementedError("no kernel for this device")


def _chunks(hidden: Tensor, targets: Tensor) -> list[tuple[Tensor, Tensor]]:
    return list(zip(hidden.flatten(0, 1).split(CHUNK), targets.split(CHUNK), strict=True))


def _sum(rows: Tensor, targets: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    logits = F.linear(rows.float(), weight.float(), None if bias is None else bias.float())
    return F.cross_entropy(logits, targets, reduction="sum")


class _Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, leaf):
        return leaf.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 2


def head_doubled(hidden_states, lm_head_weight, labels):
    return materialised(hidden_states, _Doubled.apply(lm_head_weight), labels)


def hidden_doubled(hidden_states, lm_head_weight, labels):
    return materialised(_Doubled.apply(hidden_states), lm_head_weight, labels)
