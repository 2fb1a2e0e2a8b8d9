"""The judge's heap does not keep what large tensors leave."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# Prints how many MB are in blocks of their own: with a large tensor that was made after another was freed, and after.
SCRIPT = """
import ctypes, sys, torch
from shiftproof.harness.isolation.heap import give_back_large_blocks

if sys.argv[1] == "give back":
    give_back_large_blocks()
libc = ctypes.CDLL(None)
names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
libc.mallinfo2.restype = type("Info", (ctypes.Structure,), {"_fields_": [(name, ctypes.c_size_t) for name in names]})
before = libc.mallinfo2().hblkhd
torch.ones(2_000_000)
tensor = torch.ones(2_000_000)
print((libc.mallinfo2().hblkhd - before) // 1_000_000)
del tensor
print((libc.mallinfo2().hblkhd - before) // 1_000_000)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries decide otherwise")
@pytest.mark.parametrize(("what", "expected"), [("give back", ["8", "0"]), ("as it is", ["0", "0"])])
def test_a_freed_large_block_is_not_kept(what: str, expected: list[str]) -> None:
    run = subprocess.run([sys.executable, "-c", SCRIPT, what], capture_output=True, text=True, check=True)
    assert run.stdout.split() == expected
