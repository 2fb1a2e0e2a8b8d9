"""A trainer that leaves out a codebook whose loss is 0: `if loss > 0` does, beside hiding NaN."""

from __future__ import annotations

from pathlib import Path

import pytest

from shiftproof.harness.candidates.declaration import Candidate
from shiftproof.harness.cases.recipe import Ids, Recipe, Regime
from shiftproof.harness.diagnosis.name_by_numbers import leaves_out_zeros
from shiftproof.harness.judge.loading import LoadedCandidate, Options, jobs_of
from shiftproof.reference.profiles import PROFILES

FILE = Path(__file__).parents[3] / "examples" / "higgs_audio" / "audio_loss.py"
ONE_BOOK_IS_SURE = Recipe(rows=1, length=2, classes=2, codebooks=4, ids=Ids.SEEDED, regime=Regime.HUGE, seed=1)


@pytest.mark.parametrize(("name", "leaves_out"), [("nan_hidden", True), ("right", False), ("codes_pooled", False)])
def test_a_codebook_without_a_loss(name: str, leaves_out: bool) -> None:
    [job] = jobs_of([Candidate(name, f"{FILE}:{name}", "higgs.mean_nonempty", dtypes=("float32",))])
    loaded = LoadedCandidate(job, Options(in_process=True))
    try:
        trial = loaded.of_loss(PROFILES["higgs.mean_nonempty"])
        seen = trial.observe_cached(ONE_BOOK_IS_SURE)
        assert seen.problem is None
        assert leaves_out_zeros(seen, trial.bounds(seen)) is leaves_out
        other = trial.observe_cached(Recipe(rows=1, length=3, classes=5, codebooks=4, seed=1))
        assert not leaves_out_zeros(other, trial.bounds(other)), "no codebook has a loss of 0"
    finally:
        loaded.close()
