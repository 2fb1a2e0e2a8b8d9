"""Speech and music models of transformers, built tiny: as they are, and with one bug each."""

from __future__ import annotations

from pathlib import Path

import pytest

from shiftproof.harness.candidates.declaration import Candidate
from shiftproof.harness.candidates.loss import Trial
from shiftproof.harness.diagnosis.evidence import gather
from shiftproof.harness.diagnosis.name import name_bugs
from shiftproof.harness.judge.ask import ask
from shiftproof.harness.judge.loading import LoadedCandidate, Options, jobs_of
from shiftproof.harness.judge.profile import PROFILES
from shiftproof.harness.laws import LAWS
from shiftproof.harness.results import LawResult, Overall, Verdict, overall

pytestmark = pytest.mark.peers

WRONG = Path(__file__).with_name("wrong_audio.py")


def judged(target: str, spec: str) -> tuple[tuple[LawResult, ...], dict[str, str]]:
    """What the laws find, and the bugs' names with their details."""
    pytest.importorskip("transformers", minversion="5")
    loaded = LoadedCandidate(jobs_of([Candidate("it", target, spec)])[0], Options(deadline=60.0))
    try:
        trial = loaded.of_loss(loaded.job.spec)  # type: ignore[arg-type]
        assert isinstance(trial, Trial)
        results = tuple(ask(law, trial, PROFILES["brief"], seed=0) for law in LAWS.values())
        bugs = name_bugs(results, trial, *gather(trial)) if trial.failed else ()
    finally:
        loaded.close()
    return results, {called: bug.detail for bug in bugs for called in (bug.mutant, *bug.also)}


@pytest.mark.parametrize(
    ("name", "spec"),
    [
        ("HiggsAudioV2ForConditionalGeneration", "higgs.hf"),
        ("MusicgenForCausalLM", "musicgen"),
        ("MusicgenForConditionalGeneration", "musicgen"),
        ("MusicgenMelodyForCausalLM", "musicgen"),
        ("MusicgenMelodyForConditionalGeneration", "musicgen"),
        ("KyutaiSpeechToTextForConditionalGeneration", "hf.causal_lm"),
        ("DiaForConditionalGeneration", "dia"),
        ("Qwen3OmniMoeTalkerCodePredictorModelForConditionalGeneration", "hf.causal_lm"),
        ("VoxtralRealtimeForConditionalGeneration", "hf.causal_lm"),
    ],
)
def test_a_model_conforms(name: str, spec: str) -> None:
    results, _ = judged(f"transformers:{name}", spec)
    assert {result.id for result in results if result.verdict.is_failure} == set()
    assert overall(results) is Overall.CONFORMS


def test_csms_depth_decoder_alone_is_right_where_it_answers() -> None:
    """It raises where there are as many sequences as positions, and where it is given shifted labels."""
    results, names = judged("transformers:CsmDepthDecoderForCausalLM", "hf.causal_lm")
    assert {result.id for result in results if result.verdict.is_failure} <= {"CONTRACT-1", "MODEL-4"}
    assert not names
    passed = {result.id for result in results if result.verdict is Verdict.PASS}
    assert passed >= {"ALIGN-1", "SELECT-1", "REDUCE-1", "VALUE-1", "GRAD-1", "MODEL-1", "MODEL-2"}


def test_csms_first_frame_sees_the_last_one() -> None:
    """It is conditioned on the hidden state at index 0 − 1. It also raises where labels are missing."""
    results, names = judged("transformers:CsmForConditionalGeneration", "csm")
    failed = {result.id: result for result in results if result.verdict.is_failure}
    assert failed.keys() == {"MODEL-1", "MODEL-9", "MODEL-10"}
    assert set(names) == {"sees-its-target"}
    assert "rows of depth logits that must not move; the first is [0, 0, 0]" in failed["MODEL-1"].message
    assert "cannot reshape tensor of 0 elements" in failed["MODEL-10"].message


def test_moshi_with_eager_attention_sees_its_codes_and_drops_the_count() -> None:
    results, names = judged("transformers:MoshiForConditionalGeneration", "moshi")
    failed = {result.id: result for result in results if result.verdict.is_failure}
    assert failed.keys() >= {"REDUCE-1", "MODEL-8", "MODEL-10"}
    assert {"ALIGN-1", "SELECT-1", "MODEL-1", "MODEL-2", "MODEL-3"}.isdisjoint(failed)
    assert names["count-ignored"] == "in text"
    assert names["sees-its-target"] == "MODEL-8 fails"
    assert failed["MODEL-10"].message.startswith("with the last label of text ignored it raised IndexError")


def test_moshi_without_these_bugs_needs_labels_of_text() -> None:
    results, _ = judged(f"{WRONG}:MoshiCounted", "moshi")
    assert {result.id for result in results if result.verdict.is_failure} == {"MODEL-10"}


@pytest.mark.parametrize(
    ("name", "spec", "law", "called", "detail"),
    [
        ("HiggsAudioTwice", "higgs.hf", "ALIGN-1", "double-shift", "in audio"),
        ("HiggsTextTwice", "higgs.hf", "ALIGN-1", "double-shift", "in text"),
        ("HiggsNextCodebook", "higgs.hf", "ALIGN-1", "codebook-axis-shift", "+1, round"),
        ("HiggsCountsText", "higgs.hf", "REDUCE-1", "term-denominator", ""),
        ("HiggsCutCodebook", "higgs.hf", "GRAD-1", "detached-part", "codebook 0 of audio has no gradient"),
        ("CsmBackboneTwice", "csm", "ALIGN-1", "double-shift", "in backbone"),
        ("CsmUncounted", "csm", "REDUCE-1", "count-ignored", ""),
        ("CsmNextCodebook", "csm", "ALIGN-1", "codebook-axis-shift", "+1"),
        ("CsmCutCodebook", "csm", "GRAD-1", "detached-part", "codebook 0 of depth has no gradient"),
        ("CsmCountsBackbone", "csm", "REDUCE-1", "term-denominator", ""),
        ("CsmSeesItsCodes", "csm", "MODEL-8", "sees-its-target", ""),
        ("MusicgenCutCodebook", "musicgen", "GRAD-1", "detached-part", "codebook 0 has no gradient"),
        ("MusicgenTwice", "musicgen", "ALIGN-1", "aligned-shift", ""),
        ("MusicgenNextCodebook", "musicgen", "ALIGN-1", "codebook-axis-shift", "+1, round"),
        ("DiaTwice", "dia", "ALIGN-1", "aligned-shift", ""),
        ("DiaNextCodebook", "dia", "ALIGN-1", "codebook-axis-shift", "+1, round"),
        ("DiaCutCodebook", "dia", "GRAD-1", "detached-part", "codebook 0 has no gradient"),
        ("MoshiTextTwice", "moshi", "ALIGN-1", "double-shift", "in text"),
        ("MoshiNextCodebook", "moshi", "ALIGN-1", "codebook-axis-shift", "+1, round"),
        ("MoshiCountsText", "moshi", "REDUCE-1", "term-denominator", ""),
        ("MoshiCutCodebook", "moshi", "GRAD-1", "detached-part", "codebook 1 of audio has no gradient"),
    ],
)
def test_a_wrong_twin_fails_by_its_name(name: str, spec: str, law: str, called: str, detail: str) -> None:
    results, names = judged(f"{WRONG}:{name}", spec)
    assert law in {result.id for result in results if result.verdict.is_failure}
    assert detail in names[called]
