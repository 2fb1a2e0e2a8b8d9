"""Losses that are right, each written in another way.

The first part is the ordinary next-token loss: the mean of −log softmax(logits[t])[labels[t+1]] over the pairs whose
label is not −100, in float32 whatever the logits' dtype, NaN when there is no pair. The second part follows other
specs; each docstring says which.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# --- the ordinary next-token loss -------------------------------------------------------------------------------------


def sliced(logits: Tensor, labels: Tensor) -> Tensor:
    """Slice both sides, flatten, cross-entropy."""
    shift_logits = logits[..., :-1, :].float()
    shift_labels = labels[..., 1:]
    return F.cross_entropy(shift_logits.reshape(-1, shift_logits.size(-1)), shift_labels.reshape(-1))


def padded_labels(logits: Tensor, labels: Tensor) -> Tensor:
    """Keep every logit; pad the labels with one −100 and drop the first, as transformers' ForCausalLMLoss does."""
    shift_labels = F.pad(labels, (0, 1), value=-100)[..., 1:]
    return F.cross_entropy(logits.float().flatten(0, 1), shift_labels.flatten(), ignore_index=-100)


def gathered_rows(logits: Tensor, labels: Tensor) -> Tensor:
    """Pick the valid rows first and score nothing else, as audiocraft and TRL do."""
    targets = labels[:, 1:]
    keep = targets != -100
    return F.cross_entropy(logits[:, :-1][keep].float(), targets[keep])


def label_coordinates(logits: Tensor, labels: Tensor) -> Tensor:
    """Walk back from each valid label to the logits one position before it."""
    row, position = (labels != -100).nonzero(as_tuple=True)
    row, position = row[position > 0], position[position > 0]
    logp = logits[row, position - 1].float().log_softmax(-1)
    return F.nll_loss(logp, labels[row, position])


