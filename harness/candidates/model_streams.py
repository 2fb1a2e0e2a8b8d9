"""One model of text and codebooks on trial, such as Higgs audio's: two streams of tokens, labels and logits."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from shiftproof.reference.batch import Batch
from shiftproof.reference.spec import LossSpec

from ..cases.build import Case
from ..cases.recipe import AudioLength, Recipe
from ..cases.space import Space
from ..worker.exchange import Returned
from .declaration import UsageError
from .loss import answered
from .model_gaps import Gap, gaps_of_stream, ignoring
from .model_layout import LENGTHS, MOST_CODEBOOKS, ModelLayout, with_logits
from .model_several import SeveralTrial
from .variant import Asked

AUDIO, AUDIO_TOKENS = "audio_labels", "audio_input_ids"
_FRAMES = ("b s k", "b k s")


@dataclass(frozen=True)
class _Found:
    """An answer of a model: how it takes frames, V of its text and of a codebook, and what it returned."""

    layout: ModelLayout
    classes: tuple[int, int]
    outcome: Returned


class StreamsTrial(SeveralTrial):
    """A model that takes text and frames of K codebooks, and returns the logits of both.

    A position of a sequence holds a token of text or a frame. ``audio_input_ids`` and ``audio_labels`` are [B, S, K] or
    [B, K, S], aligned with the text. Where a position holds no frame, they are −1 and ignored. Rows without a frame,
    rows of frames alone, and frames after text occur. Text is scored at every position whose label counts.

    Attributes:
        audio_layout: how it takes its frames and gives their logits, and K. First calls find it.

    Raises:
        UsageError, LoadFailure: as :class:`ModelTrial`; also if it answers for no number of codebooks.
    """

    def _find_sizes(self) -> Returned:
        plain, refusals, found = self.spec, list[str](), list[_Found]()
        for codebooks in range(2, MOST_CODEBOOKS + 1):
            answers = self._answers(plain, codebooks, refusals)
            if found and not answers:
                break  # a model that hears frames too has place for fewer codebooks than it speaks
            found += answers[:1]
        if not found:
            raise UsageError(
                f"{self.candidate.name} gives no loss and logits for frames of 2 to {MOST_CODEBOOKS} codebooks; "
                f"{plain.name} is for models that do: {_rarest(refusals) or 'their shapes do not fit'}"
            )
        takes_any = found[-1].layout.codebooks == MOST_CODEBOOKS
        first = found[0 if takes_any else -1]
        self._take(first.layout, plain)
        self.classes, audio_classes = first.classes
        own = (replace(term, classes=audio_classes) if term.labels == AUDIO else term for term in plain.terms)
        self.spec = replace(self.spec, terms=tuple(own))
        self.gaps = self._gaps(audio_classes)
        return first.outcome

    def _answers(self, plain: LossSpec, codebooks: int, refusals: list[str]) -> list[_Found]:
        """Call the model on frames of K codebooks, in each layout. Note why it gives no answer in ``refusals``."""
        found = []
        length = next(each for each in LENGTHS if each != codebooks)
        for frames in _FRAMES:
            self._take(ModelLayout(codebooks, frames, frames, "b s k v"), plain)
            case = self.case(replace(self._first_recipe(), rows=1, length=length))
            outcome = answered(self._call(Asked(case)), self.candidate.name)
            if not isinstance(outcome, Returned):
                refusals.append(f"with {codebooks} codebooks it {outcome.describe()}")
                continue
            text, audio = (outcome.outputs[name] for name in plain.logits)
            for layout in with_logits(self.audio_layout, audio, length):
                classes = text.shape[-1], layout.canonical_logits(audio, 1).shape[-1]
                found.append(_Found(layout, classes, outcome))
        return found

    def _take(self, layout: ModelLayout, spec: LossSpec) -> None:
        self.audio_layout, self.spec = layout, replace(spec, layouts=((AUDIO, layout.labels),))
        self._own_cases.clear()

    def _gaps(self, audio_classes: int) -> tuple[Gap, ...]:
        text, audio = gaps_of_stream("text", "labels", "input_ids"), gaps_of_stream("audio", AUDIO, AUDIO_TOKENS)
        return (*text, *audio, Gap("all labels", ignoring("labels", AUDIO), text[-1].closed))

    def _first_recipe(self) -> Recipe:
        return replace(super()._first_recipe(), codebooks=self.audio_layout.codebooks)

    def _own(self, space: Space) -> Space:
        own = {"codebooks": (self.audio_layout.codebooks,), "audio_length": (AudioLength.SAME,)}
        return {**super()._own(space), **own}

    def fit(self, recipe: Recipe) -> Recipe:
        return replace(super().fit(recipe), codebooks=self.audio_layout.codebooks, audio_length=AudioLength.SAME)

    def _own_batch(self, recipe: Recipe, batch: Batch) -> Batch:
        """Take away the frames before the first one of each sequence."""
        length = recipe.length
        starts = torch.tensor([(0, length // 2, length, 1)[(recipe.seed + row) % 4] for row in range(recipe.rows)])
        absent = (torch.arange(length) < starts[:, None])[..., None]
        ignored = next(term.ignore_index for term in self.spec.terms if term.labels == AUDIO)
        return replace(
            batch,
            audio_labels=batch.tensor(AUDIO).masked_fill(absent, -100 if ignored is None else ignored),
            audio_input_ids=batch.tensor(AUDIO_TOKENS).masked_fill(absent, -1),
        )

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


def _rarest(refusals: list[str]) -> str:
    """The refusal that is least like the others: they tell of numbers of codebooks that are not the model's."""
    alike = [re.sub(r"\d+", "", each) for each in refusals]
    return min(refusals, key=lambda each: alike.count(re.sub(r"\d+", "", each)), default="")
