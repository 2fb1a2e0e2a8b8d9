"""Whole runs in which the judge itself is broken, by a law, a plugin or a worker: never a pass, and never a failure.

Every run is in this process and asks a few small laws. It has to end with ERROR and exit code 3, or in the user's own
pytest with anything but 0, and to name the candidate in what is printed and in the JSON report.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from shiftproof.harness.candidates.loss import Trial
from shiftproof.harness.cases.recipe import Recipe
from shiftproof.harness.cli.main import main
from shiftproof.harness.judge import laws_of
from shiftproof.harness.judge.loading import LoadedCandidate
from shiftproof.harness.laws.base import PASS, Judgement, Law, failing
from shiftproof.harness.report.json_report import SCHEMA
from shiftproof.harness.results import CandidateResult, Level
from shiftproof.harness.run import open_candidate as opened

RIGHT = """
import torch.nn.functional as F
def loss(logits, labels):
    return F.cross_entropy(logits[:, :-1].float().reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1))
"""
ASKED = ("--spec", "hf.causal_lm", "--seed", "0", "--profile", "brief", "--in-process", "--json", "r.json")
LAWS = ("FIRST-1", "SECOND-1", "LAST-1")
Check = Callable[[Trial, Recipe], Judgement]
FASTER = ("-p", "no:unraisableexception")  # which collects all garbage after every run


def passes(trial: Trial, recipe: Recipe) -> Judgement:
    assert trial.observe_cached(recipe).value is not None
    return PASS


def fails(trial: Trial, recipe: Recipe) -> Judgement:
    return failing("wrong")


def raises(error: BaseException) -> Check:
    def check(trial: Trial, recipe: Recipe) -> Judgement:
        raise error

    return check


@dataclass(frozen=True)
class Ran:
    """What came of a run: its exit code, what it printed, and each candidate of its JSON report by name."""

    code: int
    out: str
    candidates: dict[str, Any]

    def verdicts(self, name: str = "good.py:loss") -> dict[str, str]:
        return {law["id"]: law["verdict"] for law in self.candidates[name]["laws"]}


class Judge:
    """A judge with three laws, which a test breaks, and two right losses to be judged."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.capsys = capsys
        self.monkeypatch = monkeypatch
        for name in ("good", "other"):
            (folder / f"{name}.py").write_text(RIGHT)
        self.ask(*[passes] * 3)

    def ask(self, *checks: Check, level: Level = Level.MUST) -> None:
        """The laws, in order; those after the first are of this ``level``."""
        levels = (Level.MUST, level, level)
        found: dict[str, Law[Any, Any]] = {
            id: Law(id, f"title of {id}", of, "source", check, 10)
            for id, of, check in zip(LAWS, levels, checks, strict=True)
        }
        self.monkeypatch.setattr(laws_of, "LAWS", found)

    def plugin(self, text: str) -> tuple[str, ...]:
        """The options by which pytest loads a plugin with this text."""
        (self.folder / "meddles.py").write_text("import pytest\n" + text)
        self.monkeypatch.delitem(sys.modules, "meddles", raising=False)
        return ("-p", "meddles")

    def check(self, *arguments: str, targets: tuple[str, ...] = ("good.py:loss",)) -> Ran:
        """``shiftproof check``; the arguments go to pytest."""
        return self._ran(main(["check", *targets, *ASKED, "--pytest", *FASTER, *arguments]))

    def pytest(self, *arguments: str, targets: tuple[str, ...] = ("good.py:loss",)) -> Ran:
        """The user's own pytest, with a test of his own."""
        (self.folder / "test_own.py").write_text("def test_one(): pass\n")
        (self.folder / "pytest.ini").write_text("[pytest]\n")
        self.monkeypatch.delitem(sys.modules, "test_own", raising=False)
        own = [f"--shiftproof-{option.removeprefix('--')}" if option[:2] == "--" else option for option in ASKED]
        chosen = [word for target in targets for word in ("--shiftproof", target)]
        given = [
            "-p",
            "shiftproof.harness.pytest_plugin.plugin",
            "-p",
            "no:cacheprovider",
            *FASTER,
            *chosen,
            *own,
            *arguments,
        ]
        return self._ran(int(pytest.main([str(self.folder), *given])))

    def _ran(self, code: int) -> Ran:
        out, err = self.capsys.readouterr()
        file = self.folder / "r.json"
        report = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"candidates": []}
        if file.exists():
            jsonschema.validate(report, json.loads(SCHEMA.read_text(encoding="utf-8")))
            file.unlink()
        return Ran(code, out + err, {each["candidate"]: each for each in report["candidates"]})


