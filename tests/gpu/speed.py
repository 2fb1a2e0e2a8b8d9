"""The part ``speed``: the command ``shiftproof speed``, of losses whose answers it has to find right and honest."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from .asked import Asked, Item, go_through
from .findings import Finding, Result
from .layout import ROOT

TARGETS = ("examples/torch_losses.py:sliced", "examples/torch_losses.py:padded_labels")


def gated(asked: Asked, target: str) -> Finding:
    """The gate without a bound: it fails a loss that is wrong or cheats, and nothing else."""
    started = time.monotonic()
    report = Path(asked.out) / f"speed-{target.rpartition(':')[2]}.json"
    few = (
        ("--shape", "1,16,64", "--deadline", "0.5", "--times-only")
        if asked.is_dry
        else ("--shape", "text", "--deadline", "8")
    )
    options = ("--spec", "hf.causal_lm", "--device", asked.device, "--json", str(report))
    command = [sys.executable, "-m", "shiftproof", "speed", target, *options, *few]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    print(done.stdout, done.stderr, sep="\n", flush=True)
    # How fast a CPU that stands in is, and whether it is quiet enough to be timed, is not the question.
    judged = {0: Result.PASSED, 1: Result.PASSED if asked.is_dry else Result.WRONG}
    result = judged.get(done.returncode, Result.PASSED if asked.is_dry and report.exists() else Result.NOT_RUN)
    if report.exists():
        said = str(json.loads(report.read_text(encoding="utf-8"))["grade"])
    else:
        said = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1][:300]
    return Finding(asked.part, target, result, said, round(time.monotonic() - started, 1))


def items(asked: Asked) -> dict[str, Item]:
    return {target: partial(gated, asked, target) for target in (TARGETS[:1] if asked.is_dry else TARGETS)}


def main(asked: Asked) -> None:
    go_through(asked, items(asked))


if __name__ == "__main__":
    main(Asked.of_arguments())