def log_softmax_where(logits: Tensor, labels: Tensor) -> Tensor:
    """log_softmax, gather, and torch.where (never a product) to leave ignored rows out."""
    targets = labels[:, 1:]
    valid = targets.ne(-100)
    logp = torch.log_softmax(logits[:, :-1], dim=-1, dtype=torch.float32)
    picked = logp.gather(-1, targets.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return -torch.where(valid, picked, 0.0).sum() / valid.sum()


def logsumexp_gather(logits: Tensor, labels: Tensor) -> Tensor:
    """logsumexp(z) − z_y, with ignored rows zeroed before the score so that nothing in them is ever read.

    The maximum goes first: at z ≈ 1e4 a float32 logsumexp(z) has only three decimals left to subtract z_y from.
    """
    targets = labels[:, 1:]
    valid = targets != -100
    scores = torch.where(valid.unsqueeze(-1), logits[:, :-1].float(), 0.0)
    scores = scores - scores.detach().amax(2, keepdim=True)
    own = scores.gather(2, torch.where(valid, targets, 0).unsqueeze(2)).squeeze(2)
    return (scores.logsumexp(2) - own)[valid].mean()


def chunked_rows(logits: Tensor, labels: Tensor) -> Tensor:
    """Seven flattened rows at a time, upcast piecewise; one sum and one count are carried along."""
    flat = logits.reshape(-1, logits.shape[-1])
    targets = torch.cat([labels[:, 1:], labels.new_full((labels.shape[0], 1), -100)], dim=1).reshape(-1)
    total = torch.zeros((), dtype=torch.float32, device=logits.device)
    count = 0
    for rows, wanted in zip(flat.split(7), targets.split(7), strict=True):
        total = total + F.cross_entropy(rows.float(), wanted, reduction="sum")
        count = count + (wanted != -100).sum()
    return total / count


class _GradientInForward(torch.autograd.Function):
    """Value and gradient in one pass, like the fused kernels, but the logits are left alone."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> Tensor:
        targets = F.pad(labels[:, 1:], (0, 1), value=-100)
        row, position = (targets != -100).nonzero(as_tuple=True)
        wanted = targets[row, position]
        scores = logits[row, position].float()
        scores -= scores.amax(-1, keepdim=True)
        log_z = scores.logsumexp(-1)
        pair = torch.arange(len(wanted), device=logits.device)
        loss = (log_z - scores[pair, wanted]).mean()
        gradient = torch.zeros(logits.shape, dtype=torch.float32, device=logits.device)
        probability = (scores - log_z.unsqueeze(-1)).exp()
        probability[pair, wanted] -= 1
        gradient[row, position] = probability / max(len(wanted), 1)
        ctx.save_for_backward(gradient)
        ctx.dtype = logits.dtype
        return loss

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        # A zero row stays zero: with nothing valid, upstream may be anything.
        return torch.where(gradient == 0, gradient, gradient * upstream).to(ctx.dtype), None


def gradient_in_forward(logits: Tensor, labels: Tensor) -> Tensor:
    """A custom autograd function that has the gradient ready after the forward and scales it in the backward."""
    loss: Tensor = _GradientInForward.apply(logits, labels)
    return loss


def online_softmax(logits: Tensor, labels: Tensor) -> Tensor:
    """The vocabulary in pieces of five, with a running maximum and a running sum, as flash-style kernels do."""
    targets = labels[:, 1:]
    valid = targets != -100
    scores = logits[:, :-1][valid].float()  # one upcast, so that the gradient's two parts meet in float32
    wanted = targets[valid]
    highest = torch.full(wanted.shape, -torch.inf, dtype=torch.float32, device=logits.device)
    total = torch.zeros_like(highest)
    for piece in scores.split(5, dim=-1):
        new_highest = torch.maximum(highest, piece.detach().amax(-1))
        base = torch.where(new_highest == -torch.inf, 0.0, new_highest)  # nothing but −inf so far
        total = total * (highest - base).exp() + (piece - base.unsqueeze(-1)).exp().sum(-1)
        highest = new_highest
    own = scores.gather(-1, wanted.unsqueeze(-1)).squeeze(-1)
    return ((highest - own) + total.log()).mean()


def rolled_labels(logits: Tensor, labels: Tensor) -> Tensor:
    """torch.roll, with the wrapped last column masked out again."""
    targets = labels.roll(-1, dims=1).clone()
    targets[:, -1] = -100
    return F.cross_entropy(logits.float().transpose(1, 2), targets)


def row_loop(logits: Tensor, labels: Tensor) -> Tensor:
    """A plain loop over rows and one division at the end."""
    total, count = logits[..., :0].float().sum(), 0
    for scores, ids in zip(logits, labels, strict=True):
        total = total + F.cross_entropy(scores[:-1].float(), ids[1:], ignore_index=-100, reduction="sum")
        count += int((ids[1:] != -100).sum())
    return total / torch.tensor(count, dtype=total.dtype, device=total.device)


def vmapped(logits: Tensor, labels: Tensor) -> Tensor:
    """One row's sum and count, mapped over the batch with torch.vmap."""
    if logits.shape[0] == 0:  # vmap takes no empty dimension
        return logits.float().sum() * torch.nan

    def row(scores: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        scores, ids = scores[:-1].float(), ids[1:]
        valid = ids != -100
        scores = scores - scores.detach().max(dim=-1, keepdim=True).values
        own = torch.take_along_dim(scores, torch.where(valid, ids, 0).unsqueeze(-1), dim=-1).squeeze(-1)
        losses = torch.where(valid, torch.logsumexp(scores, dim=-1) - own, 0.0)
        return losses.sum(), valid.sum()

    totals, counts = torch.vmap(row)(logits, labels)
    return totals.sum() / counts.sum()


def one_hot_einsum(logits: Tensor, labels: Tensor) -> Tensor:
    """One-hot targets in an einsum, as JAX code likes it; −inf off the target is cleared first, for −inf · 0 is NaN."""
    targets = labels[:, 1:]
    one_hot = targets.unsqueeze(-1) == torch.arange(logits.shape[-1], device=labels.device)
    logp = F.log_softmax(logits[:, :-1].float(), dim=-1)
    per_token = -torch.einsum("bsv,bsv->bs", one_hot.float(), torch.where(one_hot, logp, 0.0))
    return per_token.sum() / (targets != -100).sum()


class CausalLoss(nn.Module):
    """A module: the target is a class, made without arguments and then called."""

    def __init__(self) -> None:
        super().__init__()
        self.criterion = nn.CrossEntropyLoss(ignore_index=-100)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        _, length, classes = logits.shape
        scores = logits.narrow(1, 0, max(length - 1, 0)).float()
        loss: Tensor = self.criterion(scores.reshape(-1, classes), labels[:, 1:].reshape(-1))
        return loss


def returns_dict(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """The loss under the key "loss", beside a metric."""
    targets = labels[:, 1:].contiguous().flatten()
    scores = logits[:, :-1].contiguous().flatten(0, 1).to(torch.float32)
    losses = F.cross_entropy(scores, targets, reduction="none")
    valid = targets != -100
    return {"loss": losses.sum() / valid.sum(), "tokens": valid.sum()}


def returns_tuple(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """(loss, logits), as transformers' models with return_dict=False."""
    loss = F.nll_loss(
        F.log_softmax(logits[:, :-1], dim=-1, dtype=torch.float32).permute(0, 2, 1), labels[:, 1:], ignore_index=-100
    )
    return loss, logits


@dataclass
class Output:
    """What a transformers model returns, as far as a trainer looks at it."""

    loss: Tensor
    logits: Tensor


def returns_object(logits: Tensor, labels: Tensor) -> Output:
    """An object with .loss."""
    valid = labels[:, 1:] != -100
    scores = logits[:, :-1].float()[valid].log_softmax(-1)
    distribution = torch.distributions.Categorical(logits=scores, validate_args=False)
    return Output(loss=-distribution.log_prob(labels[:, 1:][valid]).mean(), logits=logits)


def honours_num_items(logits: Tensor, labels: Tensor, num_items_in_batch: int | None = None) -> Tensor:
    """Σ / num_items_in_batch when a count is given, the mean otherwise."""
    reduction = "mean" if num_items_in_batch is None else "sum"
    classes = logits.shape[-1]
    loss = F.cross_entropy(
        logits[:, :-1].float().reshape(-1, classes), labels[:, 1:].reshape(-1), ignore_index=-100, reduction=reduction
    )
    return loss if num_items_in_batch is None else loss / num_items_in_batch


def honours_shift_labels(logits: Tensor, labels: Tensor, shift_labels: Tensor | None = None) -> Tensor:
    """Labels that the caller has shifted are taken as they are; otherwise the loss shifts."""
    if shift_labels is None:
        shift_labels = F.pad(labels, (0, 1), value=-100)[:, 1:]
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]).float(), shift_labels.reshape(-1))


# --- other specs ------------------------------------------------------------------------------------------------------


def packed_by_position_ids(logits: Tensor, labels: Tensor, position_ids: Tensor) -> Tensor:
    """k=1; a pair counts only while the positions go on counting, so not where a document starts."""
    goes_on = position_ids[:, 1:] == position_ids[:, :-1] + 1
    targets = labels[:, 1:].masked_fill(~goes_on, -100)
    return F.cross_entropy(logits[:, :-1].float().reshape(-1, logits.shape[-1]), targets.reshape(-1))


def packed_by_cu_seqlens(logits: Tensor, labels: Tensor, cu_seqlens: Tensor) -> Tensor:
    """k=1 inside each document [cu_seqlens[i], cu_seqlens[i+1]) of the flattened tokens, one document at a time."""
    scores, ids = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)
    bounds = cu_seqlens.tolist()
    total, count = scores[:, :0].float().sum(), ids[:0].sum()
    for start, end in pairwise(bounds):
        if end - start > 1:
            total = total + F.cross_entropy(scores[start : end - 1].float(), ids[start + 1 : end], reduction="sum")
            count = count + (ids[start + 1 : end] != -100).sum()
    return total / count


