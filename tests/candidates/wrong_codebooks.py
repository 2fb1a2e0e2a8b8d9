"""Losses of several codebooks, heads or terms that are wrong, and scores that are. Each re-enacts a bug.

The arguments are laid out as the profile lays them out; WRONG, at the end, says which profile each one breaks, and what
the bug is called. z = logits, y = labels; B rows, S positions, N frames, K codebooks, D heads, V classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def _mean(logits: Tensor, targets: Tensor, num_items_in_batch: int | None = None) -> Tensor:
    """The mean over the targets that are not −100, or Σ / num_items_in_batch when it is given."""
    if num_items_in_batch is not None:
        return _sum(logits, targets) / num_items_in_batch
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]).float(), targets.reshape(-1), ignore_index=-100)


def _sum(logits: Tensor, targets: Tensor) -> Tensor:
    scores = logits.reshape(-1, logits.shape[-1]).float()
    return F.cross_entropy(scores, targets.reshape(-1), ignore_index=-100, reduction="sum")


def _causal_lm(logits: Tensor, labels: Tensor, num_items_in_batch: int | None = None) -> Tensor:
    """k=1 over [B, S, V] and [B, S]."""
    return _mean(logits[:, :-1], labels[:, 1:], num_items_in_batch)


def _mean_or_zero(logits: Tensor, targets: Tensor) -> Tensor:
    """The mean, and 0 when there is no target."""
    return _sum(logits, targets) / (targets != -100).sum().clamp(min=1)


def _books(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Σ ℓ and the number of targets of every codebook, both [K], for [N, K, V] and [N, K]."""
    totals = [_sum(logits[:, book], targets[:, book]) for book in range(targets.shape[1])]
    return torch.stack(totals), (targets != -100).sum(0)


def _text_last(logits: Tensor, labels: Tensor) -> Tensor:
    """MusicGen's and Parler's logits [B, K, P+S, V] as [B, S, K, V]: without their prefix, and as the labels lie."""
    return logits[:, :, logits.shape[2] - labels.shape[1] :].transpose(1, 2)


# --- alignment: along the codebooks -----------------------------------------------------------------------------------


def qwen3_tts_codebook_axis_shift(logits: Tensor, labels: Tensor, depth_logits: Tensor) -> Tensor:
    """Wrong: the codes after the first are handed to a loss that shifts: head j is scored on code j+2, not j+1.

    Right: head j on code j+1. Seen: Qwen3-TTS fine-tuning's sub-talker. At K = 2 nothing is left to score.
    """
    codes = labels.flatten(0, 1)[:, 1:]
    return _causal_lm(logits, labels[..., 0]) + 0.3 * _causal_lm(depth_logits, codes)


def csm_codebook_axis_no_shift(
    logits: Tensor, labels: Tensor, depth_logits: Tensor, num_items_in_batch: int | None = None
) -> Tensor:
    """Wrong: head j is scored on code j, which it was given.

    Right: head j on code j+1.
    """
    codes = labels.flatten(0, 1)[:, :-1]
    backbone = _causal_lm(logits, labels[..., 0], num_items_in_batch)
    return backbone + _mean(depth_logits, codes, num_items_in_batch)


def moss_ttsd_codebook_axis_shift(logits: Tensor, labels: Tensor, codebook_weights: Tensor) -> Tensor:
    """Wrong: channel k is scored on channel k+1's codes, and the last on the first's.

    Right: channel k on channel k.
    """
    labels = labels.roll(-1, dims=2)
    losses = [_causal_lm(logits[:, :, book], labels[:, :, book]) for book in range(labels.shape[2])]
    return (torch.stack(losses) * codebook_weights).sum() / codebook_weights.sum()


def musicgen_codebook_axis_shift(logits: Tensor, labels: Tensor) -> Tensor:
    """Wrong: `[..., 1:]` cuts the codebooks, not the positions: codebook k is scored on codebook k+1's codes.

    Right: codebook k on its own codes.
    """
    scores = _text_last(logits, labels)[:, :, :-1].flatten(0, 1)
    codes = labels[..., 1:].flatten(0, 1)
    codes = codes.masked_fill(codes == logits.shape[-1], -100)
    return torch.stack([_mean(scores[:, book], codes[:, book]) for book in range(codes.shape[1])]).mean()


def higgs_hf_codebook_axis_shift(
    logits: Tensor,
    labels: Tensor,
    audio_logits: Tensor,
    audio_labels: Tensor,
    num_items_in_batch: int | None = None,
) -> Tensor:
    """Wrong: the heads are matched with the codebooks from the second on, so that the first is never trained.

    Right: Σ_k causal_lm(codebook k) + causal_lm(text).
    """
    loss = _causal_lm(logits, labels, num_items_in_batch)
    for head, codes in zip(audio_logits.unbind(2), audio_labels.unbind(2)[1:], strict=False):
        loss = loss + _causal_lm(head, codes, num_items_in_batch)
    return loss


# --- alignment: along time --------------------------------------------------------------------------------------------


def _later(labels: Tensor, frames: int) -> Tensor:
    """Labels [N, K] of which every codebook but the first stands `frames` later (or, negative, earlier)."""
    moved = torch.full_like(labels, -100)
    length = labels.shape[0]
    moved[:, 0] = labels[:, 0]
    if frames > 0:
        moved[frames:, 1:] = labels[: max(length - frames, 0), 1:]
    else:
        moved[: max(length + frames, 0), 1:] = labels[-frames:, 1:]
    return moved


def musicgen_delay_late(logits: Tensor, labels: Tensor) -> Tensor:
    """Wrong: the delay pattern is undone one frame short, so that every codebook but the first is scored a frame late.

    Right: y_t of each codebook at z_t.
    """
    moved = torch.stack([_later(row, 1) for row in labels]) if len(labels) else labels
    codes = moved.masked_fill(moved == logits.shape[-1], -100).flatten(0, 1)
    totals, counts = _books(_text_last(logits, labels).flatten(0, 1), codes)
    return (totals / counts).mean()


def higgs_mean_nonempty_delay_early(
    logits: Tensor, labels: Tensor, audio_logits: Tensor, audio_labels: Tensor
) -> Tensor:
    """Wrong: every codebook but the first is scored on the code one frame further on, y_{t+2}.

    Right: y_{t+1} in every codebook.
    """
    codes = _later(audio_labels.T, -1)
    totals, counts = _books(audio_logits[:-1], codes[1:])
    audio = (totals / counts.clamp(min=1)).sum() / (counts > 0).sum().clamp(min=1)
    return _causal_lm(logits, labels) + audio


