"""The text and audio loss of a Higgs-audio trainer: the right one, and the wrong ones on the way to it.

    shiftproof check examples/higgs_audio/audio_loss.py:right --spec higgs.mean_nonempty

Text logits [B, S, V] meet labels [B, S]. The audio logits [N, K, V] are those of the N audio positions of the batch,
segment after segment. The codes [K, N] are aligned with them, and the first code of every segment is −100. Logits and
labels are both aligned with the inputs, so the loss must shift, once, by one. The audio loss is the mean of the means
of all codebooks that have a code to learn.

Trainers have run with every other function. All but the first run without an error, and their losses fall.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

Losses = dict[str, Tensor]


def text_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean of CE(logits[t], labels[t+1]); NaN without a label."""
    scores = logits[:, :-1].float()
    return F.cross_entropy(scores.reshape(-1, scores.shape[-1]), labels[:, 1:].reshape(-1), ignore_index=-100)


def codebook_losses(audio_logits: Tensor, codes: Tensor) -> list[Tensor]:
    """Return CE(audio_logits[n], codes[n]) of every codebook that has a code, averaged over its own codes."""
    return [
        F.cross_entropy(scores.float(), wanted, ignore_index=-100)
        for scores, wanted in zip(audio_logits.unbind(1), codes, strict=True)
        if bool((wanted != -100).any())
    ]


def mean_or_zero(losses: list[Tensor], audio_logits: Tensor) -> Tensor:
    """Return the mean, or a 0 with a gradient if there is nothing to average."""
    return torch.stack(losses).mean() if losses else audio_logits[:0].float().sum()


def audio_loss(audio_logits: Tensor, audio_labels: Tensor) -> Tensor:
    """Return the mean over codebooks with a code at n+1 for logits at n; 0 if there is none, as in a batch of text."""
    return mean_or_zero(codebook_losses(audio_logits[:-1], audio_labels[:, 1:]), audio_logits)


def mixed(text: Tensor, audio: Tensor) -> Losses:
    """Return the training loss, one to one, and its two parts for the log."""
    return {"loss": text + audio, "text": text.detach(), "audio": audio.detach()}


def right(logits: Tensor, labels: Tensor, audio_logits: Tensor, audio_labels: Tensor) -> Losses:
    """Add text and audio, each shifted once."""
    return mixed(text_loss(logits, labels), audio_loss(audio_logits, audio_labels))


# --- the text stream --------------------------------------------------------------------------------------------------


def before_fix(logits: Tensor, labels: Tensor, audio_logits: Tensor, audio_labels: Tensor) -> Losses:
    """Wrong: the labels lose their first column, but the logits keep their last.

    With logits [2, 168, V]: "Expected input batch_size (336) to match target batch_size (334)".
    """
    labels = labels[:, 1:]
    text = F.cross_entropy(logits.float().reshape(-1, logits.shape[-1]), labels.reshape(-1), ignore_index=-100)
    return mixed(text, audio_loss(audio_logits, audio_labels))


def published_fix(logits: Tensor, labels: Tensor, audio_logits: Tensor, audio_labels: Tensor) -> Losses:
    """Wrong: the shapes agree again, but the text is shifted twice: the logit at t is scored on the token at t+2.

    The trainer pads what its shift cut off, and the fix still shifts both sides.
    """
    labels = F.pad(labels[:, 1:], (0, 1), value=-100)  # the trainer
    return mixed(text_loss(logits, labels), audio_loss(audio_logits, audio_labels))  # the fix is inside text_loss


def identity(logits: Tensor, labels: Tensor, audio_logits: Tensor, audio_labels: Tensor) -> Losses:
    """Wrong: after three more fixes nothing is shifted, so every position predicts its own input token.

    It cuts both sides to the shorter length, so the shapes always agree. Its loss falls fastest of all.
    """
    length = min(logits.shape[1], labels.shape[1])
    scores = logits[:, :length].float()
    text = F.cross_entropy(scores.reshape(-1, scores.shape[-1]), labels[:, :length].reshape(-1), ignore_index=-100)
    frames = min(audio_logits.shape[0], audio_labels.shape[1])
    return mixed(text, mean_or_zero(codebook_losses(audio_logits[:frames], audio_labels[:, :frames]), audio_logits))


# --- the audio stream -------------------------------------------------------------------------------------------------


def audio_not_shifted(logits: Tensor, labels: Tensor, audio_logits: Tensor, audio_labels: Tensor) -> Losses:
    """Wrong: the text was fixed, but the codes were forgotten."""
    losses = codebook_losses(audio_logits, audio_labels)
    return mixed(text_loss(logits, labels), mean_or_zero(losses, audio_logits))


def nan_hidden(logits: Tensor, labels: Tensor, audio_logits: Tensor, audio_labels: Tensor) -> Losses:
    """Wrong: an empty codebook's mean is NaN, and `if loss > 0` leaves it out, like every other NaN.

    It is right until a logit is NaN. Then it silently drops that codebook, and the run goes on.
    """
    losses = []
    for scores, codes in zip(audio_logits[:-1].unbind(1), audio_labels[:, 1:], strict=True):
        loss = F.cross_entropy(scores.float(), codes, ignore_index=-100)
        if loss.item() > 0:
            losses.append(loss)
    return mixed(text_loss(logits, labels), mean_or_zero(losses, audio_logits))


def empty_codebooks_counted(logits: Tensor, labels: Tensor, audio_logits: Tensor, audio_labels: Tensor) -> Losses:
    """Wrong: the sum is divided by K, even if a codebook has nothing to learn."""
    losses = codebook_losses(audio_logits[:-1], audio_labels[:, 1:])
    share_trained = len(losses) / audio_labels.shape[0]
    return mixed(text_loss(logits, labels), mean_or_zero(losses, audio_logits) * share_trained)


def codes_pooled(logits: Tensor, labels: Tensor, audio_logits: Tensor, audio_labels: Tensor) -> Losses:
    """Wrong: one mean over all codes, so a codebook with fewer codes counts less."""
    codes = audio_labels[:, 1:].T.reshape(-1)
    scores = audio_logits[:-1].float().reshape(-1, audio_logits.shape[-1])
    total = F.cross_entropy(scores, codes, ignore_index=-100, reduction="sum")
    return mixed(text_loss(logits, labels), total / (codes != -100).sum().clamp(min=1))
