"""Read one model without a given spec: how its labels meet its logits, which spec fits, and the verdict under it.

- If the labels move the logits, they are the decoder's inputs, shifted right by the model. The logits at t must be
  scored on the label at t.
- If they do not, the tokens are the inputs. The logits at t must be scored on the label at t + 1.
- A model that fails the second case, but meets the first apart from its inputs, is *unshifted*: its caller must shift.
  Its documentation decides whether that is a bug.
- A model that takes no labels [B, S] may take those of codebooks. Its frames are shifted by its caller, and the logits
  at t must be scored on frame t. Which weights its codebooks have is its own choice.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch

from shiftproof.reference.profiles import PROFILES
from shiftproof.reference.spec import Extra, LossSpec

from ..candidates.declaration import UsageError
from ..candidates.loss import Observation
from ..candidates.model import ModelTrial, Route, moved_rows
from ..cases.recipe import Count, Ids, Mask, Recipe
from ..cases.space import hand_made
from ..diagnosis.evidence import gather
from ..diagnosis.name import name_bugs
from ..judge.ask import ask
from ..judge.loading import LoadedCandidate
from ..judge.profile import Profile
from ..laws import LAWS
from ..laws.alignment import places_only, positions_of, read_by_value
from ..laws.models import LABELS_CHANGED, unmasked
from ..probe.read import Positions
from ..results import LawResult, Level, NamedBug, Overall, Verdict, overall

NARROW = ("bfloat16", "float16")
NO_UPCAST = "no-upcast"
OF_STREAMS = ("higgs.hf", "moshi")
WITH_DEPTH = ("csm",)
OF_CODEBOOKS = ("dia", "musicgen")
CAUSAL, PREFIXED, SEQ2SEQ = "hf.causal_lm", "hf.prefix_lm", "hf.seq2seq"
_ALIGNED = replace(PROFILES[SEQ2SEQ], terms=(replace(PROFILES[SEQ2SEQ].terms[0], extra=Extra.PREFIX),))
_OF_THE_LOSS = ("CONTRACT-1", "ALIGN-1", "ALIGN-2", "SELECT-1", "VALUE-1")

_LENGTHS = (3, 4, 7)  # for which a model's rows of logits are counted
_UNEXPLAINED = 0.01  # relative to the change of the loss; rounding explains less

# A model whose documentation matches this claims that it shifts its labels itself.
_PROMISES = re.compile(r"shifted\W+inside|labels\W+=\W+input_ids|next[- ](word|token)|shifted\W+internally", re.I)


@dataclass(frozen=True)
class Reading:
    """The findings about one model.

    Attributes:
        spec: the name of the spec it was judged under; for an unshifted model, the spec of aligned labels.
        verdict: the verdict under that spec.
        laws: the laws asked, in order.
        bugs: the named bugs; empty if it conforms.
        alignment: in words, the distance from rows of logits to the labels that they are scored on.
        unshifted: whether it is right for labels that its caller has shifted.
        promise: the sentence of its documentation that claims that it shifts, or "".
        extra: the number of rows of logits before those of the labels.
        causal: whether no row of logits sees a later token.
        by_value: whether the loss does not flow through logits, so that its pairs were read from values alone.
        doubt: why these findings do not allow a judgement; then the verdict is inconclusive.
        no_pairs: why no row of logits belongs to a label; then there is nothing to judge.
    """

    spec: str
    verdict: Overall
    laws: tuple[LawResult, ...]
    bugs: tuple[NamedBug, ...]
    alignment: str
    unshifted: bool = False
    promise: str = ""
    extra: int = 0
    causal: bool = True
    by_value: bool = False
    doubt: str = ""
    no_pairs: str = ""

    @property
    def failed(self) -> tuple[LawResult, ...]:
        """The failed MUST laws."""
        return tuple(law for law in self.laws if law.verdict.is_failure and law.level is Level.MUST)


def read_model(loaded: LoadedCandidate, seed: int, profile: Profile) -> Reading:
    """Read and judge the model of a loaded candidate.

    In a narrow dtype, a model that fails where float32 was promised is read once more without that promise. What is
    wrong besides its precision is told first.

    Raises:
        UsageError: if it takes an argument that no model gets, or returns logits of a shape that no model has.
        LoadFailure: if it cannot be loaded.
    """
    found = _read(loaded, seed, profile)
    if found.verdict is not Overall.FAILS or loaded.job.dtypes[0] not in NARROW:
        return found
    native = _read(loaded.promising("native"), seed, profile)
    if native.verdict is not Overall.FAILS:
        return found
    of_precision = [bug for bug in found.bugs if bug.mutant == NO_UPCAST]
    return replace(native, bugs=(*native.bugs, *(bug for bug in of_precision if bug not in native.bugs)))


def _read(loaded: LoadedCandidate, seed: int, profile: Profile) -> Reading:
    """Read and judge the model of a loaded candidate, with its promise of precision."""
    if of_streams := _read_under(OF_STREAMS, loaded, seed, profile):
        return of_streams
    trial = _trial(loaded, PROFILES[PREFIXED])
    for specs in () if trial.answers else (OF_CODEBOOKS, WITH_DEPTH):
        if of_codebooks := _read_under(specs, loaded, seed, profile):
            return of_codebooks
    if labels_move_logits(trial):
        trial = _trial(loaded, PROFILES[SEQ2SEQ])
        if reads_its_labels(trial):
            doubt = "its labels are its inputs without a shift: the last one moves the last row of logits, and no other"
            empty = Reading(trial.spec.name, Overall.INCONCLUSIVE, (), (), "not read", extra=trial.extra)
            return replace(empty, doubt=doubt)
    elif not trial.extra:
        trial = _trial(loaded, PROFILES[CAUSAL])
    if rows := _rows_apart_from_labels(trial):
        evidence = f"its rows of logits are not the positions of labels: {rows}; CTC and its like have no pairs"
        empty = Reading(trial.spec.name, Overall.INCONCLUSIVE, (), (), "not read", extra=trial.extra)
        return replace(empty, no_pairs=evidence)
    laws = _ask(trial, profile, seed, LAWS)
    verdict = overall(laws)
    found = _reading(trial, laws)
    if verdict is Overall.CONFORMS and trial.values_only:
        return replace(found, verdict=Overall.INCONCLUSIVE, doubt=f"its values are right, and {trial.values_only}")
    if verdict is not Overall.FAILS:
        return found
    stopped = next((law.message for law in found.failed if " in its backward" in law.message), "")
    if stopped:  # without a working backward nobody trains on the wrong thing
        return replace(found, verdict=Overall.INCONCLUSIVE, doubt=stopped)
    if trial.route is not Route.RETURNED and not of_its_logits(trial):
        doubt = "its loss is made of other logits than it returns"
        return replace(found, verdict=Overall.INCONCLUSIVE, alignment="not read", doubt=doubt)
    found = replace(found, bugs=_name(trial, laws))
    if not trial.shifts_inputs and {"ALIGN-1", "ALIGN-2", "VALUE-1"} & trial.failed:
        found = _if_unshifted(loaded, trial, found, profile, seed)
    return found


def _rows_apart_from_labels(trial: ModelTrial) -> str:
    """Say how many rows of logits there are for several lengths, if they do not grow with the labels. Else ""."""
    rows = {}
    for length in _LENGTHS if trial.answers else ():
        seen = trial.logits_of(trial.case(Recipe(rows=1, length=length, masks=(Mask.NONE,))))
        if seen is not None:
            rows[length] = seen.shape[1]
    if len({count - length for length, count in rows.items()}) <= 1:
        return ""
    return ", ".join(f"{count} for {length} labels" for length, count in rows.items())


def _reading(trial: ModelTrial, laws: tuple[LawResult, ...]) -> Reading:
    return Reading(
        spec=trial.spec.name,
        verdict=overall(laws),
        laws=laws,
        bugs=(),
        alignment=describe_alignment(trial),
        extra=trial.extra,
        causal="MODEL-1" not in trial.failed,
        by_value=not trial.candidate.gradient,
    )


def _read_under(specs: Iterable[str], loaded: LoadedCandidate, seed: int, profile: Profile) -> Reading | None:
    """Read a model of codebooks under each of these profiles. Return None if none of them fits its arguments."""
    found = []
    for name in specs:
        try:
            trial = _trial(loaded, PROFILES[name])
        except UsageError:
            continue
        laws = _ask(trial, profile, seed, LAWS)
        reading = _reading(trial, laws)
        if reading.verdict is Overall.CONFORMS and trial.values_only:
            doubt = f"its values are right, and {trial.values_only}"
            return replace(reading, verdict=Overall.INCONCLUSIVE, doubt=doubt)
        if reading.verdict is not Overall.FAILS:
            return reading
        bugs = _name(trial, laws)
        others = [law.id for law in reading.failed if law.id != "REDUCE-1" and not law.follows]
        if not others and "REDUCE-1" in trial.failed and all(bug.mutant.startswith("codebook-") for bug in bugs):
            doubt = "its pairs are right, and the weights of its codebooks are those of no profile"
            reading = replace(reading, verdict=Overall.INCONCLUSIVE, doubt=doubt)
        found.append(replace(reading, bugs=bugs))
    # What needs the fewest bugs to explain it is the best explanation.
    return min(found, key=lambda reading: (not reading.doubt, len(reading.bugs) or len(LAWS)), default=None)


def labels_move_logits(trial: ModelTrial) -> bool:
    """Return whether other labels, with the same input_ids, give other logits."""
    case = trial.case(unmasked(hand_made(trial.space)[0]))
    before, after = trial.observe(case), trial.observe(case, LABELS_CHANGED)
    return before.problem is None and after.problem is None and bool(moved_rows(before, after).any())


def reads_its_labels(trial: ModelTrial) -> bool:
    """Return whether another last label moves the last row of logits, and no other.

    It moves none where the inputs are the labels shifted right, and others too where a row sees later labels.
    """
    case = trial.case(unmasked(hand_made(trial.space)[0]))
    labels = case.batch.tensor("labels").clone()
    labels[:, -1] = (labels[:, -1] + 1) % trial.classes
    before = trial.observe(case)
    after = trial.observe(trial.variation(case, lambda batch: replace(batch, labels=labels)))
    if before.problem is not None or after.problem is not None:
        return False
    moved = moved_rows(before, after)
    return bool(moved[:, -1].any()) and not bool(moved[:, :-1].any())


def of_its_logits(trial: ModelTrial) -> bool:
    """Return whether the loss changes with the class of a label as the returned logits predict, whatever its pairs.

    This changes the last label of one sequence, because no logits depend on it. ΔL is the same sum of differences
    between two classes' logits, whatever class the label is changed to.
    """
    recipe = trial.fit(Recipe(rows=1, length=3, ids=Ids.SEEDED, masks=(Mask.NONE,)))
    before = trial.observe_cached(recipe)
    if before.problem is not None or before.value is None:
        return True
    labels = before.case.batch.tensor("labels")
    rows = before.case.batch.tensor("logits")[0].double()
    base = int(labels[0, -1])
    others = [c for c in range(trial.classes) if c != base][: 3 * len(rows) + 8]
    moved = []
    for c in others:
        other = labels.clone()
        other[0, -1] = c
        after = trial.observe(replace(before.case, batch=replace(before.case.batch, labels=other)))
        moved.append((after.value if after.value is not None else before.value) - before.value)
    changes = torch.tensor(moved, dtype=torch.float64)[:, None]
    design = (rows[:, [base]] - rows[:, others]).T
    left = changes - design @ torch.linalg.lstsq(design, changes).solution
    return float(left.norm()) <= _UNEXPLAINED * float(changes.norm())


def _trial(loaded: LoadedCandidate, spec: LossSpec) -> ModelTrial:
    trial = loaded.of_loss(spec)
    if not isinstance(trial, ModelTrial):
        raise UsageError(f"{loaded.job.name} is not a model: it makes no logits from input_ids to score on labels")
    return trial


def _ask(trial: ModelTrial, profile: Profile, seed: int, ids: Iterable[str]) -> tuple[LawResult, ...]:
    results = []
    asked = {id: LAWS[id] for id in ids}
    for law in asked.values():
        results.append(ask(law, trial, profile, seed, among=asked))
        if results[-1].verdict.is_costly:
            break  # each further call can cost a process or a deadline
    return tuple(result for result in results if result.verdict is not Verdict.SKIP)


def _name(trial: ModelTrial, laws: tuple[LawResult, ...]) -> tuple[NamedBug, ...]:
    if any(law.verdict.is_costly for law in laws):
        return ()
    return name_bugs(laws, trial, *gather(trial))


def _if_unshifted(loaded: LoadedCandidate, trial: ModelTrial, found: Reading, profile: Profile, seed: int) -> Reading:
    """Return ``found``, or the reading of the same model as unshifted, if it is right under that."""
    aligned = _trial(loaded, _ALIGNED)
    counted = aligned.space
    aligned.space = {**counted, "count": (Count.ABSENT,)}
    if overall(_ask(aligned, profile, seed, _OF_THE_LOSS)) is not Overall.CONFORMS:
        return found
    aligned.space = counted
    laws = _ask(aligned, profile, seed, (*_OF_THE_LOSS, "REDUCE-1"))
    return replace(
        found,
        spec=aligned.spec.name,
        verdict=overall(laws),
        laws=laws,
        bugs=_name(aligned, laws) if overall(laws) is Overall.FAILS else (),
        unshifted=True,
        promise=promise_in(loaded.describe().documentation),
    )


def promise_in(documentation: str) -> str:
    """Return the sentence of a documentation that claims that the model shifts the labels, or ""."""
    for sentence in re.split(r"(?<=[.!?])\s+", " ".join(documentation.split())):
        if _PROMISES.search(sentence):
            return sentence
    return ""


def describe_alignment(trial: ModelTrial) -> str:
    """Describe which labels the rows of logits are scored on: "k=1", "k=2, and on another row"."""
    recipe = trial.fit(unmasked(hand_made(trial.space)[0]))
    found = _positions(trial, recipe)
    if found is None:
        return "not read"
    shifter = "the model" if trial.layout is None else "its caller"
    whose = f", inputs shifted by {shifter}" if trial.shifts_inputs else ""
    if not found:
        return "nothing is scored"
    steps, elsewhere = set(), False
    for (_, *site), places in found.items():
        row, position, *codebook = site
        for place in places:
            if place[0] == row and list(place[2:]) == codebook:
                steps.add(place[1] - (position - trial.extra))
            else:
                elsewhere = True
    ks = " and ".join(f"k={step}" for step in sorted(steps))
    has_books = trial.layout is not None or len(trial.spec.logits) > 1
    other = "another row or codebook" if has_books else "another row"
    return ", and ".join(filter(None, (ks, f"on {other}" if elsewhere else ""))) + whose


def _positions(trial: ModelTrial, recipe: Recipe) -> Positions | None:
    if trial.candidate.gradient:
        read = positions_of(trial, recipe)
        return None if isinstance(read, Observation) else read
    focused = LAWS["ALIGN-2"].adapt(recipe)
    if focused is None or trial.skip_reason("ALIGN-2"):
        return None
    weights = read_by_value(trial, trial.fit(focused))
    return None if isinstance(weights, Observation) else places_only(weights)
