"""torchtune's CEWithChunkedOutputLoss, which takes a list of chunks of logits: ten lines say what its recipe does."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

# The file of the class needs torch alone. torchtune itself imports torchao, which loads beside few releases of torch.
_torchtune = importlib.util.find_spec("torchtune")
assert _torchtune is not None, "install torchtune"
assert _torchtune.origin is not None
_file = Path(_torchtune.origin).parent / "modules" / "loss" / "ce_chunked_output_loss.py"
_spec = importlib.util.spec_from_file_location("ce_chunked_output_loss", _file)
assert _spec is not None
assert _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
_loss = _module.CEWithChunkedOutputLoss(num_output_chunks=8)


def chunked(logits: Tensor, labels: Tensor) -> Tensor:
    """The recipe shifts the labels and pads them; the model cuts its logits [B, S, V] along S."""
    loss: Tensor = _loss(list(logits.chunk(8, dim=1)), F.pad(labels[:, 1:], (0, 1), value=-100))
    return loss
