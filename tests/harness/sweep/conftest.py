"""An interpreter that has a library of models, without either."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = """
import json, sys
loaded = {"parameters": [], "accepts_any_keyword": False, "file": None, "versions": {}, "device_name": ""}
print(json.dumps({"shiftproof_worker": 2}), flush=True)
for line in sys.stdin:
    message = json.loads(line)
    answer = {"loaded": loaded} if "load" in message else ANSWER
    print(json.dumps({"seq": message["seq"], **answer}), flush=True)
"""


@pytest.fixture
def interpreter(tmp_path: Path) -> Callable[[object], str]:
    """Makes one in tmp_path that speaks the protocol, and whose answer to any question is always the same."""

    def make(answer: object) -> str:
        path = tmp_path / "python"
        path.write_text(f"#!{sys.executable} -S\n{SCRIPT.replace('ANSWER', repr(answer))}")
        path.chmod(0o755)
        return str(path)

    return make
