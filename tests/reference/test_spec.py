"""Specs that contradict themselves are refused, with what to change; the nearest specs that do not are accepted."""

from __future__ import annotations

import math
import re
from dataclasses import FrozenInstanceError
from enum import StrEnum

import pytest

from shiftproof.reference.spec import (
    Denominator,
    Documents,
    Empty,
    Extra,
    LossSpec,
    LossTerm,
    Reduction,
    ShiftedBy,
    SpecError,
    Tail,
)


@pytest.mark.parametrize(
    ("fields", "found", "change"),
    [
        pytest.param({"shift": -1}, "shift is -1", "use shift >= 0", id="negative shift"),
        pytest.param(
            {"shift": -1, "shifted_by": ShiftedBy.DATA}, "shift is -1", "use shift >= 0", id="negative shift by data"
        ),
        pytest.param(
            {"shift": 0},
            "shift is 0, yet shifted_by says that the loss shifts",
            "use shift >= 1, or shifted_by=data or inputs",
            id="the loss shifts by nothing",
        ),
        pytest.param(
            {"extra": Extra.SUFFIX, "shift": 1},
            "shift is 1: that shifts twice",
            "use shift=0 with shifted_by=data",
            id="labels cut short and shifted",
        ),
        pytest.param(
            {"accepts_shift_labels": True, "shift": 0, "shifted_by": ShiftedBy.DATA},
            "accepts_shift_labels needs a loss that shifts by itself",
            "drop it, or use shift >= 1",
            id="shift_labels for a loss that does not shift",
        ),
        pytest.param(
            {"reduction": Reduction.SUM},
            "reduction=sum divides by nothing, and denominator is valid",
            "use denominator=one, or reduction=mean",
            id="a sum with a denominator",
        ),
        pytest.param(
            {"reduction": Reduction.NONE, "denominator": Denominator.NUM_ITEMS},
            "reduction=none divides by nothing, and denominator is num_items",
            "use denominator=one, or reduction=mean",
            id="per token with a denominator",
        ),
        pytest.param(
            {"denominator": Denominator.WEIGHTS},
            "denominator=weights without weights",
            "set token_weights=True, or use denominator=valid",
            id="weights that are not there",
        ),
        pytest.param(
            {"ignored_ids": (5, -100)}, "-100 is both ignore_index and in ignored_ids", "name it once", id="named twice"
        ),
        pytest.param({"clamp": 0.0}, "clamp is 0.0", "must be above 0, or None", id="clamp at zero"),
        pytest.param({"clamp": -1.0}, "clamp is -1.0", "must be above 0, or None", id="clamp below zero"),
        pytest.param({"clamp": math.nan}, "clamp is nan", "must be above 0, or None", id="clamp at NaN"),
        pytest.param({"epsilon": -1e-8}, "epsilon is -1e-08", "cannot be negative", id="negative epsilon"),
        pytest.param({"epsilon": math.nan}, "epsilon is nan", "cannot be negative", id="epsilon NaN"),
        pytest.param({"shift": 1.0}, "shift is 1.0", "expected a whole number of positions", id="a fractional shift"),
        *(
            pytest.param(
                {"accepts_shift_labels": True, **fields},
                "accepts_shift_labels together with loss_mask, token_weights or documents",
                "use one or the other",
                id=f"shift_labels and {next(iter(fields))}",
            )
            for fields in ({"loss_mask": True}, {"token_weights": True}, {"documents": Documents.POSITION_IDS})
        ),
        *(
            pytest.param(
                {"reduction": reduction, "denominator": Denominator.ONE, **fields},
                f"reduction={reduction} divides by nothing that clamp or epsilon could guard",
                "drop them",
                id=f"{reduction} with {next(iter(fields))}",
            )
            for reduction in (Reduction.SUM, Reduction.NONE)
            for fields in ({"clamp": 4.0}, {"epsilon": 1.0})
        ),
    ],
)
def test_a_contradiction_is_refused_with_what_to_change(fields, found, change):
    with pytest.raises(SpecError, match=f"(?s){re.escape(found)}.*{re.escape(change)}"):
        LossTerm(**fields)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("shifted_by", ShiftedBy),
        ("tail", Tail),
        ("documents", Documents),
        ("extra", Extra),
        ("reduction", Reduction),
        ("denominator", Denominator),
        ("empty", Empty),
    ],
)
def test_a_word_is_one_of_those_that_the_field_knows(name, kind):
    with pytest.raises(SpecError, match=f"{name}: 'sideways' is not .*; it is one of {', '.join(kind)}$"):
        LossTerm(**{name: "sideways"})


