"""Losses that raise where sizes do not fit. Only the first ones flatten logits and labels of different lengths."""

import torch
import torch.nn.functional as F
from torch import Tensor


def _scored(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits.float().reshape(-1, logits.shape[-1]), labels.reshape(-1), ignore_index=-100)


def _right(logits: Tensor, labels: Tensor) -> Tensor:
    return _scored(logits[:, :-1], labels[:, 1:])


# --- length-mismatch --------------------------------------------------------------------------------------------------


def labels_cut(logits: Tensor, labels: Tensor) -> Tensor:
    """The labels are shifted, and the logits are not."""
    return _scored(logits, labels[:, 1:])


def logits_cut(logits: Tensor, labels: Tensor) -> Tensor:
    return _scored(logits[:, :-1], labels)


def labels_cut_twice(logits: Tensor, labels: Tensor) -> Tensor:
    return _scored(logits[:, :-1], labels[:, 2:])


def row_by_row(logits: Tensor, labels: Tensor) -> Tensor:
    """The sizes are those of one row: S against S − 1."""
    return torch.stack([_scored(logits[row], labels[row, 1:]) for row in range(logits.shape[0])]).mean()


def class_axis_second(logits: Tensor, labels: Tensor) -> Tensor:
    """torch has other words for logits of [B, V, S]."""
    return F.cross_entropy(logits.float().transpose(1, 2), labels[:, 1:], ignore_index=-100)


# --- other mistakes, with such words ----------------------------------------------------------------------------------


def quotes_one_case(logits: Tensor, labels: Tensor) -> Tensor:
    """Raises torch's words with the sizes of another case."""
    raise ValueError("Expected input batch_size (336) to match target batch_size (334).")


def quotes_equal_sizes(logits: Tensor, labels: Tensor) -> Tensor:
    raise ValueError(
        f"Expected input batch_size ({labels.numel()}) to match target batch_size ({labels.numel()}): batch too small."
    )


def quotes_no_sizes(logits: Tensor, labels: Tensor) -> Tensor:
    raise ValueError("length mismatch: logits and labels of different lengths are flattened together")


def adds_labels(logits: Tensor, labels: Tensor) -> Tensor:
    """The words are "The size of tensor a must match the size of tensor b"."""
    return (logits.float().logsumexp(-1)[:, :-1] - labels).mean()


def multiplies(logits: Tensor, labels: Tensor) -> Tensor:
    """The words are "mat1 and mat2 shapes cannot be multiplied"."""
    flat = logits.float().reshape(-1, logits.shape[-1])
    return _right(logits, labels) + 0 * (flat @ torch.zeros(logits.shape[-1] + 1, 1)).sum()


def reshapes(logits: Tensor, labels: Tensor) -> Tensor:
    """The words are "shape is invalid for input of size"."""
    return _scored(logits[:, :-1].reshape(labels.shape[0], labels.shape[1], logits.shape[-1]), labels)


class Head(torch.nn.Module):
    """Loads weights of another size when it is first called: "size mismatch for weight"."""

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        torch.nn.Linear(4, 4, bias=False).load_state_dict({"weight": torch.zeros(5, 4)})
        return _right(logits, labels)


def drops_a_row(logits: Tensor, labels: Tensor) -> Tensor:
    """Shifts along the batch: (B − 1)·S against B·S."""
    return _scored(logits[1:], labels)


def shifts_flat(logits: Tensor, labels: Tensor) -> Tensor:
    """Shifts what is flattened already: B·S against B·S − 1. The rows are of the same length."""
    return F.cross_entropy(logits.float().reshape(-1, logits.shape[-1]), labels.reshape(-1)[1:], ignore_index=-100)


def flattens_classes(logits: Tensor, labels: Tensor) -> Tensor:
    """Takes the positions for the classes: B·V against B·S."""
    flat = logits.float().transpose(1, 2).reshape(-1, logits.shape[1])
    return F.cross_entropy(flat, labels.reshape(-1).clamp(0, logits.shape[1] - 1))


def drops_ignored_labels(logits: Tensor, labels: Tensor) -> Tensor:
    """Removes the labels that are ignored, and not their logits: raises where there are any."""
    shifted = labels[:, 1:].reshape(-1)
    return F.cross_entropy(logits[:, :-1].float().reshape(-1, logits.shape[-1]), shifted[shifted != -100])


def only_where_long(logits: Tensor, labels: Tensor) -> Tensor:
    """The cut is a real one, but not where rows are short."""
    return _scored(logits, labels[:, 1:]) if logits.shape[1] > 4 else _right(logits, labels)


def only_where_some_are_ignored(logits: Tensor, labels: Tensor) -> Tensor:
    return _scored(logits, labels[:, 1:]) if bool((labels == -100).any()) else _right(logits, labels)


def another_error_first(logits: Tensor, labels: Tensor) -> Tensor:
    """The cut is a real one, but some cases are refused for another reason."""
    if bool((labels == -100).any()):
        raise ValueError("labels must not be ignored")
    return _scored(logits, labels[:, 1:])
