"""The comparison with other people's tests: a habit kills what it should, and what survives it does so for a reason."""

from pathlib import Path
from typing import Any

import pytest
import torch

from shiftproof.harness.kill_table.subjects import subjects
from shiftproof.harness.mutants.behaviour import Act, answer
from shiftproof.reference.profiles import PROFILES

TEXT, AUDIO = PROFILES["hf.causal_lm"], PROFILES["higgs.boson"]


def act_of(name: str, spec: Any = TEXT) -> Act:
    return next(subject.act for subject in subjects(spec) if subject.name == name)


def fixed(scripts: Any, spec: Any = TEXT, ignored: str = "none", **looks: Any) -> Any:
    habits = scripts.habits
    case, _ = habits.random_case(spec, habits.Inputs(2, 8, 16, ignored=habits.Ignored(ignored)))
    return habits.Test(case, habits.assert_close, **looks)


def test_a_habit_kills_what_its_inputs_show(scripts: Any) -> None:
    for spec in (TEXT, AUDIO):
        seen = scripts.comparison.judge(act_of("double-shift", spec), [fixed(scripts, spec)])
        assert seen is scripts.comparison.Seen.KILLED


def test_what_no_input_shows_is_told_from_what_is_tolerated(scripts: Any) -> None:
    judge, seen, habits = scripts.comparison.judge, scripts.comparison.Seen, scripts.habits
    act = act_of("overcount-rows")
    strict = fixed(scripts)
    lax = habits.Test(strict.case, habits.allclose(5.0, 50.0))
    assert judge(act, [strict]) is seen.KILLED
    assert judge(act, [lax]) is seen.TOLERATED
    assert judge(act_of("count-ignored"), [strict]) is seen.UNSEEN  # no count is handed over


def test_an_incoming_gradient_must_be_handed_over(scripts: Any) -> None:
    judge, seen = scripts.comparison.judge, scripts.comparison.Seen
    act = act_of("upstream-ignored")
    assert judge(act, [fixed(scripts)]) is seen.UNSEEN
    assert judge(act, [fixed(scripts, grad_output=3.0)]) is seen.KILLED
    assert judge(act, [fixed(scripts, grad_output=3.0, gradient=False)]) is seen.UNSEEN


def test_ignored_labels_must_be_handed_over(scripts: Any) -> None:
    judge, seen = scripts.comparison.judge, scripts.comparison.Seen
    act = act_of("denominator-all")
    assert judge(act, [fixed(scripts, ignored="a fifth")]) is seen.KILLED
    batch = fixed(scripts, ignored="a fifth").case.batch
    assert int((batch.labels == -100).sum()) == 3
    assert int((fixed(scripts).case.batch.labels == -100).sum()) == 0


def test_the_right_loss_passes_every_habit(scripts: Any) -> None:
    for habit in (scripts.habits.HABITS[3], scripts.habits.HABITS[-1]):
        tests = list(habit.tests(AUDIO))
        assert tests
        assert scripts.comparison.judge(answer, tests) is scripts.comparison.Seen.UNSEEN


def test_a_real_loss_is_judged_as_a_mutant_is(scripts: Any) -> None:
    compare, right = scripts.comparison, scripts.right_losses
    candidates = right.load("right")
    loss = right.Loss("sliced", candidates.sliced, TEXT)
    assert compare.judge(compare.answers(loss), [fixed(scripts, grad_output=3.0)]) is compare.Seen.UNSEEN
    assert compare.judge(compare.zero, [fixed(scripts)]) is compare.Seen.KILLED


def test_zero_passes_a_wide_tolerance(scripts: Any) -> None:
    spec, compare = PROFILES["sum"], scripts.comparison
    for dtype, passes in (("bfloat16", True), ("float32", False)):
        (test,) = scripts.habits.liger_sum(dtype)(spec)
        assert (compare.judge(compare.zero, [test]) is not compare.Seen.KILLED) is passes


def test_a_layer_takes_the_gradient_to_its_inputs(scripts: Any) -> None:
    habits = scripts.habits
    inputs = habits.Inputs(2, 4, 6, layer=habits.Layer.UNIFORM, hidden=3)
    case, layers = habits.random_case(TEXT, inputs)
    x, weight = (each.clone().requires_grad_() for each in layers["logits"])
    logits = (x @ weight.T).reshape(2, 4, 6)
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), case.batch.labels[:, 1:].flatten())
    loss.backward()
    found = habits.Test(case, habits.assert_close, layers=layers)._expected_gradients
    torch.testing.assert_close(found["logits: x"], x.grad.float())
    torch.testing.assert_close(found["logits: W"], weight.grad.float())


