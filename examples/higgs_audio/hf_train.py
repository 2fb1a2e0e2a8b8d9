"""Train transformers' HiggsAudioV2, tiny, on synthetic speech.

    python examples/higgs_audio/hf_train.py [--step NAME]

Each step has several micro-batches. The losses of text and audio are printed apart. On fresh samples, it also prints
what no loss shows: how often the next token and the next code are right.
"""

import argparse

import hf_step
import torch
from collator import Sample, synthetic
from hf_labels import build_labels
from hf_model import AUDIO_BOS, AUDIO_EOS, AUDIO_TOKEN, CODEBOOKS, CODES, IGNORE, PAD, WORDS, Right
from model import Config
from torch import Tensor

CONFIG = Config(vocabulary=WORDS, codebooks=CODEBOOKS, codes=CODES)
DELAYS = tuple(range(CODEBOOKS))
STEPS = {step.__name__: step for step in (hf_step.step, hf_step.shifted_twice, hf_step.not_shifted, hf_step.cut_by_one)}


def frames_of(codes: Tensor) -> tuple[Tensor, Tensor]:
    """[K, T] codes -> the frames of the inputs and their labels, each [T + 1 + K, K], as the processor makes them."""
    books, frames = codes.shape
    inputs = codes.new_full((books, frames + 2 + DELAYS[-1]), AUDIO_EOS)
    for book, delay in enumerate(DELAYS):
        inputs[book, : delay + 1] = AUDIO_BOS
        inputs[book, delay + 1 : delay + 1 + frames] = codes[book]
    return inputs.T, build_labels(codes[None], DELAYS, IGNORE)[0].T


def collate(samples: list[Sample]) -> dict[str, Tensor]:
    """Put the text first, then its frames. Rows are padded on the right."""
    columns: dict[str, list[Tensor]] = {"input_ids": [], "labels": [], "audio_input_ids": [], "audio_labels": []}
    for sample in samples:
        text = torch.cat([sample.prompt, sample.text])
        none = sample.codes.new_zeros((0, CODEBOOKS))
        frames, targets = frames_of(sample.codes) if sample.codes.shape[1] else (none, none)
        before = text.new_full((len(text), CODEBOOKS), -1)
        columns["input_ids"].append(torch.cat([text, text.new_full((len(frames),), AUDIO_TOKEN)]))
        ignored = text.new_full((len(frames),), IGNORE)
        columns["labels"].append(torch.cat([torch.full_like(sample.prompt, IGNORE), sample.text, ignored]))
        columns["audio_input_ids"].append(torch.cat([before, frames]))
        columns["audio_labels"].append(torch.cat([before.new_full(before.shape, IGNORE), targets]))
    fill = {"input_ids": PAD, "labels": IGNORE, "audio_input_ids": -1, "audio_labels": IGNORE}
    pad = torch.nn.utils.rnn.pad_sequence
    return {name: pad(rows, batch_first=True, padding_value=fill[name]) for name, rows in columns.items()}


@torch.no_grad()
def accuracy(model: Right, batch: dict[str, Tensor]) -> dict[str, float]:
    """Return how often the likeliest next token, and the likeliest next code, is right."""
    output = model(batch["input_ids"], audio_input_ids=batch["audio_input_ids"])
    found = {}
    for stream, logits, labels in (
        ("text", output.logits, batch["labels"]),
        ("audio", output.audio_logits, batch["audio_labels"]),
    ):
        trained = labels[:, 1:] != IGNORE
        found[stream] = float((logits.argmax(-1)[:, :-1] == labels[:, 1:])[trained].float().mean())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--step", choices=STEPS, default="step")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--gradient-accumulation-steps", type=int, default=2)
    arguments = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    model = Right()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    def batch(rows: int) -> dict[str, Tensor]:
        return collate([synthetic(CONFIG, generator) for _ in range(rows)])

    for count in range(arguments.steps + 1):
        STEPS[arguments.step](model, [batch(8) for _ in range(arguments.gradient_accumulation_steps)], optimizer)
        if count % 25 == 0:
            losses = hf_step.LOG[-1]
            print(f"step {count:4d}   text loss {losses['text']:.3f}   audio loss {losses['audio']:.3f}")
    right = accuracy(model, batch(64))
    print(f"fresh samples: the next token is right {right['text']:.0%} of the time, the next code {right['audio']:.0%}")


if __name__ == "__main__":
    main()
