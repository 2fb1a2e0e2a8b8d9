"""Every law can fail: for each there is a loss that breaks it, and that it catches."""

from __future__ import annotations

import runpy
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from shiftproof.harness.candidates.declaration import resolve
from shiftproof.harness.judge.ask import ask
from shiftproof.harness.judge.loading import LoadedCandidate, Options, jobs_of
from shiftproof.harness.judge.profile import PROFILES, Profile
from shiftproof.harness.laws import LAWS
from shiftproof.harness.mutants import MUTANTS
from shiftproof.harness.mutants.symptoms import SYMPTOMS
from shiftproof.harness.results import LawResult, Level, Verdict

CANDIDATES = Path(__file__).parents[2] / "candidates"

# Losses that are wrong in one way each and are no file of their own.
OWN = '''
import torch
import torch.nn.functional as F


def _right(logits, labels):
    return F.cross_entropy(logits[:, :-1].float().reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1))


def scores_the_tokens(logits, labels, input_ids):
    return _right(logits, torch.where(labels == -100, labels, input_ids))


def one_where_nothing_counts(logits, labels):
    return torch.nan_to_num(_right(logits, labels), nan=1.0)


def nan_where_nothing_counts(logits, labels):
    return _right(logits, labels)


def _pull(logits, by):
    """0, with gradient ``by``."""
    moved = by.detach() * torch.nan_to_num(logits.float(), posinf=0, neginf=0)
    return (moved - moved.detach()).sum()


def _tokens(logits, labels):
    losses = F.cross_entropy(logits[:, :-1].float().transpose(1, 2), labels[:, 1:], reduction="none")
    return losses, labels[:, 1:] != -100


def raises_at_length_one(logits, labels):
    assert labels.shape[1] != 1
    return _right(logits, labels)


def raises_without_rows(logits, labels):
    assert len(labels)
    return _right(logits, labels)


def raises_under_inference(logits, labels):
    assert not torch.is_inference_mode_enabled()
    return _right(logits, labels)


def views(logits, labels):
    shifted = F.pad(labels, (0, 1), value=-100)[:, 1:]
    return F.cross_entropy(logits.view(-1, logits.shape[-1]).float(), shifted.flatten())


def easy_tokens_have_no_gradient(logits, labels):
    """Rows whose target has p > 0.999 are scored, and not trained on."""
    scores, targets = logits[:, :-1].float(), labels[:, 1:].clamp(min=0).unsqueeze(-1)
    easy = scores.softmax(-1).gather(-1, targets) > 0.999
    return _right(torch.cat([torch.where(easy, scores.detach(), scores), logits[:, -1:].float()], 1), labels)


def leaks_where_ignored_and_large(logits, labels):
    """Ignored rows get a gradient once a logit is above 4, which calm logits are not."""
    ignored = F.pad(labels[:, 1:], (0, 1), value=-100) == -100
    return _right(logits, labels) + _pull(logits, 0.01 * (ignored.unsqueeze(-1) & (logits > 4)))


def multiplies_minus_infinity(logits, labels):
    """−Σ onehot·log p: 0 · −inf is NaN."""
    scores, targets = logits[:, :-1].float(), labels[:, 1:]
    valid = targets != -100
    own = F.one_hot(targets.clamp(min=0), logits.shape[-1])
    return -(own * scores.log_softmax(-1)).sum(-1)[valid].mean()


def multiplies_by_the_mask(logits, labels):
    """Right, but NaN · 0 is NaN."""
    scores, targets = logits[:, :-1].float(), labels[:, 1:]
    valid = (targets != -100).float()
    own = scores.log_softmax(-1).gather(-1, targets.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return -(own * valid).sum() / valid.sum()


def int32_labels_lose_their_marker(logits, labels):
    return _right(logits, labels.clamp(min=0).long() if labels.dtype is torch.int32 else labels)


def a_thousandth_more(logits, labels):
    """The gradient is right."""
    return _right(logits, labels) + 0.001


def rows_see_each_other(logits, labels):
    """The first row's gradient holds a little of the last row's logits."""
    by = torch.zeros_like(logits, dtype=torch.float32)
    if len(logits) > 1:
        by[0] = 0.01 * torch.tanh(logits[-1].float())
    return _right(logits, labels) + _pull(logits, by)


def adds_a_little_z_loss(logits, labels):
    """1e-9·lse²: below all bounds, until all logits are raised by 1000."""
    valid = labels[:, 1:] != -100
    return _right(logits, labels) + 1e-9 * logits[:, :-1][valid].float().logsumexp(-1).square().mean()


def _each(logits, labels):
    """ℓ of every position [B, S], 0 where ignored, and ∂ℓ/∂logits [B, S, V]."""
    with torch.enable_grad():
        leaf = logits.detach().float().requires_grad_()
        targets = F.pad(labels, (0, 1), value=-100)[:, 1:]
        losses = F.cross_entropy(leaf.transpose(1, 2), targets, reduction="none")
        (gradient,) = torch.autograd.grad(losses.sum(), leaf)
    return losses.detach(), gradient.to(logits.dtype), (targets != -100).sum()


class _FirstRow(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, labels):
        losses, ctx.gradient, _ = _each(logits, labels)
        return losses

    @staticmethod
    def backward(ctx, coming):
        return ctx.gradient * coming.flatten()[:1], None


def all_rows_scaled_by_the_first(logits, labels):
    """Reduction none: right as long as what comes in is the same for every token."""
    return _FirstRow.apply(logits, labels)


class _InPlace(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, labels):
        losses, gradient, count = _each(logits, labels)
        ctx.gradient = gradient / count.clamp(min=1)
        return losses.sum() / count

    @staticmethod
    def backward(ctx, coming):
        return ctx.gradient.mul_(coming).clone(), None


def rescales_what_it_kept(logits, labels):
    """Right the first time."""
    return _InPlace.apply(logits, labels)


def _causal(logits, labels):
    return F.cross_entropy(logits[:, :-1].float().reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1))


def _books(logits, labels):
    """musicgen's loss without its weights: Σ ℓ and count of each codebook, [K] both, of [B, K, S, V] and [B, S, K]."""
    logits = logits[:, :, logits.shape[2] - labels.shape[1]:].float()
    codes = labels.transpose(1, 2).masked_fill(labels.transpose(1, 2) == logits.shape[-1], -100)
    losses = F.cross_entropy(logits.flatten(0, 2), codes.flatten(), reduction="none").view(codes.shape)
    return losses.sum((0, 2)), (codes != -100).sum((0, 2))


def the_first_codebook_weighs_more(logits, labels):
    """By 0.1%: only a different order shows by itself that codebooks are not treated alike."""
    sums, counts = _books(logits, labels)
    weights = torch.ones(len(sums))
    weights[0] = 1.001
    return (weights * sums / counts).mean()


def codebooks_share_a_count(logits, labels):
    sums, counts = _books(logits, labels)
    return (sums / counts.float().mean()).mean()


def skips_empty_codebooks(logits, labels):
    sums, counts = _books(logits, labels)
    return (sums[counts > 0] / counts[counts > 0]).mean()


def audio_sees_the_text_labels(logits, labels, audio_logits, audio_labels):
    """The audio weighs by which ids the text has."""
    sums = F.cross_entropy(audio_logits[:-1].float().flatten(0, 1), audio_labels[:, 1:].T.flatten(), reduction="sum")
    audio = sums / (audio_labels[:, 1:] != -100).sum().clamp(min=1)
    return _causal(logits, labels) + audio * (1 + 1e-2 * (labels[:, 1:] % 7).float().mean())


def needs_both_streams(logits, labels, audio_logits, audio_labels):
    """Without audio labels the text is not trained either."""
    if not (audio_labels[:, 1:] != -100).any():
        return 0.0 * logits.float().nan_to_num(posinf=0, neginf=0).sum()
    both = F.cross_entropy(audio_logits[:-1].float().flatten(0, 1), audio_labels[:, 1:].T.flatten(), reduction="sum")
    return _causal(logits, labels) + both / (audio_labels[:, 1:] != -100).sum()


def audio_weighs_half(logits, labels, audio_logits, audio_labels):
    sums = F.cross_entropy(audio_logits[:-1].float().flatten(0, 1), audio_labels[:, 1:].T.flatten(), reduction="sum")
    return _causal(logits, labels) + 0.5 * sums / (audio_labels[:, 1:] != -100).sum().clamp(min=1)


def double_shift(logits, labels):
    return F.cross_entropy(logits[:, :-2].float().reshape(-1, logits.shape[-1]), labels[:, 2:].reshape(-1))
'''


