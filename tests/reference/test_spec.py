"""Specs that contradict themselves are refused, with what to change; the nearest specs that do not are accepted."""

from __future__ import annotations

import math
import re
from dataclasses import FrozenInstanceError
from enum import StrEnum

import pytest

from shiftproof.reference.spec import (
    Axis,
    Combine,
    Compute,
    Denominator,
    Documents,
    Empty,
    Extra,
    Heads,
    LossSpec,
    LossTerm,
    Reduction,
    Score,
    ShiftedBy,
    Smoothing,
    SpecError,
    Tail,
)

BOOKS = {"heads": Heads.CODEBOOKS}
AHEAD = {"heads": Heads.AHEAD}
AUDIO = {"logits": "audio_logits", "labels": "audio_labels", **BOOKS}
BY_INPUTS = {"shift": 0, "shifted_by": ShiftedBy.INPUTS}


@pytest.mark.parametrize(
    ("fields", "found", "change"),
    [
        pytest.param({"shift": -1}, "shift is -1", "use shift >= 0", id="negative shift"),
        pytest.param(
            {"shift": -1, "shifted_by": ShiftedBy.DATA}, "shift is -1", "use shift >= 0", id="negative shift by data"
        ),
        pytest.param(
            {"shift": 0},
            "shift is 0, but shifted_by says that the loss shifts",
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
            "reduction=sum divides by nothing, but denominator is valid",
            "use denominator=one, or reduction=mean",
            id="a sum with a denominator",
        ),
        pytest.param(
            {"reduction": Reduction.NONE, "denominator": Denominator.NUM_ITEMS},
            "reduction=none divides by nothing, but denominator is num_items",
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
        pytest.param({"clamp": math.inf}, "clamp is inf", "must be above 0, or None", id="clamp at infinity"),
        pytest.param(
            {"epsilon": math.inf}, "epsilon is inf", "expected a finite number from 0 up", id="infinite epsilon"
        ),
        pytest.param(
            {"epsilon": -1e-8}, "epsilon is -1e-08", "expected a finite number from 0 up", id="negative epsilon"
        ),
        pytest.param({"epsilon": math.nan}, "epsilon is nan", "expected a finite number from 0 up", id="epsilon NaN"),
        pytest.param({"shift": 1.0}, "shift is 1.0", "expected a whole number of positions", id="a fractional shift"),
        pytest.param({"shift": True}, "shift is True", "expected a whole number of positions", id="a yes for a shift"),
        *(
            pytest.param({"weight": weight}, f"weight is {weight}", "expected a finite factor", id=f"lambda {weight}")
            for weight in (math.nan, math.inf, -math.inf)
        ),
        pytest.param(
            {"logits": "speech_logits"},
            "logits is 'speech_logits'",
            "expected one of logits, audio_logits, depth_logits, mtp_logits",
            id="logits of no name",
        ),
        pytest.param(
            {"labels": "shift_labels"}, "labels is 'shift_labels'", "expected one of labels, audio_labels", id="labels"
        ),
        *(
            pytest.param(
                {**AUDIO, **fields},
                "loss_mask, token_weights and documents are aligned with labels, but this term reads audio_labels",
                "drop them, or score labels",
                id=f"{next(iter(fields))} of another stream",
            )
            for fields in ({"loss_mask": True}, {"token_weights": True}, {"documents": Documents.SEGMENT_IDS})
        ),
        pytest.param(
            {**AUDIO, "stops_at_eos": True},
            "stops_at_eos reads input_ids, which are aligned with labels, not audio_labels",
            "drop it",
            id="eos inputs of another stream",
        ),
        *(
            pytest.param(
                {"stops_at_eos": True, "heads": heads},
                f"stops_at_eos needs one input id per row of logits, which heads={heads} does not have",
                "drop it, or use heads=one or codebooks",
                id=f"eos inputs of heads={heads}",
            )
            for heads in (Heads.FIRST, Heads.AHEAD)
        ),
        pytest.param(
            {"accepts_shift_labels": True, "labels": "audio_labels", "heads": Heads.FIRST},
            "shift_labels replace labels, but this term reads audio_labels",
            "drop accepts_shift_labels",
            id="shift_labels of another stream",
        ),
        *(
            pytest.param(
                {"accepts_shift_labels": True, "heads": heads},
                "accepts_shift_labels is for one head",
                "drop it, or use heads=one",
                id=f"shift_labels of heads={heads}",
            )
            for heads in (Heads.CODEBOOKS, Heads.AHEAD)
        ),
        *(
            pytest.param(
                {"axis": Axis.CODEBOOK, **fields},
                f"axis=codebook shifts from one codebook to a later one, but {found}",
                "use heads=codebooks with shift >= 1, or axis=time",
                id=f"along codebooks with {found}",
            )
            for fields, found in (
                ({}, "heads=one, shift=1"),
                ({"heads": Heads.FIRST}, "heads=first, shift=1"),
                (AHEAD, "heads=ahead, shift=1"),
                ({**BOOKS, **BY_INPUTS}, "heads=codebooks, shift=0"),
            )
        ),
        pytest.param(
            {"axis": Axis.CODEBOOK, "extra": Extra.PREFIX, **BOOKS},
            "axis=codebook has a logit row for every frame",
            "drop extra",
            id="along codebooks behind a prefix",
        ),
        *(
            pytest.param(
                {"axis": Axis.CODEBOOK, "codebooks": books, "shift": shift, **BOOKS},
                f"a shift of {shift} along {books} codebooks leaves nothing to score",
                "use a smaller shift, or more codebooks",
                id=f"{shift} along {books}",
            )
            for books, shift in ((1, 1), (4, 4), (4, 5))
        ),
        pytest.param({"codebooks": 0, **BOOKS}, "codebooks is 0", "expected at least 1, or None", id="no codebooks"),
        pytest.param(
            {"codebooks": 8},
            "codebooks is 8, but heads=one has none",
            "drop it, or use heads=codebooks",
            id="codebooks of one head",
        ),
        pytest.param(
            {"codebook_weights": (1.0,) * 8, "combine": Combine.WEIGHTED_MEAN, "codebooks": 4, **BOOKS},
            "there are 8 codebook_weights, but codebooks is 4",
            "give one weight per codebook",
            id="eight weights for four codebooks",
        ),
        *(
            pytest.param(
                {"combine": combine, "heads": heads},
                f"heads={heads} has one head, but combine={combine}, codebook_weights=False are for several",
                "use heads=codebooks, or drop them",
                id=f"combine={combine} of heads={heads}",
            )
            for combine in (Combine.MEAN, Combine.MEAN_NONEMPTY, Combine.SUM, Combine.WEIGHTED_MEAN)
            for heads in (Heads.ONE, Heads.FIRST)
        ),
        pytest.param(
            {"codebook_weights": True},
            "heads=one has one head, but combine=flat, codebook_weights=True are for several",
            "use heads=codebooks, or drop them",
            id="codebook weights of one head",
        ),
        pytest.param(
            {"combine": Combine.WEIGHTED_MEAN, **BOOKS},
            "combine=weighted_mean without weights",
            "set codebook_weights=True, or give one weight per codebook",
            id="a weighted mean without weights",
        ),
        *(
            pytest.param(
                {"combine": combine, "codebook_weights": True, **BOOKS},
                f"combine={combine} weighs all codebooks alike",
                "drop codebook_weights, or use sum",
                id=f"weights under combine={combine}",
            )
            for combine in (Combine.MEAN, Combine.MEAN_NONEMPTY)
        ),
        *(
            pytest.param(
                {"codebook_weights": weights, **BOOKS},
                f"codebook_weights are {weights}",
                "expected finite numbers from 0 up",
                id=f"weights {weights}",
            )
            for weights in ((1.0, -1.0), (1.0, math.nan), (math.inf, 1.0))
        ),
        pytest.param(
            {"codebook_weights": (0.0, 0.0), **BOOKS},
            "codebook_weights are all 0: nothing would be trained",
            "give one above 0",
            id="weights of zero",
        ),
        *(
            pytest.param(
                {"reduction": Reduction.NONE, "denominator": Denominator.ONE, "heads": heads},
                f"reduction=none over heads={heads} is not supported",
                "use mean or sum",
                id=f"per token of heads={heads}",
            )
            for heads in (Heads.CODEBOOKS, Heads.AHEAD)
        ),
        pytest.param(
            {"denominator": Denominator.WEIGHTS, "codebook_weights": True, "combine": Combine.SUM, **BOOKS},
            "denominator=weights without weights",
            "set token_weights=True, or use denominator=valid",
            id="weights of codebooks are none of their tokens",
        ),
        pytest.param(
            {"denominator": Denominator.POSITIONS, "tail": Tail.TRIM, **AHEAD},
            "denominator=positions counts the positions that are left, but under tail=trim each of heads=ahead",
            "use tail=ignore, or denominator=valid",
            id="trimmed positions of heads ahead",
        ),
        pytest.param(
            {"denominator": Denominator.CLASS_WEIGHTS},
            "denominator=class_weights without class weights",
            "set class_weights=True in score, or use denominator=valid",
            id="class weights that are not there",
        ),
        pytest.param({"classes": 0}, "classes is 0", "expected at least 1, or None", id="no classes"),
        pytest.param(
            {"classes": 1, "score": Score(label_smoothing=0.1, smoothing_over=Smoothing.OTHERS)},
            "label smoothing over the classes that are not the target needs one, but classes is 1",
            "use smoothing_over=all, or more classes",
            id="smoothing over the others of one class",
        ),
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
        ("heads", Heads),
        ("axis", Axis),
        ("combine", Combine),
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
    term = LossTerm(heads="codebooks", axis="codebook", combine="sum", extra="none", documents="none")
    assert (term.heads, term.axis, term.combine) == (Heads.CODEBOOKS, Axis.CODEBOOK, Combine.SUM)
    assert all(isinstance(getattr(term, name), StrEnum) for name in ("heads", "axis", "combine", "extra", "documents"))
    assert Score(smoothing_over="others").smoothing_over is Smoothing.OTHERS
    assert LossSpec("mine", (LossTerm(),), "", "", compute="native").compute is Compute.NATIVE


@pytest.mark.parametrize(
    ("make", "name", "kind"),
    [
        (lambda: Score(smoothing_over="sideways"), "smoothing_over", Smoothing),
        (lambda: LossSpec("mine", (LossTerm(),), "", "", compute="sideways"), "compute", Compute),
    ],
)
def test_a_word_of_a_score_or_a_spec_is_one_of_those_that_the_field_knows(make, name, kind):
    with pytest.raises(SpecError, match=f"{name}: 'sideways' is not .*; it is one of {', '.join(kind)}$"):
        make()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        *(
            ({"label_smoothing": epsilon}, f"label_smoothing is {epsilon}; expected at least 0 and below 1")
            for epsilon in (-0.1, 1.0, math.nan)
        ),
        *(
            ({"z_loss": factor}, f"z_loss is {factor}; expected a finite factor of at least 0")
            for factor in (-1e-4, math.inf, math.nan)
        ),
        *(
            ({"softcap": cap}, f"softcap is {cap}; expected a finite limit above 0, or None for no limit")
            for cap in (0.0, -30.0, math.inf, math.nan)
        ),
        *(
            ({"logit_scale": scale}, f"logit_scale is {scale}; expected a finite factor above 0")
            for scale in (0.0, -1.0, math.inf, math.nan)
        ),
        *(
            ({"dft": True, **fields}, "dft weighs a hard target by its probability; drop label_smoothing and z_loss")
            for fields in ({"label_smoothing": 0.1}, {"z_loss": 1e-4})
        ),
    ],
)
def test_a_score_out_of_its_range_is_refused(fields, message):
    with pytest.raises(SpecError, match=re.escape(message)):
        Score(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"label_smoothing": 0.999},
        {"smoothing_over": Smoothing.OTHERS},
        {"dft": True, "softcap": 30.0, "logit_scale": 0.5, "class_weights": True},
        {"label_smoothing": 0.1, "z_loss": 1e-4, "softcap": 1e-9, "logit_scale": 1e-9},
    ],
)
def test_a_score_within_its_range_is_accepted(fields):
    score = Score(**fields)
    assert {name: getattr(score, name) for name in fields} == fields
    assert not score.is_plain
    assert Score().is_plain


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
        pytest.param({"weight": 0.0}, id="a term that is watched, not trained"),
        pytest.param({"weight": -0.5}, id="a term that is subtracted"),
        pytest.param({"heads": Heads.FIRST, "codebooks": 8}, id="the first of eight"),
        pytest.param({"axis": Axis.CODEBOOK, "codebooks": 2, **BOOKS}, id="along two codebooks"),
        pytest.param({"axis": Axis.CODEBOOK, **BOOKS}, id="along any codebooks"),
        pytest.param({"extra": Extra.PREFIX, **BOOKS, **BY_INPUTS}, id="codebooks behind a prefix"),
        pytest.param(
            {"stops_at_eos": True, "ignores_bos": True, "sentinel": True, **BOOKS}, id="three kinds of ignored"
        ),
        pytest.param({"stops_at_eos": True}, id="eos inputs of text"),
        pytest.param({"codebook_weights": (0.0, 1.0), **BOOKS}, id="a codebook that weighs nothing"),
        pytest.param(
            {"codebook_weights": (1.0, 2.0), "combine": Combine.WEIGHTED_MEAN, "codebooks": 2, **BOOKS},
            id="two weights",
        ),
        pytest.param({"codebook_weights": True, "combine": Combine.SUM, **AHEAD}, id="weighted heads"),
        pytest.param({"codebook_weights": True, "denominator": Denominator.WEIGHTS, **BOOKS}, id="by codebook weights"),
        pytest.param({"loss_mask": True, "token_weights": True, **AHEAD}, id="masked heads"),
        pytest.param({"denominator": Denominator.POSITIONS, **AHEAD}, id="positions of heads"),
        pytest.param(
            {"denominator": Denominator.CLASS_WEIGHTS, "score": Score(class_weights=True)}, id="by class weights"
        ),
        pytest.param({"classes": 1, "score": Score(label_smoothing=0.1)}, id="smoothing over one class"),
        pytest.param(
            {"classes": 2, "score": Score(label_smoothing=0.1, smoothing_over=Smoothing.OTHERS)}, id="one other class"
        ),
        pytest.param({"accepts_shift_labels": True, "heads": Heads.FIRST}, id="shift_labels of the first codebook"),
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
    with pytest.raises(
        SpecError, match=r"spec 'mine' has two terms with the same name: \['text', 'depth', 'text'\]; rename"
    ):
        LossSpec("mine", (LossTerm(), LossTerm(name="depth"), LossTerm(shift=2)), "", "")


