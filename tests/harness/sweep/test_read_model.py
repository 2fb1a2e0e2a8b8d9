"""What a model promises is found out from itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from shiftproof.harness.candidates.declaration import Candidate
from shiftproof.harness.judge.loading import LoadedCandidate, Options, jobs_of
from shiftproof.harness.judge.profile import PROFILES
from shiftproof.harness.results import Overall
from shiftproof.harness.sweep.read_model import Reading, promise_in, read_model

CANDIDATES = Path(__file__).parents[2] / "candidates"


def read(name: str, module: str = "models", dtype: str = "float32") -> Reading:
    target = f"{CANDIDATES / module}.py:{name}"
    [job] = jobs_of([Candidate(name, target, "hf.causal_lm", dtypes=(dtype,))])
    loaded = LoadedCandidate(job, Options(in_process=True))
    try:
        return read_model(loaded, seed=0, profile=PROFILES["brief"])
    finally:
        loaded.close()


@pytest.mark.parametrize(
    ("name", "spec", "alignment"),
    [
        ("Right", "hf.causal_lm", "k=1"),
        ("NeverCounts", "hf.causal_lm", "k=1"),
        ("Copies", "hf.causal_lm", "k=1"),
        ("Prefixed", "hf.prefix_lm", "k=1"),
        ("Seq2Seq", "hf.seq2seq", "k=0, inputs shifted by the model"),
    ],
)
def test_right_models(name: str, spec: str, alignment: str) -> None:
    found = read(name)
    assert (found.spec, found.verdict, found.alignment) == (spec, Overall.CONFORMS, alignment)
    assert found.extra == (3 if name == "Prefixed" else 0)
    assert not found.by_value
    assert not found.unshifted


@pytest.mark.parametrize(
    ("name", "spec", "alignment", "bugs"),
    [
        ("DoubleShift", "hf.causal_lm", "k=2", ["double-shift"]),
        ("FlatDoubleShift", "hf.causal_lm", "k=2, and on another row", ["flat-double-shift"]),
        ("CopiesDoubleShift", "hf.causal_lm", "k=2", ["double-shift"]),
        ("Uncounted", "hf.causal_lm", "k=1", ["count-ignored"]),
        ("AlignedShift", "hf.seq2seq", "k=1, inputs shifted by the model", ["aligned-shift"]),
        ("SeesAhead", "hf.causal_lm", "k=1", ["sees-its-target"]),
    ],
)
def test_wrong_models(name: str, spec: str, alignment: str, bugs: list[str]) -> None:
    found = read(name)
    assert (found.spec, found.verdict, found.alignment) == (spec, Overall.FAILS, alignment)
    assert [bug.mutant for bug in found.bugs] == bugs
    assert found.failed
    assert not found.unshifted
    assert found.causal == (name != "SeesAhead")


@pytest.mark.parametrize(
    ("name", "spec", "alignment", "bugs"),
    [
        ("Delayed", "musicgen", "k=0, inputs shifted by its caller", []),
        ("Wide", "dia", "k=0, inputs shifted by its caller", []),
        ("Shifted", "musicgen", "k=1, inputs shifted by its caller", ["aligned-shift"]),
        (
            "NextCodebook",
            "musicgen",
            "on another row or codebook, inputs shifted by its caller",
            ["codebook-axis-shift"],
        ),
    ],
)
def test_models_of_codebooks(name: str, spec: str, alignment: str, bugs: list[str]) -> None:
    found = read(name, "audio_models")
    assert found.spec == spec
    assert found.verdict is (Overall.FAILS if bugs else Overall.CONFORMS)
    assert [bug.mutant for bug in found.bugs] == bugs
    assert found.alignment == alignment


@pytest.mark.parametrize(
    ("name", "alignment", "bugs"),
    [("Right", "k=1", []), ("AudioTwice", "k=1 and k=2", ["double-shift"])],
)
def test_models_of_text_and_codebooks(name: str, alignment: str, bugs: list[str]) -> None:
    found = read(name, "stream_models")
    assert found.spec == "higgs.hf"
    assert found.verdict is (Overall.FAILS if bugs else Overall.CONFORMS)
    assert [bug.mutant for bug in found.bugs] == bugs
    assert found.alignment == alignment


def test_codebooks_may_have_any_weights() -> None:
    found = read("Summed", "audio_models")
    assert found.verdict is Overall.INCONCLUSIVE
    assert found.doubt == "its pairs are right, and the weights of its codebooks are those of no profile"


def test_a_count_that_is_dropped_is_not_a_choice_of_weights() -> None:
    found = read("FlatUncounted", "audio_models")
    assert found.verdict is Overall.FAILS
    assert [bug.mutant for bug in found.bugs] == ["count-ignored"]


def test_whether_a_model_keeps_its_word_on_shifting() -> None:
    silent, promising = read("Unshifted"), read("UnshiftedAgainstItsWord")
    assert silent.unshifted
    assert promising.unshifted
    assert silent.promise == ""
    assert promising.promise == "Note that the labels **are shifted** inside the model."
    assert not silent.bugs


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", ""),
        ("Labels for computing the masked language modeling loss. Ignored at -100.", ""),
        ("Loss. The labels **are shifted** inside the model, i.e. you can set `labels = input_ids`. Other.", True),
        ("Labels for the left-to-right loss (next word prediction).", True),
    ],
)
def test_promises(text: str, said: bool | str) -> None:
    assert bool(promise_in(text)) == bool(said)


def test_a_model_whose_logits_are_not_positions_of_labels_is_no_alarm() -> None:
    found = read("OfSound")
    assert found.verdict is Overall.INCONCLUSIVE
    told = "10 for 3 labels, 10 for 4 labels, 10 for 7 labels; CTC and its like have no pairs"
    assert found.no_pairs == f"its rows of logits are not the positions of labels: {told}"


def test_a_model_whose_inputs_are_its_labels_is_no_alarm() -> None:
    found = read("ReadsItsLabels")
    assert found.verdict is Overall.INCONCLUSIVE
    assert found.doubt.startswith("its labels are its inputs without a shift")


def test_a_model_whose_gradient_cannot_be_read_does_not_conform() -> None:
    found = read("OfAnother", "unread")
    assert found.verdict is Overall.INCONCLUSIVE
    assert "its values are right" in found.doubt


def test_what_is_wrong_besides_the_precision_is_told_first() -> None:
    right, rough = read("Upcasts", dtype="bfloat16"), read("Right", dtype="bfloat16")
    assert right.verdict is Overall.CONFORMS
    assert (rough.verdict, [bug.mutant for bug in rough.bugs]) == (Overall.FAILS, ["no-upcast"])
    twice, uncounted = read("UpcastsDoubleShift", dtype="bfloat16"), read("Uncounted", dtype="bfloat16")
    assert [bug.mutant for bug in twice.bugs] == ["double-shift"]
    assert [bug.mutant for bug in uncounted.bugs] == ["count-ignored"]
