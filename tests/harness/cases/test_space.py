"""What is drawn stays in its space, shrinks to its simplest corner, and the hand-made cases hold what they are for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from itertools import islice

import hypothesis
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from shiftproof.harness.candidates.arguments import ARGUMENTS
from shiftproof.harness.cases.build import build_batch, build_case
from shiftproof.harness.cases.recipe import Count, Delay, Hollow, Ids, Mask, Recipe, Regime, ShiftLabels, Streams
from shiftproof.harness.cases.space import (
    Space,
    fits,
    hand_made,
    placed,
    random_recipes,
    recipes,
    redraws,
    space,
    within,
)
from shiftproof.reference.pairing import select
from shiftproof.reference.profiles import PROFILES
from shiftproof.reference.spec import Axis, Heads

ALL = frozenset(ARGUMENTS)
BASIC = frozenset({"logits", "labels"})
QUICK = settings(deadline=None, max_examples=50, derandomize=True, phases=(Phase.generate, Phase.shrink))

spaces = st.builds(
    lambda profile, takes: space(PROFILES[profile], takes),
    st.sampled_from(list(PROFILES)),
    st.sampled_from([ALL, BASIC]),
)


def simplest(choices: Space, predicate: Callable[[Recipe], bool]) -> Recipe:
    return hypothesis.find(recipes(choices), predicate, settings=settings(QUICK, max_examples=2000))


def outside(recipe: Recipe, choices: Space) -> set[str]:
    """The fields whose value is none of the space's choices, nor the default where it has none."""
    return {
        field.name
        for field in fields(Recipe)
        if getattr(recipe, field.name) not in choices.get(field.name, (field.default,))
    }


@given(st.data())
@QUICK
def test_what_hypothesis_draws_is_in_the_space_and_can_be_built(data: st.DataObject) -> None:
    profile = data.draw(st.sampled_from(list(PROFILES)))
    choices = space(PROFILES[profile], ALL)
    recipe = data.draw(recipes(choices))
    assert outside(recipe, choices) == set()
    assert build_case(PROFILES[profile], recipe).recipe == recipe


@given(spaces, st.integers(0, 2**32))
@QUICK
def test_the_plain_loop_draws_from_the_same_space(choices: Space, seed: int) -> None:
    assert all(outside(recipe, choices) == set() for recipe in islice(random_recipes(choices, seed), 10))


@pytest.mark.parametrize("profile", PROFILES)
def test_the_first_draw_is_the_simplest_of_every_field(profile: str) -> None:
    choices = space(PROFILES[profile], ALL)
    assert simplest(choices, lambda _: True) == Recipe(**{name: values[0] for name, values in choices.items()})


@pytest.mark.parametrize(
    ("predicate", "expected"),
    [
        (lambda r: r.rows >= 2 and r.length >= 3, {"rows": 2, "length": 3}),
        (lambda r: r.classes > 100, {"classes": 101}),
        (lambda r: Mask.ALL in r.masks, {"masks": (Mask.NONE, Mask.ALL, Mask.PADDING)}),
        (lambda r: r.ids is Ids.EDGES and r.rows + r.length >= 9, {"ids": Ids.EDGES, "rows": 1, "length": 8}),
        (lambda r: r.count is Count.GLOBAL, {"count": Count.GLOBAL}),
        (lambda r: r.seed >= 500, {"seed": 500}),
    ],
)
def test_a_failure_shrinks_to_its_own_fields_alone(
    predicate: Callable[[Recipe], bool], expected: dict[str, object]
) -> None:
    choices = space(PROFILES["hf.causal_lm"], frozenset({"logits", "labels", "num_items_in_batch"}))
    assert simplest(choices, predicate) == replace(Recipe(), **expected)