@pytest.fixture
def judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Judge:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in os.environ if name.startswith("PYTEST")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("COLUMNS", "200")
    return Judge(tmp_path, monkeypatch, capsys)


def assert_not_judged(ran: Ran, words: str, name: str = "good.py:loss") -> None:
    found = ran.candidates[name]
    assert found["verdict"] == "error", ran.out
    assert not found["as_expected"]
    assert list(ran.verdicts(name)) == list(LAWS)
    assert words in found["message"]
    assert f"{name} against hf.causal_lm: COULD NOT BE JUDGED" in ran.out


# --- with nothing broken ----------------------------------------------------------------------------------------------


def test_a_judge_that_is_whole_judges(judge: Judge) -> None:
    """What all below would come to if nothing were broken."""
    ran = judge.check()
    assert (ran.code, ran.candidates["good.py:loss"]["verdict"]) == (0, "conforms")
    assert ran.verdicts() == dict.fromkeys(LAWS, "pass")
    ran = judge.pytest()
    assert (ran.code, ran.candidates["good.py:loss"]["verdict"]) == (0, "conforms")
    judge.ask(passes, fails, passes)
    assert (judge.check().code, judge.pytest().code) == (1, 1)


# --- a law that raises ------------------------------------------------------------------------------------------------


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text either")


RAISED = [
    (RuntimeError("broken"), "the judge raised RuntimeError: broken"),
    (MemoryError(), "the judge raised MemoryError"),
    (AssertionError("not so"), "the judge raised AssertionError: not so"),
    (NotImplementedError("not yet"), "the judge raised NotImplementedError: not yet"),
    (pytest.skip.Exception("not today"), "the judge raised Skipped: not today"),
    (pytest.fail.Exception("not today"), "the judge raised Failed: not today"),
    (SystemExit(0), "the judge raised SystemExit: 0"),
    (GeneratorExit(), "the judge raised GeneratorExit"),
    (Unprintable(), "the judge raised Unprintable: its text cannot be printed"),
]


@pytest.mark.parametrize(("error", "words"), RAISED, ids=lambda value: type(value).__name__)
def test_a_law_that_raises(judge: Judge, error: BaseException, words: str) -> None:
    judge.ask(passes, raises(error), passes)
    ran = judge.check()
    assert ran.code == 3
    assert ran.verdicts() == {"FIRST-1": "pass", "SECOND-1": "unjudged", "LAST-1": "pass"}
    assert_not_judged(ran, f"SECOND-1 could not be asked: {words}")
    ran = judge.pytest()
    assert ran.code == 1
    assert_not_judged(ran, words)


@pytest.mark.parametrize("place", range(3))
def test_a_law_that_raises_whichever_it_is(judge: Judge, place: int) -> None:
    judge.ask(*(raises(RuntimeError("broken")) if number == place else passes for number in range(3)))
    ran = judge.check()
    assert ran.code == 3
    assert_not_judged(ran, "the judge raised RuntimeError: broken")
    assert ran.verdicts() == dict.fromkeys(LAWS, "pass") | {LAWS[place]: "unjudged"}


def test_a_law_that_only_should_hold_raises(judge: Judge) -> None:
    """A failure of it would be told alone; that nobody could ask it is no pass."""
    judge.ask(passes, raises(RuntimeError("broken")), fails, level=Level.SHOULD)
    ran = judge.check()
    assert ran.code == 3
    assert_not_judged(ran, "SECOND-1")
    assert judge.pytest().code == 1


def test_a_candidate_that_is_wrong_is_wrong_whatever_else_raises(judge: Judge) -> None:
    judge.ask(raises(RuntimeError("broken")), fails, raises(MemoryError()))
    ran = judge.check()
    assert (ran.code, ran.candidates["good.py:loss"]["verdict"]) == (1, "fails")


