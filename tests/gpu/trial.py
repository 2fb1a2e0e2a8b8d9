"""One candidate on trial: every law of its spec. Prints one finding as a JSON object. Run in a process of its own.

What it is told is a JSON object too: the fields of :class:`Tried`.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, replace

import torch

from shiftproof.harness.candidates.declaration import Candidate
from shiftproof.harness.diagnosis.evidence import gather
from shiftproof.harness.diagnosis.name import name_bugs
from shiftproof.harness.judge.ask import ask
from shiftproof.harness.judge.laws_of import laws_of
from shiftproof.harness.judge.loading import LoadedCandidate, Options, jobs_of
from shiftproof.harness.judge.profile import Profile
from shiftproof.harness.results import Level, Overall, Verdict, overall
from shiftproof.reference.spec import LossSpec

from .findings import Finding, Result
from .tried import Tried

_DEADLINE = 60.0  # seconds for one call: the first ones compile
_SEED = 0


def judge(tried: Tried) -> Finding:
    """Ask every law. Whatever keeps it from being judged is raised."""
    if tried.needs and not hasattr(torch.nn.functional, tried.needs):
        return Finding(tried.part, tried.title, Result.SKIPPED, f"torch {torch.__version__} has no {tried.needs}")
    torch.set_num_threads(1)  # small cases are faster so, and others judge beside this one
    started = time.monotonic()
    candidate = Candidate(
        tried.name, tried.call, tried.spec, devices=(tried.device,), dtypes=(tried.dtype,), precision=tried.precision
    )
    loaded = LoadedCandidate(jobs_of([candidate])[0], Options(deadline=_DEADLINE))
    try:
        spec = loaded.job.spec
        if isinstance(spec, LossSpec) and not tried.laid_out:
            spec = replace(spec, layouts=())
        trial = loaded.trial(spec)
        results = tuple(ask(law, trial, Profile("gpu", tried.factor), _SEED) for law in laws_of(spec).values())
        found = overall(results)
        named: list[str] = []
        if tried.diagnosis and isinstance(spec, LossSpec):
            named = [bug.mutant for bug in name_bugs(results, trial, *gather(trial))]  # type: ignore[arg-type]
    finally:
        loaded.close()
    broken = [law for law in results if law.verdict.is_failure and law.level is Level.MUST]
    undecided = [law for law in results if law.verdict in (Verdict.INCONCLUSIVE, Verdict.VACUOUS)]
    said = f"{sum(law.cases for law in results)} cases of {len(results)} laws"
    said = "; ".join([said, *(f"{law.id} {law.verdict}: {' '.join(law.message.split())[:200]}" for law in broken[:3])])
    if tried.expect == "fails":
        right = found is Overall.FAILS and (tried.diagnosis is None or tried.diagnosis in named)
        said = f"known to be wrong, {found}{f' as {named[0]}' if named else ''}; {said}"
        result = Result.PASSED if right else Result.WRONG
    elif found is Overall.FAILS:
        result = Result.WRONG
    elif found is Overall.CONFORMS:
        result = Result.PASSED
    else:
        result = Result.NOT_RUN
        said += "".join(f"; {law.id} {law.verdict}: {law.message[:200]}" for law in undecided[:3])
    return Finding(tried.part, tried.title, result, said, round(time.monotonic() - started, 1))


if __name__ == "__main__":
    print(json.dumps(asdict(judge(Tried(**json.loads(sys.argv[1]))))))
