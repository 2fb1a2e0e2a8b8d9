"""What a candidate's code asks of sizes, and the sizes that take the other way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch

from shiftproof.harness.worker.exchange import Call
from shiftproof.harness.worker.guards import Guard, Traced, decode_traced, encode_traced, trace
from shiftproof.harness.worker.load import load

NOW = {"rows": 3, "length": 11, "classes": 23}
LEAST = {"rows": 1, "length": 2, "classes": 2}
RIGHT = """
import torch
import torch.nn.functional as F
def right(logits, labels, **rest):
    return F.cross_entropy(logits[:, :-1].reshape(-1, logits.size(-1)), labels[:, 1:].reshape(-1), **rest)
"""

Find = Callable[..., Traced]


@pytest.fixture
def find(tmp_path: Path) -> Find:
    """Trace the loss of a text."""

    def find(text: str, most: int = 2_000_000, now: Mapping[str, int] = NOW) -> Traced:
        file = tmp_path / f"candidate_{abs(hash(text))}.py"
        file.write_text(RIGHT + text)
        loaded = load(f"{file}:loss", str(tmp_path), torch.device("cpu"))
        rows, length, classes = now.values()
        labels = torch.arange(rows * length).reshape(rows, length) % classes
        tensors = {"logits": torch.zeros(rows, length, classes), "labels": labels}
        return trace(loaded, Call(tensors, scalars={}, gradients=("logits",)), now, LEAST, most)

    return find


def own(traced: Traced) -> list[Guard]:
    return [guard for guard in traced.guards if guard.is_own]


def behind(condition: str) -> str:
    return f"""
def loss(logits, labels):
    if {condition}:
        labels = labels * 1
    return right(logits, labels)
"""


@pytest.mark.parametrize(
    ("condition", "said", "otherwise"),
    [
        ("logits.shape[1] > 67", "length <= 67", {"rows": 3, "length": 68, "classes": 4}),
        ("logits.shape[1] % 16 == 0", "length % 16 != 0", {"rows": 3, "length": 16, "classes": 4}),
        ("labels.numel() > 4096", "rows*length <= 4096", {"rows": 1, "length": 4097, "classes": 4}),
        ("logits.size(-1) >= 131072", "classes < 131072", {"rows": 3, "length": 4, "classes": 131072}),
        ("logits.shape[0] > 40", "rows <= 40", {"rows": 41, "length": 4, "classes": 4}),
        ("len(labels) == 5", "rows == 3", {"rows": 1, "length": 4, "classes": 4}),  # a plain number from here on
        (
            "logits.shape[1] >= 8 and logits.shape[0] >= 7",
            "rows < 7",
            {"rows": 7, "length": 11, "classes": 4},  # the first answer must stay what it is
        ),
    ],
)
def test_a_question_is_solved(find: Find, condition: str, said: str, otherwise: dict[str, int]) -> None:
    traced = find(behind(condition))
    assert traced.stopped == ""
    guard = own(traced)[-1]
    assert (guard.condition, guard.otherwise, guard.line) == (said, otherwise, 8)
    assert Path(guard.file).name.startswith("candidate_")


def test_the_number_of_chunks_is_asked_by_torch(find: Find) -> None:
    text = """
def loss(logits, labels):
    rows, labels = logits[:, :-1].reshape(-1, logits.size(-1)), labels[:, 1:].reshape(-1)
    parts = [F.cross_entropy(x, y, reduction="sum") for x, y in zip(rows.split(1000), labels.split(1000))]
    return sum(parts) / (labels >= 0).sum()
"""
    traced = find(text)
    (chunks,) = [guard for guard in traced.guards if "1000" in guard.condition]
    assert not chunks.is_own
    assert chunks.otherwise is not None
    assert chunks.otherwise["rows"] * (chunks.otherwise["length"] - 1) > 1000


def test_sizes_that_take_too_much_are_not_given(find: Find) -> None:
    (guard,) = own(find(behind("logits.size(-1) >= 131072"), most=100_000))
    assert guard.otherwise is None
    assert guard.elements == 3 * 4 * 131072


def test_backward_asks_too(find: Find) -> None:
    text = """
class Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 1
    @staticmethod
    def backward(ctx, grad):
        return grad * 2 if grad.shape[1] > 300 else grad * 1
def loss(logits, labels):
    return right(Scaled.apply(logits), labels)
"""
    assert "length <= 300" in [guard.condition for guard in own(find(text))]


@pytest.mark.parametrize(
    "text",
    [
        """
def loss(logits, labels):
    keep = labels[:, 1:] != -100
    return F.cross_entropy(logits[:, :-1][keep], labels[:, 1:][keep])
""",
        """
def loss(logits, labels):
    n = (labels[:, 1:] >= 0).sum().item()
    return right(logits, labels, reduction='sum') / max(n, 1)
""",
        """
def loss(logits, labels):
    return sum(right(x[None], y[None]) for x, y in zip(logits, labels)) / len(labels)
""",
        "loss = torch.compile(right, backend='eager')",
    ],
    ids=["masked", "item", "row by row", "compiled"],
)
def test_ordinary_losses_can_be_traced(find: Find, text: str) -> None:
    assert find(text).stopped == ""


def test_why_a_trace_stopped(find: Find) -> None:
    traced = find("def loss(logits, labels):\n    assert len(logits.shape) == 3\n    raise KeyError('no such size')")
    assert traced.stopped == "KeyError: 'no such size'"


def test_a_trace_travels(find: Find) -> None:
    traced = find(behind("logits.shape[1] > 67"))
    assert decode_traced(encode_traced(traced)) == traced
    with pytest.raises(KeyError):
        decode_traced({"guards": []})
