"""The command: parts one after the other, each on its own clock, and a summary after each.

It imports the standard library alone, so that it can say what is missing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from .asked import SPOILED, PartArguments
from .children import OUT_OF_TIME, run_child
from .findings import Finding, Ledger, Progress, Result
from .layout import PACKAGE, ROOT, lay_out
from .parts import PARTS, Part
from .summary import Machine, exit_code, page, verdict

USAGE, UNJUDGED = 2, 3
MINUTES = 9.5
_LOOKING = 90.0  # seconds for the preflight: a first import from a cold disk
_LEFT = 3.0  # seconds for the last summary
_HELP = """Run all that this project has for a GPU, part after part, each in its own process and on its own clock.

DIR/findings.jsonl has one line for every finding, DIR/PART.log what a part said, DIR/gpu.md the summary.
Exit code: 0 all passed; 1 something that was judged is wrong; 2 usage; 3 something could not be run, or had no time."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        print(f"run.py: {message}; --help shows all", file=sys.stderr)
        raise SystemExit(USAGE)


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError
    return value


def _parser() -> _Parser:
    parser = _Parser(prog="run.py", description=_HELP, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", metavar="DIR", default="gpu", help="where results go (default: gpu)")
    parser.add_argument("--parts", metavar="A,B", help=f"which parts, in that order (default: {','.join(PARTS)})")
    parser.add_argument(
        "--minutes", type=_positive, default=MINUTES, help=f"for all parts together (default: {MINUTES})"
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu is a dry run, on tiny sizes")
    parser.add_argument("--dry-run", action="store_true", help="the same as --device cpu")
    parser.add_argument("--list", action="store_true", help="name the parts, and run none")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    started = time.monotonic()
    options = _parser().parse_args(argv)
    if options.list:
        for part in PARTS.values():
            print(f"{part.name:10} {part.about}")
        return 0
    names = options.parts.split(",") if options.parts else list(PARTS)
    if unknown := [name for name in names if name not in PARTS]:
        print(f"run.py: no part is called {unknown[0]!r}; there are {', '.join(PARTS)}", file=sys.stderr)
        return USAGE
    device = "cpu" if options.dry_run else options.device
    out = Path(options.out).resolve()
    out.mkdir(parents=True, exist_ok=True)
    for old in (*out.glob("*.log"), out / "findings.jsonl", out / "gpu.md"):
        old.unlink(missing_ok=True)
    with _interruptible(), tempfile.TemporaryDirectory(prefix="shiftproof-") as folder:
        lay_out(Path(folder))
        # Ours first, so that it is this tree that runs; then what the caller had there.
        path = os.pathsep.join(filter(None, [folder, os.environ.get("PYTHONPATH")]))
        environment = {"PYTHONPATH": path, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
        if device == "cpu":
            environment["TORCHDYNAMO_DISABLE"] = "1"  # compiling for the stand-in takes minutes, and shows nothing
        machine = _look(device, environment)
        if isinstance(machine, str):
            print(f"run.py: {machine}", file=sys.stderr)
            return UNJUDGED
        print(machine, flush=True)
        finish = started + 60 * options.minutes - _LEFT
        script = _Script(out, device, environment, machine, list(dict.fromkeys(names)), options.minutes)
        return script.run(finish)


class _Script:
    """One run."""

    def __init__(
        self, out: Path, device: str, environment: dict[str, str], machine: Machine, names: list[str], minutes: float
    ) -> None:
        self.out, self.device, self.environment = out, device, environment
        self.machine, self.names, self.minutes = machine, names, minutes
        self.ledger = Ledger(out / "findings.jsonl")

    def run(self, finish: float) -> int:
        interrupted = False
        for index, name in enumerate(self.names):
            left = sum(PARTS[each].share for each in self.names[index:])
            seconds = max(finish - time.monotonic(), 0.0) * PARTS[name].share / left
            started = time.monotonic()
            try:
                how = self._part(PARTS[name], seconds)
            except KeyboardInterrupt:
                how, interrupted = "interrupted", True
            self.ledger.end(name, how, time.monotonic() - started)
            print(f"{name}: {verdict(self.ledger.read(name))}, {time.monotonic() - started:.0f} s", flush=True)
            self._summarise()
            if interrupted:
                break
        print(f"{self.out / 'gpu.md'} has the summary", flush=True)
        return exit_code(self._progress().values())

    def _part(self, part: Part, seconds: float) -> str:
        """Run a part. Where its process ended before it was through, whatever it was at could not be run, and another
        one goes on behind that."""
        finish = time.monotonic() + seconds
        while True:
            left = finish - time.monotonic()
            asked = PartArguments(part.name, self.device, str(self.out), round(max(left, 0.0), 1))
            before = self.ledger.read(part.name)
            command = [sys.executable, "-m", f"{PACKAGE}.{part.module}", *asked.arguments]
            how = run_child(command, self.out / f"{part.name}.log", left, self.environment, ROOT)
            progress = self.ledger.read(part.name)
            if how in ("exit 0", OUT_OF_TIME):
                return how
            for name in progress.unfinished:
                said = f"the process of this part ended here with {how}"
                self.ledger.add(Finding(part.name, name, Result.NOT_RUN, said))
            went_on = len(progress.begun) > len(before.begun)
            if part.module in ("laws", "marked") or not went_on:
                return how
            if how != f"exit {SPOILED}":
                print(f"{part.name}: {how}, and goes on", flush=True)

    def _progress(self) -> dict[str, Progress]:
        return {name: self.ledger.read(name) for name in self.names}

    def _summarise(self) -> None:
        text = page(self.machine, self._progress(), dry=self.device == "cpu", minutes=self.minutes)
        (self.out / "gpu.md").write_text(text, encoding="utf-8")


def _look(device: str, environment: dict[str, str]) -> Machine | str:
    """What is there; or, in one line, what is not."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", f"{PACKAGE}.preflight", device],
            cwd=ROOT,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=_LOOKING,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"importing torch and asking for the device took more than {_LOOKING:.0f} s"
    try:
        said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        last = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
        return f"the interpreter {sys.executable} is not fit for this: {last}"
    if "missing" in said:
        return str(said["missing"])
    return Machine(said, "" if device == "cpu" else _driver())


def _driver() -> str:
    """The version of the driver, where its own tool tells."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        asked = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return asked.stdout.strip().splitlines()[0] if asked.returncode == 0 and asked.stdout.strip() else ""


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """A request to end is an interruption: what was found by then is summed up."""

    def interrupt(number: int, frame: object) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