def test_an_interrupt_is_no_result(judge: Judge) -> None:
    judge.ask(passes, raises(KeyboardInterrupt()), passes)
    ran = judge.check()
    assert (ran.code, ran.candidates["good.py:loss"]["verdict"]) == (130, "partial")
    assert ran.verdicts() == {"FIRST-1": "pass", "SECOND-1": "not_asked", "LAST-1": "not_asked"}


def test_a_law_that_ends_pytest_leaves_it_partial(judge: Judge) -> None:
    judge.ask(passes, raises(pytest.exit.Exception("enough")), passes)
    ran = judge.check()
    assert (ran.code, ran.candidates["good.py:loss"]["verdict"]) == (3, "partial")


def test_what_cannot_be_found_out_besides_is_told_and_no_pass(judge: Judge) -> None:
    def broken(*arguments: object) -> None:
        raise RuntimeError("no cells")

    judge.monkeypatch.setattr(opened, "coverage", broken)
    ran = judge.check()
    assert ran.code == 3
    assert ran.verdicts() == dict.fromkeys(LAWS, "pass")
    assert_not_judged(ran, "not everything could be found out: the judge raised RuntimeError: no cells")
    assert judge.pytest().code == 1
    judge.ask(passes, fails, passes)
    assert judge.check().code == 1


# --- a law that is taken away -----------------------------------------------------------------------------------------

TAKES = "def pytest_collection_modifyitems(items):\n    items[:] = [item for item in items if {}]\n"
OTHERS = "'SECOND-1' not in item.name"
MEDDLING = {
    "takes one out": (TAKES.format(OTHERS), "planned but never asked"),
    "takes the last out": (TAKES.format("'LAST-1' not in item.name"), "planned but never asked"),
    "takes all out": (TAKES.format("False"), "planned but never asked"),
    "skips one": (
        "def pytest_runtest_setup(item):\n    if 'SECOND-1' in item.name:\n        pytest.skip('not today')\n",
        "skipped by pytest",
    ),
    "marks one as skipped": (
        (
            "def pytest_collection_modifyitems(items):\n"
            "    for item in items:\n        if 'SECOND-1' in item.name:\n"
            "            item.add_marker(pytest.mark.skip('not today'))\n"
        ),
        "skipped by pytest",
    ),
    "raises before one": (
        "def pytest_runtest_setup(item):\n    if 'SECOND-1' in item.name:\n        raise RuntimeError('meddled')\n",
        "failed by pytest",
    ),
    "raises in its place": (
        (
            "@pytest.hookimpl(tryfirst=True)\n"
            "def pytest_runtest_call(item):\n    if 'SECOND-1' in item.name:\n        raise RuntimeError('meddled')\n"
        ),
        "planned but never asked",
    ),
    "runs nothing": (
        (
            "@pytest.hookimpl(tryfirst=True)\n"
            "def pytest_runtest_protocol(item, nextitem):\n    return True if 'SECOND-1' in item.name else None\n"
        ),
        "planned but never asked",
    ),
    "loses what was found": (
        (
            "@pytest.hookimpl(wrapper=True)\n"
            "def pytest_runtest_makereport(item, call):\n    report = yield\n"
            "    if 'SECOND-1' in item.name:\n        report.user_properties = []\n    return report\n"
        ),
        "planned but never asked",
    ),
}
"""What a plugin does, and what is said of the law."""


@pytest.mark.parametrize("meddling", MEDDLING)
def test_a_plugin_that_keeps_a_law_from_being_asked(judge: Judge, meddling: str) -> None:
    text, words = MEDDLING[meddling]
    ran = judge.check(*judge.plugin(text))
    assert ran.code == 3, ran.out
    assert_not_judged(ran, words)
    assert "unjudged" in ran.verdicts().values()
    ran = judge.pytest(*judge.plugin(text))
    assert ran.code != 0
    assert_not_judged(ran, words)


def test_what_a_plugin_leaves_out_and_says_so_is_the_users_choice(judge: Judge) -> None:
    says = TAKES.format(OTHERS).replace("items)", "items, config)") + (
        "    config.hook.pytest_deselected(items=[item for item in was if 'SECOND-1' in item.name])\n"
    )
    ran = judge.check(*judge.plugin(says.replace("    items[:]", "    was = list(items)\n    items[:]")))
    assert (ran.code, ran.candidates["good.py:loss"]["verdict"]) == (3, "partial")
    assert ran.verdicts()["SECOND-1"] == "not_asked"


