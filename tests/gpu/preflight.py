"""What this interpreter has: prints one JSON object, of the machine or of what is missing. Run in its own process."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import platform
import sys
from typing import Any

NEEDED = ("torch", "numpy", "einops", "safetensors", "hypothesis", "rich", "pytest")
SHOWN = ("torch", "triton", "transformers", "liger-kernel", "cut-cross-entropy", "fla-core", "quack-kernels")


def look(device: str) -> dict[str, Any]:
    """``missing``: one line, where nothing can be run; else what there is."""
    absent = [name for name in NEEDED if not _imports(name)]
    if absent:
        return {"missing": f"{sys.executable} has no {', '.join(absent)}: pip install {' '.join(absent)}"}
    try:
        from shiftproof.harness.pytest_plugin import session  # noqa: F401
        from shiftproof.harness.worker.device import cuda_devices, device_of
    except ImportError as error:
        return {"missing": f"{sys.executable} cannot import this project: {error}"}
    import torch

    if device != "cpu" and not cuda_devices():
        built = torch.version.cuda
        why = f"built for CUDA {built}" if built else "not built for CUDA"
        return {"missing": f"torch {torch.__version__}, {why}, sees no GPU; --dry-run tries all out on the CPU"}
    at_hand = device_of(device)
    return {
        "device": at_hand.name(),
        "memory": at_hand.total_memory(),
        "python": platform.python_version(),
        "cuda": torch.version.cuda if device != "cpu" else None,
        "packages": {name: version for name in SHOWN if (version := _version(name))},
    }


def _imports(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    print(json.dumps(look(sys.argv[1])))
