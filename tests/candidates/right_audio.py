"""Losses of speech models, and of models that predict several tokens ahead, that are right.

For most profiles there are two that share no arithmetic: one calls F.cross_entropy book by book or head by head, as the
trainers do; the other scores everything at once with `_nll` below and sums up afterwards. All score in float32 whatever
the logits' dtype, read nothing of an ignored row, and give it a gradient of exactly 0. RIGHT, at the end, says which
profile each follows.

B rows, S positions, N = B·S frames (or all segments, concatenated), K codebooks, D heads, V classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

DEPTH_WEIGHT = 0.3  # Qwen3-TTS fine-tuning: talker + 0.3 · sub-talker
MTP_WEIGHT = 0.1  # Megatron-LM's and MaxText's mtp_loss_scaling_factor, as they ship
TORCHTITAN_MTP_WEIGHT = 0.3


def _nll(scores: Tensor, targets: Tensor, keep: Tensor) -> Tensor:
    """logsumexp(z) − z_y for [..., V] scores, and 0 where `keep` is false, whatever lies there.

    The maximum goes first: at z ≈ 1e4 a float32 logsumexp(z) has only three decimals left to subtract z_y from.
    """
    scores = torch.where(keep.unsqueeze(-1), scores.float(), 0.0)
    scores = scores - scores.detach().amax(-1, keepdim=True)
    own = scores.gather(-1, torch.where(keep, targets, 0).unsqueeze(-1)).squeeze(-1)
    return torch.where(keep, scores.logsumexp(-1) - own, 0.0)


def _mean(scores: Tensor, targets: Tensor, num_items_in_batch: int | None = None) -> Tensor:
    """The mean over the targets that are not −100, NaN when there is none; Σ / num_items_in_batch when given."""
    scores, targets = scores.float().reshape(-1, scores.shape[-1]), targets.reshape(-1)
    if num_items_in_batch is None:
        return F.cross_entropy(scores, targets)
    return F.cross_entropy(scores, targets, reduction="sum") / num_items_in_batch


def _causal_lm(logits: Tensor, labels: Tensor, num_items_in_batch: int | None = None) -> Tensor:
    """k=1 over [B, S, V] and [B, S]."""
    return _mean(logits[:, :-1], labels[:, 1:], num_items_in_batch)


def _summed_causal_lm(logits: Tensor, labels: Tensor, num_items_in_batch: int | None = None) -> Tensor:
    """The same by the other road, and [K] losses for [B, S, K, V] and [B, S, K]."""
    targets = labels[:, 1:]
    keep = targets != -100
    totals = _nll(logits[:, :-1], targets, keep).sum((0, 1))
    return totals / (keep.sum((0, 1)) if num_items_in_batch is None else num_items_in_batch)


# --- higgs.hf: logits [B, S, V], labels [B, S], audio_logits [B, S, K, V], audio_labels [B, S, K] ---------------------


def higgs_hf_loop(
    logits: Tensor,
    labels: Tensor,
    audio_logits: Tensor,
    audio_labels: Tensor,
    num_items_in_batch: int | None = None,
) -> Tensor:
    """One causal loss a codebook, and one for the text, all added."""
    loss = _causal_lm(logits, labels, num_items_in_batch)
    for book in range(audio_labels.shape[2]):
        loss = loss + _causal_lm(audio_logits[:, :, book], audio_labels[:, :, book], num_items_in_batch)
    return loss


def higgs_hf_vectorised(
    logits: Tensor,
    labels: Tensor,
    audio_logits: Tensor,
    audio_labels: Tensor,
    num_items_in_batch: int | None = None,
) -> Tensor:
    """Every codebook's sum and count at once; an empty book is 0/0 = NaN, unless a count is given."""
    text = _summed_causal_lm(logits, labels, num_items_in_batch)
    return text + _summed_causal_lm(audio_logits, audio_labels, num_items_in_batch).sum()


# --- higgs.boson, higgs.mean_nonempty: audio_logits [N, K, V], audio_labels [K, N] ------------------------------------


def higgs_boson_flat(logits: Tensor, labels: Tensor, audio_logits: Tensor, audio_labels: Tensor) -> Tensor:
    """Text mean, and one mean over all codes, 0 without any. The first label of every segment is −100, so that a flat
    shift is safe."""
    codes = audio_labels[:, 1:].transpose(0, 1)
    audio = _mean(audio_logits[:-1], codes, num_items_in_batch=max(int((codes != -100).sum()), 1))
    return _causal_lm(logits, labels) + audio


