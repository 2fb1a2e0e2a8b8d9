"""Wrong losses that re-enact no known bug, or one under a disguise. WRONG, at the end, says what the report must tell.

z = logits, y = labels; B rows, S positions, N frames, K codebooks, D heads, V classes.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def _nll(logits: Tensor, targets: Tensor) -> Tensor:
    """ℓ, in the shape of the targets, 0 where they are −100."""
    scores = logits.reshape(-1, logits.shape[-1]).float()
    return F.cross_entropy(scores, targets.reshape(-1), reduction="none").reshape(targets.shape)


def _mean(logits: Tensor, targets: Tensor, num_items_in_batch: int | None = None) -> Tensor:
    count = (targets != -100).sum() if num_items_in_batch is None else num_items_in_batch
    return _nll(logits, targets).sum() / count


def _causal_lm(logits: Tensor, labels: Tensor, num_items_in_batch: int | None = None) -> Tensor:
    return _mean(logits[:, :-1], labels[:, 1:], num_items_in_batch)


class _Doubled(torch.autograd.Function):
    """The identity, with twice the gradient."""

    @staticmethod
    def forward(ctx, x):  # type: ignore[no-untyped-def, override]
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def, override]
        return 2 * grad


# --- text: hf.causal_lm -----------------------------------------------------------------------------------------------


def mean_of_sequence_means(logits: Tensor, labels: Tensor) -> Tensor:
    """Wrong: each sequence's mean, then their mean over the sequences that have a label."""
    targets = labels[:, 1:]
    counts = (targets != -100).sum(1)
    means = _nll(logits[:, :-1], targets).sum(1) / counts.clamp(min=1)
    return means.sum() / (counts > 0).sum()


def temperature(logits: Tensor, labels: Tensor) -> Tensor:
    """Wrong: z · 1.05."""
    return _causal_lm(logits * 1.05, labels)


def log_2_too_high(logits: Tensor, labels: Tensor) -> Tensor:
    """Wrong: + log 2, without a gradient."""
    return _causal_lm(logits, labels) + math.log(2.0)


def gradient_doubled(logits: Tensor, labels: Tensor) -> Tensor:
    """Wrong: the value is right, and the gradient doubled."""
    return _causal_lm(_Doubled.apply(logits), labels)


def one_pad_trained(logits: Tensor, labels: Tensor) -> Tensor:
    """Wrong: the first ignored label after a valid one is trained on as class 0, the pad: the end of the text."""
    targets = labels[:, 1:].clone()
    ends = (targets == -100) & (F.pad(targets, (1, 0), value=-100)[:, :-1] != -100)
    return _mean(logits[:, :-1], targets.masked_fill(ends, 0))


def first_pair_lost(logits: Tensor, labels: Tensor) -> Tensor:
    """Wrong: the first pair of each row is left out."""
    return _mean(logits[:, 1:-1], labels[:, 2:])


def last_pair_lost(logits: Tensor, labels: Tensor) -> Tensor:
    """Wrong: the last pair of each row is left out."""
    return _mean(logits[:, :-2], labels[:, 1:-1])


def late_tokens_weigh_more(logits: Tensor, labels: Tensor) -> Tensor:
    """Wrong: the weight of position t is 1 + t / S."""
    targets = labels[:, 1:]
    weights = 1 + torch.arange(targets.shape[1], device=labels.device) / labels.shape[1]
    return (_nll(logits[:, :-1], targets) * weights).sum() / (targets != -100).sum()


def one_more_in_the_count(logits: Tensor, labels: Tensor) -> Tensor:
    """Wrong: ÷ (N + 1)."""
    targets = labels[:, 1:]
    return _nll(logits[:, :-1], targets).sum() / ((targets != -100).sum() + 1)


def mean_over_the_count_again(logits: Tensor, labels: Tensor) -> Tensor:
    """Wrong: ÷ N, twice."""
    return _causal_lm(logits, labels) / (labels[:, 1:] != -100).sum()


def last_row_lost(logits: Tensor, labels: Tensor) -> Tensor:
    """Wrong: the last row of a batch of several is left out."""
    rows = max(len(labels) - 1, 1)
    return _causal_lm(logits[:rows], labels[:rows])


def rows_reversed(logits: Tensor, labels: Tensor) -> Tensor:
    """Wrong: row b is scored on the labels of row B − 1 − b."""
    return _causal_lm(logits, labels.flip(0))


