"""The arguments that a trainer may ask for, by name: a model, its micro-batches, and what it must know of both."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from shiftproof.reference.spec import LossTerm

from .arguments import Binding, Offer
from .cases import Case
from .worker.protocol import Scalar

MODEL, MICRO_BATCHES, WINDOW = "model", "micro_batches", "gradient_accumulation_steps"

PARTS = 4
"""Into how many micro-batches the rows of a case are cut, as torch.chunk does; cases of a trainer have rows for all."""

TRAINER_ARGUMENTS: dict[str, str] = {
    MODEL: "a torch.nn.Module with one parameter; forward(input_ids, attention_mask, labels, num_items_in_batch, …) "
    "returns loss and logits [B, S, V]",
    MICRO_BATCHES: "list of dicts of input_ids, attention_mask and labels, each [b, S], int64: one optimizer step",
    WINDOW: "int, how many micro-batches a full window has; fewer came where this one is the last and short",
    "ignore_index": "int, the label that is never trained on",
    "label_smoothing": "float, ε",
    "vocab_size": "int, V",
    "pad_token_id": "int, an input id that stands for no token of the case",
}

TO_TRAINERS = Offer("a trainer", TRAINER_ARGUMENTS.keys(), {}, (MODEL, MICRO_BATCHES), (MODEL, MICRO_BATCHES))


def trains(parameters: Iterable[str], rename: Mapping[str, str]) -> bool:
    """Whether a candidate with parameters of these names is a trainer."""
    return {rename.get(ours, ours) for ours in (MODEL, MICRO_BATCHES)} <= set(parameters)


def scalars_for(case: Case, binding: Binding, window: int) -> dict[str, Scalar]:
    """What a trainer asks for besides model and micro-batches, under its own names."""
    term: LossTerm = case.spec.terms[0]
    give: dict[str, Callable[[], Scalar]] = {
        WINDOW: lambda: window,
        "ignore_index": lambda: term.ignore_index,
        "label_smoothing": lambda: term.score.label_smoothing,
        "vocab_size": lambda: case.recipe.classes,
        "pad_token_id": lambda: 0,
    }
    return {theirs: give[ours]() for ours, theirs in binding.names.items() if ours in give}
