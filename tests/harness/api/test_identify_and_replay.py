"""``shiftproof.identify`` and ``shiftproof.replay`` on Python objects."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch.nn.functional as F
from torch import Tensor

import shiftproof

HF = "hf.causal_lm"


def by_name(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits[:, :-2].flatten(0, 1).float(), labels[:, 2:].flatten())


def made(by: int) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda logits, labels: F.cross_entropy(logits[:, :-by].flatten(0, 1).float(), labels[:, by:].flatten())


def test_what_a_closure_computes_is_found() -> None:
    assert "computes hf.causal_lm" in str(shiftproof.identify(made(1)))
    wrong = shiftproof.identify(made(2))
    assert wrong.found.wrong[0].bugs[0].mutant == "double-shift"
    assert "double-shift" in wrong._repr_html_()


def test_a_case_is_asked_again_of_the_object_as_it_is_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shown = shiftproof.check(made(2), spec=HF, profile="brief").counterexample
    assert shown is not None
    assert shiftproof.replay(shown.replay, made(2)).outcome == "FAILS"
    assert shiftproof.replay(shown.replay, made(1)).outcome == "FIXED"
    with pytest.raises(shiftproof.UsageError, match=r"cannot be found by name; give it the object"):
        shiftproof.replay(shown.replay)


def test_a_function_with_a_name_is_found_by_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shown = shiftproof.check(by_name, spec=HF, profile="brief").counterexample
    assert shown is not None
    assert shiftproof.replay(shown.replay).outcome == "FAILS"
    with pytest.raises(shiftproof.UsageError, match="no stored case 'nothing'"):
        shiftproof.replay("nothing")
