"""Train the small Higgs-audio model on synthetic speech: ``python examples/higgs_audio/train.py [--loss NAME]``.

It prints the training loss of text and of audio. On fresh samples it also prints what no loss shows: how often the next
token and the next code are right. `--loss` takes any function of audio_loss.py. Under `identity` the loss falls to 0,
but the model has only learned to repeat its input.
"""

import argparse
from collections.abc import Callable

import audio_loss
import torch
from collator import Batch, collate, synthetic
from model import Config, HiggsAudio, Output
from torch import Tensor

Loss = Callable[[Tensor, Tensor, Tensor, Tensor], audio_loss.Losses]
LOSSES: dict[str, Loss] = {
    loss.__name__: loss
    for loss in (
        audio_loss.right,
        audio_loss.before_fix,
        audio_loss.published_fix,
        audio_loss.identity,
        audio_loss.audio_not_shifted,
        audio_loss.nan_hidden,
        audio_loss.empty_codebooks_counted,
        audio_loss.codes_pooled,
    )
}


class Trainer:
    """A model, its optimiser, and a source of batches."""

    def __init__(self, config: Config, loss: Loss = audio_loss.right, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.config = config
        self.loss = loss
        self.model = HiggsAudio(config)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=3e-3)
        self.generator = torch.Generator().manual_seed(seed)

    def batch(self, rows: int = 16) -> Batch:
        return collate([synthetic(self.config, self.generator) for _ in range(rows)], self.config)

    def forward(self, batch: Batch) -> Output:
        output: Output = self.model(batch.input_ids, batch.audio_ids, batch.audio_mask)
        return output

    def step(self, batch: Batch) -> dict[str, float]:
        """Take one step. Return the loss of each stream, for the log."""
        output = self.forward(batch)
        losses = self.loss(output.logits, batch.labels, output.audio_logits, batch.audio_labels)
        self.optimizer.zero_grad()
        losses["loss"].backward()
        self.optimizer.step()
        return {name: float(losses[name]) for name in ("text", "audio")}

    @torch.no_grad()
    def accuracy(self, batch: Batch) -> dict[str, float]:
        """Return how often the likeliest next token, and the likeliest next code, is right."""
        output = self.forward(batch)
        found = {}
        for name, predicted, labels in (
            ("text", output.logits.argmax(-1)[:, :-1], batch.labels[:, 1:]),
            ("audio", output.audio_logits.argmax(-1)[:-1].T, batch.audio_labels[:, 1:]),
        ):
            trained = labels != -100
            found[name] = float((predicted == labels)[trained].float().mean())
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--loss", choices=LOSSES, default="right")
    parser.add_argument("--steps", type=int, default=100)
    arguments = parser.parse_args()
    trainer = Trainer(Config(), LOSSES[arguments.loss])
    for step in range(arguments.steps + 1):
        losses = trainer.step(trainer.batch())
        if step % 25 == 0:
            print(f"step {step:4d}   text loss {losses['text']:.3f}   audio loss {losses['audio']:.3f}")
    right = trainer.accuracy(trainer.batch(64))
    print(f"fresh samples: the next token is right {right['text']:.0%} of the time, the next code {right['audio']:.0%}")


if __name__ == "__main__":
    main()