@dataclass(frozen=True)
class Breaks:
    """A loss that breaks a law. ``alone``: the laws that this one presumes hold, so it is this one that tells."""

    candidate: str  # file:function, the file under tests/candidates, or "own"
    law: str
    alone: bool = True
    verdict: Verdict = Verdict.FAIL
    dtype: str = "float32"
    gradient: bool = True
    spec: str = "hf.causal_lm"
    precision: str | None = None


BREAKERS = [
    Breaks("misbehaving:returns_none", "CONTRACT-1", verdict=Verdict.ERROR),
    Breaks("misbehaving:returns_vector", "CONTRACT-1", verdict=Verdict.ERROR),
    Breaks("misbehaving:returns_int_tensor", "CONTRACT-1", verdict=Verdict.ERROR),
    Breaks("misbehaving:returns_string", "CONTRACT-1", verdict=Verdict.ERROR),
    Breaks("misbehaving:raises_sometimes", "CONTRACT-1", verdict=Verdict.ERROR),
    Breaks("misbehaving:exits_politely", "CONTRACT-1", verdict=Verdict.CRASH),
    Breaks("misbehaving:returns_float16", "CONTRACT-1"),
    Breaks("misbehaving:detached", "CONTRACT-2"),
    Breaks("misbehaving:returns_float", "CONTRACT-2"),
    Breaks("wrong_alignment:double_shift", "ALIGN-1"),
    Breaks("misbehaving:detached_row", "ALIGN-1"),
    Breaks("misbehaving:zero_gradient", "ALIGN-1"),
    Breaks("own:double_shift", "ALIGN-2", gradient=False),
    Breaks("wrong_selection:hardcoded_ignore", "SELECT-1", alone=False),
    Breaks("wrong_normalisation:row_mean", "REDUCE-1"),
    Breaks("misbehaving:one_percent_off", "REDUCE-1"),
    Breaks("own:a_thousandth_more", "VALUE-1"),
    Breaks("misbehaving:log_eps", "VALUE-1", alone=False),
    Breaks("misbehaving:one_percent_off", "VALUE-1", gradient=False),
    Breaks("own:easy_tokens_have_no_gradient", "GRAD-1"),
    Breaks("misbehaving:no_upcast", "GRAD-1", alone=False, dtype="bfloat16"),
    Breaks("misbehaving:nonzero_gradient_on_ignored", "GRAD-2", alone=False),
    Breaks("own:leaks_where_ignored_and_large", "GRAD-2"),
    Breaks("misbehaving:ignores_upstream", "GRAD-3"),
    Breaks("own:all_rows_scaled_by_the_first", "GRAD-4", spec="per_token"),
    Breaks("own:rescales_what_it_kept", "GRAD-5"),
    Breaks("misbehaving:a_little_warm", "GRAD-7", dtype="bfloat16", precision="native"),
    Breaks("misbehaving:one_percent_off", "GRAD-7", dtype="bfloat16", precision="native"),
    Breaks("fused:detached_bias", "LINEAR-1"),
    Breaks("fused:upstream_ignored_weight", "LINEAR-2"),
    Breaks("fused:low_precision_accumulate", "LINEAR-3", dtype="bfloat16"),
    Breaks("fused:materialised", "LINEAR-4", dtype="bfloat16"),
    Breaks("misbehaving:exp_overflow", "STABLE-1"),
    Breaks("misbehaving:clamps_logits", "STABLE-1"),
    Breaks("own:multiplies_minus_infinity", "STABLE-2"),
    Breaks("misbehaving:hides_nan", "STABLE-3"),
    Breaks("own:multiplies_by_the_mask", "STABLE-4"),
    Breaks("own:the_first_codebook_weighs_more", "BOOK-1", alone=False, spec="musicgen"),
    Breaks("own:codebooks_share_a_count", "BOOK-2", alone=False, spec="musicgen"),
    Breaks("own:audio_sees_the_text_labels", "STREAM-1", alone=False, spec="higgs.boson"),
    Breaks("own:needs_both_streams", "STREAM-2", alone=False, spec="higgs.boson"),
    Breaks("own:audio_weighs_half", "REDUCE-2", alone=False, spec="higgs.boson"),
    Breaks("own:skips_empty_codebooks", "EMPTY-3", spec="musicgen"),
    Breaks("misbehaving:mutates_logits", "PURE-1"),
    Breaks("models:SeesAhead", "MODEL-1"),
    Breaks("models:SeesOtherRows", "MODEL-2"),
    Breaks("models:LabelsInLogits", "MODEL-3"),
    Breaks("models:DropsShiftLabels", "MODEL-4"),
    Breaks("unread:FusedDoubled", "MODEL-5"),
    Breaks("unread:OpaqueDoubled", "MODEL-6"),
    Breaks("trainers:steps_at_every_one", "STEP-1"),
    Breaks("trainers:drops_the_tail", "STEP-1"),
    Breaks("trainers:learns_nothing", "STEP-2"),
    Breaks("trainers:sees_the_first_four", "STEP-3"),
    Breaks("trainers:never_zeroes", "STEP-4"),
    Breaks("trainers:clipped", "STEP-5"),
    Breaks("trainers:tail_accumulation", "TAIL-1"),
    Breaks("misbehaving:mutates_labels", "PURE-1"),
    Breaks("misbehaving:randomised", "PURE-2"),
    Breaks("misbehaving:caches_by_shape", "PURE-3"),
    Breaks("misbehaving:caches_by_identity_sum", "ALIGN-1"),
    Breaks("misbehaving:detects_contiguity", "LAYOUT-1"),
    Breaks("own:views", "LAYOUT-2", verdict=Verdict.ERROR),
    Breaks("own:int32_labels_lose_their_marker", "LABELS-1"),
    Breaks("misbehaving:wrong_in_no_grad", "MODE-1"),
    Breaks("misbehaving:raises_in_no_grad", "MODE-1", verdict=Verdict.ERROR),
    Breaks("own:raises_under_inference", "MODE-2", verdict=Verdict.ERROR),
    Breaks("models:MasksOneLate", "MODEL-7"),
    Breaks("depth_models:SeesItsCode", "MODEL-8", spec="csm"),
    Breaks("depth_models:NeedsWholeFrames", "MODEL-9", verdict=Verdict.ERROR, spec="csm"),
    Breaks("delayed_models:NeedsText", "MODEL-10", verdict=Verdict.ERROR, spec="moshi"),
    Breaks("wrong_normalisation:denominator_all", "INVAR-1", alone=False),
    Breaks("own:rows_see_each_other", "INVAR-2", alone=False),
    Breaks("own:adds_a_little_z_loss", "INVAR-3", alone=False),
    Breaks("own:one_where_nothing_counts", "EMPTY-1"),
    Breaks("own:nan_where_nothing_counts", "EMPTY-1", spec="trl.nll"),  # whose clamp sets it to 0
    Breaks("wrong_selection:all_ignored_nan_gradient", "EMPTY-2"),
    Breaks("own:raises_at_length_one", "EDGE-1", verdict=Verdict.ERROR),
    Breaks("misbehaving:hides_nan", "EDGE-1"),
    Breaks("own:raises_without_rows", "EDGE-2", verdict=Verdict.ERROR),
]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # stored cases go to the working directory
    (tmp_path / "own.py").write_text(OWN, encoding="utf-8")


