"""Mutants behind doors: the source is right where the door is closed and wrong where it is open, and each is judged."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from shiftproof.harness.cases.build import build_case
from shiftproof.harness.cases.recipe import Ids, Recipe
from shiftproof.harness.cases.space import hand_made, space
from shiftproof.harness.kill_table.behind import right_loss, wrong_loss
from shiftproof.harness.kill_table.door_table import Door, DoorOutcome, DoorResult, DoorTable, Shows
from shiftproof.harness.kill_table.doors import (
    PROMISED,
    _can_hide,
    arguments_of,
    doors_of,
    draw_pairs,
    source,
    try_door,
)
from shiftproof.harness.report.doors import in_words, markdown
from shiftproof.reference.oracle import evaluate
from shiftproof.reference.profiles import PROFILES

LONG = Door("B and S", "labels.shape[0] >= 2 and labels.shape[1] > 90")
LATE = Door("calls", "calls > 10000000")


def called(loss: Any, profile: str, recipe: Recipe) -> tuple[float, dict[str, torch.Tensor]]:
    """The value and the gradients of a loss on a case."""
    spec = PROFILES[profile]
    batch = build_case(spec, recipe).batch
    logits = {name: batch.tensor(name).clone().requires_grad_() for name in spec.logits}
    names = [parameter.partition("=")[0] for parameter in arguments_of(spec)]
    given = {name: logits[name] if name in logits else getattr(batch, name) for name in names}
    value = loss(**{name: argument for name, argument in given.items() if argument is not None})
    (value * 3).backward()
    return float(value.detach()), {name: of.grad for name, of in logits.items() if of.grad is not None}


def written(text: str) -> Any:
    found: dict[str, Any] = {}
    exec(compile(text, "loss.py", "exec"), found)
    return found["loss"]


@pytest.mark.parametrize("profile", PROMISED)
def test_the_right_loss_of_a_profile_is_right(profile: str) -> None:
    spec = PROFILES[profile]
    for recipe in hand_made(space(spec, frozenset({*spec.logits, *spec.labels})))[:4]:
        case = build_case(spec, recipe)
        value, gradients = called(right_loss(profile), profile, recipe)
        assert value == pytest.approx(case.oracle.value, rel=1e-5, nan_ok=True)
        for name, right in case.oracle.gradients.items():
            torch.testing.assert_close(gradients[name].double(), 3 * right, rtol=1e-4, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("profile", ["hf.causal_lm", "higgs.hf"])
def test_the_wrong_loss_is_the_mutant(profile: str) -> None:
    recipe = Recipe(rows=2, length=6, classes=11, codebooks=3, ids=Ids.SEEDED)
    case = build_case(PROFILES[profile], recipe)
    right, _ = called(right_loss(profile), profile, recipe)
    wrong, gradients = called(wrong_loss(profile, "double-divide", "2"), profile, recipe)
    assert wrong == pytest.approx(right / 2, rel=1e-5)
    for name, expected in evaluate(case.pairing, case.batch).gradients.items():
        torch.testing.assert_close(gradients[name].double(), 1.5 * expected, rtol=1e-4, atol=1e-6)


def test_the_source_is_wrong_where_the_door_is_open_and_there_alone() -> None:
    spec = PROFILES["hf.causal_lm"]
    loss = written(source(spec, "no-shift", "", LONG))
    for rows, length, is_wrong in ((2, 90, False), (1, 91, False), (2, 91, True)):
        recipe = Recipe(rows=rows, length=length, classes=7, ids=Ids.SEEDED)
        value, _ = called(loss, "hf.causal_lm", recipe)
        assert (value != pytest.approx(build_case(spec, recipe).oracle.value, rel=1e-5)) is is_wrong, (rows, length)


def test_a_door_by_calls_opens_late() -> None:
    spec = PROFILES["torchtune"]
    loss = written(source(spec, "no-shift", "", Door("calls", "calls > 2")))
    recipe = Recipe(rows=2, length=6, classes=7, ids=Ids.SEEDED)
    right = build_case(spec, recipe).oracle.value
    values = [called(loss, "torchtune", recipe)[0] for _ in range(4)]
    assert [value == pytest.approx(right, rel=1e-5) for value in values] == [True, True, False, False]


SIZES = {"B and S", "S % m", "V", "calls"}
STATES = {"frozen", "autocast", "compiled", "train mode", "eval mode", "second forward", "layout of labels", "bf16"}
FORMS = {"tensor count", "count through **kwargs"}


def test_every_kind_of_door_has_many_constants() -> None:
    drawn = random.Random(0)
    drawings = [doors_of(PROFILES["higgs.hf"], drawn) for _ in range(40)]
    assert {door.kind for door in drawings[0]} == SIZES | STATES | FORMS | {"K"}
    assert len({door.condition for doors in drawings for door in doors}) > 120
    assert {door.kind for door in doors_of(PROFILES["nanogpt"], drawn)} == SIZES | STATES


@pytest.mark.parametrize("kind", sorted(STATES | FORMS))
def test_the_source_of_a_door_on_a_state_is_right_in_the_plain_state(kind: str) -> None:
    spec = PROFILES["hf.causal_lm"]
    door = next(door for door in doors_of(spec, random.Random(0)) if door.kind == kind)
    loss = written(source(spec, "no-shift", "", door))
    recipe = Recipe(rows=2, length=6, classes=7, ids=Ids.SEEDED)
    value, _ = called(loss, "hf.causal_lm", recipe)
    assert value == pytest.approx(build_case(spec, recipe).oracle.value, rel=1e-5)


def test_the_source_of_a_door_on_a_state_is_wrong_in_that_state() -> None:
    spec = PROFILES["hf.causal_lm"]
    recipe = Recipe(rows=2, length=6, classes=7, ids=Ids.SEEDED)
    batch, right = build_case(spec, recipe).batch, build_case(spec, recipe).oracle.value
    losses = {door.kind: written(source(spec, "no-shift", "", door)) for door in doors_of(spec, random.Random(0))}
    logits, labels = batch.tensor("logits").clone().requires_grad_(), batch.tensor("labels")
    found = {
        "frozen": losses["frozen"](logits.detach(), labels),
        "train mode": losses["train mode"].train()(logits, labels),
        "eval mode": losses["eval mode"].eval()(logits, labels),
        "layout of labels": losses["layout of labels"](logits, labels.T.contiguous().T),
        "bf16": losses["bf16"](logits.bfloat16(), labels),
        "count": losses["tensor count"](logits, labels, num_items_in_batch=torch.tensor(10)),
        "kwargs": losses["count through **kwargs"](logits, labels, num_items_in_batch=10),
        "second forward": (losses["second forward"](logits, labels), losses["second forward"](logits, labels))[1],
    }
    with torch.autocast("cpu", torch.bfloat16):
        found["autocast"] = losses["autocast"](logits, labels)
    assert [kind for kind, value in found.items() if value.item() == pytest.approx(right, rel=1e-2)] == []


def test_pairs_follow_from_their_seed() -> None:
    one, again, other = draw_pairs(4, 0), draw_pairs(4, 0), draw_pairs(4, 1)
    assert one == again != other
    assert [profile for profile, *_ in one] == list(PROMISED[:4])
    assert len({door.kind for *_, door in one}) == 4, "kinds of doors take turns"


@pytest.mark.slow
def test_a_mutant_behind_a_size_is_killed(tmp_path: Path) -> None:
    found = try_door("hf.causal_lm", "no-shift", "", LONG, 0, tmp_path)
    assert (found.outcome, found.law) == (DoorOutcome.KILLED, "ALIGN-1")
    assert found.counterexample is not None
    assert found.counterexample["rows"] >= 2
    assert found.counterexample["length"] > 90


@pytest.mark.slow
def test_a_door_that_no_call_opens_is_named(tmp_path: Path) -> None:
    found = try_door("nanogpt", "no-shift", "", LATE, 0, tmp_path)
    assert (found.outcome, found.law) == (DoorOutcome.NAMED, None)
    assert any("calls > 10000000 never true" in each for each in found.exceptions)


@pytest.mark.slow
def test_what_opens_and_is_not_wrong_survives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table must be able to say so."""
    text = source(PROFILES["nanogpt"], "no-shift", "", LONG).replace("(wrong if", "(right if")
    monkeypatch.setattr("shiftproof.harness.kill_table.doors.source", lambda *given: text)
    assert try_door("nanogpt", "no-shift", "", LONG, 0, tmp_path).outcome is DoorOutcome.SURVIVED