def packed_by_segment_ids(logits: Tensor, labels: Tensor, segment_ids: Tensor) -> Tensor:
    """k=1; logit and label must lie in one segment, and segment 0 is padding."""
    targets = labels[:, 1:]
    keep = (segment_ids[:, 1:] == segment_ids[:, :-1]) & (segment_ids[:, 1:] != 0) & (targets != -100)
    logp = logits[:, :-1][keep].float().log_softmax(-1)
    return -logp.gather(1, targets[keep].unsqueeze(1)).mean()


def masked_mean(logits: Tensor, labels: Tensor, loss_mask: Tensor) -> Tensor:
    """k=1; a pair counts if its label is valid and loss_mask is set at the label's own position. Σ / count."""
    targets = labels[:, 1:]
    keep = loss_mask[:, 1:].bool() & (targets != -100)
    losses = F.cross_entropy(logits[:, :-1].float().transpose(1, 2), targets, reduction="none")
    return torch.where(keep, losses, 0.0).sum() / keep.sum()


def weighted_mean(logits: Tensor, labels: Tensor, token_weights: Tensor) -> Tensor:
    """k=1; Σ w[t+1]·ℓ / Σ w[t+1] over the valid pairs."""
    targets = labels[:, 1:]
    valid = targets != -100
    losses = F.cross_entropy(logits[:, :-1][valid].float(), targets[valid], reduction="none")
    weights = token_weights[:, 1:][valid]
    return (weights * losses).sum() / weights.sum()


