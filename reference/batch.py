"""One batch: logits, labels and what travels with them. Shapes are checked here, once, and trusted everywhere else."""

from __future__ import annotations

from dataclasses import dataclass, fields

from torch import Tensor


class BatchError(ValueError):
    """A batch's tensors do not fit together. The message gives the shape found and the shape expected."""


@dataclass(frozen=True, eq=False)
class Batch:
    """The tensors of one case.

    Shapes, with B rows, S label positions, L logit positions (L = S unless the spec has extra logits), V classes:

    - ``logits`` [B, L, V], floating
    - ``labels`` [B, S], integer; ``shift_labels`` [B, S], the same already shifted by the caller
    - ``loss_mask`` [B, S], bool or 0/1; ``token_weights`` [B, S], floating; both aligned with ``labels``
    - ``position_ids``, ``segment_ids``, ``input_ids``, ``attention_mask`` [B, S], integer
    - ``cu_seqlens`` [documents + 1], integer, over the flattened B·S tokens
    - ``num_items_in_batch``, ``pad_token_id``, ``eos_token_id``: ints

    Raises:
        BatchError: when a shape does not fit.
    """

    logits: Tensor
    labels: Tensor
    shift_labels: Tensor | None = None
    loss_mask: Tensor | None = None
    token_weights: Tensor | None = None
    position_ids: Tensor | None = None
    segment_ids: Tensor | None = None
    cu_seqlens: Tensor | None = None
    input_ids: Tensor | None = None
    attention_mask: Tensor | None = None
    num_items_in_batch: int | None = None
    pad_token_id: int | None = None
    eos_token_id: int | None = None

    def __post_init__(self) -> None:
        if self.logits.dim() != 3 or not self.logits.is_floating_point():
            raise BatchError(f"logits are {_show(self.logits)}; expected floating [B, L, V]")
        if self.labels.dim() != 2 or self.labels.shape[0] != self.logits.shape[0]:
            raise BatchError(f"labels are {_show(self.labels)}; expected [B, S] with B = {self.logits.shape[0]}")
        if self.labels.is_floating_point() or self.labels.is_complex():
            raise BatchError(f"labels are {_show(self.labels)}; expected integers")
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in ("logits", "cu_seqlens") or not isinstance(value, Tensor):
                continue
            if value.shape != self.labels.shape:
                raise BatchError(
                    f"{field.name} is {_show(value)}; expected the labels' shape {list(self.labels.shape)}"
                )
        if self.cu_seqlens is not None:
            if self.cu_seqlens.dim() != 1:
                raise BatchError(f"cu_seqlens are {_show(self.cu_seqlens)}; expected [documents + 1]")
            ends = self.cu_seqlens.tolist()
            if not ends or ends[0] != 0 or ends[-1] != self.labels.numel() or ends != sorted(ends):
                raise BatchError(f"cu_seqlens are {ends}; expected 0 … B·S = {self.labels.numel()}, never falling")


def _show(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
