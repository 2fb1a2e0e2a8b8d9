"""``shiftproof.check`` on callables of every kind. The losses here are in the test file, which no target names."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import shiftproof

HF = "hf.causal_lm"
Loss = Callable[[Tensor, Tensor], Tensor]


def shifted(logits: Tensor, labels: Tensor, by: int = 1) -> Tensor:
    return F.cross_entropy(logits[:, :-by].flatten(0, 1).float(), labels[:, by:].flatten())


def made(by: int) -> Loss:
    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return shifted(logits, labels, by)

    return loss


class Module(torch.nn.Module):
    def __init__(self, by: int) -> None:
        super().__init__()
        self.by = by

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return shifted(logits, labels, self.by)

    def as_method(self, logits: Tensor, labels: Tensor) -> Tensor:
        return self.forward(logits, labels)


class Called:
    def __init__(self, by: int) -> None:
        self.by = by

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        return shifted(logits, labels, self.by)


def check(target: Any, **options: Any) -> shiftproof.Result:
    return shiftproof.check(target, **{"spec": HF, "profile": "brief", "seed": 1, **options})


KINDS: dict[str, Callable[[int], Any]] = {
    "closure": made,
    "lambda": lambda by: lambda logits, labels: shifted(logits, labels, by),
    "partial": lambda by: functools.partial(shifted, by=by),
    "module": Module,
    "method": lambda by: Module(by).as_method,
    "object": Called,
    "compiled": lambda by: torch.compile(made(by), backend="eager"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_callable_of_any_kind_runs_in_a_process_of_its_own(kind: str) -> None:
    right, wrong = check(KINDS[kind](1)), check(KINDS[kind](2))
    assert right.verdict == "conforms", str(right)
    assert (wrong.verdict, [bug.mutant for bug in wrong.diagnosis]) == ("fails", ["double-shift"]), str(wrong)
    assert not right.worst.scope, "it ran in this process"


def test_what_it_sets_stays_in_its_process() -> None:
    def crashes(logits: Tensor, labels: Tensor) -> Tensor:
        os._exit(7)

    found = check(crashes)
    assert found.verdict == "fails"
    assert any(law.verdict == "crash" for law in found.laws)


def test_what_cannot_be_pickled_runs_here_and_says_so() -> None:
    lock = threading.Lock()

    def locked(logits: Tensor, labels: Tensor) -> Tensor:
        with lock:
            return shifted(logits, labels)

    found = check(locked)
    assert found.verdict == "conforms"
    assert "it cannot be pickled" in found.worst.scope[0]
    assert "lock" in found.worst.scope[0]
    assert "only in this process, without protection from crashes: it cannot be pickled" in str(found)


def test_it_runs_here_if_that_is_asked_for() -> None:
    seen: list[int] = []

    def noting(logits: Tensor, labels: Tensor) -> Tensor:
        seen.append(os.getpid())
        return shifted(logits, labels)

    found = check(noting, in_process=True)
    assert found.verdict == "conforms"
    assert set(seen) == {os.getpid()}
    assert "in_process was asked for" in found.worst.scope[0]


def test_a_result_says_what_is_wrong() -> None:
    found = check(made(2))
    shown = found.counterexample
    assert shown is not None
    assert (shown.law, shown.spec) == ("ALIGN-1", HF)
    assert shown.message in str(found)
    assert shown.batch().tensor("logits").shape == (1, 3, 6)
    assert "×" in found.picture
    assert not found
    assert found.to_json()["verdict"] == "fails"
    assert "double-shift" in found._repr_html_()
    assert f'shiftproof.replay("{shown.replay}", …)' in str(found), "no other process can find a closure"
    assert repr(found).startswith("<fails, double-shift: ")
    with pytest.raises(shiftproof.DoesNotConform, match="double-shift") as caught:
        found.raise_for_failure()
    assert caught.value.result is found
    assert isinstance(caught.value, AssertionError)


def test_a_right_loss_raises_nothing() -> None:
    found = check(made(1))
    found.raise_for_failure()
    assert found
    assert (found.counterexample, found.picture, found.diagnosis) == (None, "", ())
    shiftproof.assert_conforms(made(1), spec=HF, profile="brief")


def test_whatever_is_not_a_pass_raises() -> None:
    def refuses(logits: Tensor, labels: Tensor) -> Tensor:
        if logits.shape[0] > 1:
            raise NotImplementedError("one row at a time")
        return shifted(logits, labels)

    with pytest.raises(shiftproof.DoesNotConform, match="refused"):
        shiftproof.assert_conforms(refuses, spec=HF, profile="brief")


def test_each_dtype_is_a_candidate_and_the_worst_decides() -> None:
    def wrong_in_float16(logits: Tensor, labels: Tensor) -> Tensor:
        return shifted(logits, labels, 2 if logits.dtype == torch.float16 else 1)

    found = check(wrong_in_float16, dtypes=["float32", "float16"])
    assert [each.verdict for each in found.candidates] == ["conforms", "fails"]
    assert found.verdict == "fails"
    assert found.worst.dtypes == ("float16",)


def test_the_same_seed_finds_the_same() -> None:
    one, other = (check(made(2)).counterexample for _ in range(2))
    assert one == other


def test_a_spec_may_be_the_profile_itself() -> None:
    assert check(made(1), spec=shiftproof.PROFILES[HF])


@pytest.mark.parametrize(
    ("target", "options", "words"),
    [
        (3, {}, "the target is 3, which cannot be called"),
        (made(1), {"spec": None}, "has no spec; give spec="),
        (made(1), {"spec": "hf.casual_lm"}, "did you mean 'hf.causal_lm'"),
        (made(1), {"dtypes": "float32"}, r"dtypes is 'float32'; expected a list of them, such as dtypes=\['float32'\]"),
        (made(1), {"dtype": ["float32"]}, "there is no option 'dtype' .did you mean 'dtypes'"),
        (made(1), {"python": "other/python"}, "belongs to this one; name the target as a string"),
        (made(1), {"profile": "quik"}, "no profile is called 'quik'"),
        (made(1), {"allow": [{"law": "GRAD-55", "reason": "x"}]}, "GRAD-55"),
        (made(1), {"kwargs": {"tensor": object()}}, "expected a number"),
        (lambda x, y: x, {}, "add --rename logits=x --rename labels=y"),
        ("nowhere.py:loss", {}, "does not exist"),
    ],
)
def test_what_cannot_be_asked_is_refused(target: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(shiftproof.UsageError, match=words):
        check(target, **options)


def test_the_hint_that_is_given_works() -> None:
    assert check(lambda x, y: shifted(x, y), rename={"logits": "x", "labels": "y"})


def test_torch_has_its_threads_again() -> None:
    before = torch.get_num_threads()
    check(made(1))
    assert torch.get_num_threads() == before


SCRIPT = """
import torch.nn.functional as F
import shiftproof

def loss(logits, labels):
    return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())

{call}
"""


def test_a_function_of_a_notebook_or_of_standard_input(tmp_path: Path) -> None:
    script = SCRIPT.format(call=f'print(repr(shiftproof.check(loss, spec="{HF}", profile="brief")))')
    done = subprocess.run([sys.executable, "-"], input=script, text=True, capture_output=True, cwd=tmp_path, check=True)
    assert done.stdout.startswith("<conforms: loss against hf.causal_lm"), done.stdout


def test_a_file_that_checks_itself_does_not_go_on_without_end(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(SCRIPT.format(call=f'print(shiftproof.check("{file}:loss", spec="{HF}"))'))
    done = subprocess.run([sys.executable, str(file)], text=True, capture_output=True, cwd=tmp_path, check=True)
    assert 'put that call under if __name__ == "__main__":' in " ".join(done.stdout.split())
    assert "conforms" not in done.stdout.lower()