def test_terms_of_different_reductions_are_refused():
    terms = (LossTerm(), LossTerm(name="depth", reduction=Reduction.SUM, denominator=Denominator.ONE))
    with pytest.raises(SpecError, match="spec 'mine' adds terms of different reductions; give all of them the same"):
        LossSpec("mine", terms, "", "")


def test_two_terms_of_different_names_are_accepted():
    spec = LossSpec("mine", (LossTerm(), LossTerm(name="next but one", shift=2)), "", "")
    assert [term.shift for term in spec.terms] == [1, 2]


def test_terms_of_reduction_none_are_not_added():
    per_token = {"reduction": Reduction.NONE, "denominator": Denominator.ONE}
    with pytest.raises(SpecError, match=r"spec 'mine' adds terms of reduction none.*; use one term"):
        LossSpec("mine", (LossTerm(**per_token), LossTerm(name="depth", **per_token)), "", "")


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        (
            (LossTerm(), LossTerm(name="depth", logits="depth_logits", **BOOKS)),
            "spec 'mine' reads labels both as b s and as b s k; give one of the terms another argument",
        ),
        (
            (LossTerm(), LossTerm(name="audio", labels="audio_labels", **BOOKS)),
            "spec 'mine' reads logits both as b s v and as b s k v; give one of the terms another argument",
        ),
    ],
)
def test_an_argument_has_the_same_axes_in_every_term(terms, message):
    with pytest.raises(SpecError, match=message):
        LossSpec("mine", terms, "", "")