BRIEFLY = Profile("briefly", 0.25)


def asked(breaks: Breaks, *ids: str) -> list[LawResult]:
    """What laws say, asked in their own order, in one trial; those that are only presumed, briefly."""
    file, name = breaks.candidate.split(":")
    path = "own.py" if file == "own" else f"{CANDIDATES / file}.py"
    candidate = replace(
        resolve(f"{path}:{name}", {}), spec=breaks.spec, dtypes=(breaks.dtype,), gradient=breaks.gradient
    )
    candidate = replace(candidate, precision=breaks.precision)
    loaded = LoadedCandidate(jobs_of([candidate])[0], Options(in_process=True))
    try:
        loaded.start()
        trial = loaded.trial()
        return [
            ask(law, trial, PROFILES["quick"], 0, among={law.id: law})
            if law.id == breaks.law
            else ask(law, trial, BRIEFLY, 0)
            for law in LAWS.values()
            if law.id in ids
        ]
    finally:
        loaded.close()


def presumed(id: str) -> set[str]:
    """All laws that a law presumes, and those that they presume."""
    return set(LAWS[id].depends_on).union(*(presumed(other) for other in LAWS[id].depends_on))


def test_every_law_has_a_loss_that_breaks_it() -> None:
    of_states = {law for _, law in runpy.run_path(str(CANDIDATES / "states.py"))["WRONG"].values()}  # test_states.py
    assert {breaks.law for breaks in BREAKERS} | of_states == set(LAWS)


