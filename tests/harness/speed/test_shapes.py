"""Shapes by name and by number, and the batches that they become."""

from __future__ import annotations

import pytest

from shiftproof.harness.candidates.declaration import UsageError
from shiftproof.harness.cases.build import build_batch, logits_shape
from shiftproof.harness.speed.shapes import SHAPES, Shape, find_shape, recipe_of, smaller, usual_shapes
from shiftproof.reference.profiles import PROFILES


def test_a_shape_by_its_name() -> None:
    assert find_shape("audio") == Shape("audio", 2, 1500, 1026, codebooks=8)


@pytest.mark.parametrize(("text", "shape"), [("2,3,5", (2, 3, 5, 1)), ("2,3,7,5", (2, 3, 5, 7))])
def test_a_users_own_shape(text: str, shape: tuple[int, ...]) -> None:
    found = find_shape(text)
    assert (found.rows, found.length, found.classes, found.codebooks) == shape


@pytest.mark.parametrize("text", ["2,3", "2,3,4,5,6", "2,0,5", "2, 3, 5", "-2,3,5", ""])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no shape is called"):
        find_shape(text)


def test_a_misspelt_shape_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'audio'"):
        find_shape("adio")


@pytest.mark.parametrize(
    ("spec", "device", "names"),
    [
        ("hf.causal_lm", "cpu", ["text"]),
        ("hf.causal_lm", "cuda", ["text", "text-128k", "text-152k"]),
        ("musicgen", "cpu", ["audio"]),
        ("packed.position_ids", "cpu", ["packed"]),
    ],
)
def test_usual_shapes(spec: str, device: str, names: list[str]) -> None:
    assert [shape.name for shape in usual_shapes(PROFILES[spec], device)] == names


@pytest.mark.parametrize(
    ("spec", "shape", "logits"),
    [
        ("hf.causal_lm", "text", {"logits": (2, 1024, 32000)}),
        ("musicgen", "audio", {"logits": (2, 1500, 8, 1026)}),
        ("higgs.hf", "audio", {"logits": (2, 1500, 1024), "audio_logits": (2, 1500, 8, 1026)}),
        ("higgs.text", "text", {"logits": (2, 1024, 32000)}),  # labels are one shorter
    ],
)
def test_logits_have_the_shape_that_was_named(spec: str, shape: str, logits: dict[str, tuple[int, ...]]) -> None:
    recipe = recipe_of(PROFILES[spec], SHAPES[shape], "float32", 0)
    assert {name: logits_shape(PROFILES[spec], name, recipe) for name in logits} == logits


@pytest.mark.parametrize(
    ("spec", "shape", "said"), [("hf.causal_lm", "audio", "B,S,V"), ("musicgen", "text", "B,S,K,V")]
)
def test_codebooks_and_spec_must_agree(spec: str, shape: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        recipe_of(PROFILES[spec], SHAPES[shape], "float32", 0)


def test_packed_rows_hold_documents() -> None:
    spec = PROFILES["packed.position_ids"]
    batch = build_batch(spec, recipe_of(spec, SHAPES["packed"], "float32", 0))
    assert batch.position_ids is not None
    assert int((batch.position_ids == 0).sum()) == 2 * 8


def test_a_batch_that_counts_items_is_given_their_number() -> None:
    spec = PROFILES["torchtitan"]
    assert build_batch(spec, recipe_of(spec, Shape("own", 2, 8, 11), "float32", 0)).num_items_in_batch


def test_smaller_shapes() -> None:
    assert smaller(SHAPES["audio"], "T", 4).length == 375
    assert smaller(SHAPES["audio"], "V", 2).classes == 513
    assert smaller(SHAPES["audio"], "K", 8).codebooks == 1
    assert smaller(Shape("own", 1, 2, 3), "T", 4).length == 1
