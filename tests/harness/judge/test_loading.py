"""Who is judged, under which name, on what."""

from __future__ import annotations

from pathlib import Path

import pytest

from shiftproof.harness.candidates.declaration import Candidate, UsageError
from shiftproof.harness.judge.loading import Job, LoadedCandidate, Options, find_spec, jobs_of
from shiftproof.harness.worker.target import LoadFailure
from shiftproof.reference.profiles import PROFILES


def test_a_single_trial_has_the_name_of_its_candidate() -> None:
    candidate = Candidate("text", "m:f", spec="sum", dtypes=("float16",))
    assert jobs_of([candidate]) == [Job("text", candidate, "cpu", ("float16",))]


@pytest.mark.parametrize(
    ("spec", "precision", "dtypes"),
    [
        ("sum", None, ("float32", "bfloat16")),
        ("sum", "native", ("float32",)),
        ("torch.cross_entropy", None, ("float32",)),  # it computes in the dtype of its logits
        ("torch.cross_entropy", "strict", ("float32", "bfloat16")),
        ("shift.pad", None, ("int64",)),
        (None, None, ("float32",)),
    ],
)
def test_without_dtypes_a_loss_that_computes_in_fp32_is_judged_in_two_at_once(
    spec: str | None, precision: str | None, dtypes: tuple[str, ...]
) -> None:
    candidate = Candidate("text", "m:f", spec=spec, precision=precision)
    assert [job.dtypes for job in jobs_of([candidate])] == [dtypes]


@pytest.mark.parametrize(
    ("devices", "dtypes", "names"),
    [
        (("cpu",), ("float32", "bfloat16"), ["text[float32]", "text[bfloat16]"]),
        (("cpu", "cuda"), ("float32",), ["text[cpu]", "text[cuda]"]),
        (
            ("cpu", "cuda"),
            ("float16", "bfloat16"),
            ["text[cpu,float16]", "text[cpu,bfloat16]", "text[cuda,float16]", "text[cuda,bfloat16]"],
        ),
    ],
)
def test_several_are_told_apart(devices: tuple[str, ...], dtypes: tuple[str, ...], names: list[str]) -> None:
    jobs = jobs_of([Candidate("text", "m:f", devices=devices, dtypes=dtypes)])
    assert [job.name for job in jobs] == names
    assert [(job.device, job.dtypes) for job in jobs] == [(d, (t,)) for d in devices for t in dtypes]


def test_the_order_is_kept() -> None:
    candidates = [Candidate(name, "m:f", dtypes=dtypes) for name, dtypes in (("b", ("float32",)), ("a", ("float16",)))]
    assert [job.name for job in jobs_of(candidates)] == ["b", "a"]


def test_an_unknown_spec_is_told_at_once() -> None:
    with pytest.raises(UsageError, match=r"no spec is called 'hf.causal_ml' \(did you mean 'hf.causal_lm'\?\)"):
        jobs_of([Candidate("text", "m:f", spec="hf.causal_ml")])


def test_every_profile_is_found() -> None:
    assert all(find_spec(name) is spec for name, spec in PROFILES.items())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "def loss(logits, labels, ignore_index=-100): return logits.sum()\ndef odd(logits, lables): ...\n"
    )
    (tmp_path / "broken.py").write_text("raise ValueError('half edited')\n")
    return tmp_path


def loaded(call: str, **fields: object) -> LoadedCandidate:
    candidate = Candidate("mine", call, **{"spec": "sum", **fields})  # type: ignore[arg-type]
    return LoadedCandidate(jobs_of([candidate])[0], Options(in_process=True))


def test_a_hearing_gives_one_trial(folder: Path) -> None:
    heard = loaded("mine.py:loss")
    heard.start()
    trial = heard.trial()
    assert heard.trial() is trial
    assert trial.spec is PROFILES["sum"]
    assert set(trial.binding.names) == {"logits", "labels", "ignore_index"}
    assert (trial.dtypes, trial.device) == (("float32", "bfloat16"), "cpu")
    assert heard.trial(PROFILES["torchtune"]).spec is PROFILES["torchtune"]
    assert {"python", "torch", "device", "judge"} <= set(heard.environment())
    heard.close()


def test_from_then_on_without_a_gradient(folder: Path) -> None:
    heard = loaded("mine.py:loss")
    heard.without_gradient()
    assert not heard.trial().candidate.gradient
    heard.close()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("mine.py:los", "did you mean 'loss'"),
        ("nowhere.py:loss", "nowhere.py"),
        ("no_such_module_anywhere:loss", "no module"),
        ("mine.py:__name__", "cannot be called"),
        ("mine.py:odd", r"requires 'lables'.*did you mean 'labels'"),
    ],
)
def test_a_target_that_is_not_there_is_a_mistake_of_usage(folder: Path, call: str, words: str) -> None:
    heard = loaded(call)
    with pytest.raises(UsageError, match=words):
        heard.trial()
    heard.close()


def test_a_rename_that_does_not_fit_is_a_mistake_of_usage(folder: Path) -> None:
    heard = loaded("mine.py:loss", rename={"logits": "scores"})
    with pytest.raises(UsageError, match="rename logits = 'scores'"):
        heard.trial()
    heard.close()


def test_one_that_is_there_and_broken_is_a_failure_to_load(folder: Path) -> None:
    heard = loaded("broken.py:loss")
    with pytest.raises(LoadFailure, match="half edited"):
        heard.trial()
    heard.close()
