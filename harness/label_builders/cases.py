"""The cases of label builders: recipes of a few ints and enums, and the inputs that each recipe stands for.

As for losses, the inputs are a pure function of a recipe. So only the recipe is stored, shrunk, replayed and shown.
``space``, ``recipes``, ``random_recipes``, ``hand_made`` and ``simplifications`` do for a :class:`BuilderRecipe` what
those of ``cases/space.py`` and ``cases/shrink.py`` do for a Recipe.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from hypothesis.strategies import SearchStrategy
from torch import Tensor

from shiftproof.reference.builders import BuilderBatch, BuilderSpec, answer
from shiftproof.reference.delay import PATTERNS, apply_delay

from ..cases.draw import fields_from
from ..cases.logits import uniform_ints
from ..cases.recipe import Ids
from ..cases.space import Space


class Pattern(StrEnum):
    """The delay of each codebook."""

    STAIRCASE = "staircase"  # 0, 1, …, K−1
    ONE_LATE = "one_late"  # 0, 1, 1, …
    DIA = "dia"  # 0, 8, 9, …
    UNDELAYED = "undelayed"
    SEEDED = "seeded"  # any delays up to 2K, in any order


class Padding(StrEnum):
    """The side of a text row that has padding."""

    NONE = "none"
    RIGHT = "right"
    LEFT = "left"


_LEAST = {"rows": 1, "codebooks": 1, "length": 1, "vocab": 1, "turns": 1, "documents": 1, "seed": 0}


@dataclass(frozen=True)
class BuilderRecipe:
    """One case of a builder. A field that the builder does not read keeps its simplest value.

    ``length`` is T for codes, S for text and the length of the longest document for packing. ``vocab`` is the number of
    ordinary ids, 0 to vocab − 1. BOS, EOS and pad come after them; BOS and EOS can have either order. Under
    Ids.COUNTING, place i has id i mod ``vocab``.
    """

    rows: int = 1
    length: int = 2
    vocab: int = 1024
    codebooks: int = 1
    pattern: Pattern = Pattern.STAIRCASE
    padding: Padding = Padding.NONE
    turns: int = 1
    documents: int = 1
    eos_is_pad: bool = False
    ids: Ids = Ids.COUNTING
    ignore_index: int = -100
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the fields that differ from the simplest case, and a few that are always there, in field order."""
        always = ("rows", "length", "vocab", "seed")
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            field.name: str(found[field.name]) if isinstance(found[field.name], StrEnum) else found[field.name]
            for field in fields(self)
            if field.name in always or found[field.name] != field.default
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> BuilderRecipe:
        """Read back what ``to_json`` wrote.

        Raises:
            ValueError: for a field or value that a recipe cannot have.
        """
        kinds: dict[str, Any] = {"pattern": Pattern, "padding": Padding, "ids": Ids}
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(data) - known)
        if unknown:
            raise ValueError(f"a builder's recipe has no field {unknown[0]!r}; it has {', '.join(sorted(known))}")
        recipe = cls(**{name: kinds[name](value) if name in kinds else value for name, value in data.items()})
        for name in (*_LEAST, "ignore_index"):
            value, least = getattr(recipe, name), _LEAST.get(name)
            if not isinstance(value, int) or isinstance(value, bool) or (least is not None and value < least):
                wanted = "an integer" if least is None else f"an integer from {least} up"
                raise ValueError(f"{name} is {value!r}; expected {wanted}")
        if not isinstance(recipe.eos_is_pad, bool):
            raise ValueError(f"eos_is_pad is {recipe.eos_is_pad!r}; expected true or false")
        if recipe.ids not in (Ids.COUNTING, Ids.SEEDED):
            raise ValueError(f"ids are {recipe.ids}; expected counting or seeded")
        if recipe.seed >= 2**63:
            raise ValueError(f"seed is {recipe.seed}; expected less than 2**63")
        return recipe

    @property
    def size(self) -> int:
        """The size of the case, for comparison with other cases."""
        return self.rows * self.length * self.codebooks * self.documents

    @property
    def dtype(self) -> str:
        """The dtype of all ids."""
        return "int64"

    def canonical(self) -> str:
        """Return the canonical JSON text of this recipe: equal recipes give equal bytes."""
        return json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))