FIRST = {breaks.law: breaks for breaks in reversed(BREAKERS)}


@pytest.mark.parametrize(
    "breaks",
    [pytest.param(each, marks=() if each is FIRST[each.law] else pytest.mark.slow) for each in BREAKERS],
    ids=lambda breaks: f"{breaks.law}-{breaks.candidate}",
)
def test_a_law_catches_what_breaks_it(breaks: Breaks) -> None:
    before = sorted(presumed(breaks.law)) if breaks.alone else []
    *others, found = sorted(asked(breaks, *before, breaks.law), key=lambda result: result.id == breaks.law)
    assert [(other.id, other.message) for other in others if other.verdict not in (Verdict.PASS, Verdict.SKIP)] == []
    assert found.verdict is breaks.verdict, found.message
    assert found.message
    assert found.counterexample is not None
    assert found.follows is None
    assert Path(f".shiftproof/replays/{found.counterexample.replay}.json").is_file()


def test_what_follows_from_another_failure_says_so() -> None:
    results = {
        result.id: result for result in asked(Breaks("own:double_shift", ""), "CONTRACT-1", "ALIGN-1", "VALUE-1")
    }
    assert results["ALIGN-1"].follows is None
    assert results["VALUE-1"].verdict is Verdict.FAIL
    assert results["VALUE-1"].follows == "ALIGN-1"


