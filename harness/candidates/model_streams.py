"""One model of text and codebooks on trial, such as Higgs audio's: two streams of tokens, labels and logits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from shiftproof.reference.batch import Batch
from shiftproof.reference.spec import LossSpec

from ..cases.build import Case
from ..cases.kept import Kept, of_pairs
from ..cases.recipe import AudioLength, Recipe
from ..cases.space import Space
from ..worker.exchange import Returned
from .declaration import UsageError
from .loss import Observation, answered
from .model import ModelTrial, Route
from .model_layout import LENGTHS, MOST_CODEBOOKS, ModelLayout, with_logits
from .variant import Asked

_AUDIO = "audio_labels"
_MOST = 4_000_000  # elements of logits of the cases that are kept


class StreamsTrial(ModelTrial):
    """A model that takes text and frames of K codebooks, and returns the logits of both.

    A position of a sequence holds a token of text or a frame. ``audio_input_ids`` and ``audio_labels`` are [B, S, K],
    aligned with the text. Where a position holds no frame, they are −1 and ignored. Rows without a frame, rows of
    frames alone, and frames after text occur. Text is scored at every position whose label counts.

    Attributes:
        audio_layout: how it gives the logits of its frames, and K. First calls find it.

    Raises:
        UsageError, LoadFailure: as :class:`ModelTrial`; also if it answers for no number of codebooks.
    """

    def _measure(self) -> Returned | None:
        plain = self.spec
        self._placed: Kept[Recipe, Case] = Kept(_MOST)
        refused = ""
        for codebooks in range(2, MOST_CODEBOOKS + 1):
            self.audio_layout = ModelLayout(codebooks, "b s k", "b s k", "b s k v")
            length = next(each for each in LENGTHS if each != codebooks)
            first = replace(self._first_recipe(), rows=1, length=length)
            outcome = answered(self._call(Asked(self._with_frames(first))), self.candidate.name)
            if not isinstance(outcome, Returned):
                refused = refused or f"with 2 codebooks it {outcome.describe()}"
                continue
            text, audio = (outcome.outputs[name] for name in plain.logits)
            for layout in with_logits(self.audio_layout, audio, length):
                self.audio_layout, self.classes = layout, text.shape[-1]
                classes = layout.canonical_logits(audio, 1).shape[-1]
                own = (replace(term, classes=classes) if term.labels == _AUDIO else term for term in plain.terms)
                self.spec = replace(plain, terms=tuple(own))
                self._placed.clear()
                return outcome
        raise UsageError(
            f"{self.candidate.name} gives no loss and logits for frames of 2 to {MOST_CODEBOOKS} codebooks; "
            f"{plain.name} is for models that do: {refused or 'their shapes do not fit'}"
        )

    def _first_recipe(self) -> Recipe:
        return replace(super()._first_recipe(), codebooks=self.audio_layout.codebooks)

    def _find_route(self) -> Route:
        return Route.NOWHERE

    def _own(self, space: Space) -> Space:
        own = {"codebooks": (self.audio_layout.codebooks,), "audio_length": (AudioLength.SAME,)}
        return {**super()._own(space), **own}

    def fit(self, recipe: Recipe) -> Recipe:
        return replace(super().fit(recipe), codebooks=self.audio_layout.codebooks, audio_length=AudioLength.SAME)

    def case(self, recipe: Recipe) -> Case:
        return self._with_frames(self.fit(recipe))

    def _with_frames(self, recipe: Recipe) -> Case:
        """The case of a recipe, with frames at some positions of each sequence."""
        case = self._placed.get(recipe)
        if case is None:
            case = self.variation(super(ModelTrial, self).case(recipe), lambda batch: _placed(self.spec, recipe, batch))
            elements = sum(tensor.numel() for tensor in case.oracle.gradients.values())
            self._placed.put(recipe, case, elements + of_pairs(recipe.rows * recipe.length * recipe.codebooks))
        return case

    def _answer(self, asked: Asked, watch: bool) -> Observation:
        return self._read_several(asked)

    def _laid_back(self, case: Case, arrays: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        found = {}
        for name, shape in case.pairing.shapes.items():
            array, expected = arrays[name], torch.empty(shape, device="meta")
            if name != "logits":
                expected = self.audio_layout.lay_out_logits(expected)
            if array.shape != expected.shape or not array.is_floating_point():
                return None
            is_text = name == "logits"
            found[name] = array if is_text else self.audio_layout.canonical_logits(array, case.recipe.rows)
        return found


def _placed(spec: LossSpec, recipe: Recipe, batch: Batch) -> Batch:
    """Take away the frames before the first one of each sequence."""
    length = recipe.length
    starts = torch.tensor([(0, length // 2, length, 1)[(recipe.seed + row) % 4] for row in range(recipe.rows)])
    absent = (torch.arange(length) < starts[:, None])[..., None]
    ignored = next(term.ignore_index for term in spec.terms if term.labels == _AUDIO)
    return replace(
        batch,
        audio_labels=batch.tensor(_AUDIO).masked_fill(absent, -100 if ignored is None else ignored),
        audio_input_ids=batch.tensor("audio_input_ids").masked_fill(absent, -1),
    )