@dataclass(frozen=True, eq=False)
class BuilderCase:
    """The inputs made from one recipe, with the right answer."""

    spec: BuilderSpec
    recipe: BuilderRecipe
    batch: BuilderBatch
    expected: Tensor


@lru_cache(maxsize=512)
def build_builder_case(spec: BuilderSpec, recipe: BuilderRecipe) -> BuilderCase:
    """Build the inputs of ``recipe`` as ``spec`` reads them, and the right output."""
    batch = build_inputs(spec, recipe)
    return BuilderCase(spec, recipe, batch, answer(spec.build, batch))


def build_inputs(spec: BuilderSpec, recipe: BuilderRecipe) -> BuilderBatch:
    """Build all inputs that a builder under ``spec`` can take. A pure function: the same bytes everywhere."""
    family = spec.name.partition(".")[0]
    if family == "delay":
        return _codes(spec, recipe)
    if family == "packing":
        return _documents(recipe)
    return _text(recipe)


def _codes(spec: BuilderSpec, recipe: BuilderRecipe) -> BuilderBatch:
    codes = _draw_ids(recipe, (recipe.rows, recipe.codebooks, recipe.length))
    delays = delays_of(recipe)
    bos, eos = _two_ids(recipe)
    batch = BuilderBatch(
        audio_codes=codes,
        delays=delays,
        bos_token_id=bos,
        eos_token_id=eos,
        # Higgs-audio pads with EOS; Dia has its own pad id.
        pad_token_id=recipe.vocab + 2 if spec.name == "delay.dia" else eos,
        ignore_index=recipe.ignore_index,
    )
    if spec.name != "delay.undo":
        return batch
    return replace(batch, audio_codes=None, delayed_codes=apply_delay(codes, delays, bos, eos))  # hides the answer


def delays_of(recipe: BuilderRecipe) -> tuple[int, ...]:
    """Return the delay of every codebook."""
    if recipe.pattern is Pattern.SEEDED:
        drawn = uniform_ints(recipe.seed, 5, recipe.codebooks).astype(int) % (2 * recipe.codebooks + 1)
        return tuple(drawn.tolist())
    return PATTERNS[str(recipe.pattern)](recipe.codebooks)


def _documents(recipe: BuilderRecipe) -> BuilderBatch:
    lengths = uniform_ints(recipe.seed, 6, recipe.documents).astype(np.int64) % recipe.length + 1
    lengths[0] = recipe.length  # at least one document has a token to train on
    bos, eos = _two_ids(recipe)
    return BuilderBatch(
        input_ids=_draw_ids(recipe, (1, int(lengths.sum()))),
        seq_lengths=torch.from_numpy(lengths),
        bos_token_id=bos,
        eos_token_id=eos,
        pad_token_id=recipe.vocab + 2,
        ignore_index=recipe.ignore_index,
    )