def higgs_boson_loop(logits: Tensor, labels: Tensor, audio_logits: Tensor, audio_labels: Tensor) -> Tensor:
    """Codebook by codebook, only the logits that have a code; the log-probabilities are averaged together."""
    nll = [logits[:0].float().reshape(-1)]
    for book, codes in enumerate(audio_labels[:, 1:]):
        keep = codes != -100
        logp = audio_logits[:-1, book][keep].float().log_softmax(-1)
        nll.append(-logp.gather(1, codes[keep].unsqueeze(1)).squeeze(1))
    spoken = torch.cat(nll)
    return _summed_causal_lm(logits, labels) + (spoken.mean() if len(spoken) else spoken.sum())


def higgs_mean_nonempty_loop(logits: Tensor, labels: Tensor, audio_logits: Tensor, audio_labels: Tensor) -> Tensor:
    """Each codebook that has something to learn from gives one mean; those are averaged."""
    text = _causal_lm(logits, labels)
    means = []
    for book, codes in enumerate(audio_labels):
        if bool((codes[1:] != -100).any()):
            means.append(F.cross_entropy(audio_logits[:-1, book].float(), codes[1:]))
    return text + (torch.stack(means).mean() if means else audio_logits[:0].float().sum())


def higgs_mean_nonempty_vectorised(
    logits: Tensor, labels: Tensor, audio_logits: Tensor, audio_labels: Tensor
) -> Tensor:
    """Sums and counts of all codebooks at once; both divisors are kept from 0, where the sums are 0 too."""
    targets = audio_labels[:, 1:].T
    keep = targets != -100
    totals, counts = _nll(audio_logits[:-1], targets, keep).sum(0), keep.sum(0)
    audio = (totals / counts.clamp(min=1)).sum() / (counts > 0).sum().clamp(min=1)
    return _summed_causal_lm(logits, labels) + audio


# --- csm, qwen3_tts: logits [B, S, V], labels [B, S, K], depth_logits [B·S, K−1, V] -----------------------------------


def csm_flat(logits: Tensor, labels: Tensor, depth_logits: Tensor, num_items_in_batch: int | None = None) -> Tensor:
    """The backbone predicts the next frame's first code; head j predicts code j+1 of its own frame."""
    backbone = _causal_lm(logits, labels[..., 0], num_items_in_batch)
    return backbone + _mean(depth_logits, labels[..., 1:], num_items_in_batch)


def csm_trained_frames(
    logits: Tensor, labels: Tensor, depth_logits: Tensor, num_items_in_batch: int | None = None
) -> Tensor:
    """Only the frames with a code to learn go to the depth decoder, as in transformers; then head by head."""
    frames = labels.flatten(0, 1)[:, 1:]
    trained = (frames != -100).any(dim=1)
    heads, frames = depth_logits[trained], frames[trained]
    total = depth_logits[:0].float().sum()
    for head in range(frames.shape[1]):
        total = total + F.cross_entropy(heads[:, head].float(), frames[:, head], reduction="sum")
    depth = total / ((frames != -100).sum() if num_items_in_batch is None else num_items_in_batch)
    return _summed_causal_lm(logits, labels[:, :, 0], num_items_in_batch) + depth


def qwen3_tts_weighted_depth(logits: Tensor, labels: Tensor, depth_logits: Tensor) -> Tensor:
    """As csm, with the depth decoder's part at 0.3."""
    talker = _causal_lm(logits, labels.select(2, 0))
    targets = labels.narrow(2, 1, labels.shape[2] - 1).reshape(-1)
    sub_talker = F.cross_entropy(depth_logits.reshape(len(targets), depth_logits.shape[-1]).float(), targets)
    return talker + DEPTH_WEIGHT * sub_talker


def qwen3_tts_summed(logits: Tensor, labels: Tensor, depth_logits: Tensor) -> Tensor:
    """The same in one pass over all heads."""
    targets = labels.flatten(0, 1)[:, 1:]
    keep = targets != -100
    depth = _nll(depth_logits, targets, keep).sum() / keep.sum()
    return _summed_causal_lm(logits, labels[..., 0]) + DEPTH_WEIGHT * depth


# --- moshi: logits [B, S, V], labels [B, S], audio_logits [N, K, V], audio_labels [N, K] ------------------------------


