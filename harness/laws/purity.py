"""Laws on how a loss behaves as a function: it does not change its inputs, keeps no state, and works in every mode."""

from __future__ import annotations

from dataclasses import replace

from ..bounds.compare import different_gradients, same_value
from ..candidates.loss import Observation, Trial
from ..candidates.variant import Manner, Variant
from ..cases.recipe import Recipe, Stride
from ..cases.space import Space
from ..results import Level, Verdict
from .base import NOT_APPLICABLE, PASS, Judgement, failing, law, needs, not_answered, on, refused_rightly, trains
from .numerics import judge_both, judge_value


@law(
    "PURE-1",
    "logits, labels and all other inputs are left as they were",
    source="Liger overwrites logits with gradients; Megatron writes to fp32 logits in the forward",
    budget=40,
    points_to=("inputs-mutated",),
)
def leaves_inputs_alone(trial: Trial, recipe: Recipe) -> Judgement:
    observation = trial.observe_cached(recipe)
    if observation.problem is not None:
        return not_answered(observation)
    if observation.mutated:
        return failing(f"writes to its own inputs: {', '.join(observation.mutated)}", *observation.mutated)
    return PASS


def _same(trial: Trial, one: Observation, other: Observation) -> str | None:
    """Describe a difference beyond rounding between two observations of the same case, or return None."""
    assert one.value is not None
    assert other.value is not None
    bounds = trial.bounds(one)
    if not same_value(one.value, other.value, 2 * bounds.value):
        return f"the loss was {one.value:.9g} first and {other.value:.9g} later"
    if (one.gradients is None) != (other.gradients is None):
        return "only one of the two calls gives a gradient"
    if one.gradients is not None and other.gradients is not None:
        allowed = {name: 2 * bound for name, bound in bounds.gradients.items()}
        return different_gradients(other.gradients, one.gradients, allowed)
    return None


@law(
    "PURE-2",
    "the same case twice gives the same answer",
    source="randomness and state left over from the call before",
    budget=36,
    calls_again=True,
)
def repeatable(trial: Trial, recipe: Recipe) -> Judgement:
    case = trial.case(recipe)
    once, again = trial.observe(case), trial.observe(case)
    for observation in (once, again):
        if observation.problem is not None:
            return not_answered(observation)
    difference = _same(trial, once, again)
    return failing(f"called twice with the same case: {difference}", "state") if difference else PASS


@law(
    "PURE-3",
    "a case gives the same answer after another case of the same shape",
    source="answers cached by shape, address or part of the content",
    budget=36,
    calls_again=True,
)
def remembers_nothing(trial: Trial, recipe: Recipe) -> Judgement:
    case, other = trial.case(recipe), trial.case(replace(recipe, seed=recipe.seed + 1))
    first, between, again = trial.observe(case), trial.observe(other), trial.observe(case)
    for observation in (first, between, again):
        if observation.problem is not None:
            return not_answered(observation)
    difference = _same(trial, first, again)
    if difference:
        return failing(f"called again after another case of the same shape: {difference}", "state")
    if not (trains(case) and trains(other)) or "VALUE-1" in trial.failed:
        return PASS  # the call in between can be judged only if the candidate is usually right
    judgement = judge_both(trial, between)
    if judgement.verdict is Verdict.FAIL and judge_both(trial, first).verdict is Verdict.PASS:
        return failing(f"called after another case of the same shape: {judgement.message}", "state")
    return PASS


def right_or_refused(trial: Trial, recipe: Recipe) -> Judgement:
    """Pass the right answer and an exception; fail a wrong answer."""
    if not trains(trial.case(recipe)):
        return NOT_APPLICABLE
    observation = trial.observe_cached(recipe)
    if observation.problem is None:
        return judge_both(trial, observation)
    refused = observation.problem.verdict in (Verdict.ERROR, Verdict.REFUSED)
    return refused_rightly(observation.problem) if refused else not_answered(observation)


