"""transformers' own label builders, judged as any candidate is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from shiftproof.harness.candidates.declaration import Candidate
from shiftproof.harness.judge.ask import ask
from shiftproof.harness.judge.loading import LoadedCandidate, Options, jobs_of
from shiftproof.harness.judge.profile import PROFILES
from shiftproof.harness.label_builders.candidate import BuilderTrial
from shiftproof.harness.label_builders.diagnosis import name_builder_bugs
from shiftproof.harness.label_builders.laws import BUILDER_LAWS
from shiftproof.harness.results import LawResult, Overall, overall

pytestmark = pytest.mark.peers
pytest.importorskip("transformers")

DRIVERS = Path(__file__).with_name("drivers_builders.py")

RIGHT = {
    "packed_labels": "packing.labels",
    "packed_position_ids": "packing.position_ids",
    "packed_cu_seqlens": "packing.cu_seqlens",
    "higgs_delay": "delay.apply",
    "higgs_undo": "delay.undo",
    "moshi_labels": "delay.moshi",
    "dia_delay": "delay.apply",
    "dia_undo": "delay.undo",
}


@dataclass(frozen=True)
class Found:
    laws: dict[str, LawResult]
    bugs: tuple[str, ...]

    @property
    def verdict(self) -> Overall:
        return overall(tuple(self.laws.values()))


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # stored cases go to the working directory


def judged(function: str, spec: str) -> Found:
    loaded = LoadedCandidate(jobs_of([Candidate(function, f"{DRIVERS}:{function}", spec)])[0], Options(in_process=True))
    try:
        loaded.start()
        trial = loaded.trial()
        assert isinstance(trial, BuilderTrial)
        laws = {law.id: ask(law, trial, PROFILES["quick"], 0) for law in BUILDER_LAWS.values()}
        return Found(laws, tuple(bug.mutant for bug in name_builder_bugs(laws.values(), trial)))
    finally:
        loaded.close()


@pytest.mark.parametrize(("function", "spec"), RIGHT.items())
def test_it_conforms(function: str, spec: str) -> None:
    found = judged(function, spec)
    assert found.verdict is Overall.CONFORMS, found.laws


def test_the_language_modelling_collator_masks_an_eos_that_is_the_pad_id_too() -> None:
    """transformers#23530."""
    found = judged("language_modelling", "mask.padding")
    assert found.verdict is Overall.FAILS
    assert found.bugs == ("eos-masked",)
    counterexample = found.laws["BUILD-3"].counterexample
    assert counterexample is not None
    assert counterexample.recipe["eos_is_pad"]
    assert "is ignored (-100), expected EOS" in found.laws["BUILD-3"].message
