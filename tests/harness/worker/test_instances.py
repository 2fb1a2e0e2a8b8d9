"""A class is instantiated, a factory is called, a method gets an instance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from shiftproof.harness.worker.load import Loaded, load
from shiftproof.harness.worker.target import LoadFailure, Target

SOURCE = """
import torch

class Loss:
    def __init__(self, scale, offset=0): self.scale, self.offset = scale, offset
    def __call__(self, logits, labels): return self.scale * logits.sum() + self.offset
    def other(self, logits, labels): return -self.scale * logits.sum()

class Plain:
    def __call__(self, logits, labels): return logits.sum()

class Module(torch.nn.Module):
    def __init__(self, scale=2.0):
        super().__init__()
        self.scale = scale
    def forward(self, logits, labels): return self.scale * logits.sum()
    def other(self, logits, labels): return -self.scale * logits.sum()

class Steps(torch.nn.Module):
    def training_step(self, batch, batch_idx): return batch

class Trainer:
    def __init__(self, model): raise RuntimeError("no model")
    def compute(self, logits, labels): return logits.sum()
    @staticmethod
    def static(logits, labels): return logits.sum()
    @classmethod
    def of_class(cls, logits, labels): return logits.sum()

def factory(scale=5): return lambda logits, labels: scale * logits.sum()
def nothing(): return 3
def fails(scale): raise ValueError("not made")
def scaled(logits, labels, scale): return scale * logits.sum()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(SOURCE)
    return tmp_path


def loaded(folder: Path, name: str, **how: Any) -> Loaded:
    return load(Target(f"mine.py:{name}", **how), str(folder), torch.device("cpu"))


def called(found: Loaded) -> float:
    return float(found.function(logits=torch.ones(2), labels=None))


@pytest.mark.parametrize(
    ("name", "how", "value"),
    [
        ("Plain", {}, 2),
        ("Loss", {"init": {"scale": 3}}, 6),
        ("Loss", {"init": {"scale": 3, "offset": 1}}, 7),
        ("Loss.other", {"init": {"scale": 3}}, -6),
        ("Module", {}, 4),
        ("Module", {"init": {"scale": 1.0}}, 2),
        ("Module.other", {}, -4),
        ("Trainer.compute", {}, 2),
        ("Trainer.static", {}, 2),
        ("Trainer.of_class", {}, 2),
        ("factory", {"init": {}}, 10),
        ("factory", {"init": {"scale": 1}}, 2),
        ("scaled", {"kwargs": {"scale": 4}}, 8),
    ],
)
def test_what_is_called(folder: Path, name: str, how: dict[str, Any], value: float) -> None:
    found = loaded(folder, name, **how)
    assert called(found) == value
    assert [each.name for each in found.description.parameters] == ["logits", "labels"]


@pytest.mark.parametrize(
    ("name", "how", "words"),
    [
        (
            "Loss",
            {},
            r"cannot be made without arguments \(missing a required argument: 'scale'\): give its arguments as",
        ),
        ("Loss", {"init": {"scales": 1}}, "cannot be made with scales"),
        ("nothing", {"init": {}}, "makes a int, which cannot be called"),
        (
            "scaled",
            {"init": {"x": 1}},
            "init is for a class, or for a factory that makes the loss",
        ),
        ("Steps", {}, r"without a forward: name its method, as mine\.py:Steps\.training_step"),
        ("fails", {"init": {"scale": 1}}, "making a mine.py:fails with scale raised ValueError: not made"),
        ("scaled", {"kwargs": {"scales": 4}}, "kwargs has 'scales', which mine.py:scaled does not take; did you mean"),
    ],
)
def test_what_cannot_be_made_is_told(folder: Path, name: str, how: dict[str, Any], words: str) -> None:
    with pytest.raises(LoadFailure, match=words):
        loaded(folder, name, **how)
