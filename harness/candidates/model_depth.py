"""One model with a depth decoder on trial, such as CSM: its backbone predicts codebook 0, its decoder the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from shiftproof.reference.batch import Batch

from ..cases.build import Case
from ..cases.recipe import Recipe
from ..cases.space import Space
from ..worker.exchange import Returned
from .declaration import UsageError
from .loss import answered
from .model_gaps import Gap, ignoring, with_array
from .model_layout import MOST_CODEBOOKS
from .model_several import SeveralTrial
from .variant import Asked

_DEPTH = "depth_logits"


class DepthTrial(SeveralTrial):
    """A model that takes frames [B, S, K], and returns the logits of its backbone and of its depth decoder.

    The depth decoder sees the codebooks of a frame before the one that it predicts. It takes them from the labels. So
    the labels of a frame are all there, or that of codebook 0 alone, for the backbone, or none. MODEL-9 asks about
    other frames. The logits of the decoder are [B, S, K − 1, V], or packed: [N, K − 1, V] for the N frames with its
    labels.

    Attributes:
        codebooks: K. First calls find it.

    Raises:
        UsageError, LoadFailure: as :class:`ModelTrial`; also if it answers for no number of codebooks.
    """

    codebooks = 2

    def _find_sizes(self) -> Returned:
        refused = ""
        for self.codebooks in range(2, MOST_CODEBOOKS + 1):
            outcome = answered(self._call(Asked(self.case(self._first_recipe()))), self.candidate.name)
            if not isinstance(outcome, Returned):
                refused = refused or f"with 2 codebooks it {outcome.describe()}"
                continue
            self.classes = outcome.outputs["logits"].shape[-1]
            if self._laid_back(self.case(self._first_recipe()), outcome.outputs) is not None:
                depth = Gap("all labels of the depth decoder", _without_depth, _one_frame)
                self.gaps = depth, Gap("all labels", ignoring("labels"), _one_frame)
                return outcome
        raise UsageError(
            f"{self.candidate.name} gives no loss, logits and depth_logits for frames of 2 to {MOST_CODEBOOKS} "
            f"codebooks; {self.spec.name} is for models that do: {refused or 'their shapes do not fit'}"
        )

    def _first_recipe(self) -> Recipe:
        return replace(super()._first_recipe(), codebooks=self.codebooks)

    def _own(self, space: Space) -> Space:
        return {**super()._own(space), "codebooks": (self.codebooks,)}

    def fit(self, recipe: Recipe) -> Recipe:
        return replace(super().fit(recipe), codebooks=self.codebooks)

    def _own_batch(self, recipe: Recipe, batch: Batch) -> Batch:
        """Ignore the labels of a frame for the depth decoder, unless all are there."""
        labels = batch.tensor("labels")
        kept = labels >= 0
        first, others = kept[..., :1], kept[..., 1:].all(-1, keepdim=True)
        kept = torch.cat((first, (first & others).expand_as(kept[..., 1:])), -1)
        return with_array(batch, "labels", labels.where(kept, -100))

    def _laid_back(self, case: Case, arrays: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        found = {}
        labels = case.batch.tensor("labels")
        scored = (labels[..., 1:] >= 0).any(-1)  # the frames of a packed depth decoder
        for name, shape in case.pairing.shapes.items():
            array = arrays[name]
            if not array.is_floating_point() or array.shape[-1] != shape[-1]:
                return None
            if name == _DEPTH and list(array.shape) == [int(scored.sum()), *shape[2:]]:
                spread = torch.zeros(shape, dtype=array.dtype)
                spread[scored] = array
                array = spread
            elif array.numel() != torch.Size(shape).numel():
                return None
            found[name] = array.reshape(shape)
        return found


def _without_depth(batch: Batch) -> Batch:
    """Ignore the labels of every codebook but the first."""
    labels = batch.tensor("labels").clone()
    labels[..., 1:] = -100
    return with_array(batch, "labels", labels)


def _one_frame(batch: Batch) -> Batch:
    """Leave the depth decoder at least one frame whose labels are all there."""
    labels, tokens = batch.tensor("labels").clone(), batch.tensor("input_ids")
    kept = labels >= 0
    if bool(kept.all(-1).any()):
        return batch
    row, position = divmod(int(kept.sum(-1).argmax()), labels.shape[1])
    labels[row, position] = tokens[row, position]
    return with_array(batch, "labels", labels)
