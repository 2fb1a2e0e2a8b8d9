"""Matching a candidate's parameters with what a case can give."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

from shiftproof.harness.candidates.arguments import (
    ALIASES,
    ARGUMENTS,
    Binding,
    UnknownArgument,
    bind,
    lay_back,
    lay_out,
    misfit,
    values_for,
)
from shiftproof.harness.candidates.values import parse_names
from shiftproof.harness.cases.build import build_case
from shiftproof.harness.cases.recipe import Count, Recipe, ShiftLabels
from shiftproof.reference.batch import Batch
from shiftproof.reference.profiles import PROFILES
from shiftproof.reference.spec import Extra

REQUIRED, OPTIONAL = True, False
RECIPE = Recipe(2, 3, 5)


def binding(*names: str, required: bool = REQUIRED) -> Binding:
    return bind("m:f", [(name, required) for name in names], {})


def test_names_of_ours_are_taken_as_they_are_and_in_order() -> None:
    bound = bind("m:f", [("labels", REQUIRED), ("logits", REQUIRED), ("vocab_size", OPTIONAL)], {})
    assert list(bound.names.items()) == [("labels", "labels"), ("logits", "logits"), ("vocab_size", "vocab_size")]
    assert bound.required == {"labels", "logits"}
    assert bound.takes("vocab_size")
    assert not bound.takes("num_items_in_batch")


@pytest.mark.parametrize(
    ("alias", "ours"),
    [("input", "logits"), ("target", "labels"), ("targets", "labels"), ("medusa_logits", "mtp_logits")],
)
def test_well_known_names_mean_the_same(alias: str, ours: str) -> None:
    other = "logits" if ours == "labels" else "labels"
    assert binding(alias, other).names == {ours: alias, other: other}


def test_a_rename_comes_before_name_and_alias() -> None:
    bound = bind(
        "m:f",
        [("text_logits", REQUIRED), ("labels", OPTIONAL), ("y", REQUIRED)],
        {"logits": "text_logits", "labels": "y"},
    )
    assert bound.names == {"logits": "text_logits", "labels": "y"}
    assert bound.required == {"logits", "labels"}


def test_a_name_of_ours_comes_before_an_alias() -> None:
    bound = bind("m:f", [("logits", REQUIRED), ("labels", REQUIRED), ("targets", OPTIONAL)], {})
    assert bound.names == {"logits": "logits", "labels": "labels"}


def test_two_arguments_cannot_be_renamed_to_one_parameter() -> None:
    with pytest.raises(UnknownArgument, match="maps two arguments to one parameter of m:f; give each its own"):
        bind("m:f", [("x", REQUIRED)], {"logits": "x", "labels": "x"})


def test_an_unknown_parameter_that_is_required_names_the_nearest() -> None:
    with pytest.raises(
        UnknownArgument, match=r"^m:f requires 'logit', .* \(did you mean 'logits'\?\); .*list arguments"
    ):
        binding("logit", "labels")


def test_an_unknown_parameter_near_to_none_gets_no_hint() -> None:
    with pytest.raises(UnknownArgument, match="requires 'zzz'") as caught:
        binding("logits", "labels", "zzz")
    assert "did you mean" not in str(caught.value)


def test_an_unknown_parameter_with_a_default_is_left_alone() -> None:
    bound = bind("m:f", [("logits", REQUIRED), ("labels", REQUIRED), ("label_smoothing_typo", OPTIONAL)], {})
    assert set(bound.names) == {"logits", "labels"}


def test_a_candidate_that_asks_for_neither_logits_nor_labels_is_no_loss() -> None:
    with pytest.raises(UnknownArgument, match=r"neither logits nor labels \(its parameters: reduction, vocab_size\)"):
        binding("vocab_size", "reduction")
    with pytest.raises(UnknownArgument, match="its parameters: none"):
        binding()


@pytest.mark.parametrize("only", ["logits", "labels"])
def test_one_of_the_two_will_do(only: str) -> None:
    assert binding(only).names == {only: only}


def test_a_rename_of_no_argument_of_ours_names_the_nearest() -> None:
    with pytest.raises(UnknownArgument, match=r"rename of 'label': .* \(did you mean 'labels'\?\)"):
        bind("m:f", [("logits", REQUIRED)], {"label": "logits"})


def test_a_rename_to_no_parameter_of_theirs_names_the_nearest() -> None:
    with pytest.raises(UnknownArgument, match=r"rename logits = 'xlogit': m:f has no .* \(did you mean 'xlogits'\?\)"):
        bind("m:f", [("xlogits", REQUIRED)], {"logits": "xlogit"})


def test_a_candidate_that_accepts_any_keyword_can_be_renamed_to_any() -> None:
    bound = bind("m:f", [("logits", REQUIRED)], {"labels": "anything"}, accepts_any_keyword=True)
    assert bound.names == {"logits": "logits", "labels": "anything"}


def test_arguments_are_the_batchs_fields_and_a_few_constants() -> None:
    assert set(ARGUMENTS) - {field.name for field in fields(Batch)} == {
        *("hidden_states", "lm_head_weight", "lm_head_bias"),
        *("vocab_size", "audio_vocab_size", "num_codebooks"),
        *("ignore_index", "reduction", "label_smoothing", "lse_square_scale", "softcap", "logit_scale"),
    }
    assert {field.name for field in fields(Batch)} <= set(ARGUMENTS)
    assert all(name == argument.name and argument.meaning for name, argument in ARGUMENTS.items())
    assert set(ALIASES.values()) <= set(ARGUMENTS)
    assert not set(ALIASES) & set(ARGUMENTS)


def test_values_come_under_the_candidates_own_names() -> None:
    case = build_case(PROFILES["hf.causal_lm"], RECIPE)
    bound = bind("m:f", [("input", REQUIRED), ("y", REQUIRED), ("vocab_size", REQUIRED)], {"labels": "y"})
    tensors, scalars = values_for(case, bound)
    assert tensors == {"input": case.batch.logits, "y": case.batch.labels}
    assert scalars == {"vocab_size": 5}


@pytest.mark.parametrize("name", [name for name, a in ARGUMENTS.items() if "[B, S" in a.meaning or "labels" in name])
def test_a_flat_spec_flattens_rows_into_one(name: str) -> None:
    recipe = Recipe(2, 3, 5)
    flat, _ = values_for(build_case(PROFILES["liger"], recipe), binding("logits", "labels", name))
    deep, _ = values_for(build_case(PROFILES["preshifted"], recipe), binding("logits", "labels", name))
    assert flat.keys() == deep.keys()
    if name in deep:
        assert flat[name].shape == (6, *deep[name].shape[2:])
        assert torch.equal(flat[name].reshape(deep[name].shape), deep[name])


def test_a_flat_spec_leaves_cu_seqlens_alone() -> None:
    recipe = Recipe(2, 3, 5, documents=2)
    tensors, _ = values_for(build_case(PROFILES["liger"], recipe), binding("logits", "cu_seqlens"))
    assert tensors["cu_seqlens"].tolist() == [0, 1, 3, 5, 6]


@pytest.mark.parametrize("name", ["num_items_in_batch", "shift_labels"])
def test_what_a_case_has_not_is_left_out_if_optional_and_none_if_required(name: str) -> None:
    case = build_case(PROFILES["hf.causal_lm"], RECIPE)
    optional = values_for(case, bind("m:f", [("logits", REQUIRED), (name, OPTIONAL)], {}))
    required = values_for(case, bind("m:f", [("logits", REQUIRED), (name, REQUIRED)], {}))
    assert [set(part) for part in optional] == [{"logits"}, set()]
    assert required[1] == {name: None}


def test_what_a_case_has_is_given_even_if_optional() -> None:
    recipe = Recipe(2, 3, 5, count=Count.GLOBAL, shift_labels=ShiftLabels.PADDED)
    case = build_case(PROFILES["hf.causal_lm"], recipe)
    tensors, scalars = values_for(case, binding("logits", "shift_labels", "num_items_in_batch", required=OPTIONAL))
    assert isinstance(tensors["shift_labels"], Tensor)
    assert scalars == {"num_items_in_batch": 2 * 4 + 3}


@pytest.mark.parametrize(
    ("profile", "expected"),
    [
        ("torchtune", {"ignore_index": -100, "reduction": "mean"}),
        ("nanogpt", {"ignore_index": -1, "reduction": "mean"}),
        ("per_token", {"ignore_index": -100, "reduction": "none"}),
        ("megatron", {"reduction": "mean"}),  # no id is ignored: the candidate's default holds
    ],
)
def test_constants_are_the_specs(profile: str, expected: dict[str, object]) -> None:
    bound = bind("m:f", [("logits", REQUIRED), ("ignore_index", OPTIONAL), ("reduction", OPTIONAL)], {})
    assert values_for(build_case(PROFILES[profile], RECIPE), bound)[1] == expected


def test_the_scores_constants_are_given_where_they_change_anything() -> None:
    names = ("label_smoothing", "lse_square_scale", "softcap", "logit_scale")
    bound = bind("m:f", [("logits", REQUIRED), *((name, OPTIONAL) for name in names)], {})
    given = {
        profile: values_for(build_case(PROFILES[profile], RECIPE), bound)[1]
        for profile in ("torchtune", "liger.smoothing", "liger.z_loss", "nanochat", "fla.scaled")
    }
    assert given == {
        "torchtune": {},
        "liger.smoothing": {"label_smoothing": 0.1},
        "liger.z_loss": {"lse_square_scale": 0.01},
        "nanochat": {"softcap": 15.0},
        "fla.scaled": {"softcap": 20.0, "logit_scale": 0.5},
    }


def test_sizes_of_each_stream_are_given() -> None:
    bound = bind("m:f", [("logits", REQUIRED), ("vocab_size", OPTIONAL), ("audio_vocab_size", OPTIONAL)], {})
    assert values_for(build_case(PROFILES["higgs.hf"], SEVERAL), bound)[1] == {"vocab_size": 7, "audio_vocab_size": 9}
    assert values_for(build_case(PROFILES["dia"], SEVERAL), bound)[1] == {"vocab_size": 7}
    books = bind("m:f", [("logits", REQUIRED), ("num_codebooks", REQUIRED)], {})
    assert values_for(build_case(PROFILES["dia"], SEVERAL), books)[1] == {"num_codebooks": 3}


# --- Layouts ----------------------------------------------------------------------------------------------------------

SEVERAL = Recipe(2, 4, 7, codebooks=3)

# What is not written b, s, k, v, worked by hand from there.
LAID_OUT: dict[tuple[str, str], Callable[[Tensor], Tensor]] = {
    ("higgs.boson", "audio_logits"): lambda x: x[0],
    ("higgs.boson", "audio_labels"): lambda y: y[0].T,
    ("higgs.mean_nonempty", "audio_logits"): lambda x: x[0],
    ("higgs.mean_nonempty", "audio_labels"): lambda y: y[0].T,
    ("csm", "depth_logits"): lambda x: x.flatten(0, 1),
    ("qwen3_tts", "depth_logits"): lambda x: x.flatten(0, 1),
    ("moshi", "audio_logits"): lambda x: x.flatten(0, 1),
    ("moshi", "audio_labels"): lambda y: y.flatten(0, 1),
    ("moshi.finetune", "audio_logits"): lambda x: x.transpose(1, 2),
    ("moshi.finetune", "audio_labels"): lambda y: y.transpose(1, 2),
    ("musicgen", "logits"): lambda x: x.transpose(1, 2),
    ("parler", "logits"): lambda x: x.transpose(1, 2),
    ("dia", "logits"): lambda x: x.transpose(1, 2).flatten(0, 1),
    ("dia", "labels"): lambda y: y.transpose(1, 2).flatten(0, 1),
    **{
        (profile, "mtp_logits"): lambda x: x.movedim(2, 0)
        for profile in ("medusa", "megatron.mtp", "megatron.mtp.packed", "torchtitan.mtp", "maxtext.mtp")
    },
    **{
        (name, argument): lambda x: x.flatten(0, 1)
        for name, spec in PROFILES.items()
        if spec.layout_of("labels" if "labels" in spec.labels else spec.labels[0]) == "(b s)"
        for argument in ("logits", "labels")
    },
}


def recipe_for(profile: str, rows: int = 2, length: int = 4) -> Recipe:
    extra = {Extra.NONE: 0, Extra.PREFIX: 2, Extra.SUFFIX: 1}[PROFILES[profile].terms[0].extra]
    return replace(SEVERAL, rows=rows, length=length, extra=extra, count=Count.VALID)


@pytest.mark.parametrize("profile", PROFILES)
def test_every_argument_is_laid_out_as_the_spec_says(profile: str) -> None:
    spec = PROFILES[profile]
    case = build_case(spec, recipe_for(profile))
    names = (*spec.logits, *spec.labels)
    tensors, _ = values_for(case, binding(*names))
    assert set(tensors) == set(names)
    for name in names:
        by_hand = LAID_OUT.get((profile, name), lambda tensor: tensor)(case.batch.tensor(name))
        assert torch.equal(tensors[name], by_hand), name
        assert tensors[name].is_contiguous()


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize(("rows", "length"), [(2, 4), (1, 1), (0, 4), (3, 0), (0, 0)])
def test_gradients_are_laid_back(profile: str, rows: int, length: int) -> None:
    spec = PROFILES[profile]
    case = build_case(spec, recipe_for(profile, rows, length))
    for name in spec.logits:
        logits = case.batch.tensor(name)
        back = lay_back(spec, name, lay_out(spec, name, logits), tuple(logits.shape))
        assert torch.equal(back, logits), name


@pytest.mark.parametrize("profile", ["dia", "musicgen", "parler", "csm", "moshi"])
def test_what_travels_with_the_labels_is_laid_out_as_they_are(profile: str) -> None:
    case = build_case(PROFILES[profile], SEVERAL)
    tensors, _ = values_for(case, binding("logits", "labels", "input_ids", "loss_mask", "position_ids"))
    assert tensors["input_ids"].shape == tensors["labels"].shape
    assert tensors["loss_mask"].shape == tensors["position_ids"].shape == (2, 4)


# --- Misfits ----------------------------------------------------------------------------------------------------------


def test_a_candidate_that_requires_another_stream_is_told_what_the_spec_reads() -> None:
    bound = binding("logits", "labels", "audio_logits")
    assert misfit("m:f", bound, PROFILES["hf.causal_lm"]) == (
        "m:f requires audio_logits, but hf.causal_lm does not have it: it reads logits, labels; "
        "give a spec that has it, see `shiftproof list profiles`"
    )
    assert misfit("m:f", bound, PROFILES["higgs.hf"]) is not None, "it takes no audio_labels"


def test_a_candidate_that_lacks_a_stream_is_told_what_works() -> None:
    taken = [("x", REQUIRED), ("labels", REQUIRED)]
    assert misfit("m:f", bind("m:f", taken, {"logits": "x"}), PROFILES["csm"]) == (
        "csm reads depth_logits, but m:f has no such parameter (it takes x, labels); "
        "give a spec that reads what it takes, see `shiftproof list profiles`"
    )
    bound = bind("m:f", [*taken, ("depth", OPTIONAL)], {"logits": "x"})
    assert misfit("m:f", bound, PROFILES["csm"]) == (
        "csm reads depth_logits, but m:f has no such parameter (it takes x, labels, depth); "
        'add --rename depth_logits=depth (rename = { depth_logits = "depth" }), if that is what it is'
    )
    renamed = bind("m:f", [*taken, ("depth", OPTIONAL)], {"logits": "x", "depth_logits": "depth"})
    assert misfit("m:f", renamed, PROFILES["csm"]) is None
    told = misfit("m:f", binding("logits", "labels"), PROFILES["medusa"])
    assert told == (
        "m:f requires logits, but medusa does not have it: it reads mtp_logits, labels; "
        "give a spec that has it, see `shiftproof list profiles`"
    )


def test_an_optional_stream_is_no_misfit() -> None:
    bound = bind("m:f", [("logits", REQUIRED), ("labels", REQUIRED), ("audio_logits", OPTIONAL)], {})
    assert misfit("m:f", bound, PROFILES["hf.causal_lm"]) is None


@pytest.mark.parametrize("profile", PROFILES)
def test_a_candidate_that_asks_for_what_the_spec_reads_fits(profile: str) -> None:
    spec = PROFILES[profile]
    assert misfit("m:f", binding(*spec.logits, *spec.labels), spec) is None


@pytest.mark.parametrize("only", ["logits", "labels"])
def test_under_one_stream_one_of_the_two_still_will_do(only: str) -> None:
    assert misfit("m:f", binding(only), PROFILES["torchtune"]) is None


@pytest.mark.parametrize(
    ("parameters", "hint"),
    [
        ([("smoothing", REQUIRED)], "If it makes the loss, give --init smoothing=…"),
        ([], "If it makes the loss, add --init ''"),
        ([("x", REQUIRED), ("y", REQUIRED)], "add --rename logits=x --rename labels=y"),
        ([("logits", REQUIRED), ("y", REQUIRED)], 'add --rename labels=y (rename = { labels = "y" })'),
        (
            [("logits", REQUIRED), ("labels", REQUIRED), ("scale", REQUIRED)],
            "by --kwarg scale=… (kwargs = {",
        ),
        ([("x", OPTIONAL), ("y", OPTIONAL)], "add --rename logits=x --rename labels=y"),
        ([("x", OPTIONAL)], "write a function of logits and labels that calls it"),
    ],
)
def test_a_hint_is_one_that_works(parameters: list[tuple[str, bool]], hint: str) -> None:
    with pytest.raises(UnknownArgument) as told:
        bind("m:f", parameters, {})
    assert hint in str(told.value)
    renames = dict(re.findall(r"--rename (\w+)=(\w+)", str(told.value)))
    assert not renames or bind("m:f", parameters, renames).takes("labels")


# Hints: each is followed, by either of its two spellings ------------------------------------------------------------


def renames_in(message: str) -> dict[str, str]:
    """The rename that a message tells to add."""
    on_the_line = parse_names("--rename", re.findall(r"--rename (\S+=\w+)", message))
    declared = re.search(r"\((rename = \{.*\})\)", message)
    assert declared is not None, message
    assert tomllib.loads(declared[1])["rename"] == on_the_line
    return on_the_line


@pytest.mark.parametrize(
    "parameters",
    [
        [("scores", REQUIRED), ("labels", REQUIRED)],
        [("logits", REQUIRED), ("gold", REQUIRED)],
        [("scores", REQUIRED), ("gold", REQUIRED), ("factor", OPTIONAL)],
        [("gold", REQUIRED), ("labels", OPTIONAL)],
        [("a", OPTIONAL), ("b", OPTIONAL), ("c", OPTIONAL)],
        [("logit", REQUIRED), ("target", REQUIRED)],
    ],
)
def test_the_rename_that_a_hint_gives_works(parameters: list[tuple[str, bool]]) -> None:
    with pytest.raises(UnknownArgument) as caught:
        bind("m:f", parameters, {})
    bound = bind("m:f", parameters, renames_in(str(caught.value)))
    assert set(bound.names) == {"logits", "labels"}
    assert misfit("m:f", bound, PROFILES["hf.causal_lm"]) is None


def test_a_loss_that_takes_any_keyword_can_be_renamed_as_its_hint_says() -> None:
    with pytest.raises(UnknownArgument) as caught:
        bind("m:f", [("x", OPTIONAL)], {}, accepts_any_keyword=True)
    told = renames_in(str(caught.value))
    assert set(bind("m:f", [("x", OPTIONAL)], told, accepts_any_keyword=True).names) == {"logits", "labels"}


@pytest.mark.parametrize(
    "parameters",
    [
        [("logits", REQUIRED), ("labels", REQUIRED), ("factor", REQUIRED)],
        [("logits", REQUIRED), ("labels", REQUIRED), ("factor", REQUIRED), ("power", REQUIRED)],
    ],
)
def test_a_parameter_that_cannot_be_renamed_gets_its_value_by_kwarg(parameters: list[tuple[str, bool]]) -> None:
    """A parameter with a value is none to be bound: see call_shapes. So at last nothing is left to complain of."""
    told = []
    while True:
        try:
            bound = bind("m:f", parameters, {})
        except UnknownArgument as error:
            said = str(error)
            (name,) = re.findall(r"--kwarg (\w+)=", said)
            told.append((name, "--rename" in said, f"(kwargs = {{ {name} = … }})" in said))
            parameters = [each for each in parameters if each[0] != name]
        else:
            break
    assert told == [("factor", False, True), ("power", False, True)][: len(told)]
    assert set(bound.names) == {"logits", "labels"}


@pytest.mark.parametrize("parameters", [[("factor", OPTIONAL)], [("vocab_size", REQUIRED), ("x", OPTIONAL)]])
def test_no_rename_is_told_where_there_is_nothing_to_rename(parameters: list[tuple[str, bool]]) -> None:
    with pytest.raises(UnknownArgument, match="write a function of logits and labels that calls it") as caught:
        bind("m:f", parameters, {})
    assert "--rename" not in str(caught.value)


@pytest.mark.parametrize(
    "parameters",
    [
        [("lm_head_weight", REQUIRED), ("hidden", OPTIONAL), ("labels", REQUIRED)],
        [("hidden_states", REQUIRED), ("w", OPTIONAL), ("labels", REQUIRED)],
        [("lm_head_bias", REQUIRED), ("h", OPTIONAL), ("w", OPTIONAL), ("labels", REQUIRED)],
    ],
)
def test_the_rename_that_makes_a_linear_loss_whole_works(parameters: list[tuple[str, bool]]) -> None:
    spec = PROFILES["torch.linear_cross_entropy"]
    told = misfit("m:f", bind("m:f", parameters, {}), spec)
    assert told is not None
    bound = bind("m:f", parameters, renames_in(told))
    assert bound.is_linear
    assert misfit("m:f", bound, spec) is None


@pytest.mark.parametrize(
    "parameters",
    [
        [("lm_head_weight", REQUIRED), ("labels", REQUIRED)],
        [("lm_head_weight", REQUIRED), ("logits", REQUIRED), ("labels", REQUIRED), ("h", OPTIONAL)],
    ],
)
def test_a_part_of_a_linear_loss_that_cannot_be_made_whole_is_to_be_wrapped(parameters: list[tuple[str, bool]]) -> None:
    told = misfit("m:f", bind("m:f", parameters, {}), PROFILES["torch.linear_cross_entropy"])
    assert told is not None
    assert "write a function of hidden_states, lm_head_weight and labels" in told
    assert "--rename" not in told


def test_the_renames_that_give_a_loss_its_streams_work() -> None:
    """One after the other, as they are told."""
    spec = PROFILES["higgs.mean_nonempty"]
    parameters = [("logits", REQUIRED), ("labels", REQUIRED), ("audio_scores", OPTIONAL), ("audio_gold", OPTIONAL)]
    rename: dict[str, str] = {}
    while told := misfit("m:f", bind("m:f", parameters, rename), spec):
        assert len(rename) < 2, told
        rename |= renames_in(told)
    assert rename == {"audio_logits": "audio_scores", "audio_labels": "audio_gold"}
