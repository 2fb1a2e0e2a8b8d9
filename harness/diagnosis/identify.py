"""What a candidate computes when it has no spec: the profiles that predict it exactly, or its bug under one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from shiftproof.reference.profiles import PROFILES
from shiftproof.reference.spec import Denominator, Documents, LossSpec

from ..bounds.compare import same_value
from ..candidates.declaration import UsageError
from ..candidates.loss import Trial
from ..cases.recipe import Ids, Mask, ShiftLabels
from ..cases.space import hand_made
from ..judge.ask import ask
from ..judge.loading import LoadedCandidate, dtypes_of
from ..judge.profile import PROFILES as JUDGED
from ..judge.profile import Profile
from ..judge.regions import Tracers, look_around
from ..laws import LAWS
from ..results import LawResult, Level, NamedBug, Picture, Verdict
from .evidence import Evidence, explains, gather
from .name import name_by_pairs, picture
from .tell_specs_apart import tell_apart
from .two_bugs import name_two_bugs

# The conventions that a loss without a spec most likely follows, likeliest first.
_LIKELY = (
    "hf.causal_lm",
    "masked",
    "hf.prefix_lm",
    "packed.position_ids",
    "preshifted",
    "hf.seq2seq",
    "torch.cross_entropy",
    "higgs.hf",
    "higgs.mean_nonempty",
    "higgs.boson",
    "csm",
    "moshi",
    "musicgen",
    "parler",
    "dia",
    "moss_ttsd",
)


_SEED = 0
_SIFTED_BY = 3  # cases for a loss without a gradient under a profile that it may not follow


@dataclass(frozen=True)
class Reading:
    """One way to read a candidate: as a right ``profile`` (no ``bugs``), or as that profile with these bugs."""

    profile: str
    bugs: tuple[NamedBug, ...] = ()


@dataclass(frozen=True)
class Identity:
    """The result of an identification.

    Attributes:
        conforms: the profiles that it follows: the first one in a quick judgement, the others in a brief one.
        broken: the profiles whose pairs and weights it has, and that it does not follow: the first law that it breaks.
        not_judged: the profiles in ``conforms`` of which something could not be judged, and what.
        wrong: readings as a profile that the candidate does not follow, with the name of the bug.
        shown: a picture of the pairs on one small case.
        apart: for each further profile in ``conforms``, how the first one differs from it.
        problem: why nothing could be read, or "".
    """

    conforms: tuple[str, ...]
    wrong: tuple[Reading, ...]
    shown: Picture | None
    problem: str = ""
    apart: tuple[str, ...] = ()
    broken: Mapping[str, str] = field(default_factory=dict)
    not_judged: Mapping[str, str] = field(default_factory=dict)


def identify(loaded: LoadedCandidate) -> Identity:
    """Read a candidate's pairs on the cases of every profile whose arguments it takes.

    Raises:
        UsageError, LoadFailure: if it cannot be loaded or called. UsageError also for a label builder or a model.
    """
    if loaded.builds:
        raise UsageError(
            f"{loaded.job.name} builds labels, but only losses can be identified; state what it should build, as in "
            "`shiftproof check TARGET --spec delay.labels.boson` (see `shiftproof list profiles`)"
        )
    if loaded.binding.is_model:
        raise UsageError(
            f"{loaded.job.name} is a model, but only losses can be identified; judge it against what it promises, as "
            "in `shiftproof check TARGET --spec hf.causal_lm` (see `shiftproof list profiles`)"
        )
    fitting = loaded.fitting(PROFILES.values())
    if not fitting:
        return Identity((), (), None, f"takes {', '.join(loaded.binding.names.values())}, which no profile has")
    first = loaded.of_loss(fitting[0])
    promises_gradient = loaded.job.candidate.gradient
    observation = first.observe_cached(hand_made(first.space)[0])
    if observation.problem is None and observation.gradients is None:
        loaded.without_gradient()
    conforms: list[str] = []
    trials: dict[str, tuple[Trial, list[Evidence]]] = {}
    problem = ""
    for spec in fitting:
        name = spec.name
        if not _asks_for_all(first, spec):
            continue
        trial = loaded.of_loss(spec)
        evidence, silent = gather(trial, _SIFTED_BY)
        fits = explains(evidence, lambda case: case.pairing, 1e-3)
        if not trial.candidate.gradient and evidence and fits and not silent:
            evidence, silent = gather(trial)  # this profile fits so far, so use all cases
            fits = explains(evidence, lambda case: case.pairing, 1e-3)
        if not evidence:
            reason = next(
                (observation.problem.message for observation in silent if observation.problem),
                "takes no labels to probe it with",
            )
            problem = problem or reason
            continue
        if any(observation.problem for observation in silent) and len(spec.logits) > 1:
            problem = problem or "does not answer every case of any profile that has its arguments"
            continue  # these argument shapes are not its own, so its answers mean nothing
        trials[name] = trial, evidence
        if fits and not silent and _scores_as_declared(trial):
            conforms.append(name)
    if not trials:
        return Identity((), (), None, problem)
    broken: dict[str, LawResult] = {}
    not_judged: dict[str, str] = {}
    for name in tuple(conforms):
        how = JUDGED["quick" if conforms[0] == name else "brief"]
        found = _judge(loaded, PROFILES[name], how, [law.id for law in broken.values()])
        if found and found[0].verdict.is_failure:
            conforms.remove(name)
            broken[name] = found[0]
            continue
        reasons = ["its gradient, for it gives none"] * (promises_gradient and not loaded.job.candidate.gradient)
        reasons += [f"{law.id}: {law.message}" for law in found]
        if reasons:
            not_judged[name] = "; ".join(reasons)
    wrong = () if broken and not conforms else _wrong_readings(trials, conforms)
    read_as = [*conforms, *(reading.profile for reading in wrong), *_LIKELY]
    shown_under = next((name for name in read_as if name in trials), next(iter(trials)))
    takes = frozenset(first.binding.names)
    apart = tuple(tell_apart(PROFILES[conforms[0]], PROFILES[name], takes) for name in conforms[1:])
    return Identity(
        tuple(conforms),
        wrong,
        _shown(trials[shown_under][0]),
        apart=apart,
        broken={name: f"{law.id}: {law.message}" for name, law in broken.items()},
        not_judged=not_judged,
    )


def _judge(loaded: LoadedCandidate, spec: LossSpec, how: Profile, suspected: Sequence[str]) -> tuple[LawResult, ...]:
    """Judge the candidate under a profile. Return the first MUST law that it breaks, or all that could not be decided.

    The laws that it broke under other profiles, which are ``suspected``, come first.
    """
    [dtypes, *_] = dtypes_of(replace(loaded.job.candidate, spec=spec.name))
    trial = loaded.of_loss(spec, dtypes)
    if how.varies_sizes:
        tracers = Tracers()
        try:
            look_around(trial, loaded.worker, tracers, _SEED)
        finally:
            tracers.close()
    undecided = []
    for law in sorted(LAWS.values(), key=lambda law: law.id not in suspected):
        if law.level is Level.MUST:
            found = ask(law, trial, how, _SEED)
            if found.verdict.is_failure:
                return (found,)
            if found.verdict not in (Verdict.PASS, Verdict.SKIP, Verdict.ALLOWED):
                undecided.append(found)
    return tuple(undecided)


def _asks_for_all(trial: Trial, spec: LossSpec) -> bool:
    """Return whether the candidate takes everything that the spec reads, so that it could be that loss."""
    needed = set()
    for term in spec.terms:
        if term.documents is not Documents.NONE:
            needed.add(str(term.documents))
        needed |= {name for name in ("loss_mask", "token_weights") if getattr(term, name)}
        if term.denominator is Denominator.NUM_ITEMS:
            needed.add("num_items_in_batch")
        if term.codebook_weights is True:
            needed.add("codebook_weights")
        if term.score.class_weights:
            needed.add("class_weights")
        if term.stops_at_eos:
            needed |= {"input_ids", "eos_token_id"}
    return all(trial.binding.takes(name) for name in needed)


def _scores_as_declared(trial: Trial) -> bool:
    """Return whether the loss value is the spec's too.

    This matters if the score is more than cross-entropy. It also compares the value of a batch with nothing to train
    on, which separates some profiles.
    """
    if not all(term.score.is_plain for term in trial.spec.terms):
        observation = trial.observe_cached(hand_made(trial.space)[0])
        expected = observation.case.oracle.value
        if observation.value is None or expected is None:
            return False
        if not same_value(observation.value, expected, 10 * trial.bounds(observation).value):
            return False
    observation = trial.observe_cached(replace(hand_made(trial.space)[0], masks=(Mask.ALL,)))
    expected = observation.case.oracle.value
    if expected is None or observation.case.pairing.pairs:
        return True
    return observation.value is not None and same_value(observation.value, expected, 0.0)


def _wrong_readings(trials: dict[str, tuple[Trial, list[Evidence]]], conforms: list[str]) -> tuple[Reading, ...]:
    shifts_itself = any(PROFILES[name].terms[0].shift for name in conforms)
    if shifts_itself:
        return ()
    candidates = []
    for name in _LIKELY:
        if name in conforms or name not in trials:
            continue
        if conforms and not PROFILES[name].terms[0].shift:
            continue  # it is right for labels that come shifted; only the other reading matters
        trial, evidence = trials[name]
        if not trial.candidate.gradient:
            evidence, _ = gather(trial)
            trials[name] = trial, evidence
        bugs = name_by_pairs(evidence, PROFILES[name], trial.dtypes[0])
        if bugs:
            return (Reading(name, bugs),)
        candidates.append(name)
    # One bug is a better explanation than two, so two bugs at once come last, under any convention.
    for name in candidates:
        trial, evidence = trials[name]
        bugs = name_two_bugs(evidence, PROFILES[name], trial.dtypes[0])
        if bugs:
            return (Reading(name, bugs),)
    return ()


def _shown(trial: Trial) -> Picture | None:
    simplest = hand_made(trial.space)[0]
    plain = replace(simplest, rows=2, length=4, ids=Ids.COUNTING, shift_labels=ShiftLabels.ABSENT, documents=1)
    return picture(trial, plain)


def targets_found(shown: Picture) -> str:
    """Return the label found for each logit, row by row, as in "[1,2,3,–] [5,6,7,–]". Labels count from 0."""
    length = len(shown.labels[0]) if shown.labels else 0
    width = 1 + max((pair["logits"][1] for pair in [*shown.expected, *shown.found]), default=0)
    rows: list[list[str]] = [["–"] * max(length, width) for _ in shown.labels]
    for pair in shown.found:
        row, position = pair["logits"]
        names = [str(at[0] * length + at[1]) if at[0] >= 0 else "?" for at in pair["labels"]]
        rows[row][position] = "+".join(names)
    return " ".join("[" + ",".join(row) + "]" for row in rows)


def describe(name: str, identity: Identity) -> str:
    """Describe the result for people."""
    lines = []
    if identity.shown is not None:
        lines += [f"labels {identity.shown.labels}: targets found {targets_found(identity.shown)}", ""]
        lines += ["    " + line for line in identity.shown.drawing.splitlines()]
        lines.append("")
    if identity.conforms:
        first, *others = identity.conforms
        spec = PROFILES[first]
        lines.append(f"{name} computes {first}: {spec.formula}")
        if first in identity.not_judged:
            lines.append(f"    not judged: {identity.not_judged[first]}")
        if others:
            lines.append(f"    on every case tried it is also {', '.join(others)}")
        lines += [f"    {first} {reason}" for reason in identity.apart]
    for profile, violation in identity.broken.items():
        lines.append(f"{name} has the pairs and weights of {profile}, but breaks {violation}")
    for reading in identity.wrong:
        if len(reading.bugs) > 1:
            lines.append(f"{name}, if it is meant as {reading.profile}, has two bugs at once")
        for bug in reading.bugs:
            same = f" (the same as {', '.join(bug.also)})" if bug.also else ""
            lines.append(f"{name}, if it is meant as {reading.profile}, has the bug {bug.mutant}{same}: {bug.formula}")
            lines.append(f"    it happened in: {bug.seen}")
    if not (identity.conforms or identity.wrong or identity.broken):
        why = f": it {identity.problem}" if identity.problem else ": it fits no profile and no known bug"
        lines.append(f"{name} could not be identified{why}")
    return "\n".join(lines)
