"""Candidates of every temper, in one file with one entry, so that one process serves many tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from shiftproof.harness.isolation.client import Worker
from shiftproof.harness.isolation.inprocess import InProcess
from shiftproof.harness.isolation.settings import WorkerSettings
from shiftproof.harness.worker.exchange import Call

ZOO = """
import ctypes, os, subprocess, sys, time
from collections import namedtuple
from types import SimpleNamespace

import torch
import torch.nn.functional as F


def shifted(logits, labels, ignore_index=-100):
    rows = logits[:, :-1].reshape(-1, logits.shape[-1])
    return F.cross_entropy(rows, labels[:, 1:].reshape(-1), ignore_index=ignore_index)


class ScalesItsGradientInPlace(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits):
        ctx.logits = logits
        return logits.sum()

    @staticmethod
    def backward(ctx, grad):
        return ctx.logits.fill_(1.0) * grad


class Kept(torch.autograd.Function):
    # Its gradient is the number of forwards before the backward.
    forwards = 0

    @staticmethod
    def forward(ctx, logits):
        Kept.forwards += 1
        return logits.sum()

    @staticmethod
    def backward(ctx, grad):
        count, Kept.forwards = Kept.forwards, 0
        return torch.full((2, 5, 7), float(count)) * grad


class Mode(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.part = torch.nn.Dropout(0.0)

    def forward(self, logits, labels, action):
        return shifted(logits, labels) * 0 + self.training + 2 * self.part.training


mode = Mode().eval()


class Weighed(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(1.00390625))  # a half of bfloat16's step above 1

    def forward(self, logits, labels, action):
        return self.weight.double() * 256 + 0 * shifted(logits, labels).double()


weighed = Weighed().eval()
weigh = weighed.forward


def interrupt():
    raise KeyboardInterrupt


def wrong():
    raise ValueError("a number is wrong")


def hog():
    kept = []
    while True:
        kept.append(torch.ones(10**8))


def hog_lists():
    kept = []
    while True:
        kept.append([0] * 10**6)


def flood():
    line = b"x" * 65535 + b"\\n"
    for _ in range(200 * 2**20 // len(line)):
        os.write(1, line)


def orphan():
    # Writes its number where the test finds it, and would outlive us if only we were killed.
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    with open("orphan.pid", "w") as file:
        file.write(str(child.pid))


Pair = namedtuple("Pair", "accuracy loss")


def candidate(logits, labels, action, **scalars):
    loss = shifted(logits, labels)
    actions = {
        "loss": lambda: loss,
        "per token": lambda: logits.square().sum(-1),
        "tuple": lambda: (loss, logits),
        "dict": lambda: {"loss": loss},
        "object": lambda: SimpleNamespace(loss=loss),
        "named tuple": lambda: Pair(0.5, loss),
        "float": lambda: 2.5,
        "int": lambda: 3,
        "int tensor": lambda: labels.sum(),
        "bool": lambda: True,
        "none": lambda: None,
        "str": lambda: "0.5",
        "bare dict": lambda: {"accuracy": 1.0},
        "dict of none": lambda: {"loss": None},
        "bare object": lambda: SimpleNamespace(accuracy=1.0),
        "empty tuple": lambda: (),
        "meta": lambda: torch.empty(3, device="meta"),
        "sparse": lambda: torch.eye(3).to_sparse(),
        "detached": lambda: loss.detach(),
        "labels only": lambda: torch.ones((), requires_grad=True) * 2,
        "in place logits": lambda: (logits.div_(2), shifted(logits, labels))[1],
        "in place labels": lambda: (labels.fill_(1), loss)[1],
        "in place backward": lambda: ScalesItsGradientInPlace.apply(logits),
        "negative zero": lambda: (logits.data.masked_fill_(logits.data == 0, -0.0), loss)[1],
        "raise": wrong,
        "interrupt": interrupt,
        "print": lambda: (print("\\N{SNOWMAN} {\\"seq\\": 1}"), os.write(1, b"noise\\n"), loss)[2],
        "scalars": lambda: torch.tensor([float(v) for v in scalars.values()], dtype=torch.float64),
        "geometry": lambda: torch.tensor([*logits.stride(), logits.storage_offset(), *labels.stride()]),
        "grad state": lambda: torch.tensor(
            [torch.is_grad_enabled(), torch.is_inference_mode_enabled(), logits.requires_grad, logits.is_leaf]
        ),
        "product": lambda: logits[0] @ logits[0].T,
        "compiled": lambda: loss * (2 if torch.compiler.is_compiling() else 1),
        "kept": lambda: Kept.apply(logits),
        "seed": lambda: (torch.manual_seed(3), loss)[1],
        "draw": lambda: (torch.rand(2), loss)[1],
        "path": lambda: torch.tensor([os.path.isfile("zoo.py"), sys.path[0] == os.getcwd(), not sys.stdin.read()]),
        "exit": lambda: sys.exit(3),
        "exit with words": lambda: sys.exit("no more"),
        "os exit": lambda: (print("last words"), os._exit(3)),
        "segfault": lambda: ctypes.string_at(0),
        "kill": lambda: os.kill(os.getpid(), 9),
        "hang": lambda: time.sleep(600),
        "spin": lambda: [None for _ in iter(int, 1)],
        "orphan": lambda: (orphan(), time.sleep(600)),
        "flood": lambda: (flood(), loss)[1],
        "hog": hog,
        "hog lists": hog_lists,
        "forge": lambda: (os.write(201, b"{}\\n"), time.sleep(600)),
    }
    return actions[action]()
"""

Caller = type[Worker] | type[InProcess]


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the candidates."""
    folder = tmp_path_factory.mktemp("zoo")
    (folder / "zoo.py").write_text(ZOO)
    return folder


@pytest.fixture(scope="session", params=[Worker, InProcess], ids=["worker", "in-process"])
def either(request: pytest.FixtureRequest, zoo: Path) -> Iterator[Worker | InProcess]:
    """The ordinary candidates, by both ways."""
    settings = WorkerSettings(cwd=str(zoo), call_deadline=20)
    with request.param("zoo.py:candidate", settings) as worker:
        yield worker


@pytest.fixture(scope="session")
def fragile(zoo: Path) -> Iterator[Worker]:
    """The candidates that end their process."""
    settings = WorkerSettings(cwd=str(zoo), call_deadline=5, memory_limit=512 << 20)
    with Worker("zoo.py:candidate", settings) as worker:
        yield worker


def call_of(action: str, **changes: object) -> Call:
    """A call of the zoo's entry with tensors that are the same each time."""
    generator = torch.Generator().manual_seed(5)
    fields: dict[str, object] = {
        "tensors": {
            "logits": torch.randn(2, 5, 7, generator=generator),
            "labels": torch.randint(0, 7, (2, 5), generator=generator),
        },
        "scalars": {"action": action},
        "gradients": ("logits",),
    }
    return Call(**{**fields, **changes})  # type: ignore[arg-type]


@pytest.fixture(name="call_of", scope="session")
def call_of_fixture() -> Callable[..., Call]:
    """`call_of`, since tests do not import conftest."""
    return call_of
