"""The same on a GPU: right values there, and a context that a candidate has ruined is given up."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from shiftproof.harness.isolation.client import Worker
from shiftproof.harness.isolation.settings import WorkerSettings
from shiftproof.harness.worker.device import device_of
from shiftproof.harness.worker.exchange import Call, OutOfMemory, Raised, Returned
from shiftproof.harness.worker.target import LoadFailure

LOSSES = """
import torch

def loss(logits, action):
    if action == "poison":
        rows = torch.tensor([10**6], device=logits.device)
        return logits[rows].sum()
    if action == "hog":
        return torch.ones(2**50, device=logits.device).sum()
    return logits.square().sum()
"""


@pytest.mark.gpu
def test_values_poison_and_memory(tmp_path: Path, gpu: str) -> None:
    (tmp_path / "losses.py").write_text(LOSSES)
    tensors = {"logits": torch.ones(3)}
    settings = WorkerSettings(cwd=str(tmp_path), device=gpu, call_deadline=60)
    with Worker("losses.py:loss", settings) as worker:
        assert worker.describe().device_name == device_of(gpu).name()
        for restarts, (action, kind) in enumerate([("poison", Raised), ("hog", OutOfMemory), ("loss", Returned)]):
            outcome = worker.call(Call(tensors, {"action": action}, gradients=("logits",)))
            assert isinstance(outcome, kind), outcome
            # An index out of range ruins a context of CUDA, and nothing on a CPU.
            assert worker.restarts == restarts - (1 if gpu == "cpu" and restarts else 0)
    assert isinstance(outcome, Returned)
    assert outcome.value.item() == 3.0
    torch.testing.assert_close(outcome.gradients["logits"], torch.full((3,), 2.0))


def test_a_device_that_is_not_there_is_said_at_loading(tmp_path: Path) -> None:
    (tmp_path / "losses.py").write_text(LOSSES)
    settings = WorkerSettings(cwd=str(tmp_path), device="cuda:99")
    with (
        Worker("losses.py:loss", settings) as worker,
        pytest.raises(LoadFailure, match="no device 'cuda:99'") as caught,
    ):
        worker.describe()
    assert caught.value.reason == "interpreter"
