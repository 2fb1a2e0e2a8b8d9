"""The parts ``laws`` and ``yardstick``: candidates on trial, several at once, since none of them is timed."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import product

from shiftproof.harness.candidates.declaration import declared_in

from .asked import PartArguments
from .findings import Finding, Result
from .layout import PACKAGE, ROOT
from .tried import Tried

AT_ONCE = 8  # trials at most: each has a context on the GPU, and two processes that keep a core busy
_QUICK, _BRIEF, _DRY = 1.0, 0.25, 0.02  # times each law's usual number of cases

# Declared candidates that need more than their package: what torch has to have.
_SINCE = {"torch-linear": "linear_cross_entropy", "torch-linear-chunked": "linear_cross_entropy"}

# Kernels that need a GPU, and so are declared nowhere: name -> (function, spec, package).
_FUSED = {
    "liger-linear": ("liger", "liger", "liger_kernel"),
    "liger-linear-per-token": ("liger_per_token", "per_token", "liger_kernel"),
    "cut-cross-entropy": ("cce", "cce", "cut_cross_entropy"),
    "fla-linear": ("fla", "fla", "fla"),
}

# Of each way of scoring and of averaging one: the kernels are the same for all.
_YARDSTICKS = (
    *("hf.causal_lm", "musicgen", "per_token", "packed.cu_seqlens", "higgs.mean_nonempty", "torch.cross_entropy"),
    *("torch.cross_entropy.smoothing", "torch.cross_entropy.weight", "liger.z_loss", "liger.softcap", "trl.dft"),
    *("fla.scaled", "moshi", "parler", "dia", "csm"),
)
_DRY_YARDSTICKS = ("liger.softcap",)


def real_losses(asked: PartArguments) -> Iterator[Tried | Finding]:
    """Those that pyproject.toml declares, and fused ones; what is not at hand is a finding at once. Known-wrong ones
    come last: they show that the judge works here too."""
    declared = declared_in(ROOT / "pyproject.toml")
    for name, candidate in sorted(declared.items(), key=lambda item: item[1].expect == "fails"):
        if name.startswith("trainer-"):
            continue  # a loop that adds up its losses on the CPU
        package = candidate.call.partition(":")[0].partition(".")[0]
        for dtype in candidate.dtypes or ("float32",):
            tried = Tried(
                asked.part,
                name,
                candidate.call,
                candidate.spec or "",
                dtype,
                asked.device,
                _QUICK,
                candidate.precision,
                expect=candidate.expect,
                diagnosis=candidate.diagnosis,
                needs=_SINCE.get(name),
            )
            if not candidate.call.partition(":")[0].endswith(".py") and importlib.util.find_spec(package) is None:
                yield Finding(asked.part, tried.title, Result.SKIPPED, f"{package} is not installed")
            else:
                yield tried
    for name, (function, spec, package) in _FUSED.items():
        for dtype in ("float32", "bfloat16"):
            call = f"examples/fused_linear.py:{function}"
            tried = Tried(asked.part, name, call, spec, dtype, asked.device, _BRIEF, precision="native")
            if importlib.util.find_spec(package) is None:
                yield Finding(asked.part, tried.title, Result.SKIPPED, f"{package} is not installed")
            else:
                yield tried


def yardsticks(asked: PartArguments) -> Iterator[Tried | Finding]:
    """On a GPU with its Triton kernels; on a CPU with the same ones interpreted, where Triton is at hand."""
    interpreted = asked.is_dry and importlib.util.find_spec("triton") is not None
    file = f"tests/candidates/{'interpreted' if interpreted else 'yardsticks'}.py"
    names = _DRY_YARDSTICKS if asked.is_dry else _YARDSTICKS
    for dtype, name in product(("float32",) if asked.is_dry else ("float32", "bfloat16", "float16"), names):
        call = f"{file}:{name.replace('.', '_')}"
        yield Tried(asked.part, name, call, name, dtype, asked.device, _BRIEF, "strict", laid_out=False)


def judge_all(asked: PartArguments, entries: list[Tried | Finding]) -> None:
    """Every trial in a process of its own, as many at once as there are cores for."""
    ledger = asked.ledger
    finish = time.monotonic() + asked.seconds
    ledger.plan(asked.part, [entry.title if isinstance(entry, Tried) else entry.name for entry in entries])

    def judge(entry: Tried | Finding) -> None:
        if isinstance(entry, Tried):
            ledger.begin(asked.part, entry.title)
            entry = tried(entry, finish - time.monotonic())
        ledger.add(entry)
        print(f"{entry.result}: {entry.name} {entry.said}", flush=True)

    with ThreadPoolExecutor(max(min(AT_ONCE, (os.cpu_count() or 2) // 2), 1)) as pool:
        list(pool.map(judge, entries))


def tried(entry: Tried, seconds: float) -> Finding:
    """The finding of one trial; that it could not be run, where it says nothing."""
    command = [sys.executable, "-m", f"{PACKAGE}.trial", json.dumps(asdict(entry))]
    started = time.monotonic()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=max(seconds, 0), check=False)
    except subprocess.TimeoutExpired:
        return Finding(entry.part, entry.title, Result.NOT_RUN, "out of time", round(time.monotonic() - started, 1))
    print(done.stderr, end="", flush=True)
    try:
        said = json.loads(done.stdout.splitlines()[-1])
        return Finding(**{**said, "result": Result(said["result"])})
    except (IndexError, ValueError):
        last = (done.stderr.strip().splitlines() or [f"its process ended with {done.returncode}"])[-1]
        return Finding(entry.part, entry.title, Result.NOT_RUN, last[:300], round(time.monotonic() - started, 1))


def main(asked: PartArguments) -> None:
    entries = list(real_losses(asked) if asked.part == "laws" else yardsticks(asked))
    if asked.is_dry:
        entries = [entry if isinstance(entry, Finding) else _dry(entry) for entry in entries if _is_few(asked, entry)]
    judge_all(asked, entries)


def _is_few(asked: PartArguments, entry: Tried | Finding) -> bool:
    """Of real losses a dry run has one, and whatever is not at hand."""
    return asked.part == "yardstick" or isinstance(entry, Finding) or entry.name == "torch-padded-labels"


def _dry(entry: Tried) -> Tried:
    return Tried(**{**asdict(entry), "factor": _DRY})


if __name__ == "__main__":
    main(PartArguments.of_arguments())
