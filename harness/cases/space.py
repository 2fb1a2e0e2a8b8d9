"""The space of recipes under a spec, simplest values first.

The space is defined once, as a list of choices for each field. Hypothesis draws from these lists and shrinks towards
their front. The plain loop over seeds draws from the same lists.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, replace
from typing import Any

from hypothesis.strategies import SearchStrategy

from shiftproof.reference.spec import Axis, Compute, Denominator, Documents, Extra, Heads, LossSpec, ShiftedBy

from .draw import fields_from
from .recipe import (
    AudioClasses,
    AudioLength,
    Count,
    Delay,
    Hollow,
    Ids,
    Mask,
    Recipe,
    Regime,
    ShiftLabels,
    Streams,
    Weights,
)

Space = Mapping[str, tuple[Any, ...]]
"""Field of a recipe -> its choices, simplest first."""

_MASKS: tuple[tuple[Mask, ...], ...] = (
    (Mask.NONE,),
    (Mask.NONE, Mask.PROMPT),
    (Mask.PADDING, Mask.NONE),
    (Mask.FIRST, Mask.NONE, Mask.PROMPT),
    (Mask.PROMPT, Mask.NONE, Mask.HOLES),
    (Mask.NONE, Mask.ALL, Mask.PADDING),
    (Mask.LEFT, Mask.HOLES),
    (Mask.HOLES, Mask.NONE, Mask.LAST_ONLY, Mask.PADDING),
)


_SEEDS = 1000
_ALIKE = 4  # redraws in the same regime
_UNALIKE = 2  # redraws in each other regime


def space(spec: LossSpec, takes: frozenset[str], dtypes: tuple[str, ...] = ("float32",)) -> Space:
    """The choices of every field that matters for ``spec`` and a candidate that takes the arguments ``takes``.

    ``dtypes``: of the logits, simplest first. Each case has one of them.
    """
    term = spec.terms[0]
    choices: dict[str, tuple[Any, ...]] = {
        "rows": (1, 2, 3, 4, 5),
        "length": (2, 3, 4, 5, 6, 7, 8, 9, 12, 17),
        "classes": (2, 3, 5, 7, 11, 17, 32, 101, 128, 257),
        "masks": _MASKS,
        "ids": (Ids.COUNTING, Ids.SEEDED, Ids.EDGES),
        "seed": tuple(range(_SEEDS)),
        "dtype": dtypes,
    }
    if any(of.score.label_smoothing for of in spec.terms):
        # With two classes, a smoothed target of high probability has the same gradient as the other class. With up to
        # four, so has one that is smoothed otherwise.
        choices["classes"] = tuple(classes for classes in choices["classes"] if classes > 4)
    if term.classes is not None:
        choices["classes"] = (term.classes,)
    choices |= _of_heads(spec)
    if term.documents is not Documents.NONE:
        choices["documents"] = (2, 1, 3)
        choices["boundaries_ignored"] = (False, False, True)
    elif takes & {"position_ids", "cu_seqlens", "segment_ids"}:
        # The loss itself does not read documents. So their boundaries are already ignored, as collators leave them.
        choices["documents"] = (1, 2, 3)
        choices["boundaries_ignored"] = (True,)
    if term.extra is Extra.PREFIX:
        choices["extra"] = (0, 1, 2, 5)
    elif term.extra is Extra.SUFFIX:
        choices["extra"] = (1,)
    if term.denominator is Denominator.NUM_ITEMS:
        choices["count"] = (Count.VALID, Count.GLOBAL, Count.FEWER)
    elif term.denominator is Denominator.NUM_ITEMS_OR_VALID and "num_items_in_batch" in takes:
        choices["count"] = (Count.ABSENT, Count.VALID, Count.GLOBAL, Count.FEWER)
    if any(of.token_weights or of.codebook_weights is True or of.score.class_weights for of in spec.terms):
        choices["weights"] = (Weights.QUARTERS, Weights.ZEROS)
        if spec.compute is Compute.STRICT or dtypes == ("float32",):  # others may round weights to the logits' dtype
            choices["weights"] += (Weights.TENTHS,)
    if "hidden_states" in takes and "logits" not in takes:
        choices["hidden_size"] = (0, 256)
    if term.accepts_shift_labels and "shift_labels" in takes:
        choices["shift_labels"] = (ShiftLabels.ABSENT, ShiftLabels.PADDED, ShiftLabels.SHARDED)
    return choices


def _of_heads(spec: LossSpec) -> dict[str, tuple[Any, ...]]:
    """The choices of fields that only specs with codebooks, other heads or several streams have."""
    heads = {term.heads for term in spec.terms} - {Heads.ONE}
    if not heads:
        return {}
    across = max((term.shift for term in spec.terms if term.axis is Axis.CODEBOOK), default=0)
    fixed = next((term.codebooks for term in spec.terms if term.codebooks), None)
    choices: dict[str, tuple[Any, ...]] = {
        # Every case has K times as many pairs, so it is smaller. K = S is common, where shapes do not reveal a swap.
        "rows": (1, 2, 3),
        "length": (2, 3, 4, 5, 6, 8, 11),
        "codebooks": (fixed,) if fixed else tuple(k for k in (2, 3, 4, 1, 8) if k > across),
    }
    if Heads.CODEBOOKS in heads:
        choices["delay"] = (Delay.NONE, Delay.STEP, Delay.AFTER_FIRST)
        choices["hollow"] = (Hollow.NONE, Hollow.NONE, Hollow.LAST, Hollow.FIRST, Hollow.ALTERNATE, Hollow.DROPPED)
    audio = next((term for term in spec.terms if term.labels == "audio_labels"), None)
    if audio is not None:
        choices["audio_classes"] = (AudioClasses.MORE, AudioClasses.FEWER)
        if audio.shifted_by is ShiftedBy.LOSS:  # else both streams are steps of one decoder, as in Moshi
            choices["audio_length"] = (AudioLength.SAME, AudioLength.LONGER, AudioLength.SHORTER)
    if has_streams(spec):
        choices["streams"] = (Streams.BOTH, Streams.BOTH, Streams.FIRST, Streams.SECOND)
    return choices


def has_streams(spec: LossSpec) -> bool:
    """Whether the terms have separate labels, so that one stream can be empty while the other is not."""
    return len(spec.labels) > 1 or any(term.heads is Heads.FIRST for term in spec.terms)


def fits(choices: Space, recipe: Recipe) -> bool:
    """Whether a simplified recipe is still a valid case of the spec.

    It may be smaller than the space. But it must have the count, the extra logits, the classes and the codebooks that
    the spec needs.
    """
    for name in ("classes", "codebooks", "extra"):
        drawn, value = choices.get(name), getattr(recipe, name)
        if drawn and (value < min(drawn) if len(drawn) > 1 else value != drawn[0]):
            return False
    if recipe.documents > 1 and recipe.boundaries_ignored not in choices.get("boundaries_ignored", (False, True)):
        return False
    return recipe.count in choices.get("count", (Count.ABSENT,))


_DEFAULTS = {field.name: field.default for field in fields(Recipe)}


def within(recipe: Recipe, choices: Space) -> bool:
    """Whether a recipe that was made for one law is an ordinary case of another law's space too.

    It must have something to train on and a size of the space. Fields that the space does not have keep their defaults:
    other regimes, layouts and dtypes are left to special laws. Calm numbers are ordinary.
    """
    if recipe.masks == (Mask.ALL,) or recipe.streams is Streams.NEITHER:
        return False
    if recipe.rows < min(choices["rows"]) or recipe.length < min(choices["length"]):
        return False
    for name in _DEFAULTS.keys() - choices.keys():
        value = getattr(recipe, name)
        if value != _DEFAULTS[name] and value is not Regime.CALM:
            return False
    return True


def recipes(choices: Space) -> SearchStrategy[Recipe]:
    """A Hypothesis strategy over the space. It shrinks each field towards the front of its choices."""
    return fields_from(choices).map(lambda fields: Recipe(**fields))


def random_recipes(choices: Space, seed: int) -> Iterator[Recipe]:
    """Yield recipes from a seed, endlessly, without Hypothesis. A case is ten times cheaper than with Hypothesis."""
    rng = random.Random(seed)
    while True:
        yield Recipe(**{name: rng.choice(values) for name, values in choices.items()})


def redraws(recipe: Recipe, choices: Space) -> Iterator[Recipe]:
    """Yield recipes of the same structure with other numbers, as redraws of a vacuous case.

    Other seeds come first, then the other regimes of the space, because for some structures no seed helps. For example,
    the mean over a long row is the same for other labels, except if every third row is certain of its target. Recipes
    of the space have smaller seeds, so no recipe is judged twice.
    """
    regimes = choices.get("regime", (recipe.regime,))
    place = regimes.index(recipe.regime) if recipe.regime in regimes else 0
    others = (*regimes[place + 1 :], *regimes[:place])
    following = [recipe.regime] * _ALIKE + [regime for regime in others for _ in range(_UNALIKE)]
    for number, regime in enumerate(following, 1):
        yield replace(recipe, seed=recipe.seed + number * _SEEDS, regime=regime)


def hand_made(choices: Space) -> list[Recipe]:
    """A few hand-made cases that find most bugs at once. In most of them, every row has a different mask."""
    simplest = Recipe(**{name: values[0] for name, values in choices.items()})
    mixed = (Mask.NONE, Mask.PROMPT, Mask.HOLES, Mask.PADDING)
    several = max(choices.get("documents", (1,)))
    books = choices.get("codebooks", (1,))
    three, square = (k if k in books else books[0] for k in (3, 4))
    wide = choices["classes"][0] if len(choices["classes"]) == 1 else 0
    extra = choices.get("extra", (0,))[-1]
    cases = [
        replace(simplest, rows=2, length=4, classes=wide or 29, codebooks=three),
        replace(simplest, rows=4, length=7, classes=wide or 128, masks=mixed, documents=several, seed=1),
        replace(simplest, rows=3, length=9, classes=wide or 29, masks=(Mask.NONE, Mask.ALL, Mask.FIRST), seed=2),
        replace(
            simplest,
            rows=5,
            length=8,
            classes=wide or max(3, min(choices["classes"])),
            masks=mixed,
            ids=Ids.SEEDED,
            documents=several,
            extra=extra,
            seed=3,
        ),
        replace(simplest, rows=3, length=9, classes=wide or 101, masks=(Mask.NONE,), ids=Ids.EDGES, seed=4),
        replace(
            simplest,
            rows=2,
            length=13,
            classes=wide or 128,
            masks=(Mask.HOLES, Mask.LEFT),
            documents=several,
            codebooks=three,
            seed=5,
        ),
    ]
    if not wide:  # class ids of more than 15 bits
        cases.append(replace(simplest, rows=1, length=4, classes=32771, ids=Ids.EDGES, codebooks=min(books)))
    if "codebooks" in choices:
        cases[1] = replace(cases[1], rows=2, codebooks=square, length=5)
        cases[2:2] = [
            replace(cases[0], length=square, codebooks=square, masks=mixed[:2], ids=Ids.SEEDED, seed=6),
            # the same of one row, for specs that concatenate rows
            replace(cases[0], rows=1, length=square, codebooks=square, ids=Ids.SEEDED, seed=8),
            replace(cases[0], rows=3, length=5, masks=mixed, delay=choices.get("delay", (Delay.NONE,))[-1], seed=7),
        ]
    for name in ("hollow", "streams", "audio_classes", "audio_length", "weights"):
        _, *others = dict.fromkeys(choices.get(name, (None,)))
        cases += [replace(cases[1], **{name: value}) for value in others]
    for name in ("count", "shift_labels", "extra"):
        values = choices.get(name, ())
        cases += [replace(cases[1], **{name: value}) for value in values[1:]]
        cases += [replace(cases[4], **{name: value}) for value in values[1:]]
    dtypes = choices["dtype"]
    return [replace(case, dtype=dtypes[index % len(dtypes)]) for index, case in enumerate(cases)]


_OF_PLACES = (Mask.NONE, Mask.HOLES, Mask.PADDING)


def placed(choices: Space, places: Iterable[Mapping[str, Any]], seed: int) -> Iterator[Recipe]:
    """One case at each of some sizes, or other fields. The rest is drawn, but most labels of each row count."""
    drawn = random_recipes(choices, seed)
    for place in places:
        fields: dict[str, Any] = {"masks": _OF_PLACES[: max(int(place["rows"]), 1)], "ids": Ids.SEEDED, **place}
        recipe = replace(next(drawn), **fields)
        # If the only codebook is empty, nothing is trained.
        yield replace(recipe, hollow=Hollow.NONE) if recipe.codebooks == 1 else recipe
