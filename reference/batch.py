"""One batch: logits, labels and their companions. Shapes are checked once, here, and trusted everywhere else."""

from __future__ import annotations

from dataclasses import dataclass, fields

from torch import Tensor

from .spec import LABELS, LOGITS

_LIKE_LABELS = ("shift_labels", "input_ids")
_LIKE_POSITIONS = ("loss_mask", "token_weights", "position_ids", "segment_ids", "attention_mask")


class BatchError(ValueError):
    """A batch's tensors do not fit together. The message gives the shape found and the shape expected."""


@dataclass(frozen=True, eq=False)
class Batch:
    """The tensors of one case.

    Shapes, with B rows, S label positions, L logit positions (L = S unless the spec has extra logits), K codebooks, D
    heads, V classes:

    - ``logits`` [B, L, V] or [B, L, K, V], floating
    - ``labels`` [B, S] or [B, S, K], integer; ``shift_labels``, the same already shifted by the caller
    - ``audio_logits`` [A, T, K, V] and ``audio_labels`` [A, T, K]: a second stream, with its own numbers of rows and
      positions
    - ``audio_input_ids``, the tokens that ``audio_labels`` were made from, integer; no loss reads them
    - ``depth_logits`` [B, S, K − 1, V]: head j predicts codebook j + 1 of the same frame
    - ``mtp_logits`` [B, S, D, V]: head d predicts a token further ahead than head d − 1
    - ``loss_mask`` [B, S], bool or 0/1; ``token_weights`` [B, S], floating; both aligned with ``labels``
    - ``position_ids``, ``segment_ids``, ``attention_mask`` [B, S], integer; ``input_ids``, shaped as ``labels``
    - ``cu_seqlens`` [documents + 1], integer, over the flattened B·S tokens
    - ``codebook_weights`` [K] and ``class_weights`` [V], floating
    - ``num_items_in_batch``, ``pad_token_id``, ``bos_token_id``, ``eos_token_id``: ints

    Raises:
        BatchError: a shape does not fit.
    """

    logits: Tensor | None = None
    labels: Tensor | None = None
    shift_labels: Tensor | None = None
    audio_logits: Tensor | None = None
    audio_labels: Tensor | None = None
    depth_logits: Tensor | None = None
    mtp_logits: Tensor | None = None
    loss_mask: Tensor | None = None
    token_weights: Tensor | None = None
    position_ids: Tensor | None = None
    segment_ids: Tensor | None = None
    cu_seqlens: Tensor | None = None
    input_ids: Tensor | None = None
    audio_input_ids: Tensor | None = None
    attention_mask: Tensor | None = None
    codebook_weights: Tensor | None = None
    class_weights: Tensor | None = None
    num_items_in_batch: int | None = None
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | None = None

    def __post_init__(self) -> None:
        for name in LOGITS:
            self._check(name, 4 if name != "logits" else None, "floating [B, L, V] or [B, L, K, V]")
        for name in LABELS:
            self._check(name, 3 if name != "labels" else None, "integers [B, S] or [B, S, K]")
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None or field.name not in (*_LIKE_LABELS, *_LIKE_POSITIONS):
                continue
            labels = self.tensor("labels")
            expected = labels.shape if field.name in _LIKE_LABELS else labels.shape[:2]
            if value.shape != expected:
                raise BatchError(f"{field.name} is {show(value)}; expected the labels' shape {list(expected)}")
        for name in ("codebook_weights", "class_weights"):
            weights = getattr(self, name)
            if weights is not None and (weights.dim() != 1 or not weights.is_floating_point()):
                raise BatchError(f"{name} are {show(weights)}; expected floating [n], one dimension")
        if self.cu_seqlens is not None:
            if self.cu_seqlens.dim() != 1:
                raise BatchError(f"cu_seqlens are {show(self.cu_seqlens)}; expected [documents + 1]")
            ends, tokens = self.cu_seqlens.tolist(), self.tensor("labels").shape[:2].numel()
            if not ends or ends[0] != 0 or ends[-1] != tokens or ends != sorted(ends):
                raise BatchError(f"cu_seqlens are {ends}; expected 0 … B·S = {tokens}, never falling")

    def tensor(self, name: str) -> Tensor:
        """Return an argument that must be there.

        Raises:
            BatchError: this batch does not have the argument.
        """
        value = getattr(self, name)
        if value is None:
            raise BatchError(f"this spec reads {name}, but the batch has none; give it one")
        assert isinstance(value, Tensor)
        return value

    def _check(self, name: str, rank: int | None, expected: str) -> None:
        value = getattr(self, name)
        if value is None:
            return
        floating = name in LOGITS
        ranks = (rank,) if rank else (3, 4) if floating else (2, 3)
        right = value.is_floating_point() if floating else not (value.is_floating_point() or value.is_complex())
        if value.dim() not in ranks or not right:
            raise BatchError(f"{name} are {show(value)}; expected {expected}")


def show(tensor: Tensor) -> str:
    """Format a tensor for messages: ``float32 [2, 4, 8]``."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