HOOKS = {
    "while collecting": "def pytest_collection_modifyitems(items):\n    raise RuntimeError('meddled')\n",
    "while reporting": "def pytest_runtest_logreport(report):\n    raise RuntimeError('meddled')\n",
    "while making a report": (
        "@pytest.hookimpl(tryfirst=True)\n"
        "def pytest_runtest_makereport(item, call):\n    raise RuntimeError('meddled')\n"
    ),
    "before the loop": "@pytest.hookimpl(tryfirst=True)\ndef pytest_runtestloop():\n    raise MemoryError\n",
}


@pytest.mark.parametrize("hook", HOOKS)
def test_a_plugin_that_raises_in_a_hook(judge: Judge, hook: str) -> None:
    ran = judge.check(*judge.plugin(HOOKS[hook]))
    assert ran.code == 3
    assert_not_judged(ran, "could not be asked")
    assert judge.pytest(*judge.plugin(HOOKS[hook])).code != 0


@pytest.mark.parametrize("hook", ["pytest_sessionstart", "pytest_configure", "pytest_collection"])
def test_a_plugin_that_raises_before_anything_is_planned(judge: Judge, hook: str) -> None:
    text = f"@pytest.hookimpl(tryfirst=True)\ndef {hook}():\n    raise RuntimeError('meddled')\n"
    assert judge.check(*judge.plugin(text)).code == 3
    assert judge.pytest(*judge.plugin(text)).code != 0


def test_a_plugin_that_ends_the_run_with_a_code_of_its_own(judge: Judge) -> None:
    for raised in ("pytest.exit('enough', returncode=0)", "raise SystemExit(0)"):
        text = f"def pytest_runtest_setup(item):\n    if 'SECOND-1' in item.name:\n        {raised}\n"
        ran = judge.check(*judge.plugin(text))
        assert ran.code == 3, ran.out
        assert ran.candidates["good.py:loss"]["verdict"] in ("partial", "error")


SAYS_PASSED = """
@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item, call):
    report = yield
    report.outcome, report.longrepr = "passed", None
    return report
"""


@pytest.mark.parametrize(("check", "code"), [(raises(RuntimeError("broken")), 3), (fails, 1)])
def test_a_plugin_that_says_that_all_passed_changes_no_verdict(judge: Judge, check: Check, code: int) -> None:
    judge.ask(passes, check, passes)
    ran = judge.check(*judge.plugin(SAYS_PASSED))
    assert ran.code == code
    assert ran.verdicts()["SECOND-1"] in ("unjudged", "fail")
    assert judge.pytest(*judge.plugin(SAYS_PASSED)).code == 1


SAYS_OK = "@pytest.hookimpl(tryfirst=True)\ndef pytest_sessionfinish(session):\n    session.exitstatus = 0\n"


@pytest.mark.parametrize(("check", "code"), [(raises(RuntimeError("broken")), 3), (fails, 1)])
def test_a_plugin_that_says_that_the_session_was_fine_changes_no_verdict(judge: Judge, check: Check, code: int) -> None:
    judge.ask(passes, check, passes)
    assert judge.check(*judge.plugin(SAYS_OK)).code == code


# --- a candidate that is lost -----------------------------------------------------------------------------------------


@pytest.fixture
def without_worker(judge: Judge) -> Judge:
    """Nothing that is called good.py can be had."""

    def broken(own: Callable[..., Any]) -> Callable[..., Any]:
        def broken(loaded: LoadedCandidate, *rest: Any) -> Any:
            if loaded.job.name.startswith("good.py"):
                raise OSError(f"no more processes to {own.__name__}")
            return own(loaded, *rest)

        return broken

    for own in (LoadedCandidate.start, LoadedCandidate.trial):
        judge.monkeypatch.setattr(LoadedCandidate, own.__name__, broken(own))
    return judge


@pytest.mark.parametrize(
    "targets", [("good.py:loss",), ("good.py:loss", "other.py:loss"), ("other.py:loss", "good.py:loss")]
)
def test_one_whose_worker_cannot_be_had_takes_nobody_with_it(without_worker: Judge, targets: tuple[str, ...]) -> None:
    for ran in (without_worker.check(targets=targets), without_worker.pytest(targets=targets)):
        assert ran.code != 0
        assert list(ran.candidates) == list(targets)
        assert_not_judged(ran, "no more processes")
        assert set(ran.verdicts().values()) == {"unjudged"}
        if len(targets) > 1:
            assert ran.candidates["other.py:loss"]["verdict"] == "conforms"
    assert without_worker.check(targets=targets).code == 3