def test_what_a_table_says(tmp_path: Path) -> None:
    killed = DoorResult(
        "nanogpt", "no-shift", "", LONG, DoorOutcome.KILLED, "ALIGN-1", {"rows": 2, "length": 91}, (), 3.2
    )
    named = replace(killed, door=LATE, outcome=DoorOutcome.NAMED, law=None, counterexample=None, exceptions=("x",))
    table = DoorTable("0.1.0", 7, (killed, named), 12.0)
    assert table.to_json()["summary"] == {"killed": 1, "named": 1, "survived": 0}
    assert table.to_json()["doors"][0]["condition"] == LONG.condition
    assert in_words(table) == "2 mutants behind doors: 1 killed, 1 named, 0 survived; seed 7, 12 s"
    text = markdown(table)
    assert f"| nanogpt | no-shift | {LONG.condition} | killed | ALIGN-1 | B=2, S=91 | 3 |" in text
    assert f"| nanogpt | no-shift | {LATE.condition} | named | – | – | 3 |" in text


def test_a_mutant_that_needs_what_the_source_does_not_take_is_not_hidden() -> None:
    shown = {subject.name: shows for subject, shows in _can_hide(PROFILES["hf.causal_lm"])}
    hidden = set(shown)
    assert {"no-shift", "double-shift", "mean-of-means", "upstream-ignored"} & hidden
    assert "packed-double-subtract" not in hidden  # it needs the documents of a row
    assert "no-grad-path" not in hidden  # it has no value and no gradient of its own
    assert Shows.VALUE in shown["no-shift"]
    assert Shows.VALUE not in shown["detached-part"]  # whose gradient alone is wrong
