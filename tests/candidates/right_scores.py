"""Right next-token losses whose score is more than cross-entropy: smoothing, z-loss, softcap, scale, weights, DFT.

Unless a docstring says otherwise: k=1, labels padded with −100, float32 whatever the logits' dtype, Σ / N over the
labels that are not −100, NaN when there is none. The constants come as arguments, from the spec. z = logits as they are
scored, y = labels, V classes. RIGHT, at the end, says which entry of SCORES each follows.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def _shifted(labels: Tensor) -> Tensor:
    return F.pad(labels, (0, 1), value=-100)[:, 1:]


def _valid(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The logits [N, V] float32 that have a target, and their targets [N]."""
    targets = _shifted(labels)
    keep = targets != -100
    return logits[keep].float(), targets[keep]


# --- label smoothing: q = 1−ε+ε/V on the target, ε/V elsewhere --------------------------------------------------------


def smoothed_by_torch(logits: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
    """torch's own: ε over all V classes, ignored rows left out of both parts."""
    targets = _shifted(labels)
    return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), label_smoothing=label_smoothing)


def smoothed_by_hand(logits: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
    """The soft targets written out, one distribution a row, and an inner product with log p."""
    scores, targets = _valid(logits, labels)
    wanted = torch.full_like(scores, label_smoothing / scores.shape[-1])
    wanted.scatter_(1, targets.unsqueeze(1), 1 - label_smoothing + label_smoothing / scores.shape[-1])
    return -(wanted * scores.log_softmax(-1)).sum(1).mean()


def smoothed_and_trimmed(logits: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
    """As transformers' LabelSmoother: slice, (1−ε)·mean of −log p_y + ε·Σ(−log p)/(N·V)."""
    targets = labels[:, 1:]
    padding = targets == -100
    logp = logits[:, :-1].float().log_softmax(-1)
    own = -logp.gather(-1, targets.masked_fill(padding, 0).unsqueeze(-1)).squeeze(-1)
    everything = -logp.sum(-1)
    trained = (~padding).sum()
    hard = own.masked_fill(padding, 0.0).sum() / trained
    spread = everything.masked_fill(padding, 0.0).sum() / (trained * logits.shape[-1])
    return (1 - label_smoothing) * hard + label_smoothing * spread


# --- label smoothing over the others: q = 1−ε on the target, ε/(V−1) elsewhere ----------------------------------------


def smoothed_over_others_fairseq(logits: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
    """(1 − ε − ε_i)·Σℓ + ε_i·Σ_v Σ(−log p) with ε_i = ε/(V−1), as fairseq writes it."""
    scores, targets = _valid(logits, labels)
    logp = scores.log_softmax(-1)
    each = label_smoothing / (scores.shape[-1] - 1)
    own = -logp.gather(1, targets.unsqueeze(1)).sum()
    return ((1 - label_smoothing - each) * own - each * logp.sum()) / len(targets) if len(targets) else own / 0


def smoothed_over_others_megatron(logits: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
    """(1 − s)·ℓ − s·mean_v log p with s = ε·V/(V−1), as Megatron-LM's vocab-parallel cross-entropy does."""
    targets = _shifted(labels)
    keep = targets != -100
    scores = torch.where(keep.unsqueeze(-1), logits.float(), 0.0)
    classes = scores.shape[-1]
    smoothing = label_smoothing * classes / (classes - 1)
    logp = scores.log_softmax(-1)
    own = -logp.gather(-1, targets.masked_fill(~keep, 0).unsqueeze(-1)).squeeze(-1)
    losses = (1 - smoothing) * own - smoothing * logp.mean(-1)
    return torch.where(keep, losses, 0.0).sum() / keep.sum()


# --- z-loss: + s·lse² -------------------------------------------------------------------------------------------------


def z_loss(logits: Tensor, labels: Tensor, lse_square_scale: float) -> Tensor:
    """ℓ + s·lse(z)², both averaged over the trained rows only.

    The maximum is taken out of lse, or its gradient, exp(z − lse), would be off by 1e-3 at z ≈ 1e4.
    """
    scores, targets = _valid(logits, labels)
    highest = scores.detach().amax(-1, keepdim=True)
    lse = highest.squeeze(-1) + (scores - highest).logsumexp(-1)
    return F.cross_entropy(scores, targets) + lse_square_scale * lse.square().mean()


def z_loss_masked(logits: Tensor, labels: Tensor, lse_square_scale: float) -> Tensor:
    """The same with every row kept and a torch.where instead of a gather."""
    targets = _shifted(labels)
    keep = targets != -100
    scores = torch.where(keep.unsqueeze(-1), logits.float(), 0.0)
    highest = scores.detach().amax(-1)
    rest = (scores - highest.unsqueeze(-1)).exp().sum(-1).log()
    own = scores.gather(-1, targets.masked_fill(~keep, 0).unsqueeze(-1)).squeeze(-1)
    losses = (highest - own) + rest + lse_square_scale * (highest + rest) ** 2
    return torch.where(keep, losses, 0.0).sum() / keep.sum()


# --- logit maps: z = c·tanh(scale·x / c) ------------------------------------------------------------------------------


def softcapped(logits: Tensor, labels: Tensor, softcap: float) -> Tensor:
    """z = c·tanh(x/c), then the ordinary loss."""
    scores, targets = _valid(logits, labels)
    return F.cross_entropy(softcap * torch.tanh(scores / softcap), targets)


def scaled(logits: Tensor, labels: Tensor, logit_scale: float) -> Tensor:
    """z = scale·x."""
    scores, targets = _valid(logits, labels)
    return F.cross_entropy(scores * logit_scale, targets)


def scaled_and_softcapped(
    logits: Tensor, labels: Tensor, logit_scale: float = 1.0, softcap: float | None = None
) -> Tensor:
    """The scale first, then the cap."""
    scores, targets = _valid(logits, labels)
    scores = scores * logit_scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    return F.nll_loss(scores.log_softmax(-1), targets)


# --- weights ----------------------------------------------------------------------------------------------------------


def class_weighted_by_torch(logits: Tensor, labels: Tensor, class_weights: Tensor) -> Tensor:
    """torch's `weight`: Σ w_y·ℓ / Σ w_y."""
    targets = _shifted(labels)
    return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), weight=class_weights)


def class_weighted_by_hand(logits: Tensor, labels: Tensor, class_weights: Tensor) -> Tensor:
    """The same, the weights picked by target."""
    scores, targets = _valid(logits, labels)
    weights = class_weights[targets]
    losses = F.cross_entropy(scores, targets, reduction="none")
    return (weights * losses).sum() / weights.sum()


def dft(logits: Tensor, labels: Tensor) -> Tensor:
    """Σ p_y·ℓ / max(N, 1), p_y without a gradient: dynamic fine-tuning, as TRL has it."""
    scores, targets = _valid(logits, labels)
    losses = F.cross_entropy(scores, targets, reduction="none")
    return (losses.neg().exp().detach() * losses).sum() / max(len(targets), 1)


class _Dft(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, targets: Tensor) -> Tensor:
        logp = scores.log_softmax(-1)
        own = logp.gather(1, targets.unsqueeze(1))
        gradient = logp.exp().scatter_add(1, targets.unsqueeze(1), -torch.ones_like(own))
        ctx.save_for_backward(gradient * own.exp() / max(len(targets), 1))
        return -(own.exp() * own).sum() / max(len(targets), 1)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream, None


def dft_by_hand(logits: Tensor, labels: Tensor) -> Tensor:
    """The gradient written out: p_y·(p − onehot) / max(N, 1), nothing through the weight."""
    loss: Tensor = _Dft.apply(*_valid(logits, labels))
    return loss


# --- everything together ----------------------------------------------------------------------------------------------


def modified(
    logits: Tensor,
    labels: Tensor,
    label_smoothing: float = 0.0,
    lse_square_scale: float = 0.0,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    class_weights: Tensor | None = None,
) -> Tensor:
    """Every modifier that the caller gives, together: smoothing over all V, and Σ w_y below where classes are weighted.

    What is not given leaves the ordinary loss as it is.
    """
    scores, targets = _valid(logits, labels)
    scores = scores * logit_scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    total = F.cross_entropy(scores, targets, weight=class_weights, label_smoothing=label_smoothing, reduction="sum")
    highest = scores.detach().amax(-1, keepdim=True)
    lse = highest.squeeze(-1) + (scores - highest).logsumexp(-1)
    total = total + lse_square_scale * lse.square().sum()
    return total / (class_weights[targets].sum() if class_weights is not None else (targets != -100).sum())


# What each needs of a LossTerm beside k=1: the fields of its Score, and of the term itself. The constants are such that
# every modifier changes the loss of logits of spread 3 by more than rounding does.
SCORES = {
    "smoothing": ({"label_smoothing": 0.1}, {}),
    "smoothing_over_others": ({"label_smoothing": 0.1, "smoothing_over": "others"}, {}),
    "z_loss": ({"z_loss": 0.01}, {}),
    "softcap": ({"softcap": 5.0}, {}),
    "scale": ({"logit_scale": 0.5}, {}),
    "scale_softcap": ({"logit_scale": 0.5, "softcap": 5.0}, {}),
    "class_weights": ({"class_weights": True}, {"denominator": "class_weights"}),
    "dft": ({"dft": True}, {"clamp": 1.0}),
    "all": (
        {"label_smoothing": 0.1, "z_loss": 0.01, "softcap": 5.0, "logit_scale": 0.5, "class_weights": True},
        {"denominator": "class_weights"},
    ),
}
RIGHT = {
    "smoothed_by_torch": "smoothing",
    "smoothed_by_hand": "smoothing",
    "smoothed_and_trimmed": "smoothing",
    "smoothed_over_others_fairseq": "smoothing_over_others",
    "smoothed_over_others_megatron": "smoothing_over_others",
    "z_loss": "z_loss",
    "z_loss_masked": "z_loss",
    "softcapped": "softcap",
    "scaled": "scale",
    "scaled_and_softcapped": "scale_softcap",
    "class_weighted_by_torch": "class_weights",
    "class_weighted_by_hand": "class_weights",
    "dft": "dft",
    "dft_by_hand": "dft",
    "modified": "all",
}
