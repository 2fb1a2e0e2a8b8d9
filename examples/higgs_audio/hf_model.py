"""transformers' own HiggsAudioV2 in a tiny configuration, with its labels right, and wrong in three ways.

    shiftproof check examples/higgs_audio/hf_model.py:Right --spec higgs.hf

Each class takes a batch in the shape that a judge or a trainer has it: text and frames side by side. It hands the model
its frames packed, as its processor does, and returns `loss`, and the logits of both streams.
"""

from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import HiggsAudioV2Config, HiggsAudioV2ForConditionalGeneration

WORDS, CODEBOOKS, CODES = 32, 3, 18
PAD, EOS, AUDIO_TOKEN, DELAY_TOKEN, AUDIO_START = range(WORDS, WORDS + 5)
AUDIO_BOS, AUDIO_EOS = CODES - 2, CODES - 1
OF_FRAMES = torch.tensor([AUDIO_TOKEN, DELAY_TOKEN])
IGNORE = -100


def tiny_config() -> HiggsAudioV2Config:
    """Two layers of width 32, 3 codebooks of 18 codes. The last five tokens are special."""
    return HiggsAudioV2Config(
        vocab_size=WORDS + 5,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_codebooks=CODEBOOKS,
        codebook_size=CODES,
        pad_token_id=PAD,
        eos_token_id=EOS,
        audio_token_id=AUDIO_TOKEN,
        audio_delay_token_id=DELAY_TOKEN,
        audio_bos_token_id=AUDIO_START,
        audio_stream_bos_id=AUDIO_BOS,
        audio_stream_eos_id=AUDIO_EOS,
        tie_word_embeddings=False,
        use_cache=False,
    )


class Right(nn.Module):
    """The model with its text head, and its own loss: that of the text, and those of the codebooks."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = HiggsAudioV2ForConditionalGeneration(tiny_config(), use_text_head=True)

    def forward(
        self,
        input_ids: Tensor,
        labels: Tensor | None = None,
        audio_input_ids: Tensor | None = None,
        audio_labels: Tensor | None = None,
        num_items_in_batch: int | None = None,
    ) -> SimpleNamespace:
        """Return `loss`, None without labels, `logits` [B, S, V] and `audio_logits` [B, S, K, V].

        Args:
            input_ids: [B, S] int64.
            labels: [B, S] int64, the tokens themselves; −100 is ignored.
            audio_input_ids: [B, S, K] int64, −1 where a position holds no frame.
            audio_labels: [B, S, K] int64, the frames themselves; −100 is ignored.
            num_items_in_batch: by which the losses are divided, in place of the number of their labels.
        """
        if audio_input_ids is None:
            audio_input_ids = input_ids.new_full((*input_ids.shape, CODEBOOKS), -1)
        is_trained = labels is not None or audio_labels is not None
        labels = torch.full_like(input_ids, IGNORE) if labels is None else labels
        audio_labels = torch.full_like(audio_input_ids, IGNORE) if audio_labels is None else audio_labels
        here = (audio_input_ids >= 0).all(-1)
        frames, mask = packed(audio_input_ids.clamp(min=0), here)
        inputs = {
            "input_ids": input_ids.masked_fill(torch.isin(input_ids, OF_FRAMES), PAD).masked_fill(here, AUDIO_TOKEN),
            "audio_input_ids": frames,
            "audio_input_ids_mask": mask,
        }
        given = {"labels": self.handed(labels), "audio_labels": packed(audio_labels, here)[0]}
        counted = {} if num_items_in_batch is None else {"num_items_in_batch": num_items_in_batch}
        seen: list[Tensor] = []  # the model returns the logits of its frames alone
        hook = self.inner.text_lm_head.register_forward_hook(lambda module, inputs, made: seen.append(made))
        try:
            output = self.inner(**inputs, **given, **counted)
        finally:
            hook.remove()
        audio_logits = output.logits.unflatten(-1, (CODEBOOKS, CODES))
        pairs = [(seen[-1], labels), *zip(audio_logits.unbind(-2), audio_labels.unbind(-1), strict=True)]
        loss = self.loss(output.loss, pairs, num_items_in_batch) if is_trained else None
        return SimpleNamespace(loss=loss, logits=seen[-1], audio_logits=audio_logits)

    def handed(self, labels: Tensor) -> Tensor:
        """The labels of the text as the model gets them: where the tokens are. It shifts them itself."""
        return labels

    def loss(self, of_model: Tensor, pairs: list[tuple[Tensor, Tensor]], count: int | None) -> Tensor:
        """The loss to train with. ``pairs`` are logits [B, S, V] and labels [B, S]: of the text, and each codebook."""
        return of_model


class ShiftedTwice(Right):
    """The published fix: labels of text that are shifted already, and the model shifts them again."""

    def handed(self, labels: Tensor) -> Tensor:
        return torch.cat([labels[:, 1:], torch.full_like(labels[:, :1], IGNORE)], dim=1)


class NotShifted(Right):
    """The trainer has a loss of its own, which scores each row on the token that the row has seen."""

    def loss(self, of_model: Tensor, pairs: list[tuple[Tensor, Tensor]], count: int | None) -> Tensor:
        return torch.stack([self.cross_entropy(logits, labels, count) for logits, labels in pairs]).sum()

    def cross_entropy(self, logits: Tensor, labels: Tensor, count: int | None) -> Tensor:
        scores = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE, reduction="sum")
        return scores / ((labels != IGNORE).sum() if count is None else count)


class CutByOne(NotShifted):
    """The trainer cuts the first label of each row, and no logit: 167 rows of logits meet 166 labels."""

    def cross_entropy(self, logits: Tensor, labels: Tensor, count: int | None) -> Tensor:
        return super().cross_entropy(logits, labels[:, 1:], count)


def packed(frames: Tensor, here: Tensor) -> tuple[Tensor, Tensor]:
    """Move the frames [B, S, K] of each row that are ``here`` [B, S] to the left. Return them and their mask."""
    most = max(int(here.sum(1).max()), 1)
    order = torch.argsort((~here).long(), dim=1, stable=True)[:, :most]
    moved = frames.gather(1, order[..., None].expand(-1, -1, frames.shape[-1]))
    return moved, here.gather(1, order)
