"""The Higgs-audio example: it trains, its loss is right, and its wrong losses are wrong in the way that they say."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

FOLDER = Path(__file__).parents[2] / "examples" / "higgs_audio"
MODULES = ("audio_loss", "model", "collator", "train")


@pytest.fixture(scope="module")
def higgs() -> Iterator[Any]:
    """The modules of the example, found as its script finds them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        for name in MODULES:
            patch.delitem(sys.modules, name, raising=False)
        found: dict[str, ModuleType] = {name: __import__(name) for name in reversed(MODULES)}
        yield SimpleNamespace(**found)
        for name in MODULES:
            patch.delitem(sys.modules, name)


@pytest.fixture(scope="module")
def batch_and_output(higgs: Any) -> Any:
    """One batch and what an untrained model makes of it, differentiably."""
    trainer = higgs.train.Trainer(higgs.model.Config(), seed=1)
    batch = trainer.batch(rows=6)
    return SimpleNamespace(trainer=trainer, batch=batch, output=trainer.forward(batch))


def losses(higgs: Any, name: str, given: Any, audio_logits: Tensor | None = None, codes: Tensor | None = None) -> Any:
    loss = getattr(higgs.audio_loss, name)
    return loss(
        given.output.logits,
        given.batch.labels,
        given.output.audio_logits if audio_logits is None else audio_logits,
        given.batch.audio_labels if codes is None else codes,
    )


# --- it trains --------------------------------------------------------------------------------------------------------


def test_both_losses_fall(higgs: Any) -> None:
    trainer = higgs.train.Trainer(higgs.model.Config())
    steps = [trainer.step(trainer.batch()) for _ in range(40)]
    for stream in ("text", "audio"):
        early, late = (sum(step[stream] for step in part) / 5 for part in (steps[:5], steps[-5:]))
        assert late < early / 2, (stream, early, late)