TWO_STREAMS = (LossTerm(), LossTerm(name="audio", **AUDIO))


@pytest.mark.parametrize(
    ("layouts", "message"),
    [
        (
            (("depth_logits", "b s k v"),),
            "lays out 'depth_logits', which no term reads; it has logits, labels, audio_logits, audio_labels",
        ),
        ((("logits", "b s k v"),), "lays out logits as 'b s k v'; expected the axes b s v, each once"),
        ((("labels", "b s k"),), "lays out labels as 'b s k'; expected the axes b s, each once"),
        ((("audio_labels", "k s"),), "lays out audio_labels as 'k s'; expected the axes b s k, each once"),
        ((("audio_labels", "b k s s"),), "lays out audio_labels as 'b k s s'; expected the axes b s k, each once"),
        ((("audio_logits", "b s t v"),), "lays out audio_logits as 'b s t v'; expected the axes b s k v, each once"),
        ((("audio_logits", "bs k v"),), "lays out audio_logits as 'bs k v'; expected the axes b s k v, each once"),
        ((("audio_logits", "(b s k v"),), "lays out audio_logits as '(b s k v'; expected the axes b s k v, each once"),
        ((("logits", "b s v"), ("logits", "(b s) v")), "lays out an argument twice"),
    ],
)
def test_a_layout_that_does_not_fit_is_refused(layouts, message):
    with pytest.raises(SpecError, match=re.escape(f"spec 'mine' {message}")):
        LossSpec("mine", TWO_STREAMS, "", "", layouts)


