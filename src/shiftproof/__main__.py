"""``python -m shiftproof`` is the command ``shiftproof``."""

import os
import sys

if __name__ == "__main__":
    # -m puts the working directory first, where a candidate's own torch.py would stand in for torch.
    if sys.path and sys.path[0] in ("", os.getcwd()):
        del sys.path[0]
    from shiftproof.harness.cli.start import main

    raise SystemExit(main())
