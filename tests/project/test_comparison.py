"""The comparison with other people's tests: a habit kills what it should, and what survives it does so for a reason."""

from pathlib import Path
from typing import Any

import pytest
import torch

from shiftproof.harness.kills import subjects
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
    assert judge(act, [fixed(scripts, upstream=3.0)]) is seen.KILLED
    assert judge(act, [fixed(scripts, upstream=3.0, gradient=False)]) is seen.UNSEEN


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
    assert compare.judge(compare.answers(loss), [fixed(scripts, upstream=3.0)]) is compare.Seen.UNSEEN
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
