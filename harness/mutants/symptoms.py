"""Bugs that leave the pairs alone and show by another sign: a law that fails alone, or an exception's own words."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Symptom:
    """``formula`` says what goes wrong, ``seen`` where it did."""

    formula: str
    seen: str


SYMPTOMS: dict[str, Symptom] = {
    "length-mismatch": Symptom(
        "logits and labels of different lengths are flattened together: the labels were shortened to shift them, and "
        "the logits were not (or both were)",
        "Higgs-audio trainers: [2, 168, V] against [2, 167]",
    ),
    "all-ignored-nan-gradient": Symptom(
        "NaN gradient where no label counts: the gradient is divided by a count of 0",
        "torch 2.13 F.linear_cross_entropy, chunked",
    ),
    "upstream-ignored": Symptom("the gradient is not multiplied by the incoming one", "fla#963"),
    "inputs-mutated": Symptom("logits or labels are overwritten", "Liger, Megatron"),
    "no-grad-path": Symptom("raises or lies where no gradient is recorded", "Liger#930"),
    "nan-hidden": Symptom("NaN on a valid row is replaced: nan_to_num, `if loss > 0`", "Higgs-audio trainers"),
    "detached-part": Symptom(
        "one row, term or codebook, or all of the loss, has no gradient",
        "an easy slip: .item(), .detach(), torch.tensor",
    ),
    "offset-cancel": Symptom("logsumexp(z) − z_y cancels when all logits are far from 0", "mlx#4188"),
    "narrow-index": Symptom("narrow label or offset integers wrap", "pytorch#111484, flash-attention#714"),
}
