"""What tells two specs apart, in words."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shiftproof.harness.diagnosis.tell_specs_apart import tell_apart
from shiftproof.reference.profiles import PROFILES
from shiftproof.reference.spec import Empty

COUNT = "where num_items_in_batch is given"


@pytest.mark.parametrize(
    ("one", "other", "takes", "said"),
    [
        (
            "hf.causal_lm",
            "torchtune",
            {"logits", "labels"},
            f"differs from torchtune only {COUNT}, which this loss does not take, so here they are the same",
        ),
        (
            "hf.causal_lm",
            "torchtune",
            {"logits", "labels", "num_items_in_batch"},
            f"differs from torchtune only {COUNT}",
        ),
        ("torchtune", "torchtune", {"logits", "labels"}, "is torchtune on every case drawn"),
    ],
)
def test_what_tells_them_apart(one: str, other: str, takes: set[str], said: str) -> None:
    assert tell_apart(PROFILES[one], PROFILES[other], frozenset(takes)) == said


def test_an_empty_batch_tells_nan_from_0_and_ordinary_ones_a_sum_from_a_mean() -> None:
    takes = frozenset({"logits", "labels"})
    assert "on ordinary batches" in tell_apart(PROFILES["hf.causal_lm"], PROFILES["sum"], takes)
    mean = PROFILES["torchtune"]
    zero, nan = (
        replace(mean, name=str(empty), terms=(replace(mean.terms[0], empty=empty),))
        for empty in (Empty.ZERO, Empty.NAN)
    )
    told = tell_apart(zero, nan, takes)
    assert told == "differs from nan on a batch where nothing is left to train on (0 against nan)"
