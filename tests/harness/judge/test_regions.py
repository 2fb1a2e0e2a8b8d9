"""Sizes and ids at which a candidate's own code takes another way become cases of every law."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shiftproof.harness.candidates.declaration import Candidate
from shiftproof.harness.cases.recipe import Ids, Recipe
from shiftproof.harness.cases.space import placed
from shiftproof.harness.isolation.branch_record import BranchRecord
from shiftproof.harness.judge.ask import ask
from shiftproof.harness.judge.loading import Job, LoadedCandidate, Options
from shiftproof.harness.judge.pool import Pool
from shiftproof.harness.judge.profile import PROFILES
from shiftproof.harness.judge.regions import Regions, Tracers, explore, look_around, may_have_regions
from shiftproof.harness.kill_table.trial import Bench
from shiftproof.harness.laws import LAWS
from shiftproof.harness.results import Level, Verdict
from shiftproof.harness.worker.exchange import Call, Outcome, TimedOut
from shiftproof.harness.worker.guards import Guard, Traced
from shiftproof.reference.profiles import PROFILES as SPECS

DOORS = Path(__file__).parents[2] / "candidates" / "doors.py"
BASE = {"rows": 3, "length": 11, "classes": 23}
LONG = {"rows": 3, "length": 68, "classes": 4}
NONE = Traced((), "")


def guard(otherwise: Mapping[str, int] | None, *, own: bool = True, line: int = 5, elements: int = 0) -> Guard:
    return Guard("length <= 67", "losses.py", line, own, otherwise, elements)


class Scripted:
    """A tracer that gives prepared answers, by the sizes that it is asked about."""

    def __init__(self, answers: Mapping[tuple[int, ...], Traced | Outcome]) -> None:
        self.answers = answers
        self.asked: list[dict[str, int]] = []

    def trace(self, call: Call, now: Mapping[str, int], least: Mapping[str, int], most: int) -> Traced | Outcome:
        self.asked.append(dict(now))
        assert math.prod(now.values()) == sum(call.tensors[name].numel() for name in call.gradients)
        return self.answers.get(tuple(now.values()), NONE)


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench(SPECS["hf.causal_lm"], "float32", PROFILES["quick"])


def test_a_region_is_found_and_traced_in_turn(bench: Bench) -> None:
    farther = {"rows": 2, "length": 68, "classes": 4}
    tracer = Scripted({(3, 11, 23): Traced((guard(LONG),), ""), (3, 68, 4): Traced((guard(farther, line=6),), "")})
    found = explore(bench.right, tracer, ())
    assert tracer.asked == [BASE, LONG, farther]
    assert found.places == (LONG, farther)
    assert (found.traces, found.unread) == (3, "")


def test_what_torch_asks_for_itself_leads_only_to_sizes_that_are_not_ordinary(bench: Bench) -> None:
    small = {"rows": 3, "length": 2, "classes": 4}
    guards = guard(small, own=False), guard(LONG, own=False, line=6)
    tracer = Scripted({(3, 11, 23): Traced(guards, "")})
    assert explore(bench.right, tracer, ()).places == (LONG,)
    assert tracer.asked == [BASE, LONG]


def test_a_question_is_followed_once(bench: Bench) -> None:
    tracer = Scripted({(3, 11, 23): Traced((guard(LONG),), ""), (3, 68, 4): Traced((guard(BASE),), "")})
    assert explore(bench.right, tracer, ()).places == (LONG,)
    assert tracer.asked == [BASE, LONG]


def test_the_search_ends(bench: Bench) -> None:
    class Endless(Scripted):
        def trace(self, call: Call, now: Mapping[str, int], *rest: Any) -> Traced:
            super().trace(call, now, *rest)
            return Traced((guard({**now, "length": now["length"] + 7}, line=now["length"]),), "")

    tracer = Endless({})
    found = explore(bench.right, tracer, ())
    assert len(tracer.asked) == found.traces == 24
    assert found.unread == "the search ended after 24 traces; 1 more regions were not traced"


def test_a_line_is_followed_a_few_times(bench: Bench) -> None:
    """A loop over chunks asks whether their number is what it is: at each number anew."""

    class Chunked(Scripted):
        def trace(self, call: Call, now: Mapping[str, int], *rest: Any) -> Traced:
            super().trace(call, now, *rest)
            more = replace(guard({**now, "length": now["length"] + 7}), condition=f"chunks == {now['length']}")
            return Traced((more,), "")

    tracer = Chunked({})
    assert len(explore(bench.right, tracer, ()).places) == 3
    assert len(tracer.asked) == 4


def test_sizes_that_take_too_much_memory_are_named(bench: Bench) -> None:
    too_large = guard(None, elements=4_325_376), guard(None, own=False, elements=5_000_000), guard(None, line=9)
    found = explore(bench.right, Scripted({(3, 11, 23): Traced(too_large, "")}), ())
    assert found.not_reached == ("losses.py:5 (length <= 67 never false: that takes 4.3 million elements of logits)",)


@pytest.mark.parametrize("answer", [Traced((), "KeyError: 3"), TimedOut(20.0)])
def test_why_sizes_were_not_read(bench: Bench, answer: Traced | Outcome) -> None:
    found = explore(bench.right, Scripted({(3, 11, 23): answer}), ())
    assert found.unread == (answer.stopped if isinstance(answer, Traced) else answer.describe())


def test_numbers_of_the_code_are_sizes_and_ids(bench: Bench) -> None:
    found = explore(bench.right, Scripted({}), (-100, 0, 1, 12, 4096))
    assert [(dict(place).get("ids"), place["length"], place["classes"]) for place in found.places] == [
        (None, 4097, 3),
        (None, 4096, 3),
        (None, 4, 3),
        (Ids.EDGES, 4, 4097),
    ]
    assert found.places[2]["rows"] == 4097


def test_numbers_of_the_code_are_codebooks() -> None:
    audio = Bench(SPECS["csm"], "float32", PROFILES["quick"]).right
    found = explore(audio, Scripted({}), (1, 8))
    assert [place["codebooks"] for place in found.places] == [9]


def test_a_check_judges_no_more_regions_than_it_has_time_for(bench: Bench) -> None:
    many = explore(bench.right, Scripted({}), range(100_000, 100_006))
    sizes = [place["rows"] * place["length"] * place["classes"] for place in many.places]
    assert 0 < sum(sizes) <= 6_000_000
    assert len(sizes) <= 20
    assert many.unread.endswith("regions more than a check has time for were not judged")


def test_each_region_is_a_case_of_every_must_law(bench: Bench) -> None:
    trial = bench.right
    trial.regions = tuple(placed(trial.space, (LONG, {**LONG, "length": 301, "ids": Ids.EDGES}), 0))
    try:
        pool = Pool(LAWS, trial, PROFILES["quick"], 0)
        for law in LAWS.values():
            if law.level is Level.MUST and law.skip_reason(trial) is None and law.id.startswith(("VALUE", "GRAD-1")):
                assert {68, 301} <= {recipe.length for recipe in pool.of(law)}, law.id
    finally:
        trial.regions = ()
    assert [recipe.ids for recipe in placed(trial.space, ({**LONG, "ids": Ids.EDGES},), 0)] == [Ids.EDGES]


def test_a_case_of_a_region_is_of_the_spec() -> None:
    audio = Bench(SPECS["csm"], "float32", PROFILES["quick"]).right
    place = {"rows": 2, "length": 68, "classes": 4, "codebooks": 5}
    (recipe,) = placed(audio.space, (place,), 0)
    assert isinstance(recipe, Recipe)
    assert replace(recipe, rows=1, length=2, classes=2, codebooks=1).codebooks == 1
    assert (recipe.rows, recipe.length, recipe.classes, recipe.codebooks) == (2, 68, 4, 5)


def record(*functions: dict[str, Any], unread: str = "") -> BranchRecord:
    made = BranchRecord()
    made.add({"functions": list(functions), **({"unread": unread} if unread else {})})
    return made


PLAIN = {"file": "f", "function": "g", "number": 1, "seen": [], "branches": [], "constants": [1, -100], "closed": True}
BRANCH = [2, 7, "S > 1", ["true", "false"], [False, False]]


def test_a_function_without_branches_and_numbers_has_no_regions() -> None:
    assert not may_have_regions(record(PLAIN))
    assert may_have_regions(record({**PLAIN, "constants": [2048]}))
    assert may_have_regions(record({**PLAIN, "closed": False}))
    assert may_have_regions(record({**PLAIN, "branches": [BRANCH], "seen": [1]}))
    assert may_have_regions(record(PLAIN, unread="it is a function of torch"))
    assert may_have_regions(record())


def loaded(name: str) -> LoadedCandidate:
    candidate = Candidate(name, f"{DOORS}:{name}", spec="hf.causal_lm")
    return LoadedCandidate(Job(name, candidate, "cpu", ("float32",)), Options())


def test_the_regions_of_a_candidate() -> None:
    tracers, opened = Tracers(), loaded("long_rows_of_a_batch")
    try:
        trial = opened.trial()
        found = look_around(trial, opened.worker, tracers, 0)
        assert {"rows": 3, "length": 301, "classes": 4} in found.places
        assert (3, 301) in {(recipe.rows, recipe.length) for recipe in trial.regions}
        again = look_around(trial, opened.worker, tracers, 0)
        assert again.seconds == found.seconds > 0  # found once for all dtypes
    finally:
        opened.close()
        tracers.close()


BY_DTYPE = """
def loss(logits, labels):
    if logits.dtype.itemsize == 2:
        if logits.shape[1] > 300:
            return logits.sum()
    return logits.float().sum()