def moshi_flat(
    logits: Tensor,
    labels: Tensor,
    audio_logits: Tensor,
    audio_labels: Tensor,
    num_items_in_batch: int | None = None,
) -> Tensor:
    """The id one past the last code marks what is not there: it becomes −100. One mean over all codes, k=0.

    A count that is given is the text's alone.
    """
    targets = audio_labels.masked_fill(audio_labels == audio_logits.shape[-1], -100)
    return _causal_lm(logits, labels, num_items_in_batch) + _mean(audio_logits, targets)


def moshi_books(
    logits: Tensor,
    labels: Tensor,
    audio_logits: Tensor,
    audio_labels: Tensor,
    num_items_in_batch: int | None = None,
) -> Tensor:
    """Codebook by codebook, only the rows whose label is a code; one division at the end."""
    total, count = audio_logits[:0].float().sum(), 0
    for scores, codes in zip(audio_logits.unbind(1), audio_labels.unbind(1), strict=True):
        codes_only = (codes >= 0) & (codes < audio_logits.shape[-1])
        logp = scores[codes_only].float().log_softmax(-1)
        total = total - logp.gather(1, codes[codes_only].unsqueeze(1)).sum()
        count += int(codes_only.sum())
    text = _summed_causal_lm(logits, labels, num_items_in_batch)
    return text + total / torch.tensor(count, device=total.device)


# --- moshi.finetune: token_weights [B, S], audio_logits [B, K, S, V], audio_labels [B, K, S], codebook_weights [K] ----


def moshi_finetune_streams(
    logits: Tensor,
    labels: Tensor,
    token_weights: Tensor,
    audio_logits: Tensor,
    audio_labels: Tensor,
    codebook_weights: Tensor,
) -> Tensor:
    """Labels were shifted by the data. A stream is Σ w·ℓ / Σ w over its labels; w is a token's or a codebook's."""
    loss = torch.zeros((), device=logits.device)
    weights = codebook_weights[None, :, None].expand(audio_labels.shape)
    for scores, targets, weight in ((logits, labels, token_weights), (audio_logits, audio_labels, weights)):
        keep = targets != -100
        losses = F.cross_entropy(scores[keep].float(), targets[keep], reduction="none")
        loss = loss + (losses * weight[keep]).sum() / weight[keep].sum()
    return loss


def moshi_finetune_totals(
    logits: Tensor,
    labels: Tensor,
    token_weights: Tensor,
    audio_logits: Tensor,
    audio_labels: Tensor,
    codebook_weights: Tensor,
) -> Tensor:
    """One sum and one count for each codebook; the weights meet those."""
    keep, heard = labels != -100, audio_labels != -100
    text = (_nll(logits, labels, keep) * token_weights).sum() / token_weights.masked_fill(~keep, 0.0).sum()
    totals = _nll(audio_logits, audio_labels, heard).sum((0, 2))
    return text + (totals * codebook_weights).sum() / (heard.sum((0, 2)) * codebook_weights).sum()


# --- musicgen: logits [B, K, P+S, V], labels [B, S, K] ----------------------------------------------------------------


def musicgen_loop(logits: Tensor, labels: Tensor) -> Tensor:
    """The last S logits, aligned; −100 and the id V are no codes. The mean of K means, NaN if one is empty."""
    books, classes = labels.shape[2], logits.shape[-1]
    logits = logits[:, :, logits.shape[2] - labels.shape[1] :]
    loss = torch.zeros((), device=logits.device)
    for book in range(books):
        targets = labels[:, :, book].masked_fill(labels[:, :, book] == classes, -100)
        loss = loss + F.cross_entropy(logits[:, book].float().flatten(0, 1), targets.flatten())
    return loss / books


def musicgen_vectorised(logits: Tensor, labels: Tensor) -> Tensor:
    """All codebooks at once, the codebook axis put where the labels have it."""
    scores = logits.narrow(2, logits.shape[2] - labels.shape[1], labels.shape[1]).permute(0, 2, 1, 3)
    keep = (labels != -100) & (labels != logits.shape[-1])
    return (_nll(scores, labels, keep).sum((0, 1)) / keep.sum((0, 1))).mean()


# --- parler: logits [B, K, S, V], labels [B, S, K], input_ids [B, S, K], codebook_weights [K] -------------------------