@pytest.mark.parametrize(
    ("profile", "takes", "further"),
    [
        ("torchtune", BASIC, set()),
        ("torchtune", ALL, {"documents", "boundaries_ignored"}),
        ("hf.causal_lm", BASIC, set()),
        ("hf.causal_lm", BASIC | {"num_items_in_batch"}, {"count"}),
        ("hf.causal_lm", BASIC | {"shift_labels"}, {"shift_labels"}),
        ("hf.causal_lm", frozenset({"hidden_states", "lm_head_weight", "labels"}), {"hidden_size"}),
        ("torchtune", BASIC | {"num_items_in_batch", "shift_labels"}, set()),
        ("torchtitan", BASIC, {"count"}),
        ("packed.cu_seqlens", BASIC | {"cu_seqlens"}, {"documents", "boundaries_ignored"}),
        ("hf.prefix_lm", BASIC, {"extra"}),
        ("higgs.text", BASIC, {"extra"}),
        ("medusa", BASIC, {"codebooks"}),
        ("torchtitan.mtp", BASIC, {"codebooks", "count"}),
        ("dia", BASIC, {"codebooks", "delay", "hollow"}),
        ("musicgen", BASIC, {"codebooks", "delay", "hollow", "extra"}),
        ("higgs.boson", BASIC, {"codebooks", "delay", "hollow", "streams", "audio_classes", "audio_length"}),
        ("csm", BASIC, {"codebooks", "delay", "hollow", "streams"}),
        ("moshi.finetune", BASIC, {"codebooks", "delay", "hollow", "streams", "audio_classes", "weights"}),
    ],
)
def test_only_fields_that_matter_are_drawn(profile: str, takes: frozenset[str], further: set[str]) -> None:
    always = {"rows", "length", "classes", "masks", "ids", "seed", "dtype"}
    assert set(space(PROFILES[profile], takes)) - always == further


def test_the_choices_suit_the_spec() -> None:
    # A suffix spec without its extra logit, or a count that is required and absent, would be no case at all.
    assert space(PROFILES["higgs.text"], BASIC)["extra"] == (1,)
    assert Count.ABSENT not in space(PROFILES["torchtitan"], BASIC)["count"]
    assert space(PROFILES["packed.cu_seqlens"], BASIC)["documents"][0] == 2
    # Documents that the loss does not look at come with their boundaries ignored.
    assert space(PROFILES["torchtune"], ALL)["boundaries_ignored"] == (True,)
    assert space(PROFILES["torchtune"], BASIC, ("bfloat16",))["dtype"] == ("bfloat16",)
    both = ("float32", "bfloat16")
    cases = hand_made(space(PROFILES["torchtune"], BASIC, both))
    assert [case.dtype for case in cases] == [both[index % 2] for index in range(len(cases))]