def test_the_script_runs() -> None:
    command = [sys.executable, str(FOLDER / "train.py"), "--steps", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.startswith("step    0   text loss 3.")
    assert "the next code" in done.stdout.splitlines()[-1]


def test_gradients_reach_every_weight(higgs: Any) -> None:
    trainer = higgs.train.Trainer(higgs.model.Config())
    trainer.step(trainer.batch())
    for name, parameter in trainer.model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert (parameter.grad != 0).any(), name


def test_the_audio_feed_forward_learns_from_audio_alone(higgs: Any) -> None:
    trainer = higgs.train.Trainer(higgs.model.Config())
    batch = trainer.batch()
    output = trainer.forward(batch)
    higgs.audio_loss.text_loss(output.logits, batch.labels).backward()
    for layer in trainer.model.layers:
        assert all(not parameter.grad.any() for parameter in layer.audio_ffn.parameters())
        assert any(parameter.grad.any() for parameter in layer.text_ffn.parameters())


def test_the_loss_that_repeats_its_input_falls_and_learns_nothing(higgs: Any) -> None:
    trainer = higgs.train.Trainer(higgs.model.Config(), higgs.audio_loss.identity)
    steps = [trainer.step(trainer.batch()) for _ in range(40)]
    assert steps[-1]["text"] < steps[0]["text"] / 10
    assert trainer.accuracy(trainer.batch())["text"] < 0.1


# --- its batches ------------------------------------------------------------------------------------------------------


def test_delayed_codes(higgs: Any) -> None:
    codes = torch.tensor([[1, 2, 3], [4, 5, 6], [7, 8, 9]])
    assert higgs.collator.delayed(codes, 0, 99, 99).tolist() == [
        [0, 1, 2, 3, 99, 99, 99],
        [0, 0, 4, 5, 6, 99, 99],
        [0, 0, 0, 7, 8, 9, 99],
    ]


def test_every_code_and_one_end_a_codebook_is_trained(higgs: Any) -> None:
    config = higgs.model.Config()
    sample = higgs.collator.Sample(torch.tensor([1]), torch.tensor([2, 3]), torch.arange(12).reshape(3, 4))
    batch = higgs.collator.collate([sample, sample], config)
    assert int(batch.audio_mask.sum()) == batch.audio_ids.shape[1] == batch.audio_labels.shape[1] == 2 * 8
    assert (batch.audio_labels[:, ::8] == -100).all()  # the first of each segment
    trained = batch.audio_labels != -100
    assert (trained.sum(1) == 2 * (4 + 1)).all()
    assert torch.equal(batch.audio_labels[trained], batch.audio_ids[trained])
    assert batch.labels.tolist() == [[-100, 2, 3, *[-100] * 8]] * 2


def test_a_batch_of_text_alone(higgs: Any) -> None:
    trainer = higgs.train.Trainer(higgs.model.Config())
    sample = higgs.collator.Sample(torch.tensor([1]), torch.tensor([2, 3]), torch.zeros((3, 0), dtype=torch.long))
    step = trainer.step(higgs.collator.collate([sample], trainer.config))
    assert step["audio"] == 0
    assert step["text"] > 0


# --- its losses -------------------------------------------------------------------------------------------------------


def by_hand(logits: Tensor, labels: Tensor) -> list[float]:
    """−log softmax(logits[t])[labels[t+1]] of one row, where there is a label, in float64."""
    logp = logits.detach().double().log_softmax(-1)
    return [-float(logp[t, y]) for t, y in enumerate(labels[1:].tolist()) if y != -100]


def test_right_is_right(higgs: Any, batch_and_output: Any) -> None:
    output, batch = batch_and_output.output, batch_and_output.batch
    codes = batch.audio_labels.clone()
    codes[0, ::3] = -100  # unequal counts
    codes[2] = -100  # one codebook is empty
    text = [loss for row in zip(output.logits, batch.labels, strict=True) for loss in by_hand(*row)]
    books = [by_hand(output.audio_logits[:, book], codes[book]) for book in range(3)]
    found = losses(higgs, "right", batch_and_output, codes=codes)
    assert found["text"].item() == pytest.approx(sum(text) / len(text), rel=1e-5)
    audio = [sum(book) / len(book) for book in books if book]
    assert len(audio) == 2
    assert found["audio"].item() == pytest.approx(sum(audio) / 2, rel=1e-5)
    assert found["loss"].item() == pytest.approx(found["text"].item() + found["audio"].item(), rel=1e-6)


def test_before_fix_raises_what_was_reported(higgs: Any) -> None:
    audio = torch.zeros(4, 2, 5), torch.zeros(2, 4, dtype=torch.long)
    with pytest.raises(ValueError, match=r"input batch_size \(336\) to match target batch_size \(334\)"):
        higgs.audio_loss.before_fix(torch.zeros(2, 168, 7), torch.zeros(2, 168, dtype=torch.long), *audio)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("published_fix", {"text"}),
        ("identity", {"text", "audio"}),
        ("audio_not_shifted", {"audio"}),
        ("nan_hidden", set()),
        ("empty_codebooks_counted", set()),
        ("codes_pooled", set()),
    ],
)
def test_which_stream_is_wrong(higgs: Any, batch_and_output: Any, name: str, wrong: set[str]) -> None:
    right, found = (losses(higgs, which, batch_and_output) for which in ("right", name))
    differ = {stream for stream in ("text", "audio") if found[stream].item() != pytest.approx(right[stream].item())}
    assert differ == wrong


@pytest.mark.parametrize("name", ["empty_codebooks_counted", "codes_pooled"])
def test_averages_differ_where_codebooks_are_unequal(higgs: Any, batch_and_output: Any, name: str) -> None:
    codes = batch_and_output.batch.audio_labels.clone()
    codes[0] = -100
    codes[1, ::2] = -100
    right, found = (losses(higgs, which, batch_and_output, codes=codes) for which in ("right", name))
    assert found["audio"].item() != pytest.approx(right["audio"].item(), rel=1e-3)


def test_nan_is_hidden(higgs: Any, batch_and_output: Any) -> None:
    logits = batch_and_output.output.audio_logits.detach().clone()
    logits[4, 1] = torch.nan
    codes = batch_and_output.batch.audio_labels.clone()
    codes[1, 5] = 0
    right, found = (losses(higgs, name, batch_and_output, logits, codes) for name in ("right", "nan_hidden"))
    assert torch.isnan(right["loss"])
    assert torch.isfinite(found["loss"])


def test_the_table_in_the_readme_has_every_loss(higgs: Any) -> None:
    table = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert all(f"| `{name}` |" in table for name in higgs.train.LOSSES)