def test_plain_words_become_what_they_mean():
    term = LossTerm(shift=0, shifted_by="data", tail="trim", reduction="sum", denominator="one", empty="zero")
    assert (term.shifted_by, term.tail, term.empty) == (ShiftedBy.DATA, Tail.TRIM, Empty.ZERO)
    assert all(isinstance(each, StrEnum) for each in (term.shifted_by, term.tail, term.reduction, term.empty))
    assert LossTerm(tail="ignore") == LossTerm()


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({}, id="the default"),
        pytest.param({"shift": 3}, id="a far shift"),
        pytest.param({"shift": 0, "shifted_by": ShiftedBy.DATA}, id="shifted by the data"),
        pytest.param({"shift": 0, "shifted_by": ShiftedBy.INPUTS}, id="shifted by the inputs"),
        pytest.param({"shift": 1, "shifted_by": ShiftedBy.DATA}, id="one further than the data"),
        pytest.param({"extra": Extra.SUFFIX, "shift": 0, "shifted_by": ShiftedBy.DATA}, id="labels cut short"),
        pytest.param({"extra": Extra.PREFIX}, id="prefix and shift"),
        pytest.param({"accepts_shift_labels": True}, id="shift_labels"),
        pytest.param({"reduction": Reduction.SUM, "denominator": Denominator.ONE}, id="sum"),
        pytest.param({"reduction": Reduction.NONE, "denominator": Denominator.ONE, "tail": Tail.TRIM}, id="per token"),
        pytest.param({"denominator": Denominator.ONE}, id="mean over one"),
        pytest.param({"denominator": Denominator.WEIGHTS, "token_weights": True}, id="by token weights"),
        pytest.param({"denominator": Denominator.WEIGHTS, "loss_mask": True}, id="by the mask"),
        pytest.param({"ignored_ids": (5, 6)}, id="further ids ignored"),
        pytest.param({"ignore_index": None, "ignored_ids": (-100,)}, id="only ids ignored"),
        pytest.param({"clamp": 1e-9, "epsilon": 0.0}, id="the smallest clamp"),
        pytest.param({"documents": Documents.CU_SEQLENS, "shift": 0, "shifted_by": ShiftedBy.DATA}, id="packed"),
    ],
)
def test_a_spec_that_does_not_contradict_itself_is_accepted(fields):
    term = LossTerm(**fields)
    assert {name: getattr(term, name) for name in fields} == fields


def test_the_default_term_is_next_token_mean():
    assert LossTerm() == LossTerm(
        name="text",
        weight=1.0,
        shift=1,
        shifted_by=ShiftedBy.LOSS,
        tail=Tail.IGNORE,
        ignore_index=-100,
        reduction=Reduction.MEAN,
        denominator=Denominator.VALID,
    )


def test_a_term_takes_its_fields_by_name_only():
    with pytest.raises(TypeError, match="positional"):
        LossTerm("text")


def test_a_term_is_frozen():
    with pytest.raises(FrozenInstanceError):
        LossTerm().shift = 2


def test_a_spec_is_frozen():
    spec = LossSpec("mine", (LossTerm(),), "Σ ℓ", "here")
    with pytest.raises(FrozenInstanceError):
        spec.terms = ()


def test_specs_are_values():
    one, other = (LossSpec("mine", (LossTerm(ignored_ids=(3,)),), "Σ ℓ", "here") for _ in range(2))
    assert one == other
    assert len({one, other}) == 1


def test_a_spec_without_terms_is_refused():
    with pytest.raises(SpecError, match="spec 'mine' has no terms; give at least one LossTerm"):
        LossSpec("mine", (), "", "")


def test_two_terms_of_one_name_are_refused():
    with pytest.raises(SpecError, match=r"spec 'mine' has two terms of one name: \['text', 'depth', 'text'\]; rename"):
        LossSpec("mine", (LossTerm(), LossTerm(name="depth"), LossTerm(shift=2)), "", "")


def test_terms_of_different_reductions_are_refused():
    terms = (LossTerm(), LossTerm(name="depth", reduction=Reduction.SUM, denominator=Denominator.ONE))
    with pytest.raises(SpecError, match="spec 'mine' adds terms of different reductions; give all of them the same"):
        LossSpec("mine", terms, "", "")


def test_two_terms_of_different_names_are_accepted():
    spec = LossSpec("mine", (LossTerm(), LossTerm(name="next but one", shift=2)), "", "")
    assert [term.shift for term in spec.terms] == [1, 2]


def test_a_spec_error_is_a_value_error():
    assert issubclass(SpecError, ValueError)