def parler_delay_early(
    logits: Tensor,
    labels: Tensor,
    input_ids: Tensor,
    codebook_weights: Tensor,
    eos_token_id: int,
    bos_token_id: int,
) -> Tensor:
    """Wrong: labels were built with one BOS column too few, so that every codebook but the first is a frame early.

    Right: y_t of each codebook at z_t.
    """
    kept = labels.masked_fill((input_ids == eos_token_id) | (labels == bos_token_id), -100)
    moved = torch.stack([_later(row, -1) for row in kept]) if len(kept) else kept
    totals, counts = _books(_text_last(logits, labels).flatten(0, 1), moved.flatten(0, 1))
    return (totals / counts * codebook_weights).sum() / codebook_weights.sum()


def moss_ttsd_delay_late(logits: Tensor, labels: Tensor, codebook_weights: Tensor) -> Tensor:
    """Wrong: the loss shifts the first channel alone; the others, delayed by one, are taken to be shifted already.

    Right: y_{t+1} in every channel.
    """
    loss = codebook_weights[0] * _causal_lm(logits[:, :, 0], labels[:, :, 0])
    for book in range(1, labels.shape[2]):
        loss = loss + codebook_weights[book] * _mean(logits[:, :, book], labels[:, :, book])
    return loss / codebook_weights.sum()


def higgs_hf_audio_no_shift(
    logits: Tensor,
    labels: Tensor,
    audio_logits: Tensor,
    audio_labels: Tensor,
    num_items_in_batch: int | None = None,
) -> Tensor:
    """Wrong: the text is shifted and the audio is not: it learns to repeat its own input.

    Right: k=1 in both. Seen: a public Higgs-audio trainer.
    """
    loss = _causal_lm(logits, labels, num_items_in_batch)
    for book in range(audio_labels.shape[2]):
        scores, codes = audio_logits[:, :, book], audio_labels[:, :, book]
        loss = loss + _mean(scores, codes, num_items_in_batch)
    return loss


def higgs_boson_audio_no_shift(logits: Tensor, labels: Tensor, audio_logits: Tensor, audio_labels: Tensor) -> Tensor:
    """Wrong: as above, on concatenated segments.

    Right: k=1 in both.
    """
    return _causal_lm(logits, labels) + _mean_or_zero(audio_logits, audio_labels.T)


def higgs_boson_audio_double_shift(
    logits: Tensor, labels: Tensor, audio_logits: Tensor, audio_labels: Tensor
) -> Tensor:
    """Wrong: the text is right, and the audio codes, cut by the trainer, are cut again by the loss: y_{t+2}.

    Right: k=1 in both.
    """
    audio_logits, audio_labels = audio_logits[:-1], audio_labels[:, 1:]  # the trainer
    return _causal_lm(logits, labels) + _mean_or_zero(audio_logits[:-1], audio_labels[:, 1:].T)  # the loss


def higgs_mean_nonempty_audio_double_shift(
    logits: Tensor, labels: Tensor, audio_logits: Tensor, audio_labels: Tensor
) -> Tensor:
    """Wrong: the same where the codebooks' means are averaged.

    Right: k=1 in both.
    """
    totals, counts = _books(audio_logits[:-2], audio_labels[:, 2:].T)
    audio = (totals / counts.clamp(min=1)).sum() / (counts > 0).sum().clamp(min=1)
    return _causal_lm(logits, labels) + audio


def higgs_hf_audio_double_shift(
    logits: Tensor,
    labels: Tensor,
    audio_logits: Tensor,
    audio_labels: Tensor,
    num_items_in_batch: int | None = None,
) -> Tensor:
    """Wrong: each codebook is sliced before it goes to the causal loss, which slices too.

    Right: k=1 in both.
    """
    loss = _causal_lm(logits, labels, num_items_in_batch)
    for book in range(audio_labels.shape[2]):
        scores, codes = audio_logits[:, :-1, book], audio_labels[:, 1:, book]
        loss = loss + _causal_lm(scores, codes, num_items_in_batch)
    return loss


def moshi_audio_aligned_shift(
    logits: Tensor,
    labels: Tensor,
    audio_logits: Tensor,
    audio_labels: Tensor,
    num_items_in_batch: int | None = None,
) -> Tensor:
    """Wrong: the audio stream is shifted like the text, though its inputs were shifted already.

    Right: text k=1, audio k=0.
    """
    codes = audio_labels.masked_fill(audio_labels == audio_logits.shape[-1], -100)
    return _causal_lm(logits, labels, num_items_in_batch) + _mean(audio_logits[:-1], codes[1:])


def moshi_text_no_shift(
    logits: Tensor,
    labels: Tensor,
    audio_logits: Tensor,
    audio_labels: Tensor,
    num_items_in_batch: int | None = None,
) -> Tensor:
    """Wrong: the text stream is aligned like the audio.

    Right: text k=1, audio k=0.
    """
    codes = audio_labels.masked_fill(audio_labels == audio_logits.shape[-1], -100)
    return _mean(logits, labels, num_items_in_batch) + _mean(audio_logits, codes)


def dia_aligned_shift(logits: Tensor, labels: Tensor, num_items_in_batch: int | None = None) -> Tensor:
    """Wrong: shifted once more, though the decoder's inputs are the labels moved right.

    Right: k=0.
    """
    return _causal_lm(logits, labels, num_items_in_batch)


def musicgen_prefix_slice(logits: Tensor, labels: Tensor) -> Tensor:
    """Wrong: the first S logits, where the prompt's come first. Invisible without a prefix.

    Right: the last S logits.
    """
    codes = labels.masked_fill(labels == logits.shape[-1], -100).flatten(0, 1)
    totals, counts = _books(logits[:, :, : labels.shape[1]].transpose(1, 2).flatten(0, 1), codes)
    return (totals / counts).mean()


def csm_backbone_no_shift(
    logits: Tensor, labels: Tensor, depth_logits: Tensor, num_items_in_batch: int | None = None
) -> Tensor:
    """Wrong: the backbone predicts the first code of its own frame.

    Right: of the next frame.
    """
    backbone = _mean(logits, labels[..., 0], num_items_in_batch)
    return backbone + _mean(depth_logits, labels[..., 1:], num_items_in_batch)


# --- alignment: flattening and layouts --------------------------------------------------------------------------------


def higgs_hf_flatten_then_shift(
    logits: Tensor,
    labels: Tensor,
    audio_logits: Tensor,
    audio_labels: Tensor,
    num_items_in_batch: int | None = None,
) -> Tensor:
    """Wrong: each codebook is flattened to B·S and then shifted: a row's last logit predicts the next row's first code.

    Right: shift within each row. Invisible with one row, or where the rows' first codes are ignored.
    """
    loss = _causal_lm(logits, labels, num_items_in_batch)
    for book in range(audio_labels.shape[2]):
        scores = audio_logits[:, :, book].flatten(0, 1)
        codes = audio_labels[:, :, book].flatten()
        loss = loss + _causal_lm(scores.unsqueeze(0), codes.unsqueeze(0), num_items_in_batch)
    return loss