def weighted_mean_or_nothing(logits: Tensor, labels: Tensor, token_weights: Tensor) -> Tensor:
    """k=1; the same, but 0 where all weights are 0, as trainers do that skip a batch without anything to learn."""
    weights = token_weights[:, 1:] * (labels[:, 1:] != -100)
    if not bool(weights.sum()):
        return logits.float().nan_to_num().clamp(-1, 1).sum() * 0
    losses = F.cross_entropy(logits[:, :-1].float().transpose(1, 2), labels[:, 1:], reduction="none")
    return (weights * losses).sum() / weights.sum()


def weighted_over_count(logits: Tensor, labels: Tensor, token_weights: Tensor) -> Tensor:
    """k=1; Σ w[t+1]·ℓ over the valid pairs, divided by their number (ms-swift's loss_scale)."""
    targets = labels[:, 1:].reshape(-1)
    losses = F.cross_entropy(logits[:, :-1].float().flatten(0, 1), targets, ignore_index=-100, reduction="none")
    scaled = torch.where(targets != -100, losses * token_weights[:, 1:].reshape(-1), 0.0)
    return scaled.sum() / (targets != -100).sum()


def clamped_mean(logits: Tensor, labels: Tensor) -> Tensor:
    """k=1; Σ / max(N, 1): 0 when nothing is valid (TRL, litgpt, FLA)."""
    targets = labels[:, 1:]
    total = F.cross_entropy(logits[:, :-1].float().reshape(-1, logits.shape[-1]), targets.reshape(-1), reduction="sum")
    return total / (targets != -100).sum().clamp(min=1)


def aligned_mean(logits: Tensor, labels: Tensor) -> Tensor:
    """k=0: the labels are already what each logit should predict. Mean over valid labels."""
    return F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=-100)


def preshifted_short(logits: Tensor, labels: Tensor) -> Tensor:
    """Labels [B, S−1] whose first token the data has cut off: logit t against label t, the last logit unused."""
    scores = logits[:, : labels.shape[1]].float()
    return F.cross_entropy(scores.reshape(-1, logits.shape[-1]), labels.reshape(-1))


def prefix_logits(logits: Tensor, labels: Tensor) -> Tensor:
    """Logits [B, P+S, V] with P leading positions of image, audio or prompt: k=1 within the last S."""
    prefix = logits.shape[1] - labels.shape[1]
    text = logits[:, prefix:]
    return F.cross_entropy(text[:, :-1].float().reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1))


def sum_reduction(logits: Tensor, labels: Tensor) -> Tensor:
    """k=1; the sum over valid pairs, 0 when there is none."""
    targets = F.pad(labels[:, 1:], (0, 1), value=-100)
    return F.cross_entropy(logits.float().transpose(1, 2), targets, reduction="sum")


def per_token(logits: Tensor, labels: Tensor) -> Tensor:
    """k=1, no reduction: [B, S] at the logits' positions, 0 where the label is ignored and in the last column."""
    targets = F.pad(labels[:, 1:], (0, 1), value=-100)
    losses = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="none")
    return losses.view(labels.shape)


def flattened_nanogpt(logits: Tensor, labels: Tensor) -> Tensor:
    """k=0, marker −1: nanoGPT's model.py, whose data is shifted by the loader."""
    return F.cross_entropy(logits.float().reshape(-1, logits.size(-1)), labels.reshape(-1), ignore_index=-1)