def test_a_count_is_written_where_only_some_ways_survive(scripts: Any) -> None:
    compare = scripts.comparison
    judged = [
        compare.Judged("s", "some", {"h": compare.Seen.KILLED}),
        compare.Judged("s", "some", {"h": compare.Seen.UNSEEN}),
        compare.Judged("s", "all", {"h": compare.Seen.TOLERATED}),
    ]
    assert compare.list_of_survivors(judged, ["h"]) == "- **h**. *never shown*: some (1 of 2); *tolerated*: all"
    assert compare.share(each.seen["h"] for each in judged) == "33.3%"


def test_a_page_without_marks_is_refused(scripts: Any, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- a -->\nold\n<!-- end of a -->\nrest\n", encoding="utf-8")
    scripts.page.fill_in(page, {"a": "new"})
    assert page.read_text(encoding="utf-8") == "<!-- a -->\nnew\n<!-- end of a -->\nrest\n"
    with pytest.raises(SystemExit, match="no marks for the table 'b'"):
        scripts.page.fill_in(page, {"b": "new"})


# The small form of `nox -s comparison`: a few mutants and right losses through every table, without the full sizes.

FEW = ("double-shift", "denominator-all", "count-ignored")


@pytest.fixture
def few(scripts: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script, when only a few bugs, written in one way each, and a few right losses are known."""
    compare, losses = scripts.comparison, scripts.right_losses
    sliced = losses.Loss("sliced", losses.load("right").sliced, TEXT)
    other = next(loss for loss in losses.other_losses() if loss.spec is AUDIO)
    chosen = [next(subject for subject in subjects(TEXT) if subject.name == name) for name in FEW]
    monkeypatch.setattr(compare, "subjects", lambda spec: chosen)
    monkeypatch.setattr(compare, "text_losses", lambda: [sliced])
    monkeypatch.setattr(compare, "other_losses", lambda: [other])
    return compare


def test_every_bug_is_in_a_row_and_shiftproof_kills_it(scripts: Any, few: Any) -> None:
    habit = scripts.habits.HABITS[2]
    assert habit.name == "assert_close, value and gradient, every label counts"
    judged = few.judge_all(TEXT, [habit])
    assert [each.name for each in judged] == list(FEW)
    assert {each.seen[few.OURS] for each in judged} == {few.Seen.KILLED}
    lines = few.table_of_killed(judged, [habit.name, few.OURS]).split("\n")
    assert lines[0] == "| killed by | alignment (1) | normalisation (2) | text alone (3) | all (3) |"
    assert lines[2].endswith("| 100.0% | 50.0% | 66.7% | 66.7% |")
    assert lines[3] == f"| {few.OURS} | 100.0% | 100.0% | 100.0% | 100.0% |"
    control = few.control(habit.name)
    assert (control.alarms, control.right, control.passed_by_zero, control.tests) == ((), 2, 0, 1)
    assert few.table_of_reasons(judged, {habit.name: control}).endswith("| 2 | 0 | 1 | 100.0% | 0 of 2 | 0 of 1 |")
    assert few.in_words(judged, 12.0).startswith("Made by `nox -s comparison` with shiftproof ")
    assert "in 12 s: 3 mutants" in few.in_words(judged, 12.0)


def test_the_tables_of_other_sizes(few: Any, scripts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = few.table_of_vocabularies(TEXT, [8]).split("\n")
    assert lines[2:] == ["| every label counts | 2 of 3 |", "| a fifth ignored | 2 of 3 |"]
    monkeypatch.setattr(few, "liger_at_full_size", lambda spec: [fixed(scripts, spec)])
    assert few.in_full_size(TEXT).startswith("Of the 1 mutants of `hf.causal_lm` that survive Liger's tests")
    sums = few.table_of_sums(PROFILES["sum"])
    assert sums.endswith("| bfloat16 | atol 5, rtol 50 | 0 of 1 | yes |")


def test_every_spec_habit_and_family_is_there(scripts: Any) -> None:
    compare, habits = scripts.comparison, scripts.habits
    assert set(compare.SPECS) <= set(PROFILES)
    assert set().union(*compare.FAMILIES.values()) >= {each.name for each in subjects(TEXT) if not each.reason}
    for habit in habits.HABITS[:-2]:  # Hypothesis's draw is in the test of the right loss
        assert compare.judge(answer, [next(iter(habit.tests(TEXT)))]) is compare.Seen.UNSEEN
    text = (Path(compare.__file__).parents[1] / "comparison.md").read_text(encoding="utf-8")
    for part in ("killed", "reasons", "survivors", "vocabularies", "full size", "sums", "run"):
        assert f"<!-- {part} -->\n" in text
        assert f"\n<!-- end of {part} -->" in text
