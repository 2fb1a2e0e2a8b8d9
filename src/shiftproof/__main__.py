"""``python -m shiftproof`` is the command ``shiftproof``."""

from shiftproof.harness.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