def test_plain_is_fixed_by_its_seed() -> None:
    choices = space(PROFILES["hf.causal_lm"], ALL)
    first, again, other = (list(islice(random_recipes(choices, seed), 20)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_plain_reaches_every_choice() -> None:
    choices = space(PROFILES["hf.causal_lm"], ALL)
    drawn = list(islice(random_recipes(choices, 0), 2000))
    for name in set(choices) - {"seed"}:
        assert {getattr(recipe, name) for recipe in drawn} == set(choices[name]), name


@pytest.mark.parametrize("profile", PROFILES)
def test_killers_can_be_built_and_are_all_different(profile: str) -> None:
    cases = hand_made(space(PROFILES[profile], ALL))
    assert len(set(cases)) == len(cases)
    assert all(build_case(PROFILES[profile], recipe).pairing.pairs for recipe in cases)


@pytest.mark.parametrize("profile", PROFILES)
def test_killers_hold_what_kills(profile: str) -> None:
    cases = hand_made(space(PROFILES[profile], ALL))
    books = any(term.heads is Heads.CODEBOOKS for term in PROFILES[profile].terms)
    # Codebook k takes the masks from the k-th on.
    lines = {r: r.rows + (r.codebooks - 1 if books else 0) for r in cases}
    assert any(len(set(r.masks)) == len(r.masks) >= 4 <= lines[r] for r in cases), "every row a different mask"
    fewest = min(space(PROFILES[profile], ALL)["classes"])
    assert any(r.classes <= max(3, fewest) for r in cases)
    assert any(r.classes > 100 for r in cases), "−100 wraps from V = 100 on"
    assert any(Mask.ALL in r.masks for r in cases), "a row without a label that counts"
    assert any(r.rows == 2 and r.masks == (Mask.NONE,) for r in cases), "one that can be read"
    for chunk in (2, 4, 8):
        assert any(r.rows * r.length % chunk for r in cases), f"no multiple of {chunk}"
        assert any(r.rows % chunk for r in cases), f"rows no multiple of {chunk}"


@pytest.mark.parametrize("profile", PROFILES)
def test_killers_train_on_the_first_and_the_last_class(profile: str) -> None:
    spec = PROFILES[profile]
    trained = [
        (recipe, {pair.target for pair in build_case(spec, recipe).pairing.pairs})
        for recipe in hand_made(space(spec, ALL))
    ]
    assert any({0, recipe.classes - 1} <= targets and recipe.classes > 100 for recipe, targets in trained)


def test_killers_keep_the_first_label_and_vary_the_arguments() -> None:
    spec = PROFILES["hf.causal_lm"]
    cases = hand_made(space(spec, ALL))
    assert any(int(build_batch(spec, recipe).labels[0, 0]) >= 0 for recipe in cases)
    assert {r.count for r in cases} == set(Count)
    assert {r.shift_labels for r in cases} == set(ShiftLabels)
    packed = hand_made(space(PROFILES["packed.cu_seqlens"], ALL))
    assert {r.documents for r in packed} == {2, 3}


CODEBOOKS = [name for name, spec in PROFILES.items() if any(term.heads is not Heads.ONE for term in spec.terms)]
STREAMS = [name for name in CODEBOOKS if "streams" in space(PROFILES[name], BASIC)]


def test_specs_of_one_head_draw_nothing_of_codebooks() -> None:
    for name in set(PROFILES) - set(CODEBOOKS):
        assert not {"codebooks", "delay", "hollow", "streams"} & set(space(PROFILES[name], ALL))


@pytest.mark.parametrize("profile", CODEBOOKS)
def test_codebooks_are_drawn_as_many_as_there_are_frames(profile: str) -> None:
    drawn = list(islice(random_recipes(space(PROFILES[profile], ALL), 0), 300))
    square = [recipe for recipe in drawn if recipe.codebooks == recipe.length]
    assert len(square) >= 15, "K = S hides a swapped layout from its shapes"
    assert {recipe.codebooks for recipe in square} >= {2, 3, 4}
    assert any(recipe.codebooks == recipe.length >= 3 for recipe in hand_made(space(PROFILES[profile], ALL)))


@pytest.mark.parametrize("profile", CODEBOOKS)
def test_codebooks_are_never_fewer_than_the_shift_along_them(profile: str) -> None:
    spec = PROFILES[profile]
    across = [term.shift for term in spec.terms if term.axis is Axis.CODEBOOK]
    assert min(space(spec, ALL)["codebooks"]) == (max(across) + 1 if across else 1)


def test_a_fixed_number_of_codebooks_is_the_only_choice() -> None:
    spec = PROFILES["dia"]
    fixed = replace(spec, terms=(replace(spec.terms[0], codebooks=9),))
    assert space(fixed, ALL)["codebooks"] == (9,)
    assert {recipe.codebooks for recipe in hand_made(space(fixed, ALL))} == {9}


@pytest.mark.parametrize("profile", CODEBOOKS)
def test_killers_have_three_codebooks_or_more(profile: str) -> None:
    cases = hand_made(space(PROFILES[profile], ALL))
    assert sum(recipe.codebooks >= 3 for recipe in cases) >= len(cases) / 2
    # One with an id of its own for every place, so that all that is moved between three codebooks shows.
    places = [r for r in cases if r.ids is Ids.COUNTING and r.codebooks >= 3]
    assert any(r.rows * r.length * r.codebooks <= r.classes for r in places)


@pytest.mark.parametrize("profile", [name for name in CODEBOOKS if "hollow" in space(PROFILES[name], BASIC)])
def test_killers_delay_codebooks_and_leave_some_empty(profile: str) -> None:
    cases = hand_made(space(PROFILES[profile], ALL))
    assert {recipe.hollow for recipe in cases} == set(Hollow)
    assert {recipe.delay for recipe in cases} > {Delay.NONE}
    spec = PROFILES[profile]
    term_of = next(index for index, term in enumerate(spec.terms) if term.heads is Heads.CODEBOOKS)
    for recipe in cases:
        if recipe.hollow is Hollow.LAST and recipe.streams is Streams.BOTH:
            batch = build_batch(spec, recipe)
            books = {pair.label[2] for pair in select(spec.terms[term_of], batch)}
            assert books
            assert recipe.codebooks - 1 not in books


@pytest.mark.parametrize("profile", STREAMS)
def test_killers_leave_each_stream_out(profile: str) -> None:
    spec = PROFILES[profile]
    trained = {
        recipe.streams: {pair.term for pair in build_case(spec, recipe).pairing.pairs}
        for recipe in hand_made(space(spec, ALL))
    }
    assert trained[Streams.BOTH] == {0, 1}
    assert trained[Streams.FIRST] == {0}
    assert trained[Streams.SECOND] == {1}
    assert Streams.NEITHER not in trained  # what is empty altogether has laws of its own


@pytest.mark.parametrize("profile", PROFILES)
def test_all_that_is_drawn_fits(profile: str) -> None:
    choices = space(PROFILES[profile], ALL)
    assert all(fits(choices, recipe) for recipe in [*hand_made(choices), *islice(random_recipes(choices, 0), 50)])


@pytest.mark.parametrize(
    ("profile", "changes", "fit"),
    [
        ("torchtune", {"rows": 1, "length": 1, "classes": 2}, True),
        ("torchtune", {"documents": 2}, False),  # their boundaries must be ignored
        ("torchtune", {"documents": 2, "boundaries_ignored": True}, True),
        ("packed.position_ids", {"documents": 2}, True),
        ("torchtune", {"count": Count.VALID}, False),
        ("torchtitan", {"count": Count.VALID}, True),
        ("torchtitan", {}, False),  # it divides by a count
        ("higgs.text", {}, False),
        ("higgs.text", {"extra": 1}, True),
        ("hf.prefix_lm", {"extra": 0}, True),
        ("dia", {"codebooks": 1}, True),
        ("csm", {"codebooks": 1}, False),  # one codebook leaves no depth
        ("csm", {"codebooks": 2}, True),
    ],
)
def test_a_simpler_recipe_fits_if_it_leaves_out_nothing_needed(
    profile: str, changes: dict[str, object], fit: bool
) -> None:
    assert fits(space(PROFILES[profile], ALL), replace(Recipe(), **changes)) is fit  # type: ignore[arg-type]


def test_classes_that_the_spec_fixes_fit_alone() -> None:
    spec = PROFILES["torchtune"]
    fixed = space(replace(spec, terms=(replace(spec.terms[0], classes=64),)), BASIC)
    assert fits(fixed, Recipe(classes=64))
    assert not fits(fixed, Recipe(classes=7))


def test_a_placed_case_has_its_sizes_and_something_to_train_on() -> None:
    places = [{"rows": 1, "length": 4099, "classes": 3}, {"rows": 2, "length": 2, "classes": 70001, "seed": 5}]
    spec = PROFILES["torchtune"]
    cases = list(placed(space(spec, BASIC), places, seed=3))
    assert [(r.rows, r.length, r.classes) for r in cases] == [(1, 4099, 3), (2, 2, 70001)]
    assert cases[1].seed == 5
    assert all(r.ids is Ids.SEEDED and not {Mask.ALL, Mask.LAST_ONLY} & {*r.masks} for r in cases)
    assert cases == list(placed(space(spec, BASIC), places, seed=3))
    labels = build_batch(spec, replace(cases[1], masks=(Mask.NONE,), regime=Regime.CALM)).labels
    assert int(labels.max()) > 2**15


def test_the_only_codebook_of_a_placed_case_is_not_empty() -> None:
    places = [{"rows": 1, "length": 3, "classes": 5, "codebooks": 1}] * 40
    assert {case.hollow for case in placed(space(PROFILES["musicgen"], BASIC), places, seed=0)} == {Hollow.NONE}


@given(spaces, st.integers(0, 2**32))
@QUICK
def test_redraws_have_other_numbers_and_nothing_else(choices: Space, seed: int) -> None:
    recipe = next(random_recipes(choices, seed))
    drawn = list(redraws(recipe, choices))
    assert 0 < len(drawn) < 10
    assert len({each.seed for each in drawn}) == len(drawn)
    assert all(replace(each, seed=recipe.seed) == recipe for each in drawn)
    assert not any(each.seed in choices["seed"] for each in drawn)
    assert list(redraws(recipe, choices)) == drawn


def test_redraws_try_the_same_regime_first_and_then_every_other() -> None:
    choices = {**space(PROFILES["torchtune"], BASIC), "regime": (Regime.NORMAL, Regime.SHARP, Regime.TIES)}
    found = [each.regime for each in redraws(Recipe(regime=Regime.SHARP), choices)]
    assert found == [Regime.SHARP] * 4 + [Regime.TIES] * 2 + [Regime.NORMAL] * 2


def test_no_two_recipes_have_a_redraw_in_common() -> None:
    choices = {**space(PROFILES["torchtune"], BASIC), "regime": (Regime.NORMAL, Regime.SHARP, Regime.TIES)}
    starts = [Recipe(regime=regime, seed=seed) for regime in choices["regime"] for seed in (0, 1, 999)]
    drawn = [each for start in starts for each in redraws(start, choices)]
    assert len(set(drawn)) == len(drawn)


def test_the_killers_of_an_ordinary_loss() -> None:
    """Each is there for bugs of its own, so none may go, and none may lose what it is there for."""
    mixed = (Mask.NONE, Mask.PROMPT, Mask.HOLES, Mask.PADDING)
    assert hand_made(space(PROFILES["torch.cross_entropy"], frozenset({"logits", "labels"}))) == [
        Recipe(2, 4, 29),
        Recipe(4, 7, 128, masks=mixed, seed=1),
        Recipe(3, 9, 29, masks=(Mask.NONE, Mask.ALL, Mask.FIRST), seed=2),
        Recipe(5, 8, 3, masks=mixed, ids=Ids.SEEDED, seed=3),
        Recipe(3, 9, 101, ids=Ids.EDGES, seed=4),
        Recipe(2, 13, 128, masks=(Mask.HOLES, Mask.LEFT), seed=5),
        Recipe(1, 4, 32771, ids=Ids.EDGES),
    ]


def test_every_mask_is_drawn() -> None:
    drawn = space(PROFILES["torch.cross_entropy"], frozenset({"logits", "labels"}))["masks"]
    assert {mask for masks in drawn for mask in masks} == set(Mask)


@pytest.mark.parametrize(
    ("change", "is_ordinary"),
    [
        ({}, True),
        ({"regime": Regime.CALM}, True),
        ({"regime": Regime.HUGE}, False),
        ({"masks": (Mask.ALL,)}, False),
        ({"masks": (Mask.NONE, Mask.ALL)}, True),
        ({"streams": Streams.NEITHER}, False),
        ({"rows": 0}, False),
        ({"length": 0}, False),
        ({"label_dtype": "int32"}, False),
        ({"classes": 5}, True),
    ],
)
def test_what_an_ordinary_case_of_another_law_is(change: dict[str, object], is_ordinary: bool) -> None:
    drawn = space(PROFILES["torch.cross_entropy"], frozenset({"logits", "labels"}))
    without_settings = {name: values for name, values in drawn.items() if name not in ("regime", "label_dtype")}
    assert within(replace(Recipe(2, 4, 29), **change), without_settings) is is_ordinary


def test_a_brief_run_has_a_hand_made_case_with_extra_logits() -> None:
    for profile in ("musicgen", "hf.prefix_lm"):
        assert any(recipe.extra for recipe in hand_made(space(PROFILES[profile], BASIC))[:9]), profile
