"""shiftproof in Python: what ``import shiftproof`` offers besides the reference."""
