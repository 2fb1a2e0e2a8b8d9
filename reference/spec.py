"""What a loss promises, as data: which logits meet which labels, which pairs count, and what they are divided by.

Every hard-target autoregressive loss is ``Σ_terms λ · Σ_i w_i · ℓ(logits_i, label_i) / D``. A :class:`LossTerm` fixes
one term in the order in which it is computed: Align, Select, Score, Reduce. A :class:`LossSpec` is a named sum of
terms.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class ShiftedBy(StrEnum):
    """Who moves the labels one step, so that a bug can be called by its right name."""

    LOSS = "loss"  # the loss shifts: labels are the input ids (transformers, Liger, cut-cross-entropy)
    DATA = "data"  # labels[t] already is token t+1 (nanoGPT, torchtitan, Megatron)
    INPUTS = "inputs"  # the decoder's inputs were shifted right (MusicGen, fairseq, encoder-decoders)


class Tail(StrEnum):
    """What becomes of the last ``shift`` logits of a row, which no label is left for."""

    IGNORE = "ignore"  # kept, their labels filled with ignore_index (transformers, torchtune)
    TRIM = "trim"  # cut off (cut-cross-entropy, Medusa)


class Documents(StrEnum):
    """Which argument marks the documents packed into one row; a pair never crosses from one document to the next."""

    NONE = "none"
    POSITION_IDS = "position_ids"  # a document starts where the ids do not go on by one
    CU_SEQLENS = "cu_seqlens"  # cumulative lengths over the flattened B·S tokens, row starts included
    SEGMENT_IDS = "segment_ids"  # one id per document; 0 is padding and never counts


class Extra(StrEnum):
    """Logits that have no label position of their own."""

    NONE = "none"
    PREFIX = "prefix"  # before the text: image, audio or prompt embeddings (GIT, BLIP-2, MusicGen)
    SUFFIX = "suffix"  # after it: labels were shifted by cutting off their first column


class Layout(StrEnum):
    """How the arguments are laid out when they are handed to a candidate."""

    BATCHED = "b s v"  # logits [B, S, V], labels [B, S]
    FLAT = "n v"  # logits [B·S, V], labels [B·S]


class Reduction(StrEnum):
    MEAN = "mean"
    SUM = "sum"
    NONE = "none"  # one number a label position, 0 where ignored


class Denominator(StrEnum):
    """What the sum is divided by under ``Reduction.MEAN``."""

    VALID = "valid"  # the number of pairs that count
    NUM_ITEMS = "num_items"  # the caller's num_items_in_batch
    NUM_ITEMS_OR_VALID = "num_items_or_valid"  # the caller's when given, else the number of pairs that count
    POSITIONS = "positions"  # every label position, ignored ones too
    WEIGHTS = "weights"  # the sum of the weights of the pairs that count
    ONE = "one"


class Empty(StrEnum):
    """The value when no pair counts and D is 0. The field does not agree, so a spec declares it."""

    NAN = "nan"
    ZERO = "zero"
    UNDEFINED = "undefined"


_ENUMS: dict[str, type[StrEnum]] = {
    "shifted_by": ShiftedBy,
    "tail": Tail,
    "documents": Documents,
    "extra": Extra,
    "reduction": Reduction,
    "denominator": Denominator,
    "empty": Empty,
}


class SpecError(ValueError):
    """A spec contradicts itself. The message says which fields disagree and what to change."""


@dataclass(frozen=True, kw_only=True)
class LossTerm:
    """One term of a loss over one stream of logits.

    Align: ``shift`` (k ≥ 0: logits at t are scored on the label at t+k), ``shifted_by``, ``tail``, ``documents``,
    ``extra``, ``accepts_shift_labels`` (a ``shift_labels`` argument replaces the labels, with k = 0).
    Select: ``ignore_index`` (None: no id is ignored), ``ignored_ids`` (further ids that never count), ``loss_mask``
    (an explicit mask [B, S], aligned with the labels).
    Reduce: ``token_weights`` (w [B, S], aligned with the labels), ``reduction``, ``denominator``, ``clamp`` (D is at
    least this), ``epsilon`` (added to D), ``empty`` (the value where no pair counts and D is 0); ``weight`` is λ.

    Raises:
        SpecError: when two fields contradict each other.
    """

    name: str = "text"
    weight: float = 1.0
    shift: int = 1
    shifted_by: ShiftedBy = ShiftedBy.LOSS
    tail: Tail = Tail.IGNORE
    documents: Documents = Documents.NONE
    extra: Extra = Extra.NONE
    accepts_shift_labels: bool = False
    ignore_index: int | None = -100
    ignored_ids: tuple[int, ...] = ()
    loss_mask: bool = False
    token_weights: bool = False
    reduction: Reduction = Reduction.MEAN
    denominator: Denominator = Denominator.VALID
    clamp: float | None = None
    epsilon: float = 0.0
    empty: Empty = Empty.NAN

    def __post_init__(self) -> None:
        for name, kind in _ENUMS.items():
            try:
                object.__setattr__(self, name, kind(getattr(self, name)))
            except ValueError as error:
                raise SpecError(f"{name}: {error}; it is one of {', '.join(kind)}") from None
        if not isinstance(self.shift, int):
            raise SpecError(f"shift is {self.shift!r}; expected a whole number of positions")
        if self.shift < 0:
            raise SpecError(f"shift is {self.shift}: logits cannot be scored on earlier labels; use shift >= 0")
        if self.shifted_by is ShiftedBy.LOSS and self.shift == 0:
            raise SpecError(
                "shift is 0, yet shifted_by says that the loss shifts; use shift >= 1, or shifted_by=data or inputs"
            )
        if self.extra is Extra.SUFFIX and self.shift > 0:
            raise SpecError(
                f"extra=suffix says that the labels were cut short to shift them, and shift is {self.shift}: that "
                "shifts twice; use shift=0 with shifted_by=data"
            )
        if self.accepts_shift_labels and self.shift == 0:
            raise SpecError("accepts_shift_labels needs a loss that shifts by itself; drop it, or use shift >= 1")
        if self.reduction is not Reduction.MEAN and self.denominator is not Denominator.ONE:
            raise SpecError(
                f"reduction={self.reduction} divides by nothing, and denominator is {self.denominator}; "
                "use denominator=one, or reduction=mean"
            )
        if self.denominator is Denominator.WEIGHTS and not (self.token_weights or self.loss_mask):
            raise SpecError("denominator=weights without weights; set token_weights=True, or use denominator=valid")
        if self.ignore_index is not None and self.ignore_index in self.ignored_ids:
            raise SpecError(f"{self.ignore_index} is both ignore_index and in ignored_ids; name it once")
        if self.accepts_shift_labels and (self.loss_mask or self.token_weights or self.documents is not Documents.NONE):
            raise SpecError(
                "accepts_shift_labels together with loss_mask, token_weights or documents: those are aligned with the "
                "labels, and shift_labels are not; use one or the other"
            )
        if self.reduction is not Reduction.MEAN and (self.clamp is not None or self.epsilon):
            raise SpecError(
                f"reduction={self.reduction} divides by nothing that clamp or epsilon could guard; drop them"
            )
        if self.clamp is not None and not self.clamp > 0:
            raise SpecError(f"clamp is {self.clamp}: a lower limit on the denominator must be above 0, or None")
        if not self.epsilon >= 0:
            raise SpecError(f"epsilon is {self.epsilon}; what is added to the denominator cannot be negative")


@dataclass(frozen=True)
class LossSpec:
    """A named loss: its terms, one line of formula, and where it was read.

    Raises:
        SpecError: without terms, or when two terms share a name.
    """

    name: str
    terms: tuple[LossTerm, ...]
    formula: str
    source: str
    layout: Layout = Layout.BATCHED

    def __post_init__(self) -> None:
        if not self.terms:
            raise SpecError(f"spec {self.name!r} has no terms; give at least one LossTerm")
        names = [term.name for term in self.terms]
        if len(set(names)) < len(names):
            raise SpecError(f"spec {self.name!r} has two terms of one name: {names}; rename one")
        if len({term.reduction for term in self.terms}) > 1:
            raise SpecError(f"spec {self.name!r} adds terms of different reductions; give all of them the same")
