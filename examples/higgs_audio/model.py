"""A small text and audio transformer like Higgs-audio: shared attention, and separate feed-forwards for text and audio.

A row holds text and audio frames in one sequence. A mask marks the positions of frames. There the K codes are embedded
and summed, other feed-forwards and norms are used ("DualFFN"), and the audio head returns K distributions.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Config:
    """The sizes. The codes include two ids beside the sounds: the begin and the end of the stream."""

    vocabulary: int = 32
    codebooks: int = 3
    codes: int = 18
    width: int = 48
    heads: int = 4
    layers: int = 2
    positions: int = 64

    @property
    def bos_code(self) -> int:
        return self.codes - 2

    @property
    def eos_code(self) -> int:
        return self.codes - 1


@dataclass(frozen=True)
class Output:
    """`logits` [B, S, V]; `audio_logits` [N, K, Va], those of the N audio positions, row by row."""

    logits: Tensor
    audio_logits: Tensor


def feed_forward(width: int) -> nn.Module:
    """Return a norm and two layers."""
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))


class DualFFNLayer(nn.Module):
    """Attention over all earlier positions, then one feed-forward for text positions and another for audio."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.heads = config.heads
        self.norm = nn.LayerNorm(config.width)
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)
        self.text_ffn = feed_forward(config.width)
        self.audio_ffn = feed_forward(config.width)

    def forward(self, x: Tensor, audio_mask: Tensor) -> Tensor:
        rows, length, width = x.shape
        q, k, v = self.qkv(self.norm(x)).view(rows, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).reshape(rows, length, width))
        # Each position goes only through the layers of its own kind, so the two kinds share no feed-forward weights.
        update = torch.empty_like(x)
        update[~audio_mask] = self.text_ffn(x[~audio_mask])
        update[audio_mask] = self.audio_ffn(x[audio_mask])
        return x + update


class HiggsAudio(nn.Module):
    """The model: two embeddings, the layers, two heads."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.text_embedding = nn.Embedding(config.vocabulary, config.width)
        self.code_embedding = nn.Embedding(config.codebooks * config.codes, config.width)
        self.position_embedding = nn.Embedding(config.positions, config.width)
        self.layers = nn.ModuleList(DualFFNLayer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.text_head = nn.Linear(config.width, config.vocabulary)
        self.audio_head = nn.Linear(config.width, config.codebooks * config.codes)

    def forward(self, input_ids: Tensor, audio_ids: Tensor, audio_mask: Tensor) -> Output:
        """`input_ids` [B, S], any value at audio positions; `audio_ids` [K, N]; `audio_mask` [B, S], N of them true.

        Padding must be on the right: attention is causal, and nothing else hides the padding.
        """
        config = self.config
        own_table = torch.arange(config.codebooks, device=audio_ids.device).unsqueeze(1) * config.codes
        x = self.text_embedding(input_ids.masked_fill(audio_mask, 0))
        x = x.masked_scatter(audio_mask.unsqueeze(-1), self.code_embedding(audio_ids + own_table).sum(0))
        x = x + self.position_embedding.weight[: x.shape[1]]
        for layer in self.layers:
            x = layer(x, audio_mask)
        x = self.norm(x)
        frames = self.audio_head(x[audio_mask])
        return Output(self.text_head(x), frames.view(-1, config.codebooks, config.codes))
