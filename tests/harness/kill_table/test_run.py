"""The kill table: every known bug is in it, and every one that can be had is killed, soon, and by its name."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from shiftproof.harness.cli.main import main
from shiftproof.harness.judge.profile import PROFILES as EFFORTS
from shiftproof.harness.judge.profile import Profile
from shiftproof.harness.kill_table import run
from shiftproof.harness.kill_table.equivalent import equal_on, small_cases
from shiftproof.harness.kill_table.run import kill_table, try_subject
from shiftproof.harness.kill_table.subjects import Subject, subjects
from shiftproof.harness.kill_table.table import KillTable, MutantOutcome, MutantResult, summarise
from shiftproof.harness.kill_table.trial import Bench
from shiftproof.harness.mutants import MUTANTS
from shiftproof.harness.mutants.behaviour import answer
from shiftproof.harness.mutants.views import variants_under
from shiftproof.harness.report.kill_table import SCHEMA, in_words, markdown
from shiftproof.reference.profiles import PROFILES

KNOWN = [
    "no-shift",
    "double-shift",
    "flat-double-shift",
    "aligned-shift",
    "reverse-shift",
    "flatten-then-shift",
    "roll-wrap",
    "tail-pad-target",
    "prefix-slice",
    "drop-first-response",
    "drop-last-response",
    "shard-then-shift",
    "codebook-axis-shift",
    "delay-off-by-one",
    "layout-swap",
    "index-minus-one",
    "smoothing-no-shift",
    "ignore-unused",
    "negative-label-wrap",
    "hardcoded-ignore",
    "eos-masked",
    "prompt-included",
    "cross-document",
    "mtp-cross-document",
    "segment-weight",
    "smooth-ignored",
    "aux-over-ignored",
    "all-ignored-nan-gradient",
    "denominator-all",
    "overcount-rows",
    "undercount-aligned",
    "mean-of-means",
    "sum-of-means",
    "double-divide",
    "count-ignored",
    "packed-double-subtract",
    "row-mean",
    "codebook-macro",
    "codebook-micro",
    "codebook-sum",
    "count-axis",
    "rank-mean-of-means",
    "world-size-missing",
    "cp-undercount",
    "chunk-mean-sum",
    "chunk-mean-mean",
    "tail-accumulation",
    "mtp-scale",
    "upstream-ignored",
    "upstream-ignored-weight",
    "upstream-row-0",
    "gradient-of-another",
    "true-class-cancel",
    "low-precision-accumulate",
    "second-backward",
    "inputs-mutated",
    "detached-part",
    "offset-cancel",
    "exp-overflow",
    "log-eps",
    "clamped",
    "no-upcast",
    "softcap-formula",
    "narrow-index",
    "none-shape",
    "no-grad-path",
    "nan-hidden",
    "shared-workspace",
    "scaled-late",
]
"""Bugs that shipped, all of which must be tried."""

AUDIO = (
    "higgs.hf",
    "higgs.boson",
    "higgs.mean_nonempty",
    "csm",
    "qwen3_tts",
    "moshi",
    "moshi.finetune",
    "musicgen",
    "parler",
    "dia",
    "moss_ttsd",
)


@cache
def subjects_of(profile: str) -> tuple[Subject, ...]:
    return tuple(subjects(PROFILES[profile]))


_SOME = 4


@cache
def table_of_text(parts: int) -> KillTable:
    """The table of every ``parts``-th bug of a text loss."""
    tried = run.try_part("hf.causal_lm", "quick", 1, False, 0, parts)
    return KillTable("0", "quick", (0,), True, ("hf.causal_lm",), tuple(each for _, each in tried), 1.0)


def test_every_known_bug_is_tried_under_every_profile() -> None:
    for profile in PROFILES:
        assert set(KNOWN) <= {subject.name for subject in subjects_of(profile)}


def test_every_known_bug_can_be_had_under_some_profile() -> None:
    had = {subject.name for profile in PROFILES for subject in subjects_of(profile) if not subject.reason}
    assert set(KNOWN) <= had


def test_no_way_of_writing_a_bug_is_tried_twice() -> None:
    for profile in ("hf.causal_lm", *AUDIO):
        ways = [(subject.name, subject.detail) for subject in subjects_of(profile)]
        assert len(ways) == len(set(ways))


@pytest.mark.parametrize("parts", [_SOME, pytest.param(1, marks=pytest.mark.slow)])
def test_mutants_of_a_text_loss_are_killed_soon_and_by_name(parts: int) -> None:
    table = table_of_text(parts)
    assert table.of(MutantOutcome.SURVIVED) == []
    total = table.summary()
    assert total["score"] == 1
    assert total["median"] <= 2
    assert total["worst"] <= 25
    assert [each for each in table.of(MutantOutcome.KILLED) if not each.is_named] == []
    assert all(each.law and each.size and each.counterexample for each in table.of(MutantOutcome.KILLED))
    assert all(each.reason for each in table.of(MutantOutcome.NOT_APPLICABLE))


def test_the_table_is_as_its_schema_says() -> None:
    data = json.loads(json.dumps(table_of_text(_SOME).to_json(), allow_nan=False))
    jsonschema.validate(data, json.loads(SCHEMA.read_text(encoding="utf-8")))
    assert data["specs"] == ["hf.causal_lm"]
    assert data["seeds"] == [0]


def test_the_right_loss_survives() -> None:
    bench = Bench(PROFILES["hf.causal_lm"], "float32", Profile("brief", 0.1))
    assert try_subject(Subject("right", "", answer), bench, [0]).fate is MutantOutcome.SURVIVED


def test_what_is_the_same_loss_is_shown_to_be() -> None:
    spec = PROFILES["parler"]  # which never trains its begin-of-sequence code, 3
    dropped = {variant.detail: variant for variant in variants_under(MUTANTS["hardcoded-ignore"], spec)}
    assert equal_on(dropped["3"], spec) == len(small_cases(spec)) > 100
    assert equal_on(dropped["0"], spec) is None


@pytest.mark.slow
def test_parts_of_a_table_make_the_whole() -> None:
    whole = {(each.mutant, each.detail): (each.fate, each.firsts) for each in table_of_text(1).tried}
    parts = kill_table(["hf.causal_lm"], seeds=1, processes=2)
    assert {(each.mutant, each.detail): (each.fate, each.firsts) for each in parts.tried} == whole
    assert [each.mutant for each in parts.tried] == [each.mutant for each in table_of_text(1).tried]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it reads /proc")
def test_a_signal_does_not_wait_for_the_processes() -> None:
    command = [sys.executable, "-m", "shiftproof", "mutants", "--spec", "csm", "--processes", "2"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as running:
        workers: list[int] = []
        until = time.monotonic() + 120
        while len(workers) < 2 and time.monotonic() < until:
            time.sleep(0.1)
            listed = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
            workers = [int(pid) for pid in listed if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        assert len(workers) == 2
        running.send_signal(signal.SIGTERM)
        _, err = running.communicate(timeout=30)
    assert running.returncode == 143, err
    assert [pid for pid in workers if Path(f"/proc/{pid}").exists()] == []


def test_without_hand_made_cases_seeds_differ() -> None:
    bench = Bench(PROFILES["hf.causal_lm"], "float32", EFFORTS["quick"], drawn_only=True)
    (masked,) = [subject for subject in subjects_of("hf.causal_lm") if subject.name == "eos-masked"]
    found = try_subject(masked, bench, range(4))
    assert found.fate is MutantOutcome.KILLED
    law = bench.laws[0]
    assert set(bench.pool(0).of(law)) != set(bench.pool(1).of(law))
    assert bench.pool(0).of(law, by_hand=True) == []


def tried(fate: MutantOutcome, **fields: Any) -> MutantResult:
    return MutantResult(**{"mutant": "m", "detail": "d", "spec": "s", "dtype": "float32", **fields}, fate=fate)


def test_the_sum_counts_no_equivalent_and_nothing_that_cannot_be_had() -> None:
    found = [
        tried(MutantOutcome.KILLED, firsts=(1, 3), named=("m",)),
        tried(MutantOutcome.KILLED, firsts=(2, 2), named=("other",)),
        tried(MutantOutcome.EQUIVALENT, reason="r"),
        tried(MutantOutcome.NOT_APPLICABLE, reason="r"),
        tried(MutantOutcome.SURVIVED),
    ]
    total = summarise(found)
    assert (total["mutants"], total["killed"], total["equivalent"], total["needs"]) == (4, 2, 1, 1)
    assert (total["score"], total["median"], total["worst"], total["wrongly_named"]) == (2 / 3, 2, 3, 1)
    assert summarise([])["score"] is None


def test_what_survives_and_what_is_misnamed_is_said() -> None:
    found = (
        tried(MutantOutcome.KILLED, firsts=(2,), law="ALIGN-1", size=6, named=("other",)),
        tried(MutantOutcome.SURVIVED, mutant="sly"),
        tried(MutantOutcome.EQUIVALENT, mutant="same", reason="equal on all 9 small cases"),
        tried(MutantOutcome.NOT_APPLICABLE, mutant="never", detail="", reason="a weight"),
    )
    text = markdown(KillTable("0", "quick", (0,), True, ("s",), found, 1.0))
    assert "Survive: sly (d)." in text
    assert "Equivalent: same (d): equal on all 9 small cases." in text
    assert "Wrongly named: m (d): other." in text
    assert "Impossible: never (needs a weight)." in text
    assert "kill score 50%" in in_words(found)


def test_the_command_writes_both_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(
        run, "kill_table", lambda specs, **how: asked.append((*specs, how["seeds"])) or table_of_text(_SOME)
    )
    files = {"--json": tmp_path / "kills.json", "--markdown": tmp_path / "kills.md"}
    options = [word for option, file in files.items() for word in (option, str(file))]
    assert main(["mutants", "--spec", "hf.causal_lm", "--seeds", "1", *options]) == 0
    assert asked == [("hf.causal_lm", 1)]
    written = json.loads(files["--json"].read_text(encoding="utf-8"))
    jsonschema.validate(written, json.loads(SCHEMA.read_text(encoding="utf-8")))
    assert written["summary"]["survived"] == 0
    assert files["--markdown"].read_text(encoding="utf-8").startswith("# Kill table")
    assert "kill score 100%" in capsys.readouterr().out


def test_json_on_standard_output(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(run, "kill_table", lambda specs, **how: table_of_text(_SOME))
    assert main(["mutants", "--spec", "hf.causal_lm", "--json", "-"]) == 0
    out, err = capsys.readouterr()
    jsonschema.validate(json.loads(out), json.loads(SCHEMA.read_text(encoding="utf-8")))
    assert "kill score 100%" in err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--spec", "hf.causal"], "did you mean"),
        (["--profile", "fast"], "fast"),
        (["--seeds", "0"], "must be 1 or more"),
        (["--json", "nowhere/x.json"], "does not exist"),
    ],
)
def test_usage(options: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mutants", *options]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("spec", "mutant", "detail"),
    [
        ("higgs.boson", "layout-swap", "transposed"),  # shows only where S = K, which few cases have
        ("higgs.hf", "nan-hidden", "if loss > 0"),  # is NaN where a codebook is empty, and has no gradient there
    ],
)
def test_a_bug_that_few_cases_show_has_its_name(spec: str, mutant: str, detail: str) -> None:
    chosen = next(each for each in subjects(PROFILES[spec]) if (each.name, each.detail) == (mutant, detail))
    bench = Bench(PROFILES[spec], chosen.dtype, EFFORTS["quick"], False, chosen.linear)
    assert try_subject(chosen, bench, range(1)).named == (mutant,)


@pytest.mark.slow
def test_mutants_of_audio_losses_are_killed_soon_and_by_name() -> None:
    table = kill_table(["hf.causal_lm", *AUDIO])
    assert table.of(MutantOutcome.SURVIVED) == []
    assert [each for each in table.of(MutantOutcome.KILLED) if not each.is_named] == []
    assert table.summary()["median"] <= 2
    assert table.summary()["worst"] <= 25