def _text(recipe: BuilderRecipe) -> BuilderBatch:
    """Build rows of alternating user and assistant turns. Each turn ends in EOS; padding is on one side."""
    rows, length = recipe.rows, recipe.length
    bos, eos = _two_ids(recipe)
    pad = eos if recipe.eos_is_pad else recipe.vocab + 2
    ids = _draw_ids(recipe, (rows, length))
    attention = torch.ones_like(ids)
    assistant = torch.zeros_like(ids)
    turns = torch.full((rows, recipe.turns, 2), -1)
    prompts = torch.zeros(rows, dtype=torch.long)
    draws = iter(uniform_ints(recipe.seed, 7, rows * (2 + recipe.turns)).tolist())
    for row in range(rows):
        most = 0 if recipe.padding is Padding.NONE else length // 2  # some rows are full, none is empty
        padded = (next(draws) + row + 1) % (most + 1)
        begin, end = (padded, length) if recipe.padding is Padding.LEFT else (0, length - padded)
        attention[row, :begin] = attention[row, end:] = 0
        ids[row, :begin] = ids[row, end:] = pad
        prompts[row] = (next(draws) + 1) % (end - begin + 1)
        spoken = _turns(begin, end, recipe.turns, [next(draws) for _ in turns[row]])
        for index, (user, first, last) in enumerate(spoken):
            ids[row, last] = eos
            if first - user > 1:
                ids[row, first - 1] = eos  # the user's turn also ends in EOS
            assistant[row, first : last + 1] = 1
            turns[row, index] = torch.tensor([first, last])
    loss_mask = torch.from_numpy(uniform_ints(recipe.seed, 8, rows * length).astype(np.int64) % 2).reshape(rows, length)
    return BuilderBatch(
        input_ids=ids,
        attention_mask=attention,
        loss_mask=loss_mask,
        prompt_lengths=prompts,
        assistant_mask=assistant,
        assistant_turns=turns,
        bos_token_id=bos,
        eos_token_id=eos,
        pad_token_id=pad,
        ignore_index=recipe.ignore_index,
    )


