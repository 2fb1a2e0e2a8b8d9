"""The text loss of a Higgs-audio trainer: before its fix, after its fix, and right.

Text logits [2, 168, 128256] met labels [2, 167], one short, and training stopped with an error. The published fix
shifts inside the loss. With labels one short, the shapes still differ by one. With labels of equal length that the data
has already shifted, it shifts twice, and nothing fails: shapes do not show which logit is scored on which label.

`before_fix` and `published_fix` are these two losses, reduced to the essentials. Which `right` function is right
depends on the data: labels one short (logit t predicts label t, the last logit has no label), or shifted and of equal
length.
"""

import torch.nn.functional as F
from torch import Tensor


def before_fix(logits: Tensor, labels: Tensor) -> Tensor:
    """Flatten and compare.

    With logits [2, 168, V] and labels [2, 167]: "Expected input batch_size (336) to match target batch_size (334)".
    """
    return F.cross_entropy(logits.float().reshape(-1, logits.shape[-1]), labels.reshape(-1), ignore_index=-100)


def published_fix(logits: Tensor, labels: Tensor) -> Tensor:
    """Shift both sides, then flatten and compare.

    With labels one short, 167 positions meet 166, so it still raises (334 against 332). With shifted labels of equal
    length, it runs and scores logit t on the token at t+2. It is right only for labels that were not shifted.
    """
    shift_logits = logits[..., :-1, :].float()
    shift_labels = labels[..., 1:]
    return F.cross_entropy(
        shift_logits.reshape(-1, shift_logits.shape[-1]), shift_labels.reshape(-1), ignore_index=-100
    )


def right(logits: Tensor, labels: Tensor) -> Tensor:
    """For labels one short, [B, S−1]: label t is the token after position t. Only the last logit is dropped."""
    scores = logits[:, :-1].float()
    return F.cross_entropy(scores.reshape(-1, scores.shape[-1]), labels.reshape(-1), ignore_index=-100)


def right_preshifted(logits: Tensor, labels: Tensor) -> Tensor:
    """For labels shifted by the data, [B, S], with −100 in the vacated last column: there is nothing left to shift."""
    return F.cross_entropy(logits.float().reshape(-1, logits.shape[-1]), labels.reshape(-1), ignore_index=-100)
