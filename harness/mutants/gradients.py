"""Losses with the right value and a wrong gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from shiftproof.reference.pairing import heads_of
from shiftproof.reference.score import charge
from shiftproof.reference.spec import Heads, LossSpec, Reduction

from ..candidates.loss import Observation
from ..candidates.variant import Asked
from ..cases.linear import WEIGHT, Linear, factor, no_linear
from .behaviour import Act, Behaviour, Needs, answer, at_leaves, coming, give, needs_fp32, times, variants
from .normalisation import mean_of_means
from .views import variants_under


def _with_gradients(asked: Asked, gradients: Mapping[str, Tensor]) -> Observation:
    """Return the right value with another gradient in float64."""
    case = asked.case
    right = answer(asked)
    return give(asked, right.returned if case.pairing.output_shape else right.value, gradients)


def _needs_weight(spec: LossSpec) -> str | None:
    lacking = no_linear(spec)
    return lacking and f"hidden states and one weight that make the logits; {lacking}"


def _factors(asked: Asked) -> Linear:
    return factor(asked.case, biased=True)


def _weight_unscaled(asked: Asked) -> Observation:
    """Scale hidden states and bias by the incoming gradient, but not the weight."""
    linear = _factors(asked)
    scaled = at_leaves(answer(asked), linear)
    unscaled = at_leaves(answer(replace(asked, grad_output=1.0)), linear)
    if scaled.leaves is None or unscaled.leaves is None:
        return scaled
    return replace(scaled, leaves={**scaled.leaves, WEIGHT: unscaled.leaves[WEIGHT]})


def _weight_added_up_in_bf16(asked: Asked) -> Observation:
    """Treat each row of logits as a chunk, and add its part of the weight's gradient to a bf16 sum."""
    linear = _factors(asked)
    seen = at_leaves(answer(asked), linear)
    if seen.leaves is None or seen.gradients is None:
        return seen
    rows, hidden = seen.gradients["logits"].flatten(0, -2), linear.hidden.flatten(0, -2).double()
    total = torch.zeros(linear.weight.shape, dtype=torch.bfloat16)
    for row in (rows != 0).any(-1).nonzero().flatten().tolist():
        total += torch.outer(rows[row], hidden[row]).to(torch.bfloat16)
    return replace(seen, leaves={**seen.leaves, WEIGHT: total.double()})


def _upstream_ignored(asked: Asked) -> Observation:
    return _with_gradients(asked, times(asked.case.oracle.gradients, asked.n_backward))


def _upstream_of_row_0(asked: Asked) -> Observation:
    grad_output = asked.grad_output
    if isinstance(grad_output, Tensor):
        grad_output = float(grad_output.flatten()[0]) if grad_output.numel() else 1.0
    return _with_gradients(asked, times(asked.case.oracle.gradients, grad_output * asked.n_backward))


def _needs_one_loss_a_token(spec: LossSpec) -> str | None:
    return None if spec.terms[0].reduction is Reduction.NONE else "reduction none, an incoming gradient a token"


def _mean_of_shards(asked: Asked) -> Observation:
    """Return the gradient of the mean of two shards' means."""
    case = asked.case
    variant = next(iter(variants_under(mean_of_means, case.spec)))
    pairing = variant.wrong(case.spec, case.batch)
    if pairing is None:
        return answer(asked)
    wrong = answer(asked, pairing)
    return _with_gradients(asked, wrong.gradients or {})


def _needs_a_mean(spec: LossSpec) -> str | None:
    return None if all(term.reduction is Reduction.MEAN for term in spec.terms) else "a mean"


def _true_class_cancelled(asked: Asked) -> Observation:
    """Round p_y/N to bf16, then subtract 1/N: at each target g + w·t is rounded before w·t is subtracted again."""
    case = asked.case
    right = answer(asked).gradients
    if right is None:
        return answer(asked)
    exact = {name: gradient.clone() for name, gradient in case.oracle.gradients.items()}
    factors = [1.0] * len(case.pairing.pairs)
    if isinstance(asked.grad_output, Tensor):
        factors = coming(asked, case.pairing, asked.grad_output)
    overall = 1.0 if isinstance(asked.grad_output, Tensor) else asked.grad_output
    class_weights = case.batch.class_weights
    for pair, coming_in in zip(case.pairing.pairs, factors, strict=True):
        term = case.pairing.terms[pair.term]
        classes = case.pairing.shapes[term.logits][-1]
        own = charge(term.score, classes, class_weights if term.score.class_weights else None).target[pair.target]
        taken_off = pair.weight * float(own) * term.score.logit_scale
        at = exact[term.logits][pair.logit]
        rounded = torch.tensor([float(at[pair.target]) + taken_off, taken_off]).to(torch.bfloat16).double()
        at[pair.target] = rounded[0] - rounded[1]
        at *= coming_in
    return _with_gradients(asked, times(exact, overall * asked.n_backward))


def _needs_hard_targets(spec: LossSpec) -> str | None:
    if any(term.score.softcap is not None or term.score.dft for term in spec.terms):
        return "a gradient p_y − 1 at the target, without a softcap or a factor p_y"
    return needs_fp32(spec)


