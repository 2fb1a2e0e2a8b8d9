"""What a candidate computes, when nobody has said: the profiles that predict it exactly, or the bug it has under
one."""

from __future__ import annotations

from dataclasses import dataclass, replace

from shiftproof.reference.profiles import PROFILES
from shiftproof.reference.spec import Documents, Layout, LossSpec

from .compare import same_value
from .diagnose import Evidence, agreement, gather, name_by_pairs, picture
from .docket import Hearing
from .recipe import Ids, Mask, Recipe, ShiftLabels
from .strategies import killers
from .trial import Trial
from .verdict import NamedBug, Picture

# The conventions that a loss without a spec is most likely meant to follow, likeliest first.
_LIKELY = (
    "hf.causal_lm",
    "masked",
    "hf.prefix_lm",
    "packed.position_ids",
    "preshifted",
    "hf.seq2seq",
    "torch.cross_entropy",
)


@dataclass(frozen=True)
class Reading:
    """One way to read a candidate: as a right ``profile`` (no ``bugs``), or as that profile with the bugs."""

    profile: str
    bugs: tuple[NamedBug, ...] = ()


@dataclass(frozen=True)
class Identity:
    """What was found.

    Attributes:
        conforms: profiles whose pairs, weights and empty value the candidate has.
        wrong: readings as a profile that it is not, with the bug's name.
        shown: the pairs on one small case, drawn.
        problem: why nothing could be read, or "".
    """

    conforms: tuple[str, ...]
    wrong: tuple[Reading, ...]
    shown: Picture | None
    problem: str = ""


def identify(hearing: Hearing) -> Identity:
    """Read a candidate's pairs on the cases of every profile whose arguments it asks for.

    Raises:
        UsageError, LoadFailure: when it cannot be loaded or called.
    """
    first = hearing.trial(PROFILES["hf.causal_lm"])
    seen = first.look(killers(first.space)[0])
    if seen.problem is None and seen.gradient is None:
        hearing.without_gradient()
    conforms: list[str] = []
    trials: dict[str, tuple[Trial, list[Evidence]]] = {}
    problem = ""
    for name, spec in PROFILES.items():
        if not _asks_for_all(first, spec):
            continue
        trial = hearing.trial(spec)
        evidence, silent = gather(trial)
        if not evidence:
            told = next((seen.problem.message for seen in silent if seen.problem), "takes no labels to be probed by")
            problem = problem or told
            continue
        trials[name] = trial, evidence
        share, compared = agreement(evidence, [seen.case.pairing for seen in evidence], 1e-3)
        if share == 1.0 and compared and not silent and _empty_as_declared(trial):
            conforms.append(name)
    if not trials:
        return Identity((), (), None, problem)
    shown_under = next((name for name in [*conforms, *_LIKELY] if name in trials), next(iter(trials)))
    return Identity(tuple(conforms), _wrong_readings(trials, conforms), _shown(trials[shown_under][0]))


def _asks_for_all(trial: Trial, spec: LossSpec) -> bool:
    """Whether the candidate asks for everything that the spec reads, so that it could be that loss."""
    term = spec.terms[0]
    needed = set()
    if term.documents is not Documents.NONE:
        needed.add(str(term.documents))
    if term.loss_mask:
        needed.add("loss_mask")
    if term.token_weights:
        needed.add("token_weights")
    if term.denominator == "num_items":
        needed.add("num_items_in_batch")
    return all(trial.binding.takes(name) for name in needed)


def _empty_as_declared(trial: Trial) -> bool:
    """Whether the loss of a batch with nothing to train on is the spec's, which tells some profiles apart."""
    recipe = Recipe(rows=2, length=4, classes=11, masks=(Mask.ALL,), extra=killers(trial.space)[0].extra)
    observation = trial.look(replace(recipe, count=killers(trial.space)[0].count))
    expected = observation.case.oracle.value
    if expected is None or observation.case.pairing.pairs:
        return True
    return observation.value is not None and same_value(observation.value, expected, 0.0)


def _wrong_readings(trials: dict[str, tuple[Trial, list[Evidence]]], conforms: list[str]) -> tuple[Reading, ...]:
    shifts_itself = any(PROFILES[name].terms[0].shift for name in conforms)
    if shifts_itself:
        return ()
    readings = []
    for name in _LIKELY:
        if name in conforms or name not in trials:
            continue
        if conforms and not PROFILES[name].terms[0].shift:
            continue  # it is right for labels that come shifted; only the other reading is of interest
        trial, evidence = trials[name]
        bugs = name_by_pairs(evidence, PROFILES[name], trial.dtype)
        if bugs:
            readings.append(Reading(name, bugs))
    return tuple(readings[:1])


def _shown(trial: Trial) -> Picture | None:
    simplest = killers(trial.space)[0]
    plain = replace(simplest, rows=2, length=4, ids=Ids.COUNTING, shift_labels=ShiftLabels.ABSENT, documents=1)
    return picture(trial, plain if trial.spec.layout is Layout.BATCHED else replace(plain, rows=2))


def targets_found(shown: Picture) -> str:
    """The label found for each logit, row by row, as in "[1,2,3,–] [5,6,7,–]" where labels count from 0."""
    length = len(shown.labels[0]) if shown.labels else 0
    width = 1 + max((pair["logits"][1] for pair in [*shown.expected, *shown.found]), default=0)
    rows: list[list[str]] = [["–"] * max(length, width) for _ in shown.labels]
    for pair in shown.found:
        row, position = pair["logits"]
        names = [str(at[0] * length + at[1]) if at[0] >= 0 else "?" for at in pair["labels"]]
        rows[row][position] = "+".join(names)
    return " ".join("[" + ",".join(row) + "]" for row in rows)


def describe(name: str, identity: Identity) -> str:
    """What was found, for people."""
    lines = []
    if identity.shown is not None:
        lines += [f"labels {identity.shown.labels}: targets found {targets_found(identity.shown)}", ""]
        lines += ["    " + line for line in identity.shown.drawing.splitlines()]
        lines.append("")
    if identity.conforms:
        first, *others = identity.conforms
        spec = PROFILES[first]
        lines.append(f"{name} computes {first}: {spec.formula}")
        if others:
            lines.append(f"    on every case tried it is also {', '.join(others)}")
    for reading in identity.wrong:
        for bug in reading.bugs:
            same = f" (the same as {', '.join(bug.also)})" if bug.also else ""
            lines.append(f"{name}, if it is meant as {reading.profile}, has the bug {bug.mutant}{same}: {bug.formula}")
            lines.append(f"    it happened in: {bug.seen}")
    if not identity.conforms and not identity.wrong:
        why = f": it {identity.problem}" if identity.problem else ": it fits no profile and no known bug of one"
        lines.append(f"{name} could not be identified{why}")
    return "\n".join(lines)
