"""Releases of other people's libraries that are known to be wrong, and those that put it right, each under its own
interpreter.

`nox -s versions` makes an environment for every entry of [tool.versions] in pyproject.toml, and says in
SHIFTPROOF_VERSIONS which folder holds them; one that is not there is skipped.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

pytestmark = pytest.mark.peers

ROOT = Path(__file__).parents[2]
EXAMPLES, DRIVERS = ROOT / "examples" / "trainers", Path(__file__).with_name("drivers_trainers.py")
FUSED = ROOT / "examples" / "fused_linear.py"
FOLDER = "SHIFTPROOF_VERSIONS"


def python_of(version: str) -> str:
    """The interpreter of a version's environment."""
    folder = os.environ.get(FOLDER)
    if folder is None:
        pytest.skip(f"{FOLDER} names no folder of environments; `nox -s versions` makes them")
    for name in ("bin/python", "Scripts/python.exe"):
        if (python := Path(folder, version, name)).exists():
            return str(python)
    pytest.skip(f"{folder} has no environment called {version}; `nox -s versions -- {version}` makes it")


class Known(NamedTuple):
    """What is known of a target under a spec with one version: the bug by its name, or None where it is right."""

    version: str
    target: str
    spec: str
    bug: str | None
    how: tuple[str, ...] = ("--deadline", "60")


SLOWLY = ("--profile", "brief", "--deadline", "300")


def _example(version: str, target: str, spec: str, bug: str | None = None) -> Known:
    return Known(version, f"{EXAMPLES}/{target}", spec, bug)


KNOWN = [
    # transformers' Trainer with Llama's convention for counts
    _example("transformers-4.45.2", "hf_trainer.py:step", "hf.causal_lm", "mean-of-means"),
    _example("transformers-4.46.1", "hf_trainer.py:step", "hf.causal_lm"),
    _example("transformers-4.57.6", "hf_trainer.py:step", "hf.causal_lm", "overcount-rows"),
    _example("transformers-5.9.0", "hf_trainer.py:step", "hf.causal_lm", "overcount-rows"),
    _example("transformers-5.10.4", "hf_trainer.py:step", "hf.causal_lm"),
    _example("transformers-5.18.0", "hf_trainer.py:step", "hf.causal_lm"),
    # a model whose labels are aligned, and one that takes a count and does not use it
    _example("transformers-5.18.0", "hf_trainer.py:step", "hf.seq2seq"),
    Known("transformers-5.18.0", f"{DRIVERS}:bart", "hf.seq2seq", "sum-of-means"),
    # label smoothing, which shifts for classes that Trainer knows by name
    _example("transformers-5.18.0", "hf_trainer.py:smoothed", "hf.label_smoother"),
    Known("transformers-5.18.0", f"{DRIVERS}:smoothed_by_a_stranger", "hf.label_smoother", "smoothing-no-shift"),
    _example("transformers-5.18.0", "accelerate_loop.py:step", "hf.causal_lm"),
    _example("transformers-5.18.0", "accelerate_loop.py:mean_of_means", "hf.causal_lm", "mean-of-means"),
    _example("lightning-2.6.6", "lightning_loop.py:step", "hf.causal_lm"),
    _example("lightning-2.6.6", "lightning_loop.py:mean_of_means", "hf.causal_lm", "mean-of-means"),
    _example("trl-1.16.0", "sft_trainer.py:padded", "hf.causal_lm"),
    _example("trl-1.16.0", "sft_trainer.py:padding_free", "hf.causal_lm"),
    _example("trl-1.16.0", "sft_trainer.py:packed", "hf.causal_lm"),
    _example("trl-0.23.1", "sft_trainer.py:padding_free", "hf.causal_lm"),
    # models
    Known("transformers-4.57.6", "transformers:GitForCausalLM", "hf.prefix_lm", "flat-double-shift"),
    Known("transformers-5.18.0", "transformers:GitForCausalLM", "hf.prefix_lm", None),
    Known("transformers-5.12.1", "transformers:MoonshineForConditionalGeneration", "hf.seq2seq", "aligned-shift"),
    Known("transformers-5.18.0", "transformers:MoonshineForConditionalGeneration", "hf.seq2seq", None),
    Known("transformers-5.18.0", "transformers:LlamaForCausalLM", "hf.causal_lm", None),
    # fused kernels, interpreted
    Known("liger-0.8.1", f"{FUSED}:liger_per_token", "per_token", "upstream-row-0", SLOWLY),
    Known("liger-0.8.2", f"{FUSED}:liger_per_token", "per_token", None, SLOWLY),
    # collators
    _example("trl-0.22.2", "collators.py:trl_padding_free", "packing.labels", "cross-document"),
    _example("trl-0.23.0", "collators.py:trl_padding_free", "packing.labels", "cross-document"),
    _example("trl-0.23.1", "collators.py:trl_padding_free", "packing.labels"),
    _example("trl-1.16.0", "collators.py:trl_padding_free", "packing.labels"),
    _example("trl-0.23.1", "collators.py:trl_completion_only", "mask.prompt"),
    _example("transformers-5.18.0", "collators.py:transformers_flattening", "packing.labels"),
]


def check(known: Known, folder: Path) -> Any:
    """What `shiftproof check` reports of it, run in ``folder``."""
    command = [sys.executable, "-m", "shiftproof", "check", known.target, "--spec", known.spec]
    command += ["--python", python_of(known.version), "--seed", "0", "--json", "report.json", *known.how]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    environment["TRITON_INTERPRET"] = "1"  # for kernels without a GPU
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    [candidate] = json.loads((folder / "report.json").read_text(encoding="utf-8"))["candidates"]
    return candidate


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: f"{known.version}-{Path(known.target).name}-{known.spec}")
def test_a_version_is_what_it_is_known_to_be(known: Known, tmp_path: Path) -> None:
    found = check(known, tmp_path)
    if known.bug is None:
        assert found["verdict"] == "conforms", found
    else:
        assert found["verdict"] == "fails"
        assert known.bug in [name for bug in found["diagnosis"] for name in (bug["mutant"], *bug["also"])]
    left = {path.name for path in tmp_path.iterdir()} - {"report.json", ".shiftproof", ".hypothesis"}
    assert not left, "it leaves files behind"


def test_a_trl_that_lets_documents_run_together_fails_as_a_trainer_too(tmp_path: Path) -> None:
    known = _example("trl-0.22.2", "sft_trainer.py:padding_free", "hf.causal_lm", "")
    found = check(known, tmp_path)
    assert found["verdict"] == "fails"
    assert "ALIGN-1" in [law["id"] for law in found["laws"] if law["verdict"] == "fail"]
