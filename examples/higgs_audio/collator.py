"""Turn samples of text and codes into a batch, delayed and labelled like the boson-ai collator.

Codebook k of every frame stands k frames later, so that one step can predict all codebooks:

    a1 a2 a3         B  a1 a2 a3 E  E  E
    b1 b2 b3   ->    B  B  b1 b2 b3 E  E      B, E: the begin and the end of a stream
    c1 c2 c3         B  B  B  c1 c2 c3 E

Labels stand at the place of their inputs. Every code and the first E of each codebook is trained, and nothing else: B
and each later E are −100. So the first label of every segment is −100, and a shift over concatenated segments leaks
nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from model import Config
from torch import Tensor

IGNORE = -100


@dataclass(frozen=True)
class Sample:
    """`prompt` [P] is text that is not trained on, `text` [L] is trained on, `codes` [K, T] follow; T can be 0."""

    prompt: Tensor
    text: Tensor
    codes: Tensor


@dataclass(frozen=True)
class Batch:
    """`input_ids`, `labels`, `audio_mask` [B, S]; `audio_ids`, `audio_labels` [K, N], the segments in sequence."""

    input_ids: Tensor
    labels: Tensor
    audio_mask: Tensor
    audio_ids: Tensor
    audio_labels: Tensor


def delayed(codes: Tensor, before: int, end: int, after: int) -> Tensor:
    """[K, T] -> [K, T + 1 + K]: k + 1 of `before`, the codes, one `end`, and `after` up to the end of each codebook."""
    books, frames = codes.shape
    out = codes.new_full((books, frames + 1 + books), after)
    for book in range(books):
        out[book, : book + 1] = before
        out[book, book + 1 : book + 1 + frames] = codes[book]
        out[book, book + 1 + frames] = end
    return out


def collate(samples: Sequence[Sample], config: Config) -> Batch:
    """Put the text first, then its audio. Rows are padded on the right."""
    rows, labels, masks, audio_ids, audio_labels = [], [], [], [], []
    for sample in samples:
        text = torch.cat([sample.prompt, sample.text])
        frames = 0
        if sample.codes.shape[1]:
            audio_ids.append(delayed(sample.codes, config.bos_code, config.eos_code, config.eos_code))
            audio_labels.append(delayed(sample.codes, IGNORE, config.eos_code, IGNORE))
            frames = audio_ids[-1].shape[1]
        rows.append(torch.cat([text, text.new_zeros(frames)]))
        labels.append(
            torch.cat([torch.full_like(sample.prompt, IGNORE), sample.text, text.new_full((frames,), IGNORE)])
        )
        masks.append(torch.arange(len(rows[-1])) >= len(text))
    empty = torch.zeros((config.codebooks, 0), dtype=torch.long)
    return Batch(
        input_ids=torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=0),
        labels=torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=IGNORE),
        audio_mask=torch.nn.utils.rnn.pad_sequence(masks, batch_first=True, padding_value=False),
        audio_ids=torch.cat([empty, *audio_ids], dim=1),
        audio_labels=torch.cat([empty, *audio_labels], dim=1),
    )


def synthetic(config: Config, generator: torch.Generator) -> Sample:
    """Return text that steps through the vocabulary, and codes that step through theirs, from where the text ends.

    The next token always differs from the current one, so a model that repeats its input is never right.
    """

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=generator))

    sounds = config.codes - 2
    text = (draw(0, config.vocabulary) + 5 * torch.arange(draw(6, 10))) % config.vocabulary
    steps = torch.arange(draw(4, 9))
    codes = torch.stack([(text[-1] + 3 * book + (2 * book + 1) * steps) % sounds for book in range(config.codebooks)])
    if draw(0, 8) == 0:
        codes = codes[:, :0]  # one sample in eight has no speech
    prompt = draw(1, 4)
    return Sample(text[:prompt], text[prompt:], codes)
