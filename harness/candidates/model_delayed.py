"""One model of text and delayed frames on trial, such as Moshi: a depth decoder predicts the frame of each position."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch

from shiftproof.reference.batch import Batch
from shiftproof.reference.delay import undo_delay

from ..cases.build import Case
from ..cases.recipe import Ids, Recipe
from ..worker.exchange import Outcome, Returned
from .model_gaps import Gap, gaps_of_stream, ignoring, with_array
from .model_streams import AUDIO, AUDIO_TOKENS, StreamsTrial
from .variant import Asked

_LENGTH = 9  # of the sequences whose labels show the delays
_MOVES = ((0, 0), (-1, 0), (-2, 0), (1, 0), (0, -1), (0, 1))  # of labels, along frames and codebooks


class DelayedTrial(StreamsTrial):
    """A model of which each position holds a token of text and the frame that was spoken before it.

    Its depth decoder predicts the frame of a position, codebook by codebook. It takes the codebooks before from the
    audio labels, and the token of that position from the labels of text. The model may delay codebooks itself: it is
    given labels as they were before the delay, and is judged by labels after it. A code that the delay moves out of the
    sequence is not scored, and neither is the place in front of a delayed codebook. A label V is ignored too.

    Attributes:
        delays: by how many frames the model delays each codebook. A first call finds it.

    Raises:
        UsageError, LoadFailure: as :class:`StreamsTrial`.
    """

    delays: tuple[int, ...] = ()

    def _find_sizes(self) -> Returned:
        first = super()._find_sizes()
        # A loss that takes labels of another place shows its delays all the same. Without need, nothing is moved.
        ways = itertools.product(_MOVES, _usual_delays(self.audio_layout.codebooks))
        _, self.delays = max(ways, key=lambda way: self._targets_under(*way))
        self._own_cases.clear()
        if any(self.delays):
            self.scope = (f"with delays {', '.join(map(str, self.delays))}, which the model applies itself",)
        return first

    def _targets_under(self, move: tuple[int, int], delays: tuple[int, ...]) -> int:
        """How many of the classes that the loss pushes up are the labels under these delays.

        ``move`` is that of the labels, along frames and codebooks.
        """
        self.delays = delays
        self._own_cases.clear()
        case = self.case(replace(self._first_recipe(), length=_LENGTH, ids=Ids.SEEDED))
        seen = self.answer(Asked(case))
        if seen.gradients is None:
            return 0
        labels, gradient = case.batch.tensor(AUDIO).roll(move, (1, 2)), seen.gradients["audio_logits"]
        scored = (labels < gradient.shape[-1]) & (gradient != 0).any(-1)
        return int(((gradient.argmin(-1) == labels) & scored).sum())

    def _gaps(self, audio_classes: int) -> tuple[Gap, ...]:
        text = gaps_of_stream("text", "labels", "input_ids")
        audio = gaps_of_stream("audio", AUDIO, AUDIO_TOKENS, marker=audio_classes)
        return (*text, *audio, Gap("all labels", ignoring("labels", AUDIO), text[-1].closed))

    def _own_batch(self, recipe: Recipe, batch: Batch) -> Batch:
        return batch

    def variation(self, case: Case, change: Callable[[Batch], Batch]) -> Case:
        return super().variation(case, lambda batch: self._delayed(change(batch)))

    def _delayed(self, batch: Batch) -> Batch:
        """Ignore the labels in front of delayed codebooks, which the model does not get."""
        labels = batch.tensor(AUDIO)
        before = torch.arange(labels.shape[1])[:, None] < torch.tensor(self.delays or (0,))
        return with_array(batch, AUDIO, labels.masked_fill(before, self._ignored))

    @property
    def _ignored(self) -> int:
        """The label after the last class, which such a model ignores."""
        return next(term.classes for term in self.spec.terms if term.labels == AUDIO) or -100

    def _call(self, asked: Asked, watch: bool = False, nudge: float = 0.0) -> Outcome:
        other = None if asked.other is None else self._before_the_delay(asked.other)
        return super()._call(replace(asked, case=self._before_the_delay(asked.case), other=other), watch, nudge)

    def _before_the_delay(self, case: Case) -> Case:
        """The case with its audio labels as they were before the model delays them."""
        if not any(self.delays):
            return case
        labels, tokens = (case.batch.tensor(name).transpose(1, 2) for name in (AUDIO, AUDIO_TOKENS))
        moved_out = tokens[..., : max(self.delays)].to(labels.dtype)
        undone = undo_delay(torch.cat((labels, moved_out), -1), self.delays).transpose(1, 2)
        return replace(case, batch=with_array(case.batch, AUDIO, undone.contiguous()))


def _usual_delays(codebooks: int) -> Iterator[tuple[int, ...]]:
    """No delay, that of Moshi, and that of MusicGen."""
    yield (0,) * codebooks
    yield (0, *[1] * (codebooks - 1))
    yield tuple(range(codebooks))
