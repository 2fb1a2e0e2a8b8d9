"""One model with a depth decoder on trial, such as CSM: its backbone predicts codebook 0, its decoder the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from shiftproof.reference.batch import Batch

from ..cases.build import Case
from ..cases.kept import Kept, of_pairs
from ..cases.recipe import Recipe
from ..cases.space import Space
from ..worker.exchange import Returned
from .declaration import UsageError
from .loss import Observation, answered
from .model import ModelTrial, Route
from .model_layout import MOST_CODEBOOKS
from .variant import Asked

_DEPTH = "depth_logits"
_MOST = 4_000_000  # elements of logits of the cases that are kept


class DepthTrial(ModelTrial):
    """A model that takes frames [B, S, K], and returns the logits of its backbone and of its depth decoder.

    The depth decoder sees the codebooks of a frame before the one that it predicts. It takes them from the labels. So
    the labels of a frame are all there, or that of codebook 0 alone, for the backbone, or none. A batch with labels has
    a frame with all. MODEL-9 asks about other frames. The logits of the decoder are [B, S, K − 1, V], or packed:
    [N, K − 1, V] for the N frames with its labels.

    Attributes:
        codebooks: K. First calls find it.

    Raises:
        UsageError, LoadFailure: as :class:`ModelTrial`; also if it answers for no number of codebooks.
    """

    codebooks = 2

    def _measure(self) -> Returned | None:
        self._whole: Kept[Recipe, Case] = Kept(_MOST)
        refused = ""
        for self.codebooks in range(2, MOST_CODEBOOKS + 1):
            case = super(ModelTrial, self).case(self._first_recipe())
            outcome = answered(self._call(Asked(case)), self.candidate.name)
            if not isinstance(outcome, Returned):
                refused = refused or f"with 2 codebooks it {outcome.describe()}"
                continue
            self.classes = outcome.outputs["logits"].shape[-1]
            case = super(ModelTrial, self).case(self._first_recipe())
            if self._laid_back(case, outcome.outputs) is not None:
                return outcome
        raise UsageError(
            f"{self.candidate.name} gives no loss, logits and depth_logits for frames of 2 to {MOST_CODEBOOKS} "
            f"codebooks; {self.spec.name} is for models that do: {refused or 'their shapes do not fit'}"
        )

    def _first_recipe(self) -> Recipe:
        return replace(super()._first_recipe(), codebooks=self.codebooks)

    def _find_route(self) -> Route:
        return Route.NOWHERE

    def _own(self, space: Space) -> Space:
        return {**super()._own(space), "codebooks": (self.codebooks,)}

    def fit(self, recipe: Recipe) -> Recipe:
        return replace(super().fit(recipe), codebooks=self.codebooks)

    def case(self, recipe: Recipe) -> Case:
        fitted = self.fit(recipe)
        case = self._whole.get(fitted)
        if case is None:
            case = self.variation(super().case(fitted), _whole)
            elements = sum(tensor.numel() for tensor in case.oracle.gradients.values())
            self._whole.put(fitted, case, elements + of_pairs(fitted.rows * fitted.length * fitted.codebooks))
        return case

    def _answer(self, asked: Asked, watch: bool) -> Observation:
        return self._read_several(asked)

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


def _whole(batch: Batch) -> Batch:
    """Ignore the labels of a frame for the depth decoder, unless all are there. Leave it at least one frame, or none.

    A batch without any label stays as it is: laws on such batches ask for it.
    """
    labels, tokens = batch.tensor("labels").clone(), batch.tensor("input_ids")
    kept = labels >= 0
    if bool(kept.any()) and not bool(kept.all(-1).any()):
        row, position = divmod(int(kept.sum(-1).argmax()), labels.shape[1])
        labels[row, position] = tokens[row, position]
        kept = labels >= 0
    first, others = kept[..., :1], kept[..., 1:].all(-1, keepdim=True)
    kept = torch.cat((first, (first & others).expand_as(kept[..., 1:])), -1)
    return replace(batch, labels=labels.where(kept, -100))
