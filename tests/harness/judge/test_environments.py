"""One candidate under several interpreters: names that tell them apart, and what an upgrade changes."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import subprocess
import sys
import venv
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from rich.console import Console

from shiftproof.harness.cli.main import main
from shiftproof.harness.judge.environments import Comparison, comparisons, tell_apart
from shiftproof.harness.report.comparison import comparison
from shiftproof.harness.report.json_report import SCHEMA
from shiftproof.harness.results import CandidateResult, LawResult, Level, NamedBug, Overall, Verdict

README = Path(__file__).parents[3] / "README.md"

# --- what differs -----------------------------------------------------------------------------------------------------


def law(id: str, verdict: Verdict, follows: str | None = None) -> LawResult:
    return LawResult(id, "a law", Level.MUST, verdict, cases=3, follows=follows)


OLD = CandidateResult(
    candidate="trainer.losses:text (trainer 1.0)",
    call="trainer.losses:text",
    spec="hf.causal_lm",
    device="cpu",
    dtypes=("float32",),
    verdict=Overall.CONFORMS,
    python="old/python",
    environment_name="trainer 1.0",
    laws=(law("ALIGN-1", Verdict.PASS), law("VALUE-1", Verdict.PASS), law("PURE-1", Verdict.PASS)),
    environment={"torch": "2.9.0", "trainer": "1.0", "platform": "Linux"},
)
NEW = replace(
    OLD,
    candidate="trainer.losses:text (trainer 2.0)",
    verdict=Overall.FAILS,
    python="new/python",
    environment_name="trainer 2.0",
    laws=(
        law("ALIGN-1", Verdict.FAIL),
        law("VALUE-1", Verdict.FAIL, follows="ALIGN-1"),
        law("PURE-1", Verdict.PASS),
        law("PURE-2", Verdict.PASS),
    ),
    diagnosis=(NamedBug("double-shift", 1.0, "", "", ""),),
    environment={"torch": "2.13.0", "trainer": "2.0", "platform": "Linux"},
)
BROKEN = replace(OLD, verdict=Overall.ERROR, python="no/python", environment_name="no/python", laws=(), environment={})


def test_an_upgrade_that_breaks_a_loss() -> None:
    (found,) = comparisons([OLD, NEW])
    assert found.changed == ("the verdict", "the diagnosis", "3 laws")
    assert found.laws == {"ALIGN-1": ("pass", "fail"), "VALUE-1": ("pass", "fail"), "PURE-2": (None, "pass")}
    assert found.versions == {"torch": ("2.9.0", "2.13.0"), "trainer": ("1.0", "2.0")}


def test_an_upgrade_that_changes_nothing() -> None:
    (found,) = comparisons([OLD, replace(OLD, python="new/python")])
    assert found.changed == ()
    assert not found.to_json()["changed"]


def test_where_it_could_not_be_judged_the_verdict_alone_differs() -> None:
    assert Comparison((OLD, BROKEN)).changed == ("the verdict",)
    assert Comparison((OLD, BROKEN)).versions["torch"] == ("2.9.0", None)
    assert Comparison((OLD, NEW, BROKEN)).laws["ALIGN-1"] == ("pass", "fail", None)


def test_what_was_judged_under_one_interpreter_is_not_compared() -> None:
    assert comparisons([OLD, OLD]) == []
    other = {"dtypes": ("bfloat16",)}, {"device": "cuda"}, {"spec": "sum"}, {"call": "trainer.losses:audio"}
    assert comparisons([OLD, *(replace(NEW, **changes) for changes in other)]) == []
    both = comparisons([OLD, replace(OLD, dtypes=("bfloat16",)), NEW, replace(NEW, dtypes=("bfloat16",))])
    assert [[each.python for each in found.results] for found in both] == [["old/python", "new/python"]] * 2


@pytest.mark.parametrize(
    ("call", "versions", "names"),
    [
        ("trainer.losses:text", ({"trainer": "1.0"}, {"trainer": "2.0"}), ["trainer 1.0", "trainer 2.0"]),
        ("trainer.losses:text", ({"trainer": "1.0"}, {"trainer": "1.0"}), ["a", "b"]),
        ("trainer.losses:text", ({"trainer": "1.0"}, {}), ["a", "b"]),
        ("trainer.losses:text", ({"torch": "1.0"}, {"torch": "2.0"}), ["a", "b"]),
        ("torch.nn.functional:cross_entropy", ({"torch": "1.0"}, {"torch": "2.0"}), ["torch 1.0", "torch 2.0"]),
        ("trainer/losses.py:text", ({"trainer": "1.0"}, {"trainer": "2.0"}), ["a", "b"]),
    ],
)
def test_names_of_environments(call: str, versions: tuple[dict[str, str], ...], names: list[str]) -> None:
    told = tell_apart(call, dict(zip(("a", "b"), versions, strict=True)))
    assert told == dict(zip(("a", "b"), names, strict=True))


def test_the_table_has_what_differs_and_no_more() -> None:
    console = Console(record=True, width=100, file=io.StringIO())
    console.print(comparison(Comparison((OLD, NEW, replace(BROKEN, environment_name="", candidate="[red]")))))
    assert [" ".join(line.split()) for line in console.export_text().splitlines() if line] == [
        "trainer.losses:text against hf.causal_lm, cpu float32, in 3 environments",
        "trainer 1.0 trainer 2.0 [red]",
        "verdict conforms fails error",
        "diagnosis – double-shift –",
        "torch 2.9.0 2.13.0 –",
        "trainer 1.0 2.0 –",
        "ALIGN-1 pass fail –",
        "PURE-2 – pass –",
        "1 more pass fail –",
        "what changed: the verdict, the diagnosis, 3 laws",
    ]


# --- the command ------------------------------------------------------------------------------------------------------

LOSS = """
import torch.nn.functional as F
def text_loss(logits, labels):
    return F.cross_entropy(logits[:, :-1].float().reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1))
