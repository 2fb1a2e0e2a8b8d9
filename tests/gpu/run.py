"""All that this project has for a GPU, in ten minutes, with the interpreter at hand: no network, no nox, no install.

    python tests/gpu/run.py --out DIR

needs torch for CUDA, pytest, hypothesis, rich, safetensors, numpy and einops. ``--help`` has the rest.
"""

import sys
import types
from importlib import import_module
from pathlib import Path

if __name__ == "__main__":
    # Under a name of its own, since anybody may have installed a package called gpu.
    folder = str(Path(__file__).resolve().parent)
    sys.path[:] = [entry for entry in sys.path if entry != folder]
    package = types.ModuleType("_shiftproof_gpu")
    package.__path__ = [folder]
    sys.modules[package.__name__] = package
    sys.exit(import_module("_shiftproof_gpu.command").main())