def half_a_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Wrong: × 1/2."""
    return _causal_lm(logits, labels) / 2


def both_shifts(logits: Tensor, labels: Tensor) -> Tensor:
    """Wrong: each row is scored on the next label and on the one after it, half each."""
    return (_causal_lm(logits, labels) + _mean(logits[:, :-2], labels[:, 2:])) / 2


# --- text: label smoothing of 0.1, softcap of 5 -----------------------------------------------------------------------


def _smoothed(logits: Tensor, labels: Tensor, epsilon: float, share: float, on_target: float) -> Tensor:
    """(1 − ε) · ℓ_y + Σ_j share · ℓ_j + on_target · ℓ_y, as a mean."""
    targets = labels[:, 1:]
    keep = targets != -100
    logp = logits[:, :-1].float().log_softmax(-1)
    own = -logp.gather(-1, targets.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    loss = (1 - epsilon + on_target) * own - share * logp.sum(-1)
    return torch.where(keep, loss, 0.0).sum() / keep.sum()


def smoothing_doubled(logits: Tensor, labels: Tensor) -> Tensor:
    """Wrong: ε = 0.2."""
    return _smoothed(logits, labels, 0.2, 0.2 / logits.shape[-1], 0.0)


def smoothing_too_much_mass(logits: Tensor, labels: Tensor) -> Tensor:
    """Wrong: 1 for the target and ε / V for every class: a mass of 1.1."""
    return _smoothed(logits, labels, 0.1, 0.1 / logits.shape[-1], 0.1)


def smoothing_over_one_less(logits: Tensor, labels: Tensor) -> Tensor:
    """Wrong: ε / (V − 1) for every class, the target too: a mass above 1."""
    return _smoothed(logits, labels, 0.1, 0.1 / (logits.shape[-1] - 1), 0.0)


def _softcapped(logits: Tensor, labels: Tensor, cap: float) -> Tensor:
    return _causal_lm(cap * torch.tanh(logits.float() / cap), labels)


def softcap_twice(logits: Tensor, labels: Tensor) -> Tensor:
    """Wrong: the cap is applied twice."""
    return _softcapped(5.0 * torch.tanh(logits.float() / 5.0), labels, 5.0)


def softcap_halved(logits: Tensor, labels: Tensor) -> Tensor:
    """Wrong: a cap of 2.5."""
    return _softcapped(logits, labels, 2.5)


def softcap_clamps(logits: Tensor, labels: Tensor) -> Tensor:
    """Wrong: logits are cut at ±5 in place of a tanh."""
    return _causal_lm(logits.float().clamp(-5.0, 5.0), labels)


def softcap_left_out(logits: Tensor, labels: Tensor) -> Tensor:
    """Wrong: no cap."""
    return _causal_lm(logits, labels)


# --- codebooks side by side: moss_ttsd [B, S, K], higgs.hf, musicgen --------------------------------------------------


def _by_book(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """moss_ttsd: a mean for each codebook, weighted."""
    losses = [_causal_lm(logits[:, :, book], labels[:, :, book]) for book in range(labels.shape[2])]
    return (torch.stack(losses) * weights).sum() / weights.sum()


def book_1_takes_labels_of_0(logits: Tensor, labels: Tensor, codebook_weights: Tensor) -> Tensor:
    """Wrong: codebook 1 is scored on the labels of codebook 0."""
    if labels.shape[2] > 1:
        labels = torch.cat((labels[:, :, :1], labels[:, :, :1], labels[:, :, 2:]), 2)
    return _by_book(logits, labels, codebook_weights)


def book_1_takes_the_mask_of_0(logits: Tensor, labels: Tensor, codebook_weights: Tensor) -> Tensor:
    """Wrong: codebook 1 is trained only where codebook 0 has a label."""
    labels = labels.clone()
    if labels.shape[2] > 1:
        labels[:, :, 1] = labels[:, :, 1].masked_fill(labels[:, :, 0] == -100, -100)
    return _by_book(logits, labels, codebook_weights)


def weights_reversed(logits: Tensor, labels: Tensor, codebook_weights: Tensor) -> Tensor:
    """Wrong: codebook k has the weight of codebook K − 1 − k."""
    return _by_book(logits, labels, codebook_weights.flip(0))


def book_1_doubled(logits: Tensor, labels: Tensor, codebook_weights: Tensor) -> Tensor:
    """Wrong: codebook 1 counts twice."""
    weights = codebook_weights.clone()
    weights[1:2] *= 2
    losses = [_causal_lm(logits[:, :, book], labels[:, :, book]) for book in range(labels.shape[2])]
    return (torch.stack(losses) * weights).sum() / codebook_weights.sum()


def books_reversed(logits: Tensor, labels: Tensor, codebook_weights: Tensor) -> Tensor:
    """Wrong: codebook k is scored on the labels of codebook K − 1 − k."""
    return _by_book(logits, labels.flip(2), codebook_weights)


def last_book_double_shift(logits: Tensor, labels: Tensor, codebook_weights: Tensor) -> Tensor:
    """Wrong: the last codebook alone is shifted twice."""
    labels = labels.clone()
    labels[:, :-1, -1] = labels[:, 1:, -1].clone()
    labels[:, -1, -1] = -100
    return _by_book(logits, labels, codebook_weights)


def book_1_loses_its_end(logits: Tensor, labels: Tensor, codebook_weights: Tensor) -> Tensor:
    """Wrong: the last position of codebook 1 is not trained."""
    labels = labels.clone()
    labels[:, -1, 1:2] = -100
    return _by_book(logits, labels, codebook_weights)


def musicgen_undelayed(logits: Tensor, labels: Tensor) -> Tensor:
    """Wrong: the labels of codebook k are moved k frames to the left, as if their delay had still to be undone."""
    logits = logits[:, :, logits.shape[2] - labels.shape[1] :].transpose(1, 2)
    moved = torch.full_like(labels, -100)
    for book in range(labels.shape[2]):
        moved[:, : max(labels.shape[1] - book, 0), book] = labels[:, book:, book]
    moved = moved.masked_fill(moved == logits.shape[-1], -100)
    return torch.stack([_mean(logits[:, :, book], moved[:, :, book]) for book in range(labels.shape[2])]).mean()


def musicgen_falling_weights(logits: Tensor, labels: Tensor) -> Tensor:
    """Wrong: codebook k has the weight 1 / (k + 1)."""
    logits = logits[:, :, logits.shape[2] - labels.shape[1] :].transpose(1, 2)
    labels = labels.masked_fill(labels == logits.shape[-1], -100)
    losses = [_mean(logits[:, :, book], labels[:, :, book]) / (book + 1) for book in range(labels.shape[2])]
    return torch.stack(losses).mean()


# --- several streams: higgs.hf, csm -----------------------------------------------------------------------------------


def _audio(audio_logits: Tensor, audio_labels: Tensor, num_items_in_batch: int | None = None) -> Tensor:
    books = range(audio_labels.shape[2])
    return sum(  # type: ignore[return-value]
        (_causal_lm(audio_logits[:, :, book], audio_labels[:, :, book], num_items_in_batch) for book in books),
        start=audio_logits.new_zeros((), dtype=torch.float32),
    )


def text_takes_the_mask_of_audio(
    logits: Tensor,
    labels: Tensor,
    audio_logits: Tensor,
    audio_labels: Tensor,
    num_items_in_batch: int | None = None,
) -> Tensor:
    """Wrong: the text is trained only where codebook 0 of the audio has a label."""
    steps = min(labels.shape[1], audio_labels.shape[1])
    masked = labels.clone()
    masked[:, :steps] = masked[:, :steps].masked_fill(audio_labels[:, :steps, 0] == -100, -100)
    text = _causal_lm(logits, masked, num_items_in_batch)
    return text + _audio(audio_logits, audio_labels, num_items_in_batch)


def text_takes_the_ids_of_audio(
    logits: Tensor,
    labels: Tensor,
    audio_logits: Tensor,
    audio_labels: Tensor,
    num_items_in_batch: int | None = None,
) -> Tensor:
    """Wrong: the text is scored on the labels of codebook 0 of the audio."""
    steps = min(labels.shape[1], audio_labels.shape[1])
    ids = labels.clone()
    ids[:, :steps] = audio_labels[:, :steps, 0].clamp(max=logits.shape[-1] - 1)
    return _causal_lm(logits, ids, num_items_in_batch) + _audio(audio_logits, audio_labels, num_items_in_batch)


def audio_over_the_count_of_text(
    logits: Tensor,
    labels: Tensor,
    audio_logits: Tensor,
    audio_labels: Tensor,
    num_items_in_batch: int | None = None,
) -> Tensor:
    """Wrong: each codebook's sum is divided by the number of text labels."""
    count = int((labels[:, 1:] != -100).sum()) if num_items_in_batch is None else num_items_in_batch
    return _causal_lm(logits, labels, num_items_in_batch) + _audio(audio_logits, audio_labels, count)


