"""Print how many bytes one call of a contender takes at its worst moment, on top of its arguments.

``python -m benchmarks.weigh TASK CONTENDER DTYPE DEVICE`` in tests/: in a process of its own, since what a process has
freed it may keep. A short call comes first, and loads what is loaded when it is first used.
"""

from __future__ import annotations

import sys

import torch

from shiftproof.harness.worker.peak import Peak

from .tasks import TASKS, forward_and_backward, leaves_of

_SHORT = 16  # tokens


def main(name: str, contender: str, dtype: str, device: str) -> None:
    [task] = [task for task in TASKS if task.name == name]
    loss = task.contenders[contender](task.spec, device)
    forward_and_backward(loss, leaves_of(task.arguments(dtype, device, tokens=_SHORT)))
    leaves = leaves_of(task.arguments(dtype, device))
    if contender == "torch.compile":  # compiles anew for every shape, in this process
        forward_and_backward(loss, leaves)
        leaves = leaves_of(leaves)
    peak = Peak(torch.device(device))
    forward_and_backward(loss, leaves)
    print(peak.bytes())


if __name__ == "__main__":
    main(*sys.argv[1:])