def _rescaled_in_place(asked: Asked) -> Observation:
    """Compute the gradient in the forward, and multiply it in place by the incoming gradient in every backward."""
    if isinstance(asked.grad_output, Tensor):
        return answer(asked)
    once = asked.grad_output
    total = sum(once**time for time in range(1, asked.n_backward + 1))
    return _with_gradients(asked, times(asked.case.oracle.gradients, total))


def _writes_to(*names: str) -> Act:
    return lambda asked: answer(asked, mutated=names)


def _detached(cut: Callable[[Asked, dict[str, Tensor]], None]) -> Act:
    """The right answer with part of its gradient gone."""

    def act(asked: Asked) -> Observation:
        gradients = answer(asked).gradients
        if gradients is None:
            return answer(asked)
        left = {name: gradient.clone() for name, gradient in gradients.items()}
        cut(asked, left)
        return _with_gradients(asked, left)

    return act


def _first_row(asked: Asked, gradients: dict[str, Tensor]) -> None:
    for gradient in gradients.values():
        gradient[:1] = 0


def _last_term(asked: Asked, gradients: dict[str, Tensor]) -> None:
    gradients[asked.case.spec.terms[-1].logits].zero_()


def _last_head(asked: Asked, gradients: dict[str, Tensor]) -> None:
    for term in asked.case.spec.terms:
        if term.heads in (Heads.CODEBOOKS, Heads.AHEAD) and heads_of(term, asked.case.batch):
            gradients[term.logits][:, :, -1] = 0


def _needs_terms(spec: LossSpec) -> str | None:
    return None if len(spec.terms) > 1 else "2 terms"


def _needs_heads(spec: LossSpec) -> str | None:
    several = any(term.heads in (Heads.CODEBOOKS, Heads.AHEAD) for term in spec.terms)
    return None if several else "codebooks or heads"


def _all_detached(asked: Asked) -> Observation:
    right = answer(asked)
    return give(asked, right.returned if asked.case.pairing.output_shape else right.value, None)


def _nan_where_nothing_counts(asked: Asked) -> Observation:
    gradients = answer(asked).gradients
    if asked.case.pairing.pairs or gradients is None:
        return answer(asked)
    return _with_gradients(asked, {name: torch.full_like(gradient, torch.nan) for name, gradient in gradients.items()})


def _detached_part(detail: str, act: Act, needs: Needs = lambda spec: None) -> Behaviour:
    return Behaviour(
        "detached-part",
        detail,
        formula="one row, term or codebook, or all of the loss, has no gradient",
        tells="look at each",
        seen="an easy slip: .item(), .detach(), torch.tensor",
        act=act,
        needs=needs,
    )


GRADIENTS: tuple[Behaviour, ...] = (
    *variants(
        "upstream-ignored",
        [("", _upstream_ignored)],
        formula="the gradient is not multiplied by the incoming one",
        tells="an incoming gradient other than 1",
        seen="fla#963",
    ),
    *variants(
        "upstream-ignored-weight",
        [("", _weight_unscaled)],
        formula="only the weight's gradient is not multiplied by the incoming one",
        tells="an incoming gradient other than 1, and the weight's gradient",
        seen="DeepSpeed's tiled loss",
        needs=_needs_weight,
        linear=True,
    ),
    *variants(
        "upstream-row-0",
        [("", _upstream_of_row_0)],
        formula="reduction none: every row's gradient is multiplied by the first row's incoming one",
        tells="an incoming gradient that is not the same for all tokens",
        seen="Liger#680, #968",
        needs=_needs_one_loss_a_token,
    ),
    *variants(
        "gradient-of-another",
        [("", _mean_of_shards)],
        formula="the forward weighs shards by their counts, the backward is that of the mean of their means",
        tells="2 shards of unequal counts",
        seen="DeepSpeed#8587",
        needs=_needs_a_mean,
    ),
    *variants(
        "true-class-cancel",
        [("", _true_class_cancelled)],
        formula="p_y/N is rounded to bf16 before 1/N is taken off",
        tells="bf16 and p_y ≥ .99",
        seen="Liger#1329",
        needs=_needs_hard_targets,
        dtype="bfloat16",
        numeric=True,
    ),
    *variants(
        "low-precision-accumulate",
        [("", _weight_added_up_in_bf16)],
        formula="the weight's gradient is accumulated over chunks in bf16",
        tells="many chunks",
        seen="fla#874",
        needs=_needs_weight,
        dtype="bfloat16",
        linear=True,
    ),
    *variants(
        "second-backward",
        [("", _rescaled_in_place)],
        formula="the gradient kept from the forward is rescaled in place, so that the second time it is scaled twice",
        tells="retain_graph, and an incoming gradient other than 1",
        seen="Liger",
    ),
    *variants(
        "inputs-mutated",
        [("logits", _writes_to("logits")), ("labels", _writes_to("labels"))],
        formula="logits or labels are overwritten",
        tells="compare them before and after",
        seen="Liger, Megatron",
    ),
    _detached_part("all of it", _all_detached),
    _detached_part("row 0", _detached(_first_row)),
    _detached_part("the last term", _detached(_last_term), _needs_terms),
    _detached_part("the last codebook", _detached(_last_head), _needs_heads),
    *variants(
        "all-ignored-nan-gradient",
        [("", _nan_where_nothing_counts)],
        formula="NaN gradient where no label counts: it is divided by a count of 0",
        tells="every label ignored, and the gradient",
        seen="torch 2.13 F.linear_cross_entropy, chunked",
    ),
)
