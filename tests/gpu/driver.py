"""Whether there is an NVIDIA GPU here, as far as can be told without torch.

``python tests/gpu/driver.py`` prints a line where there is none. Who knows better says so: ``SHIFTPROOF_GPU=here``.
"""

from __future__ import annotations

import os
import subprocess
from glob import glob

SAID = "SHIFTPROOF_GPU"
# Device files of Linux and of its Windows subsystem, and what the driver of Linux tells.
SEEN = ("/dev/nvidia[0-9]*", "/dev/dxg", "/proc/driver/nvidia/gpus/*")


def missing() -> str:
    """What is to be said where no GPU is to be seen; else nothing."""
    if os.environ.get(SAID) == "here" or any(glob(pattern) for pattern in SEEN) or _listed():
        return ""
    return (
        "no NVIDIA GPU is to be seen here, so nothing is installed or run; "
        f"where there is one all the same, say {SAID}=here; python tests/gpu/run.py --dry-run tries all out on a CPU"
    )


def _listed() -> bool:
    """Whether the driver's own tool lists one."""
    try:
        asked = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return asked.returncode == 0 and "GPU " in asked.stdout


if __name__ == "__main__":
    if told := missing():
        print(told)
