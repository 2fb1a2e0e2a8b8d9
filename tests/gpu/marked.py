"""The parts ``kernel`` and ``worker``: the tests that are marked ``gpu``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from .asked import PartArguments
from .layout import PACKAGE, ROOT
from .witness import VARIABLE

SHARDS = 8  # processes of the tests of kernels at most: nearly all their time is compilation, on one core each

# What a CPU that stands in for the GPU has the time for.
_DRY = {
    "kernel": "plain-dtype0-2] or plain-dtype0-1026 or musicgen or int32 or no_class",
    "worker": "poison",
}


def files_of(part: str) -> list[Path]:
    """The files with such tests: those of the yardstick, or all others."""
    tests = ROOT / "tests"
    marked = [file for file in sorted(tests.rglob("test_*.py")) if "mark.gpu" in file.read_text(encoding="utf-8")]
    marked = [file for file in marked if file.parent != Path(__file__).parent.resolve()]
    return [file for file in marked if (tests / "reference" in file.parents) is (part == "kernel")]


def command_of(asked: PartArguments) -> list[str]:
    chosen = ["-k", _DRY[asked.part]] if asked.is_dry else []
    quiet = [
        "-p",
        "no:cacheprovider",
        "-p",
        "no:benchmark",
        "-p",
        "no:xdist",
        "-p",
        f"{PACKAGE}.witness",
        "-q",
        "--tb=short",
    ]
    files = [str(file) for file in files_of(asked.part)]
    return [sys.executable, "-m", "pytest", "-m", "gpu", *quiet, *chosen, *files]


def main(asked: PartArguments) -> int:
    """The worst exit code of the shards: of pytest, where 1 is a test that failed, and 5 is no test."""
    shards = 1 if asked.is_dry or asked.part == "worker" else max(min(SHARDS, (os.cpu_count() or 2) // 2), 1)
    running = []
    for shard in range(shards):
        told = json.dumps({"asked": asdict(asked), "shard": shard, "shards": shards})
        environment = {**os.environ, VARIABLE: told}
        if asked.is_dry:
            environment |= {"SHIFTPROOF_GPU_STAND_IN": "cpu", "TRITON_INTERPRET": "1"}
        running.append(subprocess.Popen(command_of(asked), cwd=ROOT, env=environment))
    codes = [each.wait() for each in running]
    # A test that fails is a finding, and an end like any other; a shard may have no test.
    return next((code for code in codes if code not in (0, 1, 5)), 0)


if __name__ == "__main__":
    sys.exit(main(PartArguments.of_arguments()))