def audio_doubled(
    logits: Tensor,
    labels: Tensor,
    audio_logits: Tensor,
    audio_labels: Tensor,
    num_items_in_batch: int | None = None,
) -> Tensor:
    """Wrong: the audio counts twice."""
    audio = _audio(audio_logits, audio_labels, num_items_in_batch)
    return _causal_lm(logits, labels, num_items_in_batch) + 2 * audio


def depth_of_the_frame_before(
    logits: Tensor, labels: Tensor, depth_logits: Tensor, num_items_in_batch: int | None = None
) -> Tensor:
    """Wrong: the depth decoder of frame t is scored on the codes of frame t − 1."""
    before = torch.full_like(labels, -100)
    before[:, 1:] = labels[:, :-1]
    backbone = _causal_lm(logits, labels[..., 0], num_items_in_batch)
    return backbone + _mean(depth_logits, before.flatten(0, 1)[:, 1:], num_items_in_batch)


def depth_head_0_lost(
    logits: Tensor, labels: Tensor, depth_logits: Tensor, num_items_in_batch: int | None = None
) -> Tensor:
    """Wrong: the first head of the depth decoder is not trained, and not counted."""
    codes = labels.flatten(0, 1)[:, 1:].clone()
    codes[:, :1] = -100
    backbone = _causal_lm(logits, labels[..., 0], num_items_in_batch)
    return backbone + _mean(depth_logits, codes, num_items_in_batch)


