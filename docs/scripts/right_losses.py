"""Right losses, from tests/candidates, torch and transformers, and their answers to a case."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from shiftproof.harness.candidates.arguments import bind, lay_back, values_for
from shiftproof.harness.cases.build import Case
from shiftproof.reference.profiles import PROFILES
from shiftproof.reference.spec import LossSpec, LossTerm, Score

CANDIDATES = Path(__file__).resolve().parents[2] / "tests" / "candidates"


@dataclass(frozen=True)
class Loss:
    name: str
    call: Callable[..., Tensor]
    spec: LossSpec
    most_classes: int = sys.maxsize


def load(file: str) -> Any:
    spec = importlib.util.spec_from_file_location(file, CANDIDATES / f"{file}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CAUSAL = PROFILES["hf.causal_lm"]
TEXT = """
sliced padded_labels gathered_rows label_coordinates log_softmax_where logsumexp_gather chunked_rows gradient_in_forward
rolled_labels row_loop vmapped
"""
SLOW_TEXT = "online_softmax one_hot_einsum"  # they run a kernel per five classes, and make a one-hot of every label


def transformers_loss(logits: Tensor, labels: Tensor) -> Tensor:
    from transformers.loss.loss_utils import ForCausalLMLoss

    loss: Tensor = ForCausalLMLoss(logits, labels, logits.shape[-1])
    return loss


def class_axis_second(logits: Tensor, labels: Tensor) -> Tensor:
    """torch sums over V in one chain here and rounds each addition: the least exact of the right losses."""
    return F.cross_entropy(logits[:, :-1].float().transpose(1, 2), labels[:, 1:])


def text_losses() -> list[Loss]:
    right = load("right")
    losses = [Loss(name, getattr(right, name), CAUSAL) for name in TEXT.split()]
    losses += [Loss(name, getattr(right, name), CAUSAL, 257) for name in SLOW_TEXT.split()]
    losses.append(Loss("torch, class axis second", class_axis_second, CAUSAL))
    return [*losses, Loss("transformers.ForCausalLMLoss", transformers_loss, CAUSAL)]


def other_losses() -> Iterator[Loss]:
    """Yield right losses of codebooks, streams and scores."""
    for file in ("right_audio", "right_scores"):
        module = load(file)
        scores = getattr(module, "SCORES", {})
        for name, follows in module.RIGHT.items():
            spec = PROFILES.get(follows)
            if follows in scores:
                score, fields = scores[follows]
                spec = LossSpec(follows, (LossTerm(score=Score(**score), **fields),), "", "")
            assert spec is not None
            yield Loss(name, getattr(module, name), spec)


def run(loss: Loss, case: Case, grad_output: float = 1.0) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the value, and the gradients of value times ``grad_output`` at the logits, in the oracle's layout."""
    parameters = inspect.signature(loss.call).parameters
    binding = bind(loss.name, [(name, each.default is each.empty) for name, each in parameters.items()], {})
    tensors, scalars = values_for(case, binding)
    leaves = {ours: tensors[binding.names[ours]].clone().requires_grad_() for ours in case.spec.logits}
    value = loss.call(**tensors | {binding.names[ours]: leaf for ours, leaf in leaves.items()}, **scalars)
    (value * grad_output).backward()
    found = {}
    for ours, leaf in leaves.items():
        gradient = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        found[ours] = lay_back(case.spec, ours, gradient.double(), case.pairing.shapes[ours])
    return value.detach(), found
