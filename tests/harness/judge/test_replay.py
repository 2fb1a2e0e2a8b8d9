"""A stored case, asked again of the candidate as it is now."""

from __future__ import annotations

from pathlib import Path

import pytest

from shiftproof.harness.candidates.declaration import Candidate, UsageError
from shiftproof.harness.cases.recipe import Ids, Mask, Recipe, Regime
from shiftproof.harness.judge.loading import Options
from shiftproof.harness.judge.replay import Replayed, replay
from shiftproof.harness.judge.store import Stored, load

RIGHT = """
import torch.nn.functional as F
def loss(logits, labels):
    return F.cross_entropy(logits[:, :-1].float().reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1))
"""
WRONG = RIGHT.replace("[:, :-1]", "[:, :-2]").replace("[:, 1:]", "[:, 2:]")


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def stored(law: str = "ALIGN-1", spec: str = "hf.causal_lm", **recipe: object) -> Stored:
    fields = {"rows": 1, "length": 3, "classes": 6, "regime": Regime.CALM, "ids": Ids.COUNTING, **recipe}
    return Stored(
        candidate=Candidate("mine", "mine.py:loss", spec=spec),
        spec=spec,
        device="cpu",
        law=law,
        features=(),
        message="",
        recipe=Recipe(**fields),  # type: ignore[arg-type]
    )


def replayed(source: str, case: Stored) -> Replayed:
    Path("mine.py").write_text(source)
    return replay(load(case.save()), Options(in_process=True))


def test_it_still_fails() -> None:
    found = replayed(WRONG, stored())
    assert found.outcome == "FAILS"
    assert found.message == "2 of 2 logit rows: logits [0, 0] are scored on label [0, 2], not on label [0, 1]"


def test_it_is_fixed() -> None:
    assert replayed(RIGHT, stored()) == Replayed("FIXED", "the case passes ALIGN-1 now")


@pytest.mark.parametrize(
    "source", ["raise ValueError('half edited')\n", "import no_such_module_anywhere\n", "def loss(logits, labels:\n"]
)
def test_it_cannot_be_loaded(source: str) -> None:
    assert replayed(source, stored()).outcome == "ERROR"


def test_it_fails_in_another_way() -> None:
    found = replayed("def loss(logits, labels):\n    raise ValueError('worse')\n", stored())
    assert found == Replayed("FAILS", "raised ValueError: worse")


@pytest.mark.parametrize(("law", "recipe"), [("ALIGN-1", {"masks": (Mask.ALL,)}), ("VALUE-1", {"masks": (Mask.ALL,)})])
def test_a_case_that_proves_nothing_is_no_fix(law: str, recipe: dict[str, object]) -> None:
    assert replayed(RIGHT, stored(law, **recipe)).outcome == "ERROR"


def test_it_is_no_longer_there() -> None:
    with pytest.raises(UsageError, match="has no attribute 'loss'"):
        replayed("def another(logits, labels): ...\n", stored())


def test_a_spec_that_is_gone() -> None:
    with pytest.raises(UsageError, match="no spec is called"):
        replayed(RIGHT, stored(spec="hf.causal_lmm"))


def test_a_law_that_is_gone() -> None:
    with pytest.raises(UsageError, match="ALIGN-99"):
        replayed(RIGHT, stored("ALIGN-99"))


@pytest.mark.parametrize("law", ["GRAD-3", "PURE-1", "STABLE-1", "INVAR-1"])
def test_any_law_can_be_asked_again(law: str) -> None:
    assert replayed(RIGHT, stored(law, rows=2, length=5)).outcome == "FIXED"