WRONG: dict[str, tuple[str, str]] = {
    "mean_of_sequence_means": ("hf.causal_lm", "row-mean"),
    "temperature": ("hf.causal_lm", "logit_scale is 1.05, not 1"),
    "log_2_too_high": ("hf.causal_lm", "0.693147 = log 2 too high"),
    "gradient_doubled": ("hf.causal_lm", "the gradient is 2 times"),
    "one_pad_trained": ("hf.causal_lm", "ignored label.* class 0"),
    "first_pair_lost": ("hf.causal_lm", "the label of the first position is left out"),
    "last_pair_lost": ("hf.causal_lm", "last label of each row"),
    "late_tokens_weigh_more": ("hf.causal_lm", "weights of right pairs are off: from 1.* to 1.* times"),
    "one_more_in_the_count": ("hf.causal_lm", r"divided by 1 more"),
    "mean_over_the_count_again": ("hf.causal_lm", "divided once more by the labels that count"),
    "last_row_lost": ("hf.causal_lm", "last row"),
    "rows_reversed": ("hf.causal_lm", "to another row"),
    "half_a_loss": ("hf.causal_lm", "double-divide"),
    "both_shifts": ("hf.causal_lm", r"scored on the labels at \+1 too"),
    "smoothing_doubled": ("smoothing", "label_smoothing is 0.2, not 0.1"),
    "smoothing_too_much_mass": ("smoothing", "mass"),
    "smoothing_over_one_less": ("smoothing", "mass"),
    "softcap_twice": ("softcap", "softcap is applied twice"),
    "softcap_halved": ("softcap", "softcap is 2.5, not 5"),
    "softcap_clamps": ("softcap", "logits are cut at ±5"),
    "softcap_left_out": ("softcap", "softcap-unused"),
    "book_1_takes_labels_of_0": ("moss_ttsd", "codebook 1: takes the labels of codebook 0"),
    "book_1_takes_the_mask_of_0": ("moss_ttsd", "codebook 1: takes the mask of codebook 0"),
    "weights_reversed": ("moss_ttsd", "has the weight of the codebooks in reverse order"),
    "book_1_doubled": ("moss_ttsd", "codebook 1: has 2 times its weight"),
    "books_reversed": ("moss_ttsd", "codebooks in reverse order"),
    "last_book_double_shift": ("moss_ttsd", r"the last codebook: takes the labels at \+1"),
    "book_1_loses_its_end": ("moss_ttsd", "codebook 1: the last label"),
    "musicgen_undelayed": ("musicgen", "delay-off-by-one"),
    "musicgen_falling_weights": ("musicgen", "codebook 1: has 0.5 times its weight"),
    "text_takes_the_mask_of_audio": ("higgs.hf", "logits: takes the mask of codebook 0 of audio_labels"),
    "text_takes_the_ids_of_audio": ("higgs.hf", "logits: (mostly )?takes the labels of codebook 0 of audio_labels"),
    "audio_over_the_count_of_text": ("higgs.hf", "term-denominator|audio_logits .* count of labels"),
    "audio_doubled": ("higgs.hf", "term-weight"),
    "depth_of_the_frame_before": ("csm", "of depth_logits: takes the labels at -1"),
    "depth_head_0_lost": ("csm", "codebook-missing"),
}
"""Wrong loss -> the profile that it breaks, and what the report tells, as a regular expression."""
