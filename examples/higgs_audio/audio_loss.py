"""The text and audio loss of a Higgs-audio trainer: right, and as it went wrong on the way.

    shiftproof check examples/higgs_audio/audio_loss.py:right --spec higgs.mean_nonempty

Text logits [B, S, V] meet labels [B, S]. The audio logits [N, K, V] are those of the N audio positions of the batch,
segment after segment; the codes [K, N] are aligned with them, and the first code of every segment is −100. Both are
aligned with the inputs, so that it is the loss that shifts, by one, once. The audio loss is the mean over the codebooks
that have a code to learn of each codebook's own mean.

Every other function is one that trainers have run with. All but the first run without an error, and their losses fall.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

Losses = dict[str, Tensor]


def text_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean of CE(logits[t], labels[t+1]); NaN without a label."""
    scores = logits[:, :-1].float()
    return F.cross_entropy(scores.reshape(-1, scores.shape[-1]), labels[:, 1:].reshape(-1), ignore_index=-100)


def codebook_losses(audio_logits: Tensor, codes: Tensor) -> list[Tensor]:
    """CE(audio_logits[n], codes[n]) of every codebook that has a code, averaged over its own codes."""
    return [
        F.cross_entropy(scores.float(), wanted, ignore_index=-100)
        for scores, wanted in zip(audio_logits.unbind(1), codes, strict=True)
        if bool((wanted != -100).any())
    ]


def mean_or_zero(losses: list[Tensor], audio_logits: Tensor) -> Tensor:
    """The mean, and a 0 that has a gradient where there is nothing to average."""
    return torch.stack(losses).mean() if losses else audio_logits[:0].float().sum()


def audio_loss(audio_logits: Tensor, audio_labels: Tensor) -> Tensor:
    """The mean over the codebooks that have a code at n+1 for logits at n; 0 when none has, as in a batch of text."""
    return mean_or_zero(codebook_losses(audio_logits[:-1], audio_labels[:, 1:]), audio_logits)


def mixed(text: Tensor, audio: Tensor) -> Losses:
    """What is trained on, one to one, and its two parts for the log."""
    return {"loss": text + audio, "text": text.detach(), "audio": audio.detach()}


def right(logits: Tensor, labels: Tensor, audio_logits: Tensor, audio_labels: Tensor) -> Losses:
    """Text and audio, each shifted once, added."""
    return mixed(text_loss(logits, labels), audio_loss(audio_logits, audio_labels))


# --- the text stream --------------------------------------------------------------------------------------------------


def before_fix(logits: Tensor, labels: Tensor, audio_logits: Tensor, audio_labels: Tensor) -> Losses:
    """Wrong: the labels lose their first column and the logits keep their last.

    With logits [2, 168, V]: "Expected input batch_size (336) to match target batch_size (334)".
    """
    labels = labels[:, 1:]
    text = F.cross_entropy(logits.float().reshape(-1, logits.shape[-1]), labels.reshape(-1), ignore_index=-100)
    return mixed(text, audio_loss(audio_logits, audio_labels))


def published_fix(logits: Tensor, labels: Tensor, audio_logits: Tensor, audio_labels: Tensor) -> Losses:
    """Wrong: the shapes agree again, and the text is shifted twice: the logit at t is scored on the token at t+2.

    The trainer pads what its shift had cut off, and the fix goes on shifting both sides.
    """
    labels = F.pad(labels[:, 1:], (0, 1), value=-100)  # the trainer
    return mixed(text_loss(logits, labels), audio_loss(audio_logits, audio_labels))  # the fix is in text_loss


def identity(logits: Tensor, labels: Tensor, audio_logits: Tensor, audio_labels: Tensor) -> Losses:
    """Wrong: after three more fixes nothing is shifted: every position predicts the token that it was given.

    It cuts both sides to the shorter length, so that no shape can disagree any more. Its loss falls fastest of all.
    """
    length = min(logits.shape[1], labels.shape[1])
    scores = logits[:, :length].float()
    text = F.cross_entropy(scores.reshape(-1, scores.shape[-1]), labels[:, :length].reshape(-1), ignore_index=-100)
    frames = min(audio_logits.shape[0], audio_labels.shape[1])
    return mixed(text, mean_or_zero(codebook_losses(audio_logits[:frames], audio_labels[:, :frames]), audio_logits))


# --- the audio stream -------------------------------------------------------------------------------------------------


def audio_not_shifted(logits: Tensor, labels: Tensor, audio_logits: Tensor, audio_labels: Tensor) -> Losses:
    """Wrong: the text was put right, and the codes were forgotten."""
    losses = codebook_losses(audio_logits, audio_labels)
    return mixed(text_loss(logits, labels), mean_or_zero(losses, audio_logits))


def nan_hidden(logits: Tensor, labels: Tensor, audio_logits: Tensor, audio_labels: Tensor) -> Losses:
    """Wrong: an empty codebook's mean is NaN, and `if loss > 0` leaves it out, with every other NaN.

    It is right until a logit is NaN; then that codebook is dropped in silence and the run goes on.
    """
    losses = []
    for scores, codes in zip(audio_logits[:-1].unbind(1), audio_labels[:, 1:], strict=True):
        loss = F.cross_entropy(scores.float(), codes, ignore_index=-100)
        if loss.item() > 0:
            losses.append(loss)
    return mixed(text_loss(logits, labels), mean_or_zero(losses, audio_logits))


def empty_codebooks_counted(logits: Tensor, labels: Tensor, audio_logits: Tensor, audio_labels: Tensor) -> Losses:
    """Wrong: the sum is divided by K, whether or not a codebook has anything to learn."""
    losses = codebook_losses(audio_logits[:-1], audio_labels[:, 1:])
    share_trained = len(losses) / audio_labels.shape[0]
    return mixed(text_loss(logits, labels), mean_or_zero(losses, audio_logits) * share_trained)


def codes_pooled(logits: Tensor, labels: Tensor, audio_logits: Tensor, audio_labels: Tensor) -> Losses:
    """Wrong: one mean over all codes, so that a codebook with fewer codes counts for less."""
    codes = audio_labels[:, 1:].T.reshape(-1)
    scores = audio_logits[:-1].float().reshape(-1, audio_logits.shape[-1])
    total = F.cross_entropy(scores, codes, ignore_index=-100, reduction="sum")
    return mixed(text_loss(logits, labels), total / (codes != -100).sum().clamp(min=1))
