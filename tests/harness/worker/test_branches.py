"""Which way each branch of a candidate's own code went, read from its bytecode while it runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from shiftproof.harness.isolation.branch_record import BranchRecord
from shiftproof.harness.worker.branches import BranchWatch
from shiftproof.harness.worker.bytecode import source_of
from shiftproof.harness.worker.call import perform
from shiftproof.harness.worker.exchange import Call
from shiftproof.harness.worker.load import load

CPU = torch.device("cpu")

CONDITIONS = """
import torch
LIMIT = 50256
def helper(x, deep=False):
    if deep:
        return x * 2
    return x
def loss(logits, labels, a=None, b=1, c=()):
    if (logits * 0 == LIMIT).any():
        labels = labels + 0
    if b > 1 and labels.any() or not c:
        pass
    x = a or b
    if a is not None:
        x = 2
    if isinstance(b, int) and a is None and b in (1, 2):
        x = 4
    while b < 3:
        b += 1
    for row in logits[:0]:
        x = row
    z = 1 if torch.is_tensor(b) else 2
    y = [i for i in range(3) if i > 1]
    try:
        z = z + 0
    except ValueError:
        z = 3
    with torch.enable_grad():
        z = z * 1
    if labels.dim() != 2:
        raise ValueError(f"{labels.shape if z else 0}")
    assert z == 2, "z"
    return helper(logits.float()).sum() * x * z
"""


class Watched:
    """A candidate in this process, and what its watch reports of it."""

    def __init__(self, folder: Path, text: str, name: str = "loss") -> None:
        file = folder / "candidate.py"
        file.write_text(text)
        self.loaded = load(f"{file}:{name}", str(folder), CPU)
        self.watch = BranchWatch(self.loaded)

    def __call__(self, rows: int = 2, length: int = 5) -> dict[str, Any]:
        tensors = {"logits": torch.randn(rows, length, 7), "labels": torch.ones(rows, length, dtype=torch.int64)}
        call = Call(tensors, scalars={}, gradients=("logits",))
        perform(self.loaded, call, CPU, None, self.watch.watching)
        self.watch.read_compiled(call, CPU)
        return self.watch.news()


@pytest.fixture
def watched(tmp_path: Path) -> Any:
    made: list[Watched] = []

    def make(text: str, name: str = "loss") -> Watched:
        made.append(Watched(tmp_path, text, name))
        return made[-1]

    yield make
    for each in made:
        each.watch.stop()


def ways(report: dict[str, Any]) -> dict[tuple[str, str], str]:
    """(function, condition) -> the ways that ran, in words."""
    return {
        (told["function"], condition): " ".join(way for bit, way in enumerate(words) if seen >> bit & 1)
        for told in report["functions"]
        for (_, _, condition, words, _), seen in zip(told.get("branches", ()), told["seen"], strict=True)
    }


def test_conditions_are_named_and_their_ways_told(watched: Any) -> None:
    found = ways(watched(CONDITIONS)())
    assert {condition: ran for (function, condition), ran in found.items() if function == "loss"} | {
        "i > 1": "true false",  # a comprehension is a function of its own until Python 3.11
        "range(3)": "",
        "[i for i in range(3) if i > 1]": "",
    } == {
        "(logits * 0 == LIMIT).any()": "false",
        "b > 1": "false",
        "labels.any()": "",
        "c": "false",
        "a": "false",
        "a is not None": "false",
        "isinstance(b, int)": "true",
        "a is None": "true",
        "b in (1, 2)": "true",
        "b < 3": "true false",
        "for row in logits[:0]": "ends",
        "torch.is_tensor(b)": "false",
        "i > 1": "true false",
        "range(3)": "",
        "[i for i in range(3) if i > 1]": "",
        "labels.dim() != 2": "false",
        "z": "",
        "z == 2": "true",
    }
    assert found["helper", "deep"] == "false"


def test_a_way_that_only_raises_is_told_apart(watched: Any) -> None:
    report = watched(CONDITIONS)()
    loss = next(told for told in report["functions"] if told["function"] == "loss")
    raising = {condition: raises for _, _, condition, _, raises in loss["branches"] if any(raises)}
    assert raising.pop("z") == [True, True]
    assert raising == {"labels.dim() != 2": [True, False], "z == 2": [False, True]}


def test_numbers_that_the_code_reads(watched: Any) -> None:
    report = watched(CONDITIONS)()
    loss = next(told for told in report["functions"] if told["function"] == "loss")
    assert {50256, 1, 2, 3, 4} <= set(loss["constants"])
    assert loss["closed"]


@pytest.mark.parametrize(
    "text",
    [
        """
CONFIG = {"limit": 3}
def loss(logits, labels):
    return logits.sum() * CONFIG["limit"]
""",
        """
def make(limit):
    def loss(logits, labels):
        return logits.sum() * limit
    return loss
loss = make(3)
""",
        """
class Loss:
    limit = 3
    def __call__(self, logits, labels):
        return logits.sum() * self.limit
loss = Loss()
""",
    ],
    ids=["a dict of the module", "a closure", "an object"],
)
def test_code_that_reads_more_than_numbers_is_not_closed(watched: Any, text: str) -> None:
    report = watched(text)()
    assert not all(told["closed"] for told in report["functions"])


def test_only_what_is_new_is_told(watched: Any) -> None:
    candidate = watched("def loss(logits, labels):\n    return logits.sum() * (2 if len(logits) > 2 else 1)")
    assert list(ways(candidate()).values()) == ["false"]
    assert candidate() == {}
    assert candidate(rows=3)["functions"][0]["seen"] == [3]
    assert candidate(rows=3) == {}


def test_backward_is_watched(watched: Any) -> None:
    text = """