def parler_loop(
    logits: Tensor,
    labels: Tensor,
    input_ids: Tensor,
    codebook_weights: Tensor,
    eos_token_id: int,
    bos_token_id: int,
) -> Tensor:
    """What follows an eos at the input is padding, and bos is never a target; a weighted mean of the books' means."""
    logits = logits[:, :, logits.shape[2] - labels.shape[1] :]
    trained = (input_ids != eos_token_id) & (labels != -100) & (labels != bos_token_id)
    loss = torch.zeros((), device=logits.device)
    for book, weight in enumerate(codebook_weights):
        mask = trained[:, :, book]
        loss = loss + weight * F.cross_entropy(logits[:, book][mask].float(), labels[:, :, book][mask])
    return loss / codebook_weights.sum()


def parler_vectorised(
    logits: Tensor,
    labels: Tensor,
    input_ids: Tensor,
    codebook_weights: Tensor,
    eos_token_id: int,
    bos_token_id: int,
) -> Tensor:
    """The same mask, all books at once."""
    keep = ~((input_ids == eos_token_id) | (labels == -100) | (labels == bos_token_id))
    scores = logits[:, :, logits.shape[2] - labels.shape[1] :].transpose(1, 2)
    means = _nll(scores, labels, keep).sum((0, 1)) / keep.sum((0, 1))
    return means @ (codebook_weights / codebook_weights.sum())


# --- dia: logits [B·K, S, V], labels [B·K, S] -------------------------------------------------------------------------


def dia_flat(logits: Tensor, labels: Tensor, num_items_in_batch: int | None = None) -> Tensor:
    """Every codebook is a row of its own; aligned, one mean over all."""
    return _mean(logits, labels, num_items_in_batch)


def dia_rows(logits: Tensor, labels: Tensor, num_items_in_batch: int | None = None) -> Tensor:
    """The rows that are trained picked first, and log-probabilities gathered."""
    keep = labels != -100
    logp = logits[keep].float().log_softmax(-1)
    total = -logp.gather(1, labels[keep].unsqueeze(1)).sum()
    return total / (keep.sum() if num_items_in_batch is None else num_items_in_batch)


# --- moss_ttsd: logits [B, S, K, V], labels [B, S, K], codebook_weights [K] -------------------------------------------


def moss_ttsd_loop(logits: Tensor, labels: Tensor, codebook_weights: Tensor) -> Tensor:
    """One causal loss a channel, weighted, the weights scaled to sum to 1."""
    shares = codebook_weights / codebook_weights.sum()
    losses = [_causal_lm(logits[:, :, channel], labels[:, :, channel]) for channel in range(labels.shape[2])]
    return (torch.stack(losses) * shares).sum()


def moss_ttsd_vectorised(logits: Tensor, labels: Tensor, codebook_weights: Tensor) -> Tensor:
    """All channels at once."""
    losses = _summed_causal_lm(logits, labels)
    return torch.dot(losses, codebook_weights) / codebook_weights.sum()


# --- several tokens ahead: mtp_logits [D, B, S, V], labels [B, S] -----------------------------------------------------


def _rolled(tensor: Tensor, steps: int, fill: int) -> Tensor:
    """Moved left by `steps` along the positions, the vacated tail filled."""
    length = tensor.shape[1]
    steps = min(steps, length)
    return F.pad(tensor[:, steps:], (0, steps), value=fill)


def megatron_mtp_heads(mtp_logits: Tensor, labels: Tensor, loss_mask: Tensor) -> Tensor:
    """Labels and mask roll left by one more for each head, zeros coming in; every head has its own mean."""
    loss = torch.zeros((), device=mtp_logits.device)
    mask = loss_mask.long()
    for scores in mtp_logits:
        labels, mask = _rolled(labels, 1, 0), _rolled(mask, 1, 0)
        trained = mask != 0
        losses = F.cross_entropy(scores[trained].float(), labels[trained], reduction="none")
        loss = loss + losses.sum() / trained.sum() * MTP_WEIGHT / len(mtp_logits)
    return loss


def megatron_mtp_stacked(mtp_logits: Tensor, labels: Tensor, loss_mask: Tensor) -> Tensor:
    """The rolled labels of all heads stacked [D, B, S], then one pass."""
    ahead = range(1, len(mtp_logits) + 1)
    targets = torch.stack([_rolled(labels, steps, 0) for steps in ahead])
    keep = torch.stack([_rolled(loss_mask.long(), steps, 0) for steps in ahead]).bool()
    means = _nll(mtp_logits, targets, keep).sum((1, 2)) / keep.sum((1, 2))
    return MTP_WEIGHT * means.mean()