def higgs_hf_codebook_leak(
    logits: Tensor,
    labels: Tensor,
    audio_logits: Tensor,
    audio_labels: Tensor,
    num_items_in_batch: int | None = None,
) -> Tensor:
    """Wrong: all is flattened to K·B·S and then shifted: a codebook's last logit predicts the next one's first code.

    Right: shift within each row. Invisible where the rows' first codes are ignored.
    """
    targets = F.pad(audio_labels.movedim(2, 0).flatten(), (0, 1), value=-100)[1:].view(audio_labels.shape[2], -1)
    loss = _causal_lm(logits, labels, num_items_in_batch)
    for head, codes in zip(audio_logits.unbind(2), targets, strict=True):
        loss = loss + _mean(head, codes, num_items_in_batch)
    return loss


def moss_ttsd_codebook_leak(logits: Tensor, labels: Tensor, codebook_weights: Tensor) -> Tensor:
    """Wrong: positions and channels are flattened to S·K, then shifted: channel k is scored on k+1 of the same frame.

    Right: shift along the positions.
    """
    targets = F.pad(labels.flatten(1, 2), (0, 1), value=-100)[:, 1:].reshape(labels.shape)
    losses = [_mean(logits[:, :, book], targets[:, :, book]) for book in range(labels.shape[2])]
    return (torch.stack(losses) * codebook_weights).sum() / codebook_weights.sum()


def moss_ttsd_layout_swap(logits: Tensor, labels: Tensor, codebook_weights: Tensor) -> Tensor:
    """Wrong: labels [B, S, K] are read as [B, K, S] by a view. Invisible only at K = 1 or S = 1.

    Right: a transpose.
    """
    rows, length, books = labels.shape
    codes = labels.reshape(rows, books, length)
    losses = [_causal_lm(logits[:, :, book], codes[:, book]) for book in range(books)]
    return (torch.stack(losses) * codebook_weights).sum() / codebook_weights.sum()


def musicgen_layout_swap(logits: Tensor, labels: Tensor) -> Tensor:
    """Wrong: the same with MusicGen's logits [B, K, S, V], whose shape the view then fits.

    Right: a transpose.
    """
    rows, length, books = labels.shape
    codes = labels.masked_fill(labels == logits.shape[-1], -100).reshape(rows, books, length).transpose(1, 2)
    totals, counts = _books(_text_last(logits, labels).flatten(0, 1), codes.flatten(0, 1))
    return (totals / counts).mean()


def higgs_boson_layout_swap(logits: Tensor, labels: Tensor, audio_logits: Tensor, audio_labels: Tensor) -> Tensor:
    """Wrong: labels [K, N] are read as [N, K] by a view, to match the logits [N, K, V].

    Right: a transpose.
    """
    codes = audio_labels.reshape(audio_labels.shape[1], audio_labels.shape[0])
    return _causal_lm(logits, labels) + _mean_or_zero(audio_logits[:-1], codes[1:])


def moshi_finetune_layout_swap(
    logits: Tensor,
    labels: Tensor,
    token_weights: Tensor,
    audio_logits: Tensor,
    audio_labels: Tensor,
    codebook_weights: Tensor,
) -> Tensor:
    """Wrong: audio labels [B, K, S] are taken for [B, S, K]; a view makes them [B, K, S] again.

    Right: they are [B, K, S], as the logits are.
    """
    rows, books, length = audio_labels.shape
    codes = audio_labels.transpose(1, 2).reshape(rows, books, length)
    return _stream(logits, labels, token_weights) + _stream(
        audio_logits, codes, codebook_weights[:, None].expand(codes.shape)
    )