def _turns(begin: int, end: int, turns: int, draws: list[int]) -> Iterator[tuple[int, int, int]]:
    """Yield turns in [begin, end): the start of the user, the start of the assistant, the assistant's last place."""
    turns = min(turns, (end - begin) // 2)
    for index in range(turns):
        share = (end - begin) // (turns - index)
        user = 1 + draws[index] % (share - 1)
        yield begin, begin + user, begin + share - 1
        begin += share


def _draw_ids(recipe: BuilderRecipe, shape: tuple[int, ...]) -> Tensor:
    size = int(np.prod(shape, dtype=np.int64))
    if recipe.ids is Ids.COUNTING:
        return (torch.arange(size) % recipe.vocab).reshape(shape)
    drawn = uniform_ints(recipe.seed, 3, size).astype(np.int64)
    return (torch.from_numpy(drawn) % recipe.vocab).reshape(shape)


def _two_ids(recipe: BuilderRecipe) -> tuple[int, int]:
    """Return BOS and EOS. Higgs-audio has them in this order, Dia in the other."""
    bos, eos = recipe.vocab, recipe.vocab + 1
    return (eos, bos) if recipe.seed % 2 else (bos, eos)


# What is drawn --------------------------------------------------------------------------------------------------------

_OWN_PATTERN = {"delay.moshi": Pattern.ONE_LATE, "delay.dia": Pattern.DIA}


def space(spec: BuilderSpec, takes: frozenset[str] | None = None) -> Space:
    """Return the choices of every field that matters for ``spec`` and for a candidate with the arguments ``takes``.

    A candidate without ``delays`` has its own pattern, so it gets only that pattern: the spec's or, if the spec takes
    any pattern, the staircase. A candidate without ``ignore_index`` always gets −100.
    """
    takes = frozenset(spec.inputs) if takes is None else takes
    family = spec.name.partition(".")[0]
    choices: dict[str, tuple[Any, ...]] = {}
    if family != "packing":
        choices["rows"] = (1, 2, 3, 5)
    choices["length"] = (2, 3, 4, 5, 1, 7, 8, 9, 16)
    choices["vocab"] = (1024, 7, 2, 64, 2048)
    match family:
        case "delay":
            choices["codebooks"] = (2, 3, 1, 4, 8, 9)
            if spec.name in _OWN_PATTERN:
                choices["pattern"] = (_OWN_PATTERN[spec.name],)
            elif "delays" in takes:
                choices["pattern"] = tuple(Pattern)
            else:
                choices["pattern"] = (Pattern.STAIRCASE,)
        case "packing":
            choices["documents"] = (2, 3, 1, 5)
        case "mask":
            sides = {"mask.prompt": (Padding.RIGHT, Padding.NONE), "mask.prompt.left": (Padding.LEFT, Padding.NONE)}
            choices["padding"] = sides.get(spec.name, (Padding.RIGHT, Padding.NONE, Padding.LEFT))
            choices["turns"] = (1, 2, 3)
            choices["eos_is_pad"] = (False, True)
    choices["ids"] = (Ids.COUNTING, Ids.SEEDED)
    if "ignore_index" in takes:
        choices["ignore_index"] = (-100, -1)
    choices["seed"] = tuple(range(1000))
    return choices


def recipes(choices: Space) -> SearchStrategy[BuilderRecipe]:
    """Return a Hypothesis strategy over the space. It shrinks each field towards the first of its choices."""
    return fields_from(choices).map(lambda drawn: BuilderRecipe(**drawn))


def random_recipes(choices: Space, seed: int) -> Iterator[BuilderRecipe]:
    """Yield recipes without end from a seed, without Hypothesis."""
    rng = random.Random(seed)
    while True:
        yield BuilderRecipe(**{name: rng.choice(values) for name, values in choices.items()})


def placed(choices: Space, places: Iterable[Mapping[str, Any]], seed: int) -> Iterator[BuilderRecipe]:
    """One case at each of some sizes. All else is drawn."""
    for place, recipe in zip(places, random_recipes(choices, seed), strict=False):
        yield replace(recipe, **place)


def hand_made(choices: Space) -> list[BuilderRecipe]:
    """Return a few hand-made cases that detect most bugs: first a readable one, then all kinds of rows."""

    def fit(**wanted: Any) -> BuilderRecipe:
        kept = {name: value for name, value in wanted.items() if value in choices.get(name, ())}
        return replace(simplest, **kept)

    simplest = BuilderRecipe(**{name: values[0] for name, values in choices.items()})
    cases = [
        fit(rows=2, length=4, codebooks=3, documents=3),
        fit(rows=3, length=8, codebooks=4, documents=3, turns=2, eos_is_pad=True, seed=1),
        fit(rows=5, length=9, codebooks=3, documents=5, turns=3, padding=Padding.LEFT, ids=Ids.SEEDED, seed=2),
        fit(rows=5, length=16, codebooks=9, turns=3, eos_is_pad=True, padding=Padding.NONE, ids=Ids.SEEDED, seed=3),
        fit(rows=3, length=3, codebooks=3, documents=1, vocab=7, seed=4),  # as many frames and rows as codebooks
        fit(rows=2, length=5, codebooks=4, documents=2, eos_is_pad=True, ignore_index=-1, seed=5),
        fit(rows=2, length=1, codebooks=1, documents=5, seed=6),
        fit(rows=3, length=8, codebooks=2, documents=2, turns=2, vocab=2, ids=Ids.SEEDED, seed=7),  # id 0 everywhere
    ]
    cases += [replace(cases[1], pattern=pattern) for pattern in choices.get("pattern", ())[1:]]
    return list(dict.fromkeys(cases))


_SIZES = ("rows", "length", "codebooks", "documents", "turns")


def simplifications(recipe: BuilderRecipe, choices: Space) -> Iterator[BuilderRecipe]:
    """Yield simpler recipes, the boldest first: all fields at once, all except the sizes, then one field at a time.

    Every step goes in the same direction: sizes go down, other fields go to the first of their choices. So no step
    leads back.
    """
    simpler: dict[str, list[Any]] = {}
    for name, values in choices.items():
        value = getattr(recipe, name)
        if name in _SIZES:
            simpler[name] = sorted({size for size in values if size < value})
        else:
            simpler[name] = list(values[: values.index(value)])[:3]
    least = {name: values[0] for name, values in simpler.items() if values}
    small = {
        name: max(value, 2) if getattr(recipe, name) > 1 else value for name, value in least.items() if name in _SIZES
    }
    plainest = {name: value for name, value in least.items() if name not in _SIZES}
    everything = [{**plainest, **least}, {**plainest, **small}, plainest]
    singly = [{name: value} for name, values in simpler.items() for value in values]
    for fields_changed in (*everything, *singly):
        if fields_changed:
            yield replace(recipe, **fields_changed)