"""


def test_a_region_of_one_dtype_is_judged_in_it_and_others_in_both(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(BY_DTYPE)
    both = ("float32", "bfloat16")
    candidate = Candidate("loss", f"{tmp_path / 'mine.py'}:loss", spec="hf.causal_lm", shapes=("2,40,3",))
    tracers, opened = Tracers(), LoadedCandidate(Job("loss", candidate, "cpu", both), Options())
    try:
        trial = opened.trial()
        found = look_around(trial, opened.worker, tracers, 0)
        assert [place for place in found.places if place["length"] == 301 and place.get("dtype") == "bfloat16"]
        judged = {(recipe.length, recipe.dtype) for recipe in trial.regions}
        assert {(301, "bfloat16"), *((40, dtype) for dtype in both)} <= judged
        assert {recipe.dtype for recipe in (*trial.regions, *trial.near_regions) if recipe.length == 300} <= {*both}
    finally:
        opened.close()
        tracers.close()


def test_a_process_that_an_earlier_candidate_spoiled_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    tracers, opened = Tracers(), loaded("long_rows")
    used = []

    def exploring(trial: Any, tracer: Any, constants: Any) -> Regions:
        used.append(tracer)
        return Regions(unread="spoiled" if len(used) == 1 else "")

    monkeypatch.setattr("shiftproof.harness.judge.regions.explore", exploring)
    try:
        trial = opened.trial()
        assert look_around(trial, opened.worker, tracers, 0).unread == ""
        assert len(used) == 2
        assert used[0] is not used[1]
    finally:
        opened.close()
        tracers.close()


def test_a_law_that_makes_a_region_too_large_for_a_matrix_product_leaves_it_out() -> None:
    candidate = Candidate("chunked", str(DOORS.parents[2] / "examples" / "fused_linear.py") + ":chunked")
    opened = LoadedCandidate(Job("chunked", candidate, "cpu", ("bfloat16",)), Options())
    try:
        trial = opened.of_loss(SPECS["torch.linear_cross_entropy"])
        place = {"rows": 1, "length": 1000, "classes": 4}
        trial.regions = tuple(placed(trial.space, (place,), 0))
        pool = Pool(LAWS, trial, PROFILES["quick"], 0)
        lengths = {id: {recipe.length for recipe in pool.of(LAWS[id])} for id in ("ALIGN-1", "VALUE-1", "GRAD-1")}
        assert 1000 not in lengths["ALIGN-1"]  # it wants an id for each place
        assert 1000 in lengths["VALUE-1"]
        assert 1000 in lengths["GRAD-1"]
    finally:
        opened.close()


FUSED = DOORS.with_name("fused.py")


@pytest.mark.representatives(1)
@pytest.mark.parametrize(
    ("name", "dtype", "law"),
    [
        ("double_shift_of_wide_rows", "float32", "ALIGN-1"),
        ("bf16_product_of_wide_rows", "bfloat16", "LINEAR-4"),
        ("bf16_product_of_long_rows", "bfloat16", "LINEAR-4"),
    ],
)
def test_a_loss_that_multiplies_hidden_states_fails_at_its_region(name: str, dtype: str, law: str) -> None:
    candidate = Candidate(name, f"{FUSED}:{name}", spec="hf.causal_lm")
    tracers, opened = Tracers(), LoadedCandidate(Job(name, candidate, "cpu", (dtype,)), Options())
    try:
        trial = opened.trial()
        only = {law: LAWS[law]}
        calm = replace(PROFILES["brief"], factor=0.5)  # without other sizes than the ordinary ones
        assert ask(LAWS[law], trial, calm, seed=0, among=only).verdict is Verdict.PASS
        found = look_around(trial, opened.worker, tracers, 0)
        assert any(place["hidden_size"] > 600 or place["length"] > 40 for place in found.places)
        assert ask(LAWS[law], trial, calm, seed=1, among=only).verdict is Verdict.FAIL
    finally:
        opened.close()
        tracers.close()


def test_each_region_is_judged_once_more_with_a_hundred_classes() -> None:
    candidate = Candidate("chunked", f"{DOORS}:chunked", spec="hf.causal_lm", shapes=("2,301,3", "4,9,20000"))
    opened = LoadedCandidate(Job("chunked", candidate, "cpu", ("float32",)), Options())
    try:
        trial = opened.trial()
        found = look_around(trial, opened.worker, None, 0)
        sizes, more = (
            [(recipe.rows, recipe.length, recipe.classes) for recipe in recipes]
            for recipes in (trial.regions, trial.near_regions)
        )
    finally:
        opened.close()
    assert len(found.places) == 2
    assert sizes == [(2, 301, 3), (4, 9, 20000)]
    assert more == [(3, 301, 128), (5, 9, 20000)]
