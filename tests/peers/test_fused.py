"""Other people's fused linear losses, judged as anybody's are: at their logits, and at every leaf."""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path

import pytest

from shiftproof.harness.candidates.declaration import Candidate
from shiftproof.harness.judge.ask import ask
from shiftproof.harness.judge.loading import LoadedCandidate, Options, jobs_of
from shiftproof.harness.judge.profile import Profile
from shiftproof.harness.laws import LAWS
from shiftproof.harness.results import Verdict

pytestmark = pytest.mark.peers

EXAMPLES = Path(__file__).parents[2] / "examples" / "fused_linear.py"
ASKED = ("CONTRACT-1", "ALIGN-1", "VALUE-1", "GRAD-1", "GRAD-3", "GRAD-4", "LINEAR-1", "LINEAR-2", "PURE-1", "EMPTY-2")
BRIEF = Profile("brief", 0.06)  # interpreted kernels take a second a case


def failed(candidate: Candidate, asked: tuple[str, ...] = ASKED) -> set[str]:
    """The laws of ``asked`` that fail; each is asked a few cases."""
    loaded = LoadedCandidate(jobs_of([candidate])[0], Options(deadline=60.0))
    try:
        trial = loaded.of_loss(loaded.job.spec)  # type: ignore[arg-type]
        among = {id: LAWS[id] for id in asked}
        results = [ask(law, trial, BRIEF, seed=0, among=among) for law in among.values()]
    finally:
        loaded.close()
    assert any(result.verdict is Verdict.PASS for result in results)
    return {result.id for result in results if result.verdict.is_failure}


@pytest.mark.parametrize(
    ("function", "spec", "distribution"),
    [
        ("liger", "liger", "liger-kernel"),
        ("liger_per_token", "per_token", "liger-kernel"),
        ("cce", "cce", "cut-cross-entropy"),
        ("fla", "fla", "fla-core"),
    ],
)
def test_a_fused_loss_conforms(function: str, spec: str, distribution: str) -> None:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{distribution} is not installed")
    if distribution != "cut-cross-entropy" and os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("its kernels need a GPU, or TRITON_INTERPRET=1 in the environment")
    assert failed(Candidate(function, f"{EXAMPLES}:{function}", spec, ("float32",))) == set()


def test_what_liger_keeps_from_its_forward_is_scaled_twice_by_a_second_backward() -> None:
    pytest.importorskip("liger_kernel")
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("its kernels need a GPU, or TRITON_INTERPRET=1 in the environment")
    assert failed(Candidate("liger", f"{EXAMPLES}:liger", "liger"), ("CONTRACT-2", "GRAD-1", "GRAD-5")) == {"GRAD-5"}