def test_a_spec_names_what_it_reads_and_how_each_is_laid_out():
    layouts = (("audio_logits", "(b s) k v"), ("audio_labels", "k (b s)"))
    spec = LossSpec("mine", TWO_STREAMS, "", "", layouts)
    assert spec.logits == ("logits", "audio_logits")
    assert spec.labels == ("labels", "audio_labels")
    assert {name: spec.axes_of(name) for name in (*spec.logits, *spec.labels)} == {
        "logits": "b s v",
        "labels": "b s",
        "audio_logits": "b s k v",
        "audio_labels": "b s k",
    }
    assert [spec.layout_of(name) for name in (*spec.logits, *spec.labels)] == ["b s v", "(b s) k v", "b s", "k (b s)"]


def test_an_argument_that_two_terms_read_is_named_once():
    terms = (LossTerm(heads=Heads.FIRST), LossTerm(name="depth", logits="depth_logits", axis=Axis.CODEBOOK, **BOOKS))
    spec = LossSpec("mine", terms, "", "")
    assert spec.logits == ("logits", "depth_logits")
    assert spec.labels == ("labels",)
    assert spec.axes_of("labels") == "b s k"


def test_heads_ahead_have_an_axis_that_their_labels_have_not():
    spec = LossSpec("mine", (LossTerm(logits="mtp_logits", **AHEAD),), "", "")
    assert (spec.axes_of("mtp_logits"), spec.axes_of("labels")) == ("b s k v", "b s")


def test_a_spec_error_is_a_value_error():
    assert issubclass(SpecError, ValueError)
