"""Bugs that leave the pairs alone and show in another way: a law that fails alone, or sizes that do not fit."""

from __future__ import annotations

from dataclasses import dataclass

from .behaviours import BEHAVIOURS


@dataclass(frozen=True)
class Symptom:
    """``formula`` states what goes wrong, ``seen`` where it happened, ``tells`` the smallest input that shows it."""

    formula: str
    seen: str
    tells: str = ""


SYMPTOMS: dict[str, Symptom] = {
    "ids-overwritten": Symptom(
        "what a builder is given is written to: the model then reads −100 as an id",
        "an easy slip: labels = input_ids, without a clone",
    ),
    "leaf-scaled": Symptom(
        "of hidden states, weight and bias, one has a multiple of its gradient, and the others have theirs",
        "an easy slip in a backward by hand",
        "look at each",
    ),
    "gradient-scaled": Symptom(
        "the value is right, and its gradient is a multiple of the right one",
        "an easy slip in a backward by hand; the incoming gradient used twice",
        "look at each",
    ),
    "another-score": Symptom(
        "the pairs are right, and the score differs from the promised one in its softcap or in a constant",
        "a temperature left in; a smoothing, softcap or z-loss from another model's configuration",
        "look at each",
    ),
    "smoothing-mass": Symptom(
        "with label smoothing, the target and the other classes have other shares than promised",
        "ε added on top of the target's whole share; ε / (V − 1) for the target too",
        "5 classes",
    ),
    "sees-its-target": Symptom(
        "a row of logits depends on the token that it is scored on, or on a later one",
        "attention without a causal mask",
        "one more token",
    ),
    "sees-other-rows": Symptom(
        "a row of logits depends on another sequence of the batch",
        "padding-free batches without a mask of documents; statistics over the batch",
        "2 sequences",
    ),
    **{behaviour.name: Symptom(behaviour.formula, behaviour.seen, behaviour.tells) for behaviour in BEHAVIOURS},
}
