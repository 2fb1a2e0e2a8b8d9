"""Call shapes of other people's libraries: the examples that need them, and twins that are wrong."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

import shiftproof

pytestmark = pytest.mark.peers
FOLDER = Path(__file__).parents[2] / "examples" / "call_shapes"
HF = "hf.causal_lm"


def test_a_trainer_subclass_of_transformers() -> None:
    pytest.importorskip("transformers")
    found = shiftproof.check(f"{FOLDER / 'trainer_subclass.py'}:MyTrainer.compute_loss", spec=HF)
    assert found.verdict == "conforms", str(found)


def test_the_wrapper_of_x_transformers() -> None:
    pytest.importorskip("x_transformers")
    found = shiftproof.check(f"{FOLDER / 'x_transformers_model.py'}:make", init={}, spec=HF)
    assert found.verdict == "conforms", str(found)
    assert "on labels that all count" in str(found)


def test_the_chunked_loss_of_torchtune() -> None:
    if not importlib.util.find_spec("torchtune"):
        pytest.skip("torchtune is not installed")
    found = shiftproof.check(f"{FOLDER / 'torchtune_loss.py'}:chunked", spec=HF)
    assert found.verdict == "conforms", str(found)


@pytest.fixture
def liger() -> str:
    pytest.importorskip("liger_kernel")
    pytest.importorskip("transformers")
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("its kernels need a GPU, or TRITON_INTERPRET=1 in the environment")
    return (FOLDER / "liger_model.py").read_text(encoding="utf-8")


def test_a_model_that_liger_patched_is_judged_by_ligers_loss(liger: str) -> None:
    found = shiftproof.check(f"{FOLDER / 'liger_model.py'}:make", init={}, spec=HF, profile="brief")
    assert found.verdict == "conforms", str(found)
    [of_modes] = [law for law in found.laws if law.id == "STATE-5"]
    assert of_modes.verdict == "pass"
    assert of_modes.cases


def test_a_patch_that_does_not_reach_the_model_is_no_pass(liger: str, tmp_path: Path) -> None:
    (tmp_path / "unpatched.py").write_text(liger.replace("    apply_liger_kernel_to_llama(", "    dict("))
    found = shiftproof.check(f"{tmp_path / 'unpatched.py'}:make", init={}, spec=HF, profile="brief")
    assert found.verdict == "fails"
    assert "Liger's loss was not called" in str(found)
