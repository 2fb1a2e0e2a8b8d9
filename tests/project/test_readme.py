"""What the README says to type works as it is printed."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LOSSES = """
import torch.nn.functional as F

def text_loss(logits, labels):
    return F.cross_entropy(logits[:, :-1].float().reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1))
"""
COLLATOR = """
import torch

def build_labels(audio_codes, delays, eos_token_id, ignore_index):
    rows, books, frames = audio_codes.shape
    built = torch.full((rows, books, frames + max(delays) + 2), ignore_index)
    for book, delay in enumerate(delays):
        built[:, book, delay + 1 : delay + 1 + frames] = audio_codes[:, book]
        built[:, book, delay + 1 + frames] = eos_token_id
    return built
"""
WRONG = {"examples/fused_linear.py:torch_chunked"}  # as the text beside it says


def commands() -> list[str]:
    """Every `shiftproof …` of a block to be typed; those with --python have a test of their own."""
    blocks = re.findall(r"^```bash\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    found = [line for block in blocks for line in block.splitlines() if line.startswith("shiftproof ")]
    return [line for line in found if "--python" not in line]


def marked(line: str) -> object:
    marks = [pytest.mark.timed] if line.startswith("shiftproof speed") else []
    marks += [pytest.mark.peers] if "transformers" in line else []
    return pytest.param(line, marks=marks, id=line)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project as the README has one in mind: a mytrainer of one's own, and the examples."""
    (tmp_path / "mytrainer").mkdir()
    (tmp_path / "mytrainer" / "losses.py").write_text(LOSSES)
    (tmp_path / "mytrainer" / "collator.py").write_text(COLLATOR)
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    return tmp_path


def run(folder: Path, line: str) -> subprocess.CompletedProcess[str]:
    verb, *rest = shlex.split(line)[1:]
    few = {"check": ["--profile", "brief"], "speed": ["--shape", "1,64,2048"]}.get(verb, [])
    command = [sys.executable, "-m", "shiftproof", verb, *rest, *few]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)


@pytest.mark.representatives(1)
@pytest.mark.parametrize("line", [marked(line) for line in commands()])
def test_a_command(folder: Path, line: str) -> None:
    if "transformers" in line:
        pytest.importorskip("transformers")
    ran = run(folder, line)
    target = shlex.split(line)[2]
    if line.startswith("shiftproof speed"):  # how fast this machine is, nobody has said
        assert ran.returncode in (0, 1, 3), ran.stdout + ran.stderr
        assert re.search("PASSES|FAILS|INCONCLUSIVE", ran.stdout)
        return
    fails = target in WRONG or "sweep" in line  # there are alarms among the classes of that pattern
    assert ran.returncode == (1 if fails else 0), ran.stdout + ran.stderr


def test_there_are_commands_of_every_kind() -> None:
    targets = {shlex.split(line)[2] for line in commands()}
    for named in ("losses.py", "collator.py", "fused_linear.py", "tiny_models.py", "transformers:"):
        assert any(named in target for target in targets), named


MY_LOSS = """
from torch.nn.functional import cross_entropy

def my_loss(logits, labels):
    return cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())
"""


def test_code_that_is_printed(folder: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    for index, block in enumerate(blocks):
        names = re.findall(r"^def (\w+)\(", block, re.MULTILINE)
        if not names:
            (folder / f"script_{index}.py").write_text(f"{MY_LOSS}\n{block}")
            done = subprocess.run([sys.executable, f"script_{index}.py"], cwd=folder, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
            assert done.stdout.startswith("conforms")
            continue
        (name,) = names
        if name.startswith("test_"):
            (folder / f"test_printed_{index}.py").write_text(f"{MY_LOSS}\n{block}")
            assert (
                pytest.main(["-q", "-p", "no:cacheprovider", "-p", "no:benchmark", "-c", os.devnull, str(folder)]) == 0
            )
            continue
        (folder / f"printed_{index}.py").write_text(f"import torch\n\n{block}")
        ran = run(folder, f"shiftproof check printed_{index}.py:{name} --spec hf.causal_lm")
        assert ran.returncode == 0, ran.stdout + ran.stderr