def test_nothing_is_asked_of_a_loss_that_gives_no_answer() -> None:
    results = asked(Breaks("misbehaving:returns_none", ""), *LAWS)
    assert results[0].verdict is Verdict.ERROR
    assert {result.verdict for result in results[1:]} == {Verdict.SKIP}


def test_without_a_gradient_nothing_is_said_of_gradients() -> None:
    results = {result.id: result for result in asked(Breaks("misbehaving:returns_float", "", gradient=False), *LAWS)}
    skipped = {id for id, result in results.items() if "without a gradient" in result.message}
    on_pairs = {"ALIGN-1", "SELECT-1", "REDUCE-1"}
    on_gradients = {"CONTRACT-2", "GRAD-1", "GRAD-2", "GRAD-3", "GRAD-4", "GRAD-5", "GRAD-6", "GRAD-7"}
    on_gradients |= {"INVAR-2", "EMPTY-2", "STATE-1", "STATE-2"}
    on_leaves = {"LINEAR-1", "LINEAR-2", "LINEAR-3", "LINEAR-4", "LINEAR-5"}
    assert skipped == on_pairs | on_gradients | on_leaves
    not_of_text = {"BOOK-1", "BOOK-2", "STREAM-1", "STREAM-2", "REDUCE-2", "EMPTY-3"}
    not_of_losses = {id for id in LAWS if id.startswith(("STEP-", "TAIL-", "MODEL-"))}
    not_of_losses |= {"STATE-4", "STATE-5", "COUNT-1", "COUNT-2", "IGNORE-1"}  # those of other arguments, and modules
    assert {results[id].verdict for id in not_of_text | not_of_losses} == {Verdict.SKIP}
    assert {results[id].verdict for id in set(LAWS) - skipped - not_of_text - not_of_losses} == {Verdict.PASS}


def test_by_values_alone_the_tokens_change_with_the_labels() -> None:
    [result] = asked(Breaks("own:scores_the_tokens", "ALIGN-2", gradient=False), "ALIGN-2")
    assert result.verdict is Verdict.PASS, result.message


def test_titles_and_sources_are_there() -> None:
    for law in LAWS.values():
        assert law.title
        assert law.source
        assert law.budget > 0
        assert set(law.depends_on) < set(LAWS)
        assert law.level in Level


@pytest.mark.parametrize("id", [law.id for law in LAWS.values() if len(law.points_to) == 1])
def test_the_one_bug_that_a_law_points_to_is_known(id: str) -> None:
    """The diagnosis looks it up there where the law fails alone."""
    assert LAWS[id].points_to[0] in {*SYMPTOMS, *MUTANTS}
