"""The text loss of a Higgs-audio trainer: before its fix, after its fix, and right.

Text logits [2, 168, 128256] met labels [2, 167], one short, and training stopped with an error. The fix that was
published shifts inside the loss. With labels one short the shapes still differ by one; with labels of equal length
that the data has shifted already it shifts twice, and nothing complains: shapes do not show which logit is scored on
which label.

`before_fix` and `published_fix` are those two losses, reduced to what matters. Which `right` function is right depends
on what the data promises: labels one short (logit t predicts label t, the last logit has no label), or shifted and of
equal length.
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

    With labels one short it is 167 positions against 166, so it still raises (334 against 332). With shifted labels of
    equal length it runs and scores logit t on the token at t+2. It is right only for labels that nobody has shifted.
    """
    shift_logits = logits[..., :-1, :].float()
    shift_labels = labels[..., 1:]
    return F.cross_entropy(
        shift_logits.reshape(-1, shift_logits.shape[-1]), shift_labels.reshape(-1), ignore_index=-100
    )


def right(logits: Tensor, labels: Tensor) -> Tensor:
    """Labels one short, [B, S−1]: label t is the token after position t. Only the last logit goes, no label does."""
    scores = logits[:, :-1].float()
    return F.cross_entropy(scores.reshape(-1, scores.shape[-1]), labels.reshape(-1), ignore_index=-100)


def right_preshifted(logits: Tensor, labels: Tensor) -> Tensor:
    """Labels shifted by the data, [B, S], with −100 in the vacated last column: nothing is left to shift."""
    return F.cross_entropy(logits.float().reshape(-1, logits.shape[-1]), labels.reshape(-1), ignore_index=-100)
