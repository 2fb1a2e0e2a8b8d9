"""The six losses of the table in SEMANTICS.md, "Reading the matrix back".

The targets in the docstrings are the label that each logit row is scored on, for labels [[0, 1, 2, 3], [4, 5, 6, 7]].
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def _causal_lm(logits: Tensor, labels: Tensor) -> Tensor:
    logits = logits.float()
    shift_labels = F.pad(labels, (0, 1), value=-100)[..., 1:].reshape(-1)
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), shift_labels, ignore_index=-100)


def hf_causal_lm(logits: Tensor, labels: Tensor) -> Tensor:
    """[1,2,3,–] [5,6,7,–]: right. Pad the labels, shift, cross-entropy, as transformers' ForCausalLMLoss."""
    return _causal_lm(logits, labels)


def qwen3_tts_shifted_twice(logits: Tensor, labels: Tensor) -> Tensor:
    """[2,3,–] [6,7,–]: Qwen3-TTS fine-tuning slices, then calls a model whose loss shifts."""
    return _causal_lm(logits[:, :-1], labels[:, 1:])


def git_flat_double_shift(logits: Tensor, labels: Tensor) -> Tensor:
    """[2,3,5] [6,7,–]: GIT in transformers from 4.48 to 5.14 shifts, flattens, shifts again; 5 leaks across rows."""
    shifted_logits = logits[:, :-1, :].reshape(-1, logits.shape[-1])
    return _causal_lm(shifted_logits, labels[:, 1:].reshape(-1))


def ms_swift_roll(logits: Tensor, labels: Tensor) -> Tensor:
    """[1,2,3,0] [5,6,7,4]: ms-swift rolls the labels, and the first one wraps."""
    rolled = torch.roll(labels, shifts=-1, dims=-1)
    return F.cross_entropy(logits.float().reshape(-1, logits.shape[-1]), rolled.reshape(-1), ignore_index=-100)


def axolotl_two_shards(logits: Tensor, labels: Tensor) -> Tensor:
    """[1,–,3,–] [5,–,7,–]: axolotl's sequence parallelism on two shards; each shifts its own part of the labels."""
    shards = [F.pad(shard, (0, 1), value=-100)[:, 1:] for shard in labels.chunk(2, dim=1)]
    targets = torch.cat(shards, dim=1)
    return F.cross_entropy(logits.float().transpose(1, 2), targets, ignore_index=-100)


def higgs_identity(logits: Tensor, labels: Tensor) -> Tensor:
    """[0,1,2,3] [4,5,6,7]: a public Higgs-audio trainer after three "alignment fixes" predicts its own input."""
    length = min(logits.shape[1], labels.shape[1])
    scores = logits[:, :length].float()
    return F.cross_entropy(scores.reshape(-1, scores.shape[-1]), labels[:, :length].reshape(-1), ignore_index=-100)