def _non_contiguous(space: Space) -> Space:
    return {**space, "stride": tuple(stride for stride in Stride if stride is not Stride.CONTIGUOUS)}


def _made_non_contiguous(recipe: Recipe) -> Recipe:
    return recipe if recipe.stride is not Stride.CONTIGUOUS else replace(recipe, stride=Stride.TRANSPOSED)


@law(
    "PURE-4",
    "settings and seeds of the process are left as they were",
    source="torch.set_default_dtype, torch.manual_seed or hooks in a loss: the next batch is drawn again",
    budget=10,
    skip_reason=needs("settings"),
    calls_again=True,
)
def leaves_the_process_alone(trial: Trial, recipe: Recipe) -> Judgement:
    case = trial.case(recipe)
    once, again = trial.observe(case), trial.observe(case)
    for observation in (once, again):
        if observation.problem is not None:
            return not_answered(observation)
    if once.state or again.state:
        return failing(f"changes settings of the process: {'; '.join(once.state or again.state)}", "settings")
    # The worker moves each generator between two calls, so the same state after both is a seed that the loss set.
    seeded = [name for name, state in again.random.items() if once.random.get(name) == state]
    if seeded:
        return failing(f"sets the seed of {', '.join(seeded)}: after each call the same numbers follow", "seed")
    return PASS


@law(
    "LAYOUT-1",
    "logits that are not contiguous give the right answer or are refused, never a wrong answer",
    source="slices of a padded vocabulary and transposed heads are not contiguous",
    budget=46,
    skip_reason=needs("layouts"),
    restrict=_non_contiguous,
    adapt=_made_non_contiguous,
    depends_on=("CONTRACT-1", "ALIGN-1", "VALUE-1"),
)
def layout_is_no_matter(trial: Trial, recipe: Recipe) -> Judgement:
    return right_or_refused(trial, recipe)


@law(
    "LAYOUT-2",
    "logits that are not contiguous are accepted",
    source="torch accepts them; transformers' .view raises",
    budget=12,
    skip_reason=needs("layouts"),
    level=Level.SHOULD,
    restrict=_non_contiguous,
    adapt=_made_non_contiguous,
    depends_on=("CONTRACT-1", "LAYOUT-1"),
)
def layout_is_accepted(trial: Trial, recipe: Recipe) -> Judgement:
    observation = trial.observe_cached(recipe)
    return PASS if observation.problem is None else not_answered(observation)


@law(
    "LABELS-1",
    "int32 labels give the right answer or are refused, never a wrong answer",
    source="torch and transformers reject them, Liger accepts; pytorch#111484",
    budget=18,
    adapt=lambda recipe: replace(recipe, label_dtype="int32"),
    depends_on=("CONTRACT-1", "ALIGN-1", "VALUE-1"),
    points_to=("narrow-index",),
)
def label_dtype(trial: Trial, recipe: Recipe) -> Judgement:
    return right_or_refused(trial, recipe)


@law(
    "MODE-1",
    "the value is the same where no gradient is recorded",
    mode="no_grad",
    source="evaluation runs under no_grad; Liger#930",
    budget=26,
    skip_reason=needs("no_grad"),
    depends_on=("CONTRACT-1", "ALIGN-1", "VALUE-1"),
    points_to=("no-grad-path",),
)
@on(Variant("no_grad", manner=lambda case: Manner(grad_mode="no_grad")))
def without_gradients(trial: Trial, observed: Observation) -> Judgement:
    return judge_value(trial, observed)


@law(
    "MODE-2",
    "the value is the same under inference_mode",
    mode="inference_mode",
    source="torch.inference_mode",
    budget=16,
    skip_reason=needs("inference_mode"),
    level=Level.SHOULD,
    depends_on=("CONTRACT-1", "VALUE-1", "MODE-1"),
)
@on(Variant("inference_mode", manner=lambda case: Manner(grad_mode="inference")))
def under_inference(trial: Trial, observed: Observation) -> Judgement:
    return judge_value(trial, observed)