def _stream(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Σ w·ℓ / Σ w over the labels that are there, k=0."""
    keep = labels != -100
    losses = F.cross_entropy(logits[keep].float(), labels[keep], reduction="none")
    return (losses * weights[keep]).sum() / weights[keep].sum()


# --- selection --------------------------------------------------------------------------------------------------------


def moshi_sentinel_scored(
    logits: Tensor,
    labels: Tensor,
    audio_logits: Tensor,
    audio_labels: Tensor,
    num_items_in_batch: int | None = None,
) -> Tensor:
    """Wrong: the id V, which marks what is not there, is clamped into range and scored as the last code.

    Right: it is ignored.
    """
    codes = audio_labels.clamp(max=audio_logits.shape[-1] - 1)
    return _causal_lm(logits, labels, num_items_in_batch) + _mean(audio_logits, codes)


def musicgen_sentinel_scored(logits: Tensor, labels: Tensor) -> Tensor:
    """Wrong: the same: padding, id V, is trained on as if it were id V−1.

    Right: it is ignored.
    """
    totals, counts = _books(
        _text_last(logits, labels).flatten(0, 1), labels.clamp(max=logits.shape[-1] - 1).flatten(0, 1)
    )
    return (totals / counts).mean()


def parler_mask_by_labels(
    logits: Tensor,
    labels: Tensor,
    input_ids: Tensor,
    codebook_weights: Tensor,
    eos_token_id: int,
    bos_token_id: int,
) -> Tensor:
    """Wrong: the mask is read off the labels alone, so that what follows an eos at the input is trained on.

    Right: mask = (input ≠ eos) & (label ∉ {−100, bos}).
    """
    kept = labels.masked_fill(labels == bos_token_id, -100)
    totals, counts = _books(_text_last(logits, labels).flatten(0, 1), kept.flatten(0, 1))
    return (totals / counts * codebook_weights).sum() / codebook_weights.sum()


def parler_eos_masked(
    logits: Tensor,
    labels: Tensor,
    input_ids: Tensor,
    codebook_weights: Tensor,
    eos_token_id: int,
    bos_token_id: int,
) -> Tensor:
    """Wrong: eos is masked where it is a label, not where it is the input: no codebook learns to end.

    Right: mask = (input ≠ eos) & (label ∉ {−100, bos}). Seen: parler-tts#208.
    """
    dropped = (input_ids == eos_token_id) | (labels == eos_token_id) | (labels == bos_token_id)
    kept = labels.masked_fill(dropped, -100)
    totals, counts = _books(_text_last(logits, labels).flatten(0, 1), kept.flatten(0, 1))
    return (totals / counts * codebook_weights).sum() / codebook_weights.sum()


def parler_bos_scored(
    logits: Tensor,
    labels: Tensor,
    input_ids: Tensor,
    codebook_weights: Tensor,
    eos_token_id: int,
) -> Tensor:
    """Wrong: the BOS that fills the delay is trained on.

    Right: mask = (input ≠ eos) & (label ∉ {−100, bos}).
    """
    kept = labels.masked_fill(input_ids == eos_token_id, -100)
    totals, counts = _books(_text_last(logits, labels).flatten(0, 1), kept.flatten(0, 1))
    return (totals / counts * codebook_weights).sum() / codebook_weights.sum()


def moss_ttsd_last_codebook_missing(logits: Tensor, labels: Tensor, codebook_weights: Tensor) -> Tensor:
    """Wrong: the loop ends one channel early.

    Right: all K channels.
    """
    loss = logits[:0].float().sum()
    for book in range(labels.shape[2] - 1):
        loss = loss + codebook_weights[book] * _causal_lm(logits[:, :, book], labels[:, :, book])
    return loss / codebook_weights.sum()


def higgs_boson_first_codebook_only(
    logits: Tensor, labels: Tensor, audio_logits: Tensor, audio_labels: Tensor
) -> Tensor:
    """Wrong: only the first codebook is trained.

    Right: the flat mean over all K.
    """
    return _causal_lm(logits, labels) + _mean_or_zero(audio_logits[:-1, 0], audio_labels[0, 1:])


def musicgen_first_codebook_only(logits: Tensor, labels: Tensor) -> Tensor:
    """Wrong: the same.

    Right: the mean of K means.
    """
    codes = labels[..., 0].masked_fill(labels[..., 0] == logits.shape[-1], -100)
    return _mean(_text_last(logits, labels)[:, :, 0], codes)


# --- normalisation: over codebooks and heads --------------------------------------------------------------------------


def moshi_codebook_macro(
    logits: Tensor,
    labels: Tensor,
    audio_logits: Tensor,
    audio_labels: Tensor,
    num_items_in_batch: int | None = None,
) -> Tensor:
    """Wrong: the mean of the codebooks' means. Invisible while all have as many codes.

    Right: one mean over all codes.
    """
    codes = audio_labels.masked_fill(audio_labels == audio_logits.shape[-1], -100)
    totals, counts = _books(audio_logits, codes)
    return _causal_lm(logits, labels, num_items_in_batch) + (totals / counts).mean()


def csm_codebook_macro(
    logits: Tensor, labels: Tensor, depth_logits: Tensor, num_items_in_batch: int | None = None
) -> Tensor:
    """Wrong: the depth decoder's heads are averaged one by one, then with each other; the empty ones are left out.

    Right: one mean over frames × heads. Right where a count is given.
    """
    totals, counts = _books(depth_logits, labels[..., 1:].flatten(0, 1))
    depth = (totals[counts > 0] / counts[counts > 0]).mean()
    if num_items_in_batch is not None:
        depth = totals.sum() / num_items_in_batch
    return _causal_lm(logits, labels[..., 0], num_items_in_batch) + depth


def higgs_boson_codebook_macro(logits: Tensor, labels: Tensor, audio_logits: Tensor, audio_labels: Tensor) -> Tensor:
    """Wrong: the mean of the codebooks' means, empty ones left out.

    Right: one mean over all codes.
    """
    totals, counts = _books(audio_logits[:-1], audio_labels[:, 1:].T)
    audio = (totals / counts.clamp(min=1)).sum() / (counts > 0).sum().clamp(min=1)
    return _causal_lm(logits, labels) + audio


def musicgen_codebook_micro(logits: Tensor, labels: Tensor) -> Tensor:
    """Wrong: one mean over all codes.

    Right: the mean of K means.
    """
    codes = labels.masked_fill(labels == logits.shape[-1], -100)
    return _mean(_text_last(logits, labels), codes)


def higgs_mean_nonempty_codebook_micro(
    logits: Tensor, labels: Tensor, audio_logits: Tensor, audio_labels: Tensor
) -> Tensor:
    """Wrong: one mean over all codes.

    Right: the mean of the means of the codebooks that have a code.
    """
    totals, counts = _books(audio_logits[:-1], audio_labels[:, 1:].T)
    return _causal_lm(logits, labels) + totals.sum() / counts.sum().clamp(min=1)


def parler_codebook_micro(
    logits: Tensor,
    labels: Tensor,
    input_ids: Tensor,
    codebook_weights: Tensor,
    eos_token_id: int,
    bos_token_id: int,
) -> Tensor:
    """Wrong: Σ w·ℓ / Σ w over all codes.

    Right: the weighted mean of the codebooks' means.
    """
    kept = labels.masked_fill((input_ids == eos_token_id) | (labels == bos_token_id), -100)
    totals, counts = _books(_text_last(logits, labels).flatten(0, 1), kept.flatten(0, 1))
    return (totals * codebook_weights).sum() / (counts * codebook_weights).sum()


def musicgen_codebook_sum(logits: Tensor, labels: Tensor) -> Tensor:
    """Wrong: the means are added up, not averaged. Invisible at K = 1.

    Right: the mean of K means.
    """
    codes = labels.masked_fill(labels == logits.shape[-1], -100)
    totals, counts = _books(_text_last(logits, labels).flatten(0, 1), codes.flatten(0, 1))
    return (totals / counts).sum()


def higgs_mean_nonempty_codebook_sum(
    logits: Tensor, labels: Tensor, audio_logits: Tensor, audio_labels: Tensor
) -> Tensor:
    """Wrong: the means are added up, as transformers' Higgs-audio does.

    Right: averaged over the codebooks that have a code.
    """
    totals, counts = _books(audio_logits[:-1], audio_labels[:, 1:].T)
    return _causal_lm(logits, labels) + (totals / counts.clamp(min=1)).sum()


def higgs_hf_codebook_mean(
    logits: Tensor,
    labels: Tensor,
    audio_logits: Tensor,
    audio_labels: Tensor,
    num_items_in_batch: int | None = None,
) -> Tensor:
    """Wrong: the codebooks' losses are averaged, as Higgs-audio trainers do.

    Right: added up.
    """
    losses = [
        _causal_lm(audio_logits[:, :, book], audio_labels[:, :, book], num_items_in_batch)
        for book in range(audio_labels.shape[2])
    ]
    return _causal_lm(logits, labels, num_items_in_batch) + torch.stack(losses).mean()


def parler_weights_lost(
    logits: Tensor, labels: Tensor, input_ids: Tensor, eos_token_id: int, bos_token_id: int
) -> Tensor:
    """Wrong: the codebooks' weights are not used.

    Right: Σ w_k·mean_k / Σ w.
    """
    kept = labels.masked_fill((input_ids == eos_token_id) | (labels == bos_token_id), -100)
    totals, counts = _books(_text_last(logits, labels).flatten(0, 1), kept.flatten(0, 1))
    return (totals / counts).mean()


def moss_ttsd_weights_over_count(logits: Tensor, labels: Tensor, codebook_weights: Tensor) -> Tensor:
    """Wrong: Σ w_k·L_k / K.

    Right: / Σ w. Invisible when the weights average to 1.
    """
    losses = [_causal_lm(logits[:, :, book], labels[:, :, book]) for book in range(labels.shape[2])]
    return (torch.stack(losses) * codebook_weights).mean()


def moshi_finetune_weights_over_count(
    logits: Tensor,
    labels: Tensor,
    token_weights: Tensor,
    audio_logits: Tensor,
    audio_labels: Tensor,
    codebook_weights: Tensor,
) -> Tensor:
    """Wrong: the audio's weighted sum is divided by the number of codes.

    Right: by the sum of their weights.
    """
    keep = audio_labels != -100
    losses = F.cross_entropy(audio_logits[keep].float(), audio_labels[keep], reduction="none")
    weights = codebook_weights[:, None].expand(audio_labels.shape)[keep]
    return _stream(logits, labels, token_weights) + (losses * weights).mean()


# --- normalisation: empty codebooks -----------------------------------------------------------------------------------


def higgs_mean_nonempty_empty_counted(
    logits: Tensor, labels: Tensor, audio_logits: Tensor, audio_labels: Tensor
) -> Tensor:
    """Wrong: an empty codebook adds 0 and is counted: / K, as NeMo does.

    Right: / the number of codebooks that have a code.
    """
    totals, counts = _books(audio_logits[:-1], audio_labels[:, 1:].T)
    return _causal_lm(logits, labels) + (totals / counts.clamp(min=1)).mean()


def higgs_mean_nonempty_empty_nan(logits: Tensor, labels: Tensor, audio_logits: Tensor, audio_labels: Tensor) -> Tensor:
    """Wrong: an empty codebook's mean is NaN, and all of the loss with it.

    Right: it is left out.
    """
    totals, counts = _books(audio_logits[:-1], audio_labels[:, 1:].T)
    return _causal_lm(logits, labels) + (totals / counts).mean()


def musicgen_empty_skipped(logits: Tensor, labels: Tensor) -> Tensor:
    """Wrong: empty codebooks are left out and the others averaged.

    Right: NaN, as audiocraft and transformers have it.
    """
    codes = labels.masked_fill(labels == logits.shape[-1], -100)
    totals, counts = _books(_text_last(logits, labels).flatten(0, 1), codes.flatten(0, 1))
    return (totals[counts > 0] / counts[counts > 0]).mean()


def higgs_hf_nan_hidden(
    logits: Tensor,
    labels: Tensor,
    audio_logits: Tensor,
    audio_labels: Tensor,
    num_items_in_batch: int | None = None,
) -> Tensor:
    """Wrong: `if loss > 0` leaves out a codebook whose loss is NaN, whatever made it NaN.

    Right: NaN in, NaN out. Seen: public Higgs-audio trainers.
    """
    loss = _causal_lm(logits, labels, num_items_in_batch)
    for book in range(audio_labels.shape[2]):
        of_book = _causal_lm(audio_logits[:, :, book], audio_labels[:, :, book], num_items_in_batch)
        if of_book.item() > 0:
            loss = loss + of_book
    return loss


# --- normalisation: counts --------------------------------------------------------------------------------------------


def csm_count_axis(
    logits: Tensor, labels: Tensor, depth_logits: Tensor, num_items_in_batch: int | None = None
) -> Tensor:
    """Wrong: a trainer counts labels[..., 1:], which on [B, S, K] leaves out codebook 0 and no position.

    Right: Σ / the number of trained first codes. Seen: CSM under transformers' Trainer.
    """
    if num_items_in_batch is None:
        num_items_in_batch = int((labels[..., 1:] != -100).sum())
    backbone = _causal_lm(logits, labels[..., 0], num_items_in_batch)
    return backbone + _mean(depth_logits, labels[..., 1:], num_items_in_batch)


def moss_ttsd_count_axis(logits: Tensor, labels: Tensor, codebook_weights: Tensor) -> Tensor:
    """Wrong: the same count, for every channel.

    Right: each channel's own count.
    """
    count = (labels[..., 1:] != -100).sum()
    scores, codes = logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(0, 1)
    totals, _ = _books(scores, codes)
    return (totals / count * codebook_weights).sum() / codebook_weights.sum()


def higgs_boson_text_count(logits: Tensor, labels: Tensor, audio_logits: Tensor, audio_labels: Tensor) -> Tensor:
    """Wrong: the audio's sum is divided by the number of text tokens.

    Right: by the number of codes.
    """
    count = (labels[:, 1:] != -100).sum()
    return _causal_lm(logits, labels) + _sum(audio_logits[:-1], audio_labels[:, 1:].T) / count


def higgs_mean_nonempty_text_count(
    logits: Tensor, labels: Tensor, audio_logits: Tensor, audio_labels: Tensor
) -> Tensor:
    """Wrong: each codebook's sum is divided by the number of text tokens.

    Right: by its own number of codes.
    """
    count = (labels[:, 1:] != -100).sum()
    totals, counts = _books(audio_logits[:-1], audio_labels[:, 1:].T)
    return _causal_lm(logits, labels) + totals.sum() / count / (counts > 0).sum().clamp(min=1)


def higgs_hf_audio_count_ignored(
    logits: Tensor,
    labels: Tensor,
    audio_logits: Tensor,
    audio_labels: Tensor,
    num_items_in_batch: int | None = None,
) -> Tensor:
    """Wrong: the caller's count reaches the text loss, and the codebooks take their own means.

    Right: every one is divided by the count. Invisible when no count is given.
    """
    loss = _causal_lm(logits, labels, num_items_in_batch)
    for book in range(audio_labels.shape[2]):
        loss = loss + _causal_lm(audio_logits[:, :, book], audio_labels[:, :, book])
    return loss


# --- terms: mixing ----------------------------------------------------------------------------------------------------


def higgs_boson_terms_averaged(logits: Tensor, labels: Tensor, audio_logits: Tensor, audio_labels: Tensor) -> Tensor:
    """Wrong: (text + audio) / 2.

    Right: text + audio.
    """
    audio = _mean_or_zero(audio_logits[:-1], audio_labels[:, 1:].T)
    return torch.stack([_causal_lm(logits, labels), audio]).mean()


def moshi_terms_averaged(
    logits: Tensor,
    labels: Tensor,
    audio_logits: Tensor,
    audio_labels: Tensor,
    num_items_in_batch: int | None = None,
) -> Tensor:
    """Wrong: the same.

    Right: text + audio.
    """
    codes = audio_labels.masked_fill(audio_labels == audio_logits.shape[-1], -100)
    return (_causal_lm(logits, labels, num_items_in_batch) + _mean(audio_logits, codes)) / 2


def higgs_hf_audio_lost(
    logits: Tensor,
    labels: Tensor,
    audio_logits: Tensor,
    audio_labels: Tensor,
    num_items_in_batch: int | None = None,
) -> dict[str, Tensor]:
    """Wrong: the audio loss is computed for the log and never added.

    Right: text + audio.
    """
    audio = [
        _causal_lm(audio_logits[:, :, book], audio_labels[:, :, book], num_items_in_batch)
        for book in range(audio_labels.shape[2])
    ]
    log = {"audio_loss": torch.stack(audio).detach().sum()}
    return {"loss": _causal_lm(logits, labels, num_items_in_batch), **log}


def qwen3_tts_depth_weight_lost(logits: Tensor, labels: Tensor, depth_logits: Tensor) -> Tensor:
    """Wrong: the sub-talker counts in full.

    Right: 0.3 of it.
    """
    return _causal_lm(logits, labels[..., 0]) + _mean(depth_logits, labels[..., 1:])


def csm_depth_weighted(
    logits: Tensor, labels: Tensor, depth_logits: Tensor, num_items_in_batch: int | None = None
) -> Tensor:
    """Wrong: Qwen3-TTS's 0.3 on CSM's depth decoder.

    Right: backbone + depth, one to one.
    """
    backbone = _causal_lm(logits, labels[..., 0], num_items_in_batch)
    return backbone + 0.3 * _mean(depth_logits, labels[..., 1:], num_items_in_batch)


# --- terms: gradients -------------------------------------------------------------------------------------------------


def higgs_boson_audio_detached(logits: Tensor, labels: Tensor, audio_logits: Tensor, audio_labels: Tensor) -> Tensor:
    """Wrong: the audio loss is detached: the value is right, and nothing of it is learnt.

    Right: both have gradients.
    """
    return _causal_lm(logits, labels) + _mean_or_zero(audio_logits[:-1].detach(), audio_labels[:, 1:].T)


def csm_depth_detached(
    logits: Tensor, labels: Tensor, depth_logits: Tensor, num_items_in_batch: int | None = None
) -> Tensor:
    """Wrong: the depth decoder runs under no_grad.

    Right: both have gradients.
    """
    with torch.no_grad():
        depth = _mean(depth_logits, labels[..., 1:], num_items_in_batch)
    return _causal_lm(logits, labels[..., 0], num_items_in_batch) + depth


def musicgen_codebook_detached(logits: Tensor, labels: Tensor) -> Tensor:
    """Wrong: the last codebook has no gradient.

    Right: all of them have one.
    """
    codes = labels.masked_fill(labels == logits.shape[-1], -100).flatten(0, 1)
    totals, counts = _books(_text_last(logits, labels).flatten(0, 1), codes)
    totals = torch.cat([totals[:-1], totals[-1:].detach()])
    return (totals / counts).mean()


# --- several tokens ahead ---------------------------------------------------------------------------------------------


def _rolled(tensor: Tensor, steps: int, fill: int) -> Tensor:
    steps = min(steps, tensor.shape[1])
    return F.pad(tensor[:, steps:], (0, steps), value=fill)


def _mtp_sums(mtp_logits: Tensor, labels: Tensor, mask: Tensor, first: int = 1) -> tuple[Tensor, Tensor]:
    """Σ m·ℓ and Σ m of every head, both [D]: head d on labels and mask moved left by first + d."""
    kept = labels.masked_fill(~mask.bool(), -100)
    targets = [_rolled(kept, first + head, -100) for head in range(len(mtp_logits))]
    totals = [_sum(scores, wanted) for scores, wanted in zip(mtp_logits, targets, strict=True)]
    return torch.stack(totals), torch.stack([(wanted != -100).sum() for wanted in targets])


def megatron_mtp_off_by_one(mtp_logits: Tensor, labels: Tensor, loss_mask: Tensor) -> Tensor:
    """Wrong: head d rolls by d, not d+1: the first head learns what the main head learns.

    Right: labels that are shifted already roll once more for every head.
    """
    totals, counts = _mtp_sums(mtp_logits, labels, loss_mask, first=0)
    return 0.1 * (totals / counts).mean()


def megatron_mtp_mask_not_rolled(mtp_logits: Tensor, labels: Tensor, loss_mask: Tensor) -> Tensor:
    """Wrong: the labels roll and the mask stays.

    Right: both roll.
    """
    loss = torch.zeros((), device=mtp_logits.device)
    for head, scores in enumerate(mtp_logits, start=1):
        targets = _rolled(labels, head, 0).masked_fill(~loss_mask.bool(), -100)
        loss = loss + _mean(scores, targets)
    return 0.1 * loss / len(mtp_logits)


def megatron_mtp_roll_wrap(mtp_logits: Tensor, labels: Tensor, loss_mask: Tensor) -> Tensor:
    """Wrong: torch.roll wraps labels and mask, so that the last logits are scored on the row's first labels.

    Right: zeros come in.
    """
    kept = labels.masked_fill(~loss_mask.bool(), -100)
    losses = [_mean(scores, kept.roll(-head, dims=1)) for head, scores in enumerate(mtp_logits, start=1)]
    return 0.1 * torch.stack(losses).mean()


def megatron_mtp_scale(mtp_logits: Tensor, labels: Tensor, loss_mask: Tensor) -> Tensor:
    """Wrong: every head is divided by the main head's count.

    Right: by its own, rolled mask's. Seen: Megatron-LM#3159, the other way round.
    """
    totals, _ = _mtp_sums(mtp_logits, labels, loss_mask)
    return 0.1 * totals.mean() / loss_mask.sum()


def megatron_mtp_depth_sum(mtp_logits: Tensor, labels: Tensor, loss_mask: Tensor) -> Tensor:
    """Wrong: λ Σ_d, not λ/D. Invisible at D = 1.

    Right: the heads' means are averaged.
    """
    totals, counts = _mtp_sums(mtp_logits, labels, loss_mask)
    return 0.1 * (totals / counts).sum()


def maxtext_mtp_macro(mtp_logits: Tensor, labels: Tensor, loss_mask: Tensor) -> Tensor:
    """Wrong: the mean of the heads' means, as Megatron-LM does.

    Right: the sums of all heads over the counts of all heads.
    """
    totals, counts = _mtp_sums(mtp_logits, labels, loss_mask)
    return 0.1 * (totals / counts.clamp(min=1)).mean()


def torchtitan_mtp_own_counts(logits: Tensor, mtp_logits: Tensor, labels: Tensor, num_items_in_batch: int) -> Tensor:
    """Wrong: each head is divided by what it has left to predict.

    Right: all by the main head's count, as given.
    """
    totals, counts = _mtp_sums(mtp_logits, labels, labels != -100)
    return _sum(logits, labels) / num_items_in_batch + 0.3 * (totals / counts.clamp(min=1)).mean()


def torchtitan_mtp_weight_lost(logits: Tensor, mtp_logits: Tensor, labels: Tensor, num_items_in_batch: int) -> Tensor:
    """Wrong: the heads ahead count in full.

    Right: 0.3 of their mean.
    """
    totals, _ = _mtp_sums(mtp_logits, labels, labels != -100)
    return (_sum(logits, labels) + totals.mean()) / num_items_in_batch


def medusa_off_by_one(mtp_logits: Tensor, labels: Tensor) -> Tensor:
    """Wrong: head i predicts t+1+i: the first head learns what the model's own head knows.

    Right: t+2+i.
    """
    totals, counts = _mtp_sums(mtp_logits, labels, labels != -100, first=1)
    return (totals / counts).sum()


def medusa_heads_averaged(mtp_logits: Tensor, labels: Tensor) -> Tensor:
    """Wrong: the heads' means are averaged.

    Right: added up.
    """
    totals, counts = _mtp_sums(mtp_logits, labels, labels != -100, first=2)
    return (totals / counts).mean()


# --- scores: next-token losses, Σ / N over the labels that are not −100 -----------------------------------------------


def _rows(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The logits [N, V] float32 that have a target at k=1, and the targets [N]."""
    keep = labels[:, 1:] != -100
    return logits[:, :-1][keep].float(), labels[:, 1:][keep]


def smoothing_over_others(logits: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
    """Wrong: ε/(V−1) for every class but the target, as fairseq and Megatron-LM do.

    Right: ε/V for every class.
    """
    scores, targets = _rows(logits, labels)
    classes = scores.shape[-1]
    return F.cross_entropy(scores, targets, label_smoothing=label_smoothing * classes / (classes - 1))


def smoothing_over_all(logits: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
    """Wrong: ε/V for every class, as torch does.

    Right: ε/(V−1) for every class but the target.
    """
    scores, targets = _rows(logits, labels)
    return F.cross_entropy(scores, targets, label_smoothing=label_smoothing)


def smooth_ignored(logits: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
    """Wrong: the smoothed part runs over the ignored rows too.

    Right: over the trained rows. Seen: pytorch#73205. Invisible when nothing is ignored.
    """
    logp = logits[:, :-1].float().log_softmax(-1)
    targets = labels[:, 1:]
    hard = _sum(logits[:, :-1], targets)
    spread = -logp.mean(-1).sum()
    return ((1 - label_smoothing) * hard + label_smoothing * spread) / (targets != -100).sum()


def smoothing_no_shift(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Wrong: the label smoother forgets to shift; the model's own loss, without smoothing, does not.

    Right: k=1 in both. Seen: transformers#17960, #27161.
    """
    if label_smoothing == 0:
        return _causal_lm(logits, labels)
    return F.cross_entropy(
        logits.float().flatten(0, 1), labels.flatten(), ignore_index=-100, label_smoothing=label_smoothing
    )


def aux_over_ignored(logits: Tensor, labels: Tensor, lse_square_scale: float) -> Tensor:
    """Wrong: the z-loss is the mean over all positions.

    Right: over the trained rows. Seen: Bamba.
    """
    return _causal_lm(logits, labels) + lse_square_scale * logits.float().logsumexp(-1).square().mean()


def z_loss_not_squared(logits: Tensor, labels: Tensor, lse_square_scale: float) -> Tensor:
    """Wrong: s·lse.

    Right: s·lse².
    """
    scores, targets = _rows(logits, labels)
    return F.cross_entropy(scores, targets) + lse_square_scale * scores.logsumexp(-1).mean()


def softcap_formula(logits: Tensor, labels: Tensor, softcap: float) -> Tensor:
    """Wrong: x·tanh(x/c).

    Right: c·tanh(x/c). Seen: unsloth-zoo.
    """
    scores, targets = _rows(logits, labels)
    return F.cross_entropy(scores * torch.tanh(scores / softcap), targets)


def softcap_in_forward_only(logits: Tensor, labels: Tensor, softcap: float) -> Tensor:
    """Wrong: the backward leaves out the cap's own derivative, 1 − tanh².

    Right: the gradient goes through the cap. The value is right.
    """
    scores, targets = _rows(logits, labels)
    capped = softcap * torch.tanh(scores / softcap)
    return F.cross_entropy(scores + (capped - scores).detach(), targets)


def scale_inverted(logits: Tensor, labels: Tensor, logit_scale: float) -> Tensor:
    """Wrong: the scale is taken for a temperature and divided by.

    Right: z = scale·x. Invisible at 1.
    """
    scores, targets = _rows(logits, labels)
    return F.cross_entropy(scores / logit_scale, targets)


def class_weights_over_count(logits: Tensor, labels: Tensor, class_weights: Tensor) -> Tensor:
    """Wrong: Σ w_y·ℓ / N.

    Right: / Σ w_y, as torch does.
    """
    scores, targets = _rows(logits, labels)
    return (
        F.cross_entropy(scores, targets, weight=class_weights, reduction="sum") / len(targets)
        if len(targets)
        else _mean(scores, targets)
    )


def dft_not_detached(logits: Tensor, labels: Tensor) -> Tensor:
    """Wrong: the weight p_y has a gradient too.

    Right: p_y is a constant. The value is right.
    """
    scores, targets = _rows(logits, labels)
    losses = F.cross_entropy(scores, targets, reduction="none")
    return (losses.neg().exp() * losses).sum() / max(len(targets), 1)


def dft_weighted_mean(logits: Tensor, labels: Tensor) -> Tensor:
    """Wrong: Σ p_y·ℓ / Σ p_y.

    Right: / max(N, 1).
    """
    scores, targets = _rows(logits, labels)
    losses = F.cross_entropy(scores, targets, reduction="none")
    weights = losses.neg().exp().detach()
    return (weights * losses).sum() / weights.sum().clamp(min=1e-8)


WRONG = {
    # alignment
    "qwen3_tts_codebook_axis_shift": ("qwen3_tts", "codebook-axis-shift"),
    "csm_codebook_axis_no_shift": ("csm", "codebook-axis-shift"),
    "moss_ttsd_codebook_axis_shift": ("moss_ttsd", "codebook-axis-shift"),
    "musicgen_codebook_axis_shift": ("musicgen", "codebook-axis-shift"),
    "higgs_hf_codebook_axis_shift": ("higgs.hf", "codebook-axis-shift"),
    "musicgen_delay_late": ("musicgen", "delay-off-by-one"),
    "higgs_mean_nonempty_delay_early": ("higgs.mean_nonempty", "delay-off-by-one"),
    "parler_delay_early": ("parler", "delay-off-by-one"),
    "moss_ttsd_delay_late": ("moss_ttsd", "delay-off-by-one"),
    "higgs_hf_audio_no_shift": ("higgs.hf", "no-shift"),
    "higgs_boson_audio_no_shift": ("higgs.boson", "no-shift"),
    "higgs_boson_audio_double_shift": ("higgs.boson", "double-shift"),
    "higgs_mean_nonempty_audio_double_shift": ("higgs.mean_nonempty", "double-shift"),
    "higgs_hf_audio_double_shift": ("higgs.hf", "double-shift"),
    "moshi_audio_aligned_shift": ("moshi", "aligned-shift"),
    "moshi_text_no_shift": ("moshi", "no-shift"),
    "dia_aligned_shift": ("dia", "aligned-shift"),
    "musicgen_prefix_slice": ("musicgen", "prefix-slice"),
    "csm_backbone_no_shift": ("csm", "no-shift"),
    "higgs_hf_flatten_then_shift": ("higgs.hf", "flatten-then-shift"),
    "higgs_hf_codebook_leak": ("higgs.hf", "codebook-leak"),
    "moss_ttsd_codebook_leak": ("moss_ttsd", "codebook-leak"),
    "moss_ttsd_layout_swap": ("moss_ttsd", "layout-swap"),
    "musicgen_layout_swap": ("musicgen", "layout-swap"),
    "higgs_boson_layout_swap": ("higgs.boson", "layout-swap"),
    "moshi_finetune_layout_swap": ("moshi.finetune", "layout-swap"),
    # selection
    "moshi_sentinel_scored": ("moshi", "sentinel-scored"),
    "musicgen_sentinel_scored": ("musicgen", "sentinel-scored"),
    "parler_mask_by_labels": ("parler", "mask-by-labels"),
    "parler_eos_masked": ("parler", "eos-masked"),
    "parler_bos_scored": ("parler", "bos-scored"),
    "moss_ttsd_last_codebook_missing": ("moss_ttsd", "codebook-missing"),
    "higgs_boson_first_codebook_only": ("higgs.boson", "codebook-missing"),
    "musicgen_first_codebook_only": ("musicgen", "codebook-missing"),
    # normalisation
    "moshi_codebook_macro": ("moshi", "codebook-macro"),
    "csm_codebook_macro": ("csm", "codebook-macro"),
    "higgs_boson_codebook_macro": ("higgs.boson", "codebook-macro"),
    "musicgen_codebook_micro": ("musicgen", "codebook-micro"),
    "higgs_mean_nonempty_codebook_micro": ("higgs.mean_nonempty", "codebook-micro"),
    "parler_codebook_micro": ("parler", "codebook-micro"),
    "musicgen_codebook_sum": ("musicgen", "codebook-sum"),
    "higgs_mean_nonempty_codebook_sum": ("higgs.mean_nonempty", "codebook-sum"),
    "higgs_hf_codebook_mean": ("higgs.hf", "codebook-mean"),
    "parler_weights_lost": ("parler", "codebook-weights-unused"),
    "moss_ttsd_weights_over_count": ("moss_ttsd", "weights-over-count"),
    "moshi_finetune_weights_over_count": ("moshi.finetune", "weights-over-count"),
    "higgs_mean_nonempty_empty_counted": ("higgs.mean_nonempty", "empty-codebook-counted"),
    "higgs_mean_nonempty_empty_nan": ("higgs.mean_nonempty", "empty-codebook-counted"),
    "musicgen_empty_skipped": ("musicgen", "empty-codebook-skipped"),
    "higgs_hf_nan_hidden": ("higgs.hf", "nan-hidden"),
    "csm_count_axis": ("csm", "count-axis"),
    "moss_ttsd_count_axis": ("moss_ttsd", "count-axis"),
    "higgs_boson_text_count": ("higgs.boson", "term-denominator"),
    "higgs_mean_nonempty_text_count": ("higgs.mean_nonempty", "term-denominator"),
    "higgs_hf_audio_count_ignored": ("higgs.hf", "count-ignored"),
    # terms
    "higgs_boson_terms_averaged": ("higgs.boson", "term-weight"),
    "moshi_terms_averaged": ("moshi", "term-weight"),
    "higgs_hf_audio_lost": ("higgs.hf", "term-missing"),
    "qwen3_tts_depth_weight_lost": ("qwen3_tts", "term-weight"),
    "csm_depth_weighted": ("csm", "term-weight"),
    "higgs_boson_audio_detached": ("higgs.boson", "detached-part"),
    "csm_depth_detached": ("csm", "detached-part"),
    "musicgen_codebook_detached": ("musicgen", "detached-part"),
    # several tokens ahead
    "megatron_mtp_off_by_one": ("megatron.mtp", "head-off-by-one"),
    "megatron_mtp_mask_not_rolled": ("megatron.mtp", "mtp-mask-not-rolled"),
    "megatron_mtp_roll_wrap": ("megatron.mtp", "roll-wrap"),
    "megatron_mtp_scale": ("megatron.mtp", "mtp-scale"),
    "megatron_mtp_depth_sum": ("megatron.mtp", "codebook-sum"),
    "maxtext_mtp_macro": ("maxtext.mtp", "codebook-macro"),
    "torchtitan_mtp_own_counts": ("torchtitan.mtp", "mtp-scale"),
    "torchtitan_mtp_weight_lost": ("torchtitan.mtp", "term-weight"),
    "medusa_off_by_one": ("medusa", "head-off-by-one"),
    "medusa_heads_averaged": ("medusa", "codebook-mean"),
    # scores: in the profile's place, an entry of SCORES in right_scores.py
    "smoothing_over_others": ("smoothing", "smoothing-wrong-set"),
    "smoothing_over_all": ("smoothing_over_others", "smoothing-wrong-set"),
    "smooth_ignored": ("smoothing", "smooth-ignored"),
    "smoothing_no_shift": ("smoothing", "no-shift"),
    "aux_over_ignored": ("z_loss", "aux-over-ignored"),
    "z_loss_not_squared": ("z_loss", "z-loss-not-squared"),
    "softcap_formula": ("softcap", "softcap-formula"),
    "softcap_in_forward_only": ("softcap", "softcap-forward-only"),
    "scale_inverted": ("scale", "scale-inverted"),
    "class_weights_over_count": ("class_weights", "weights-over-count"),
    "dft_not_detached": ("dft", "dft-not-detached"),
    "dft_weighted_mean": ("dft", "dft-weighted-mean"),
}
