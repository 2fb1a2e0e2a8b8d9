"""The shapes of real training, and shapes that a user names."""

from __future__ import annotations

from dataclasses import dataclass, replace

from shiftproof.reference.spec import Denominator, Documents, Extra, Heads, LossSpec

from ..candidates.declaration import UsageError
from ..candidates.shapes import AXES, parse_shape
from ..cases.recipe import Count, Ids, Mask, Recipe
from ..suggest import nearest

_AUDIO_MORE = 2  # the second stream of a case has this many more classes than the first, see cases.classes_of


@dataclass(frozen=True)
class Shape:
    """The shape of a call's logits: B rows, S positions, K codebooks or heads, V classes, and documents per row."""

    name: str
    rows: int
    length: int
    classes: int
    codebooks: int = 1
    documents: int = 1

    def __str__(self) -> str:
        books = f", K={self.codebooks}" if self.codebooks > 1 else ""
        packed = f", {self.documents} documents a row" if self.documents > 1 else ""
        return f"{self.name} [B={self.rows}, S={self.length}{books}, V={self.classes}{packed}]"

    @property
    def tokens(self) -> int:
        return self.rows * self.length


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("text", 2, 1024, 32000),
        Shape("text-128k", 2, 1024, 128256),
        Shape("text-152k", 4, 2048, 151936),
        Shape("audio", 2, 1500, 1026, codebooks=8),
        Shape("packed", 2, 1024, 32000, documents=8),
    )
}
"""text: Llama 2's vocabulary; text-128k: Llama 3's; text-152k: Qwen's, for CUDA; audio: Higgs-audio's; packed: as made
by padding-free collators."""


def find_shape(text: str) -> Shape:
    """Return a shape by its name, or from ``B,S,V`` or ``B,S,K,V``.

    Raises:
        UsageError: for any other text.
    """
    if text in SHAPES:
        return SHAPES[text]
    if sizes := parse_shape(text):
        return Shape("own", **sizes)
    raise UsageError(
        f"no shape is called {text!r}{nearest(text, SHAPES)}; name one of {', '.join(SHAPES)}, or give {AXES}"
    )


def usual_shapes(spec: LossSpec, device: str) -> list[Shape]:
    """Return the shapes on which a spec is timed by default."""
    if has_heads(spec):
        return [SHAPES["audio"]]
    if any(term.documents is not Documents.NONE for term in spec.terms):
        return [SHAPES["packed"]]
    return [SHAPES[name] for name in (("text", "text-128k", "text-152k") if device.startswith("cuda") else ("text",))]


def has_heads(spec: LossSpec) -> bool:
    """Return whether K has a meaning for the spec."""
    return any(term.heads is not Heads.ONE for term in spec.terms)


def recipe_of(spec: LossSpec, shape: Shape, dtype: str, seed: int) -> Recipe:
    """Return a realistic batch. Each seed gives other ids. Rows ignore the first label or the last third in turn.

    Raises:
        UsageError: if only one of the shape and the spec has codebooks.
    """
    if (shape.codebooks > 1) is not has_heads(spec):
        one = "has no codebooks" if shape.codebooks > 1 else "has codebooks"
        axes = "B,S,V" if shape.codebooks > 1 else "B,S,K,V with K from 2 up"
        raise UsageError(f"{spec.name} {one}, but the shape is {shape}; use --shape {axes}")
    extra = 1 if any(term.extra is not Extra.NONE for term in spec.terms) else 0
    counted = any(term.denominator is Denominator.NUM_ITEMS for term in spec.terms)
    return Recipe(
        rows=shape.rows,
        length=max(shape.length - extra, 1),
        classes=shape.classes - (_AUDIO_MORE if len(spec.labels) > 1 else 0),
        codebooks=shape.codebooks,
        masks=(Mask.FIRST, Mask.PADDING),
        documents=shape.documents,
        boundaries_ignored=all(term.documents is Documents.NONE for term in spec.terms),
        extra=extra,
        ids=Ids.SEEDED,
        count=Count.VALID if counted else Count.ABSENT,
        dtype=dtype,
        seed=seed,
    )


def smaller(shape: Shape, axis: str, by: int) -> Shape:
    """Return the shape with S, V or K divided by ``by``, at least 1."""
    field = {"T": "length", "V": "classes", "K": "codebooks"}[axis]
    return replace(shape, name="own", **{field: max(getattr(shape, field) // by, 1)})
