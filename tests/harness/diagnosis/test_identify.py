"""What a loss computes when nobody has said."""

from __future__ import annotations

from pathlib import Path

import pytest

from shiftproof.harness.candidates.declaration import resolve
from shiftproof.harness.diagnosis.identify import Identity, describe, identify, targets_found
from shiftproof.harness.judge.loading import LoadedCandidate, Options, jobs_of
from shiftproof.harness.results import Picture
from shiftproof.harness.worker.target import LoadFailure

CANDIDATES = Path(__file__).parents[2] / "candidates"


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def identified(target: str) -> Identity:
    path = f"{CANDIDATES}/{target}" if (CANDIDATES / target.partition(":")[0]).is_file() else target
    loaded = LoadedCandidate(jobs_of([resolve(path, {})])[0], Options(in_process=True))
    try:
        loaded.start()
        return identify(loaded)
    finally:
        loaded.close()


@pytest.mark.slow  # the command's test has one
@pytest.mark.parametrize(
    ("target", "profile"),
    [
        ("right.py:sliced", "hf.causal_lm"),
        ("right.py:packed_by_position_ids", "packed.position_ids"),
        ("right.py:masked_mean", "masked"),
        ("right.py:aligned_mean", "hf.seq2seq"),
        ("right.py:sum_reduction", "sum"),
        ("right.py:per_token", "per_token"),
        ("right.py:prefix_logits", "hf.prefix_lm"),
        ("right.py:preshifted_short", "higgs.text"),
        ("right_audio.py:musicgen_loop", "musicgen"),
        ("right_audio.py:higgs_mean_nonempty_loop", "higgs.mean_nonempty"),
        ("right_audio.py:csm_flat", "csm"),
        ("right_audio.py:torchtitan_mtp", "torchtitan.mtp"),
    ],
)
def test_what_is_right(target: str, profile: str) -> None:
    found = identified(target)
    assert profile in found.conforms
    assert found.problem == ""


@pytest.mark.representatives(1)
@pytest.mark.parametrize(
    ("target", "bug"),
    [
        ("wrong_alignment.py:reverse_shift", "reverse-shift"),
        ("wrong_alignment.py:flatten_then_shift", "flatten-then-shift"),
        ("wrong_normalisation.py:overcount_rows", "overcount-rows"),
        ("wrong_selection.py:ignore_unused", "ignore-unused"),
    ],
)
def test_what_is_wrong(target: str, bug: str) -> None:
    found = identified(target)
    assert found.conforms == ()
    assert [named.mutant for reading in found.wrong for named in reading.bugs] == [bug]


PAIRS_ALONE = """
import torch

def loss(logits, labels):
    p, labels = torch.softmax(logits[:, :-1].float(), -1), labels[:, 1:]
    keep = labels != -100
    own = p.gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return -(torch.log(own + 1e-9) * keep).sum() / keep.sum()
"""


def test_what_the_judge_fails_is_not_what_it_computes(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(PAIRS_ALONE)
    found = identified("mine.py:loss")
    assert found.conforms == ()
    assert found.broken["hf.causal_lm"].startswith("VALUE-1: the loss is")
    told = describe("x", found)
    assert "x has the pairs and weights of hf.causal_lm, but breaks VALUE-1" in told
    assert "computes" not in told


REFUSES_LARGE_LOGITS = """
import torch.nn.functional as F

def loss(logits, labels):
    if logits.numel() and logits.abs().amax() > 5000:
        raise NotImplementedError("logits beyond 5000")
    return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())
"""


@pytest.mark.slow  # the command has a test of what it says then
def test_what_could_not_be_judged_is_told(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(REFUSES_LARGE_LOGITS)
    found = identified("mine.py:loss")
    assert found.conforms[0] == "hf.causal_lm"
    assert "STABLE-1: refused" in found.not_judged["hf.causal_lm"]
    assert "    not judged: " in describe("x", found)
    assert "logits beyond 5000" in describe("x", found)


def test_two_bugs_at_once() -> None:
    found = identified("wrong_two_at_once.py:double_shift_over_all")
    (reading,) = found.wrong
    assert reading.profile == "hf.causal_lm"
    assert [bug.mutant for bug in reading.bugs] == ["double-shift", "denominator-all"]
    assert "x, if it is meant as hf.causal_lm, has two bugs at once" in describe("x", found)


@pytest.mark.slow
def test_what_would_tell_those_that_coincide_apart() -> None:
    found = identified("right.py:sliced")
    assert len(found.apart) == len(found.conforms) - 1
    assert "differs from torchtune only where num_items_in_batch is given" in describe("x", found)


@pytest.mark.slow
def test_a_metric_is_read_by_its_values() -> None:
    found = identified("misbehaving.py:returns_float")
    assert "hf.causal_lm" in found.conforms
    assert found.not_judged["hf.causal_lm"] == "its gradient, for it gives none"


@pytest.mark.representatives(1)
@pytest.mark.parametrize(
    ("target", "problem"),
    [
        ("misbehaving.py:raises_always", "raised RuntimeError: this loss always fails"),
        ("misbehaving.py:returns_none", "returned None"),
        ("misbehaving.py:returns_string", "returned"),
    ],
)
def test_what_is_no_loss(target: str, problem: str) -> None:
    found = identified(target)
    assert (found.conforms, found.wrong, found.shown) == ((), (), None)
    assert problem in found.problem
    assert f"x could not be identified: it {found.problem}" in describe("x", found)


def test_what_fits_nothing() -> None:
    found = identified("misbehaving.py:one_percent_off")
    assert (found.conforms, found.wrong) == ((), ())
    assert describe("x", found).endswith("x could not be identified: it fits no profile and no known bug")


def test_what_cannot_be_loaded(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("raise ValueError('half edited')\n")
    with pytest.raises(LoadFailure, match="half edited"):
        identified("broken.py:loss")


def pair(at: tuple[int, int], *labels: tuple[int, int]) -> dict[str, object]:
    return {"logits": list(at), "labels": [list(place) for place in labels]}


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ([], "[–,–,–] [–,–,–]"),
        ([pair((0, 0), (0, 1)), pair((0, 1), (0, 2)), pair((1, 0), (1, 1))], "[1,2,–] [4,–,–]"),
        ([pair((0, 2), (1, 0))], "[–,–,3] [–,–,–]"),
        ([pair((1, 0), (0, 0), (1, 2))], "[–,–,–] [0+5,–,–]"),
        ([pair((0, 0), (-1, 9))], "[?,–,–] [–,–,–]"),
        ([pair((0, 3), (0, 1))], "[–,–,–,1] [–,–,–,–]"),
    ],
)
def test_targets_found(found: list[dict[str, object]], said: str) -> None:
    assert targets_found(Picture({}, "logits", [[0, 1, 2], [3, 4, 5]], [], found, "")) == said
