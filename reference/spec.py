"""The promise of a loss, as data: which logits are paired with which labels, which pairs count, and the denominator.

Every hard-target autoregressive loss is ``Σ_terms λ · Σ_groups α_g · Σ_{i∈g} w_i · ℓ(logits_i, label_i) / D_g``. A
:class:`LossTerm` defines one term in the order of its computation: Align, Select, Score, Reduce. A :class:`LossSpec`
is a named sum of terms.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from enum import StrEnum


class ShiftedBy(StrEnum):
    """The code that shifts the labels by one step. It decides which name a bug gets."""

    LOSS = "loss"  # the loss shifts: labels are the input ids (transformers, Liger, cut-cross-entropy)
    DATA = "data"  # labels[t] is already token t+1 (nanoGPT, torchtitan, Megatron)
    INPUTS = "inputs"  # the decoder's inputs were shifted right (MusicGen, fairseq, encoder-decoders)


class Heads(StrEnum):
    """The predictions of the logits of one position: one token, or several at once."""

    ONE = "one"  # logits [B, L, V], labels [B, S]
    CODEBOOKS = "codebooks"  # logits [B, L, K, V], labels [B, S, K]: head k predicts codebook k
    FIRST = "first"  # logits [B, L, V], labels [B, S, K]: only codebook 0 (CSM's backbone)
    AHEAD = "ahead"  # logits [B, S, D, V], labels [B, S]: head d predicts shift + d ahead (MTP, Medusa)


class Axis(StrEnum):
    """The axis of the shift."""

    TIME = "time"
    CODEBOOK = "codebook"  # head j predicts codebook j + shift of its own frame: logits [B, S, K − shift, V] (CSM)


class Tail(StrEnum):
    """The treatment of the last ``shift`` logits of a row, for which no label is left."""

    IGNORE = "ignore"  # kept, their labels filled with ignore_index (transformers, torchtune)
    TRIM = "trim"  # cut off (cut-cross-entropy, Medusa)


class Documents(StrEnum):
    """The argument that marks the documents packed into one row. A pair never crosses from one document to the next."""

    NONE = "none"
    POSITION_IDS = "position_ids"  # a document starts where the id is not the previous id plus one
    CU_SEQLENS = "cu_seqlens"  # cumulative lengths over the flattened B·S tokens, row starts included
    SEGMENT_IDS = "segment_ids"  # one id per document; 0 is padding and never counts


class Extra(StrEnum):
    """Logits without their own label position."""

    NONE = "none"
    PREFIX = "prefix"  # before the text: image, audio or prompt embeddings (GIT, BLIP-2, MusicGen)
    SUFFIX = "suffix"  # after the text: labels were shifted by cutting off their first column


class Smoothing(StrEnum):
    """The classes that share the smoothed part ε of the target."""

    ALL = "all"  # ε/V to every class, including the target (torch, transformers, Liger, FLA)
    OTHERS = "others"  # ε/(V−1) to every class except the target (fairseq, Megatron, NeMo)


class Combine(StrEnum):
    """How the codebooks or heads of a term become one number."""

    FLAT = "flat"  # one sum over one denominator: a flat token mean (Moshi, Dia, CSM's depth decoder)
    MEAN = "mean"  # (1/K) Σ_k L_k (MusicGen, audiocraft)
    MEAN_NONEMPTY = "mean_nonempty"  # Σ_k L_k over the number of codebooks with a pair (Higgs-audio trainers)
    SUM = "sum"  # Σ_k L_k (Higgs-audio in transformers, Medusa)
    WEIGHTED_MEAN = "weighted_mean"  # Σ_k w_k L_k / Σ_k w_k (Parler, MOSS-TTSD)


class Reduction(StrEnum):
    MEAN = "mean"
    SUM = "sum"
    NONE = "none"  # one number per label position, 0 where ignored


class Denominator(StrEnum):
    """The denominator of the sum under ``Reduction.MEAN``."""

    VALID = "valid"  # the number of pairs that count
    NUM_ITEMS = "num_items"  # the caller's num_items_in_batch
    NUM_ITEMS_OR_VALID = "num_items_or_valid"  # the caller's if given, else the number of pairs that count
    POSITIONS = "positions"  # the number of label positions, including ignored ones
    WEIGHTS = "weights"  # the sum of the weights of the pairs that count
    CLASS_WEIGHTS = "class_weights"  # the sum of the targets' class weights (torch)
    ONE = "one"


class Empty(StrEnum):
    """The value if no pair counts and D is 0. Practice differs, so a spec declares it."""

    NAN = "nan"
    ZERO = "zero"
    UNDEFINED = "undefined"


class Compute(StrEnum):
    """The arithmetic of the loss. The bounds of its rounding errors depend on it."""

    STRICT = "strict"  # accumulates in fp32, whatever the dtype of the logits (transformers, Liger, Megatron)
    NATIVE = "native"  # computes in the dtype of the logits (torch, litgpt)


LOGITS = ("logits", "audio_logits", "depth_logits", "mtp_logits")
"""The arguments that hold logits."""

LABELS = ("labels", "audio_labels")
"""The arguments that hold labels."""


class SpecError(ValueError):
    """A spec contradicts itself. The message says which fields disagree and what to change."""


def _coerce(holder: object, name: str, kind: type[StrEnum]) -> None:
    try:
        object.__setattr__(holder, name, kind(getattr(holder, name)))
    except ValueError as error:
        raise SpecError(f"{name}: {error}; it is one of {', '.join(kind)}") from None


@dataclass(frozen=True, kw_only=True)
class Score:
    """ℓ: the score of one row of logits x for a target y.

    With ``z = softcap · tanh(logit_scale · x / softcap)`` (without softcap: ``logit_scale · x``), class weights c and a
    target distribution q (1−ε at y plus ε smoothed over the other classes, or over all classes):
    ``ℓ = Σ_v c_v q_v (logsumexp(z) − z_v) + z_loss · logsumexp(z)²``. Under ``dft``, this is multiplied by
    softmax(z)_y, through which no gradient flows.

    Attributes:
        label_smoothing: ε, in [0, 1).
        class_weights: whether the batch's ``class_weights`` [V] are used. If not, c is 1.

    Raises:
        SpecError: a value is out of its range.
    """

    label_smoothing: float = 0.0
    smoothing_over: Smoothing = Smoothing.ALL
    z_loss: float = 0.0
    softcap: float | None = None
    logit_scale: float = 1.0
    class_weights: bool = False
    dft: bool = False

    def __post_init__(self) -> None:
        _coerce(self, "smoothing_over", Smoothing)
        if not 0 <= self.label_smoothing < 1:
            raise SpecError(f"label_smoothing is {self.label_smoothing}; expected at least 0 and below 1")
        if not 0 <= self.z_loss < math.inf:
            raise SpecError(f"z_loss is {self.z_loss}; expected a finite factor of at least 0")
        if self.softcap is not None and not 0 < self.softcap < math.inf:
            raise SpecError(f"softcap is {self.softcap}; expected a finite limit above 0, or None for no limit")
        if not 0 < self.logit_scale < math.inf:
            raise SpecError(f"logit_scale is {self.logit_scale}; expected a finite factor above 0")
        if self.dft and (self.label_smoothing or self.z_loss):
            raise SpecError("dft weighs a hard target by its probability; drop label_smoothing and z_loss, or dft")

    @property
    def is_plain(self) -> bool:
        """Whether ℓ is plain cross-entropy."""
        return self == Score()


@dataclass(frozen=True, kw_only=True)
class LossTerm:
    """One term of a loss over one stream of logits.

    Align: ``logits`` and ``labels`` (the names of their arguments), ``heads``, ``shift`` (k ≥ 0: logits at t are
    scored on the label at t+k), ``axis``, ``shifted_by``, ``tail``, ``documents``, ``extra``, ``accepts_shift_labels``
    (a ``shift_labels`` argument replaces the labels, with k = 0).
    Select: ``ignore_index`` (None: no id is ignored), ``ignored_ids`` (further ids that never count), ``sentinel``
    (id V, one past the last class, is also ignored), ``ignores_bos`` (labels equal to ``bos_token_id`` never count),
    ``stops_at_eos`` (positions whose ``input_ids`` are ``eos_token_id`` never count), ``loss_mask`` (an explicit mask
    [B, S], aligned with the labels).
    Score: ``score``; ``classes`` (V if it is fixed).
    Reduce: ``token_weights`` (w [B, S], aligned with the labels), ``codebooks`` (K if it is fixed), ``combine``,
    ``codebook_weights`` (True: the batch's [K]; or the weights themselves. Under ``sum`` and ``weighted_mean`` they
    weigh the codebooks' losses, under ``flat`` their tokens), ``reduction``, ``denominator``, ``clamp`` (D is at least
    this), ``epsilon`` (added to D), ``empty`` (the value if no pair counts and D is 0), ``weight`` (λ).

    Raises:
        SpecError: two fields contradict each other, or a value is out of its range.
    """

    name: str = "text"
    weight: float = 1.0
    logits: str = "logits"
    labels: str = "labels"
    heads: Heads = Heads.ONE
    shift: int = 1
    axis: Axis = Axis.TIME
    shifted_by: ShiftedBy = ShiftedBy.LOSS
    tail: Tail = Tail.IGNORE
    documents: Documents = Documents.NONE
    extra: Extra = Extra.NONE
    accepts_shift_labels: bool = False
    ignore_index: int | None = -100
    ignored_ids: tuple[int, ...] = ()
    sentinel: bool = False
    ignores_bos: bool = False
    stops_at_eos: bool = False
    loss_mask: bool = False
    score: Score = Score()
    classes: int | None = None
    token_weights: bool = False
    codebooks: int | None = None
    combine: Combine = Combine.FLAT
    codebook_weights: bool | tuple[float, ...] = False
    reduction: Reduction = Reduction.MEAN
    denominator: Denominator = Denominator.VALID
    clamp: float | None = None
    epsilon: float = 0.0
    empty: Empty = Empty.NAN

    def __post_init__(self) -> None:
        for name, kind in _ENUMS.items():
            _coerce(self, name, kind)
        self._check_align()
        self._check_select()
        self._check_score()
        self._check_heads()
        self._check_reduce()

    def _check_align(self) -> None:
        if self.logits not in LOGITS:
            raise SpecError(f"logits is {self.logits!r}; expected one of {', '.join(LOGITS)}")
        if self.labels not in LABELS:
            raise SpecError(f"labels is {self.labels!r}; expected one of {', '.join(LABELS)}")
        if not isinstance(self.shift, int) or isinstance(self.shift, bool):
            raise SpecError(f"shift is {self.shift!r}; expected a whole number of positions")
        if self.shift < 0:
            raise SpecError(f"shift is {self.shift}: logits cannot be scored on earlier labels; use shift >= 0")
        if self.shifted_by is ShiftedBy.LOSS and self.shift == 0:
            raise SpecError(
                "shift is 0, but shifted_by says that the loss shifts; use shift >= 1, or shifted_by=data or inputs"
            )
        if self.extra is Extra.SUFFIX and self.shift > 0:
            raise SpecError(
                f"extra=suffix says that the labels were cut short to shift them, but shift is {self.shift}: that "
                "shifts twice; use shift=0 with shifted_by=data"
            )
        if self.accepts_shift_labels and self.shift == 0:
            raise SpecError("accepts_shift_labels needs a loss that shifts by itself; drop it, or use shift >= 1")
        if self.accepts_shift_labels and self.labels != "labels":
            raise SpecError(
                f"shift_labels replace labels, but this term reads {self.labels}; drop accepts_shift_labels"
            )
        if self.accepts_shift_labels and (self.loss_mask or self.token_weights or self.documents is not Documents.NONE):
            raise SpecError(
                "accepts_shift_labels together with loss_mask, token_weights or documents: those are aligned with the "
                "labels, and shift_labels are not; use one or the other"
            )
        if self.axis is Axis.CODEBOOK and (self.heads is not Heads.CODEBOOKS or not self.shift):
            raise SpecError(
                f"axis=codebook shifts from one codebook to a later one, but heads={self.heads}, shift={self.shift}; "
                "use heads=codebooks with shift >= 1, or axis=time"
            )
        if self.axis is Axis.CODEBOOK and self.extra is not Extra.NONE:
            raise SpecError("axis=codebook has a logit row for every frame; drop extra")

    def _check_select(self) -> None:
        if self.ignore_index is not None and self.ignore_index in self.ignored_ids:
            raise SpecError(f"{self.ignore_index} is both ignore_index and in ignored_ids; name it once")
        if self.labels != "labels" and (self.loss_mask or self.token_weights or self.documents is not Documents.NONE):
            raise SpecError(
                f"loss_mask, token_weights and documents are aligned with labels, but this term reads {self.labels}; "
                "drop them, or score labels"
            )
        if self.stops_at_eos and self.labels != "labels":
            raise SpecError(f"stops_at_eos reads input_ids, which are aligned with labels, not {self.labels}; drop it")
        if self.stops_at_eos and self.heads in (Heads.FIRST, Heads.AHEAD):
            raise SpecError(
                f"stops_at_eos needs one input id per row of logits, which heads={self.heads} does not have; drop it, "
                "or use heads=one or codebooks"
            )

    def _check_score(self) -> None:
        if self.classes is not None and self.classes < 1:
            raise SpecError(f"classes is {self.classes}; expected at least 1, or None if V is free")
        smoothed = self.score.label_smoothing and self.score.smoothing_over is Smoothing.OTHERS
        if smoothed and self.classes == 1:
            raise SpecError(
                "label smoothing over the classes that are not the target needs one, but classes is 1; "
                "use smoothing_over=all, or more classes"
            )
        if self.denominator is Denominator.CLASS_WEIGHTS and not self.score.class_weights:
            raise SpecError(
                "denominator=class_weights without class weights; set class_weights=True in score, or use "
                "denominator=valid"
            )

    def _check_heads(self) -> None:
        several = self.heads in (Heads.CODEBOOKS, Heads.AHEAD)
        if self.codebooks is not None and self.codebooks < 1:
            raise SpecError(f"codebooks is {self.codebooks}; expected at least 1, or None if K is free")
        if self.codebooks is not None and self.heads is Heads.ONE:
            raise SpecError(f"codebooks is {self.codebooks}, but heads=one has none; drop it, or use heads=codebooks")
        if self.axis is Axis.CODEBOOK and self.codebooks is not None and self.codebooks <= self.shift:
            raise SpecError(
                f"a shift of {self.shift} along {self.codebooks} codebooks leaves nothing to score; "
                "use a smaller shift, or more codebooks"
            )
        if not several and (self.combine is not Combine.FLAT or self.codebook_weights):
            raise SpecError(
                f"heads={self.heads} has one head, but combine={self.combine}, "
                f"codebook_weights={self.codebook_weights} are for several; use heads=codebooks, or drop them"
            )
        if self.combine is Combine.WEIGHTED_MEAN and not self.codebook_weights:
            raise SpecError(
                "combine=weighted_mean without weights; set codebook_weights=True, or give one weight per codebook"
            )
        if self.combine in (Combine.MEAN, Combine.MEAN_NONEMPTY) and self.codebook_weights:
            raise SpecError(f"combine={self.combine} weighs all codebooks alike; drop codebook_weights, or use sum")
        if isinstance(self.codebook_weights, tuple):
            if not all(0 <= weight < math.inf for weight in self.codebook_weights):
                raise SpecError(f"codebook_weights are {self.codebook_weights}; expected finite numbers from 0 up")
            if not any(self.codebook_weights):
                raise SpecError("codebook_weights are all 0: nothing would be trained; give one above 0")
            if self.codebooks is not None and len(self.codebook_weights) != self.codebooks:
                raise SpecError(
                    f"there are {len(self.codebook_weights)} codebook_weights, but codebooks is {self.codebooks}; "
                    "give one weight per codebook"
                )
        if several and self.reduction is Reduction.NONE:
            raise SpecError(f"reduction=none over heads={self.heads} is not supported; use mean or sum")
        if several and self.accepts_shift_labels:
            raise SpecError("accepts_shift_labels is for one head; drop it, or use heads=one")

    def _check_reduce(self) -> None:
        if not math.isfinite(self.weight):
            raise SpecError(f"weight is {self.weight}; expected a finite factor")
        if self.reduction is not Reduction.MEAN and self.denominator is not Denominator.ONE:
            raise SpecError(
                f"reduction={self.reduction} divides by nothing, but denominator is {self.denominator}; "
                "use denominator=one, or reduction=mean"
            )
        weighted = self.token_weights or self.loss_mask or (self.codebook_weights and self.combine is Combine.FLAT)
        if self.denominator is Denominator.WEIGHTS and not weighted:
            raise SpecError("denominator=weights without weights; set token_weights=True, or use denominator=valid")
        if self.reduction is not Reduction.MEAN and (self.clamp is not None or self.epsilon):
            raise SpecError(
                f"reduction={self.reduction} divides by nothing that clamp or epsilon could guard; drop them"
            )
        if self.denominator is Denominator.POSITIONS and self.tail is Tail.TRIM and self.heads is Heads.AHEAD:
            raise SpecError(
                "denominator=positions counts the positions that are left, but under tail=trim each of heads=ahead "
                "has another number; use tail=ignore, or denominator=valid"
            )
        if self.clamp is not None and not 0 < self.clamp < math.inf:
            raise SpecError(f"clamp is {self.clamp}: a lower limit on the denominator must be above 0, or None")
        if not 0 <= self.epsilon < math.inf:
            raise SpecError(f"epsilon is {self.epsilon}; expected a finite number from 0 up")


@dataclass(frozen=True)
class LossSpec:
    """A named loss: its terms, one line of formula, and its source.

    ``layouts`` are the layouts of arguments for a candidate, as (argument, pattern). A pattern is the right side of an
    einops pattern over the axes b, s, k (codebooks or heads), v, such as ``"(b s) v"`` or ``"b k s v"``. Arguments
    without a pattern have their axes in the order b, s, k, v. Arguments with the labels' shape follow the labels.

    Raises:
        SpecError: there are no terms, two terms contradict each other, or a layout does not fit its argument.
    """

    name: str
    terms: tuple[LossTerm, ...]
    formula: str
    source: str
    layouts: tuple[tuple[str, str], ...] = ()
    compute: Compute = Compute.STRICT

    def __post_init__(self) -> None:
        _coerce(self, "compute", Compute)
        if not self.terms:
            raise SpecError(f"spec {self.name!r} has no terms; give at least one LossTerm")
        names = [term.name for term in self.terms]
        if len(set(names)) < len(names):
            raise SpecError(f"spec {self.name!r} has two terms with the same name: {names}; rename one")
        if len({term.reduction for term in self.terms}) > 1:
            raise SpecError(f"spec {self.name!r} adds terms of different reductions; give all of them the same")
        if len(self.terms) > 1 and self.terms[0].reduction is Reduction.NONE:
            raise SpecError(
                f"spec {self.name!r} adds terms of reduction none, each with one number per label; use one term"
            )
        axes = self._axes()
        if len(dict(self.layouts)) < len(self.layouts):
            raise SpecError(f"spec {self.name!r} lays out an argument twice: {self.layouts}; name each once")
        for name, pattern in self.layouts:
            if name not in axes:
                raise SpecError(f"spec {self.name!r} lays out {name!r}, which no term reads; it has {', '.join(axes)}")
            brackets = re.sub(r"[\w\s]", "", pattern)
            if brackets.replace("()", "") or sorted(re.findall(r"\w+", pattern)) != sorted(axes[name].split()):
                raise SpecError(
                    f"spec {self.name!r} lays out {name} as {pattern!r}; expected the axes {axes[name]}, each once"
                )

    def _axes(self) -> dict[str, str]:
        """Every array that a term reads -> its axes."""
        axes: dict[str, str] = {}
        for term in self.terms:
            several = term.heads in (Heads.CODEBOOKS, Heads.AHEAD)
            for name, found in (
                (term.logits, "b s k v" if several else "b s v"),
                (term.labels, "b s k" if term.heads in (Heads.CODEBOOKS, Heads.FIRST) else "b s"),
            ):
                if axes.setdefault(name, found) != found:
                    raise SpecError(
                        f"spec {self.name!r} reads {name} both as {axes[name]} and as {found}; "
                        "give one of the terms another argument"
                    )
        return axes

    @property
    def logits(self) -> tuple[str, ...]:
        """The arguments that hold logits, each once."""
        return tuple(dict.fromkeys(term.logits for term in self.terms))

    @property
    def labels(self) -> tuple[str, ...]:
        """The arguments that hold labels, each once."""
        return tuple(dict.fromkeys(term.labels for term in self.terms))

    def axes_of(self, name: str) -> str:
        """The axes of an array in their canonical order, for example ``"b s k v"``."""
        return self._axes()[name]

    def layout_of(self, name: str) -> str:
        """The layout of an array for a candidate."""
        return dict(self.layouts).get(name) or self.axes_of(name)


_ENUMS: dict[str, type[StrEnum]] = {
    "heads": Heads,
    "axis": Axis,
    "shifted_by": ShiftedBy,
    "tail": Tail,
    "documents": Documents,
    "extra": Extra,
    "combine": Combine,
    "reduction": Reduction,
    "denominator": Denominator,
    "empty": Empty,
}
