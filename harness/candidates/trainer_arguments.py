"""The arguments that a trainer may take, by name: a model, its micro-batches, and facts about both."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from shiftproof.reference.spec import LossTerm

from ..cases.build import Case
from ..worker.protocol import Scalar
from .arguments import Binding, Offer

MODEL, MICRO_BATCHES, WINDOW = "model", "micro_batches", "gradient_accumulation_steps"

PARTS = 4
"""The number of micro-batches that torch.chunk cuts a case into. Every case of a trainer has enough rows for them."""

TRAINER_ARGUMENTS: dict[str, str] = {
    MODEL: "a torch.nn.Module with one parameter; forward(input_ids, attention_mask, labels, num_items_in_batch, …) "
    "returns loss and logits [B, S, V]",
    MICRO_BATCHES: "list of dicts of input_ids, attention_mask and labels, each [b, S], int64: one optimizer step",
    WINDOW: "int, the number of micro-batches of a full window; the last window may have fewer",
    "ignore_index": "int, the label that is never trained on",
    "label_smoothing": "float, ε",
    "vocab_size": "int, V",
    "pad_token_id": "int, an input id that is no token of the case",
}

TO_TRAINERS = Offer("a trainer", TRAINER_ARGUMENTS.keys(), {}, (MODEL, MICRO_BATCHES), (MODEL, MICRO_BATCHES))


def trains(parameters: Iterable[str], rename: Mapping[str, str]) -> bool:
    """Whether a candidate with parameters of these names is a trainer."""
    return {rename.get(ours, ours) for ours in (MODEL, MICRO_BATCHES)} <= set(parameters)


def scalars_for(case: Case, binding: Binding, window: int) -> dict[str, Scalar]:
    """The other arguments that a trainer takes, besides model and micro-batches, under the trainer's own names."""
    term: LossTerm = case.spec.terms[0]
    give: dict[str, Callable[[], Scalar]] = {
        WINDOW: lambda: window,
        "ignore_index": lambda: term.ignore_index,
        "label_smoothing": lambda: term.score.label_smoothing,
        "vocab_size": lambda: case.recipe.classes,
        "pad_token_id": lambda: 0,
    }
    return {theirs: give[ours]() for ours, theirs in binding.names.items() if ours in give}