import torch
class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2
    @staticmethod
    def backward(ctx, grad):
        return grad * 2 if grad.dim() > 7 else grad * 2.0
def loss(logits, labels):
    return Double.apply(logits).sum()
"""
    assert ways(watched(text)())["Double.backward", "grad.dim() > 7"] == "false"


def test_files_of_the_same_folder_are_its_own_and_others_are_not(watched: Any, tmp_path: Path) -> None:
    (tmp_path / "helper_of_it.py").write_text("def double(x):\n    return x * 2 if len(x) > 99 else x + x")
    packages = tmp_path / "site-packages"
    packages.mkdir()
    (packages / "of_others.py").write_text("def half(x):\n    return x / 2 if len(x) > 99 else x * 0.5")
    text = f"""
import sys
sys.path.insert(0, {str(packages)!r})
from helper_of_it import double
from of_others import half
def loss(logits, labels):
    return half(double(logits)).sum()
"""
    assert {name for name, _ in ways(watched(text)())} == {"double"}


def test_a_compiled_loss_is_read_as_what_it_was_compiled_from(watched: Any) -> None:
    text = """
import torch
@torch.compile(backend="eager")
def loss(logits, labels):
    return logits.sum() * (2 if logits.shape[1] > 67 else 1)
"""
    candidate = watched(text)
    report = candidate()
    assert ways(report) == {("loss", "logits.shape[1] > 67"): "false"}
    assert "generated" not in report
    assert candidate(length=68)["functions"][0]["seen"] == [3]


def test_a_compiled_part_of_a_loss_is_not_read(watched: Any) -> None:
    text = """
import torch
@torch.compile(backend="eager")
def inner(logits):
    return logits.sum() * (2 if logits.shape[1] > 67 else 1)
def loss(logits, labels):
    return inner(logits)
"""
    assert watched(text)()["generated"] == ["inner"]


def test_a_function_of_torch_is_not_read() -> None:
    watch = BranchWatch(load("torch.nn.functional:mse_loss", ".", CPU))
    assert watch.news() == {"unread": "it is a function of torch"}
    assert watch.news() == {}


def test_a_long_function(watched: Any) -> None:
    """Jumps over more than 255 instructions have a prefix."""
    body = "\n".join(f"        x = x + {number}.0" for number in range(200))
    text = f"def loss(logits, labels):\n    x = logits.sum()\n    if x.dim() > 7:\n{body}\n    return x"
    assert list(ways(watched(text)()).values()) == ["false"]
    text = f"def loss(logits, labels):\n    x = logits.sum()\n    if x.dim() < 7:\n{body}\n    return x"
    assert list(ways(watched(text)()).values()) == ["true"]


def test_functions_of_one_line_are_told_apart(watched: Any) -> None:
    text = """
def loss(logits, labels):
    n, m = sum(1 for row in labels if len(row) > 99), sum(len(row) for row in labels)
    pick, other = (lambda x: x if x.dim() > 9 else x + 0), (lambda x: x)
    return pick(other(logits)).sum() + 0 * (n + m)
"""
    report = watched(text)()
    numbers = [told["number"] for told in report["functions"]]
    assert len(numbers) == len(set(numbers)) == 5
    found = BranchRecord()
    found.add(report)
    found.add(report)
    never = {branch.condition for branch in found.result().never}
    assert {"len(row) > 99", "x.dim() > 9"} <= never


def test_code_that_the_judge_cannot_read_is_not_the_candidates_fault(
    watched: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raising(*_: Any) -> None:
        raise KeyError("an opcode")

    monkeypatch.setattr("shiftproof.harness.worker.branches.branches_of", raising)
    assert watched("def loss(logits, labels):\n    return logits.sum()")() == {
        "unread": "reading loss raised KeyError: 'an opcode'"
    }


def test_a_file_in_another_encoding(watched: Any, tmp_path: Path) -> None:
    candidate = watched("# -*- coding: latin-1 -*-\ndef loss(logits, labels):\n    return logits.sum()")
    (tmp_path / "other.py").write_bytes(
        "# coding: latin-1\ndef of(x):\n    return x if x > 2 else 'ä'\n".encode("latin-1")
    )
    source = source_of(str(tmp_path / "other.py"))
    assert source is not None
    assert source.lines[2].endswith("'ä'")
    assert "generated" not in candidate()


def test_what_raises_in_a_condition_went_no_way(watched: Any) -> None:
    text = """
def loss(logits, labels):
    try:
        if logits:
            pass
    except RuntimeError:
        pass
    return logits.sum()
"""
    assert list(ways(watched(text)()).values()) == [""]


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="from Python 3.12 on, watching costs nothing")
def test_of_a_model_not_every_call_is_traced(watched: Any) -> None:
    text = "def loss(logits, labels, input_ids=None):\n    return logits.sum() * (2 if len(logits) > 2 else 1)"
    candidate = watched(text)
    for _ in range(30):
        candidate()
    assert sum(bool(candidate(rows=3)) for _ in range(5)) == 1