def megatron_mtp_packed(mtp_logits: Tensor, labels: Tensor, loss_mask: Tensor, cu_seqlens: Tensor) -> Tensor:
    """As above, with the mask cleared of every label whose token is another document's."""
    lengths = cu_seqlens.diff()
    document = torch.arange(len(lengths), device=labels.device).repeat_interleave(lengths).view_as(labels)
    means = []
    for head, scores in enumerate(mtp_logits, start=1):
        # A label is the token after its column's; that of a row's last column is the row's own.
        of_token = torch.cat([document, document[:, -1:].expand(-1, head + 1)], 1)[:, head + 1 :]
        keep = (_rolled(loss_mask.long(), head, 0) != 0) & (of_token == document)
        means.append(_nll(scores, _rolled(labels, head, 0), keep).sum() / keep.sum())
    return MTP_WEIGHT * torch.stack(means).mean()


def torchtitan_mtp(logits: Tensor, mtp_logits: Tensor, labels: Tensor, num_items_in_batch: int) -> Tensor:
    """(Σ main + 0.3 · the mean of the heads' sums) / the count that the trainer gives."""
    total = F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="sum")
    for head, scores in enumerate(mtp_logits):
        targets = _rolled(labels, head + 1, -100)
        of_head = F.cross_entropy(scores.float().flatten(0, 1), targets.flatten(), reduction="sum")
        total = total + TORCHTITAN_MTP_WEIGHT * of_head / len(mtp_logits)
    return total / num_items_in_batch


def maxtext_mtp(mtp_logits: Tensor, labels: Tensor, loss_mask: Tensor) -> Tensor:
    """The sums of all heads over the counts of all heads: a head with fewer targets counts for less."""
    total = mtp_logits[:0].float().sum()
    count = torch.zeros((), device=mtp_logits.device)
    for head, scores in enumerate(mtp_logits, start=1):
        keep = _rolled(loss_mask.long(), head, 0) != 0
        total = total + _nll(scores, _rolled(labels, head, 0), keep).sum()
        count = count + keep.sum()
    return MTP_WEIGHT * total / (count + 1e-8)


def medusa_trimmed(mtp_logits: Tensor, labels: Tensor) -> Tensor:
    """Head i, i = 0, 1, …, predicts the token at t+2+i; its last 2+i logits have no target. The heads' means add up."""
    loss = torch.zeros((), device=mtp_logits.device)
    for head, scores in enumerate(mtp_logits):
        targets = labels[:, 2 + head :]
        loss = loss + _mean(scores[:, : targets.shape[1]], targets)
    return loss


def medusa_padded(medusa_logits: Tensor, labels: Tensor) -> Tensor:
    """Under Medusa's own name for the logits, with the labels padded instead of the logits cut."""
    targets = torch.stack([_rolled(labels, 2 + head, -100) for head in range(len(medusa_logits))])
    keep = targets != -100
    return (_nll(medusa_logits, targets, keep).sum((1, 2)) / keep.sum((1, 2))).sum()


RIGHT = {
    "higgs_hf_loop": "higgs.hf",
    "higgs_hf_vectorised": "higgs.hf",
    "higgs_boson_flat": "higgs.boson",
    "higgs_boson_loop": "higgs.boson",
    "higgs_mean_nonempty_loop": "higgs.mean_nonempty",
    "higgs_mean_nonempty_vectorised": "higgs.mean_nonempty",
    "csm_flat": "csm",
    "csm_trained_frames": "csm",
    "qwen3_tts_weighted_depth": "qwen3_tts",
    "qwen3_tts_summed": "qwen3_tts",
    "moshi_flat": "moshi",
    "moshi_books": "moshi",
    "moshi_finetune_streams": "moshi.finetune",
    "moshi_finetune_totals": "moshi.finetune",
    "musicgen_loop": "musicgen",
    "musicgen_vectorised": "musicgen",
    "parler_loop": "parler",
    "parler_vectorised": "parler",
    "dia_flat": "dia",
    "dia_rows": "dia",
    "moss_ttsd_loop": "moss_ttsd",
    "moss_ttsd_vectorised": "moss_ttsd",
    "megatron_mtp_heads": "megatron.mtp",
    "megatron_mtp_stacked": "megatron.mtp",
    "megatron_mtp_packed": "megatron.mtp.packed",
    "torchtitan_mtp": "torchtitan.mtp",
    "maxtext_mtp": "maxtext.mtp",
    "medusa_trimmed": "medusa",
    "medusa_padded": "medusa",
}