"""
DOUBLE_SHIFT = LOSS.replace("[:, :-1]", "[:, :-2]").replace("[:, 1:]", "[:, 2:]")
FEW = ("--seed", "3", "--json", "r.json", "--pytest", "-k", "CONTRACT-1 or ALIGN-1 or VALUE-1")


def environment(folder: Path, version: str, losses: str) -> None:
    """An environment that has all of this one's packages, and a version of mytrainer."""
    venv.EnvBuilder(with_pip=False, symlinks=True).create(folder)
    (packages,) = (folder / "lib").glob("python*/site-packages")
    (packages / "ours.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    (packages / "mytrainer").mkdir()
    (packages / "mytrainer" / "__init__.py").write_text("")
    (packages / "mytrainer" / "losses.py").write_text(losses)
    (packages / f"mytrainer-{version}.dist-info").mkdir()
    metadata = f"Metadata-Version: 2.1\nName: mytrainer\nVersion: {version}\n"
    (packages / f"mytrainer-{version}.dist-info" / "METADATA").write_text(metadata)


@pytest.fixture(scope="module")
def upgrade(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two environments, of which the newer one has a loss that is wrong, and lacks another."""
    folder = tmp_path_factory.mktemp("upgrade")
    environment(folder / "old", "1.0", LOSS + "\nsame = gone = text_loss\n")
    environment(folder / "new", "2.0", LOSS.replace("text_loss", "same") + DOUBLE_SHIFT)
    return folder


def run(folder: Path, *arguments: str) -> tuple[int, str, Any]:
    """Exit code, standard output, and the report."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COVERAGE", "COV_"))}
    done = subprocess.run(
        [sys.executable, "-m", "shiftproof", *arguments],
        cwd=folder,
        env={**kept, "OMP_NUM_THREADS": "1", "COLUMNS": "160"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    report = json.loads((folder / "r.json").read_text(encoding="utf-8"))
    jsonschema.validate(report, json.loads(SCHEMA.read_text(encoding="utf-8")))
    return done.returncode, done.stdout, report


BOTH = ("--spec", "hf.causal_lm", "--python", "old/bin/python", "--python", "new/bin/python")


@pytest.mark.slow
def test_the_upgrade_of_the_readme(upgrade: Path) -> None:
    section = README.read_text(encoding="utf-8").partition("### Other environments\n")[2]
    (command,) = re.findall(r"^shiftproof (.*)$", section.partition("\n### ")[0], re.MULTILINE)
    code, out, report = run(upgrade, *shlex.split(command), *FEW)
    assert code == 1
    old, new = (f"mytrainer.losses:text_loss (mytrainer {version})" for version in ("1.0", "2.0"))
    assert f"{old} against hf.causal_lm: PARTIAL" in out
    assert f"{new} against hf.causal_lm: DOES NOT CONFORM" in out
    assert out.splitlines()[-1] == "what changed: the verdict, the diagnosis, 2 laws"
    (compared,) = report["comparisons"]
    assert compared["candidates"] == [old, new] == [each["candidate"] for each in report["candidates"]]
    assert compared["laws"] == {"ALIGN-1": ["pass", "fail"], "VALUE-1": ["pass", "fail"]}
    assert compared["diagnoses"] == [[], ["double-shift"]]
    assert compared["versions"]["mytrainer"] == ["1.0", "2.0"]
    assert report["candidates"][1]["python"] == "new/bin/python"


@pytest.mark.slow
def test_what_an_upgrade_leaves_alone(upgrade: Path) -> None:
    code, out, report = run(upgrade, "check", "mytrainer.losses:same", *BOTH, "--dtype", "bfloat16", *FEW)
    assert code == 3
    assert out.splitlines()[-1] == "what changed: nothing"
    cases = [[law["cases"] for law in candidate["laws"]] for candidate in report["candidates"]]
    assert cases[0] == cases[1]
    assert not report["comparisons"][0]["changed"]


@pytest.mark.slow
def test_what_is_missing_costs_nobody_else_his_result(upgrade: Path) -> None:
    broken = ("--python", "no/such/python", "--python", "/bin/true")
    code, out, report = run(upgrade, "check", "mytrainer.losses:gone", *BOTH, *broken, *FEW)
    assert code == 3
    found = {each["environment_name"]: (each["verdict"], each["message"]) for each in report["candidates"]}
    verdict, message = found["old/bin/python"]
    assert verdict == "partial"
    assert message.startswith("no violation in 3 of ")
    assert found["new/bin/python"] == ("error", "mytrainer.losses has no attribute 'gone'")
    assert found["no/such/python"] == ("error", "the interpreter no/such/python does not exist")
    assert "/bin/true did not become a worker" in found["/bin/true"][1]
    assert out.splitlines()[-1] == "what changed: the verdict"


@pytest.mark.slow
def test_declared_candidates_in_several_processes(upgrade: Path) -> None:
    pytest.importorskip("xdist")
    declared = '[tool.shiftproof.candidates.{0}]\ncall = "mytrainer.losses:text_loss"\nspec = "hf.causal_lm"\n'
    text = "".join(f'{declared.format(name)}python = "{name}/bin/python"\n' for name in ("old", "new"))
    (upgrade / "mine.toml").write_text(text)
    code, out, report = run(upgrade, "check", "old", "new", "--config", "mine.toml", *FEW, "-n", "2")
    assert code == 1
    assert set(report["comparisons"][0]["candidates"]) == {"old", "new"}
    assert out.splitlines()[-1] == "what changed: the verdict, the diagnosis, 2 laws"


def test_a_target_that_is_nowhere_is_misnamed(upgrade: Path) -> None:
    command = [sys.executable, "-m", "shiftproof", "check", "mytrainer.losses:text_los", *BOTH]
    done = subprocess.run(command, cwd=upgrade, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 2
    assert "did you mean 'text_loss'?" in done.stderr


def test_only_check_compares(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["identify", "m:f", "--python", "a", "--python", "b"]) == 2
    assert "identify runs under one --python" in capsys.readouterr().err