@pytest.mark.parametrize(
    "error", [OSError("no more pipes"), MemoryError("no room"), pytest.skip.Exception("not today")]
)
def test_a_hearing_that_cannot_be_opened(judge: Judge, error: BaseException) -> None:
    def broken(loaded: LoadedCandidate, spec: object = None) -> None:
        raise error

    judge.monkeypatch.setattr(LoadedCandidate, "trial", broken)
    ran = judge.check()
    assert ran.code == 3
    assert_not_judged(ran, str(error))
    assert judge.pytest().code == 1


@pytest.mark.parametrize("place", [0, 1])
def test_one_of_two_whose_last_law_raises_in_pytest_itself(judge: Judge, place: int) -> None:
    """What is known of a candidate travels with its last law; it is there all the same."""
    targets = ("good.py:loss", "other.py:loss")
    lost, kept = targets[place], targets[1 - place]
    text = TAKES.format(f"not ('LAST-1' in item.name and {lost!r} in item.name)")
    ran = judge.check(*judge.plugin(text), targets=targets)
    assert ran.code == 3
    assert list(ran.candidates) == list(targets)
    assert_not_judged(ran, "LAST-1 could not be asked: planned but never asked", lost)
    assert ran.candidates[kept]["verdict"] == "conforms"
    assert any(line.startswith(kept) and "  conforms" in line for line in ran.out.splitlines())


@pytest.mark.parametrize("place", [0, 1])
def test_one_of_two_whose_facts_cannot_be_told(judge: Judge, place: int) -> None:
    targets = ("good.py:loss", "other.py:loss")
    own = opened.OpenCandidate.facts

    def broken(loaded: opened.OpenCandidate) -> CandidateResult:
        if loaded.job.name == targets[place]:
            raise RuntimeError("no facts")
        return own(loaded)

    judge.monkeypatch.setattr(opened.OpenCandidate, "facts", broken)
    ran = judge.check(targets=targets)
    assert ran.code == 3
    assert list(ran.candidates) == list(targets)
    assert ran.candidates[targets[1 - place]]["verdict"] == "conforms"
    assert ran.candidates[targets[place]]["verdict"] != "conforms"
    assert all(name in ran.out for name in targets)


LOSES_FACTS = """
def pytest_runtest_logreport(report):
    report.user_properties = [each for each in report.user_properties if each[0] != "shiftproof.candidate"]
"""


@pytest.mark.parametrize("place", [0, 1])
def test_one_of_two_whose_facts_a_plugin_loses(judge: Judge, place: int) -> None:
    """Without them nobody knows which cells were judged, nor whether the gradient could be read."""
    targets = ("good.py:loss", "other.py:loss")
    text = LOSES_FACTS.replace("report):", f"report):\n    if {targets[place]!r} not in report.nodeid:\n        return")
    text = text.replace("def ", "@pytest.hookimpl(tryfirst=True)\ndef ")
    ran = judge.check(*judge.plugin(text), targets=targets)
    assert ran.candidates[targets[1 - place]]["verdict"] == "conforms"
    if place == 0:  # the facts of the last one can still be had when the session ends
        assert ran.code == 3
        assert_not_judged(ran, "other findings were lost", targets[place])
        assert set(ran.verdicts(targets[place]).values()) == {"pass"}
    else:
        assert ran.code == 0


def test_a_report_that_cannot_be_written_was_not_judged(judge: Judge) -> None:
    (judge.folder / "r.json").mkdir()
    assert main(["check", "good.py:loss", *ASKED]) == 3
    assert "the judge could not go on" in judge.capsys.readouterr().err


def test_a_run_that_pytest_broke_off_after_the_last_law_was_not_judged(judge: Judge) -> None:
    text = "@pytest.hookimpl(wrapper=True)\ndef pytest_runtestloop(session):\n    yield\n    raise RuntimeError\n"
    ran = judge.check(*judge.plugin(text))
    assert ran.candidates["good.py:loss"]["verdict"] == "conforms"
    assert ran.code == 3
