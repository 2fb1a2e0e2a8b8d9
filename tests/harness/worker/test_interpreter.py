"""Other interpreters: without torch, with torch and next to nothing else, or no interpreters at all."""

from __future__ import annotations

import importlib.util
import sys
import time
import venv
from pathlib import Path

import pytest
import safetensors
import torch

from shiftproof.harness.isolation.client import Worker
from shiftproof.harness.isolation.settings import WorkerSettings
from shiftproof.harness.worker.exchange import Call, Returned
from shiftproof.harness.worker.target import LoadFailure

LOSS = """
import sys
def loss(logits):
    assert "shiftproof" not in sys.modules and "numpy" not in sys.modules
    return logits.square().sum()
"""

TORCH_NEEDS = ("torch", "torchgen", "functorch", "safetensors", "sympy", "mpmath", "networkx", "filelock", "fsspec")
TORCH_NEEDS_TOO = ("jinja2", "markupsafe", "typing_extensions")


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment in which nothing is installed."""
    folder = tmp_path_factory.mktemp("bare") / "env"
    venv.EnvBuilder(with_pip=False, symlinks=True).create(folder)
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def needy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One in which only torch, what torch itself needs, and safetensors can be imported."""
    folder = tmp_path_factory.mktemp("needy") / "env"
    venv.EnvBuilder(with_pip=False, symlinks=True).create(folder)
    (packages,) = (folder / "lib").glob("python*/site-packages")
    for name in (*TORCH_NEEDS, *TORCH_NEEDS_TOO):
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        found = Path(spec.origin).parent if spec.submodule_search_locations else Path(spec.origin)
        (packages / found.name).symlink_to(found)
    return folder / "bin" / "python"


def failure(settings: WorkerSettings) -> LoadFailure:
    with Worker("loss.py:loss", settings) as worker, pytest.raises(LoadFailure) as caught:
        worker.describe()
    assert caught.value.reason == "interpreter"
    assert not caught.value.is_usage
    return caught.value


def fake(folder: Path, name: str, script: str) -> str:
    path = folder / name
    path.write_text(f"#!{sys.executable} -S\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_torch_and_safetensors_are_enough(needy: Path, tmp_path: Path) -> None:
    (tmp_path / "loss.py").write_text(LOSS)
    with Worker("loss.py:loss", WorkerSettings(python=str(needy), cwd=str(tmp_path))) as worker:
        assert worker.describe().versions["torch"] == torch.__version__
        outcome = worker.call(Call({"logits": torch.ones(2, 3)}, gradients=("logits",)))
    assert isinstance(outcome, Returned), outcome
    assert outcome.value.item() == 6.0
    torch.testing.assert_close(outcome.gradients["logits"], torch.full((2, 3), 2.0))


def test_without_torch_says_what_to_install(bare: Path, tmp_path: Path) -> None:
    message = failure(WorkerSettings(python=str(bare), cwd=str(tmp_path))).message
    assert str(bare) in message
    assert "cannot import torch" in message
    assert "pip install torch safetensors" in message


def test_interpreter_that_does_not_exist(tmp_path: Path) -> None:
    message = failure(WorkerSettings(python="/no/such/python", cwd=str(tmp_path))).message
    assert message == "the interpreter /no/such/python does not exist"


def test_program_that_is_no_interpreter(tmp_path: Path) -> None:
    assert "exited with code 0" in failure(WorkerSettings(python="true", cwd=str(tmp_path))).message
    assert "did not become a worker" in failure(WorkerSettings(python="cat", cwd=str(tmp_path))).message
    leaves = fake(tmp_path, "leaves", "import sys; sys.exit('this is not python')")
    assert "exited with code 1, saying 'this is not python'" in failure(WorkerSettings(leaves, str(tmp_path))).message


def test_another_version_of_the_protocol(tmp_path: Path) -> None:
    newer = fake(tmp_path, "newer", """print('{"shiftproof_worker": 3}', flush=True); input()""")
    message = failure(WorkerSettings(newer, str(tmp_path))).message
    assert "speaks version 3" in message
    assert "speaks version 2" in message


def test_a_relative_interpreter_is_found_from_here(
    needy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "loss.py").write_text(LOSS)
    monkeypatch.chdir(needy.parent)
    with Worker("loss.py:loss", WorkerSettings(python="./python", cwd=str(tmp_path))) as worker:
        assert worker.describe().parameters[0].name == "logits"


def test_a_worker_in_another_language_needs_only_the_protocol(tmp_path: Path) -> None:
    """docs/protocol.md, spoken without this package, and without torch on the worker's side."""
    script = """
import json, struct, sys
print("a banner that the start-up files print")
print(json.dumps({"shiftproof_worker": 2, "python": "none", "torch": "none"}), flush=True)
for line in sys.stdin:
    message = json.loads(line)
    if "load" in message:
        verb, body = "loaded", {
            "parameters": [{"name": "logits", "required": True, "kind": "keyword"}],
            "accepts_any_keyword": False, "file": None, "versions": {}, "device_name": "abacus",
        }
    else:
        with open(message["call"]["case"], "rb") as case:
            (size,) = struct.unpack("<Q", case.read(8))
            header = json.loads(case.read(size))
            begin, end = header["argument.logits"]["data_offsets"]
            case.seek(8 + size + begin)
            total = sum(struct.unpack(f"<{(end - begin) // 4}f", case.read(end - begin)))
        header = json.dumps({"value": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}}).encode()
        with open(message["call"]["result"], "wb") as result:
            result.write(struct.pack("<Q", len(header)) + header + struct.pack("<f", total))
        verb, body = "returned", {
            "kind": "tensor", "requires_grad": False, "gradients": [], "mutated": [], "seconds": 0.25,
        }
    print(json.dumps({"seq": message["seq"], verb: body}), flush=True)
"""
    with Worker("whatever:loss", WorkerSettings(fake(tmp_path, "abacus", script), str(tmp_path))) as worker:
        assert worker.describe().device_name == "abacus"
        outcome = worker.call(Call({"logits": torch.arange(5.0)}, gradients=("logits",)))
    assert isinstance(outcome, Returned), outcome
    assert outcome.value.item() == 10.0
    assert outcome.gradients == {"logits": None}
    assert worker.seconds_in_candidate == 0.25


LACKS = """
import json
print(json.dumps({{"shiftproof_worker": 2}}), flush=True)
message = json.loads(input())
loaded = {{"parameters": [], "accepts_any_keyword": False, "file": None, "versions": {{}}, "device_name": "abacus"}}
print(json.dumps({{"seq": message["seq"], "loaded": {{**loaded, "lacks": {lacks}}}}}), flush=True)
input()
"""


def test_a_worker_says_what_it_lacks(tmp_path: Path) -> None:
    able = fake(tmp_path, "able", LACKS.format(lacks=[]))
    with Worker("loss.py:loss", WorkerSettings(able, str(tmp_path))) as worker:
        assert worker.describe().lacks == frozenset()
    unable = fake(tmp_path, "unable", LACKS.format(lacks=["autocast", "layouts"]))
    with Worker("loss.py:loss", WorkerSettings(unable, str(tmp_path))) as worker:
        assert worker.describe().lacks == {"autocast", "layouts"}


def test_what_it_lacks_must_be_known(tmp_path: Path) -> None:
    odd = fake(tmp_path, "odd", LACKS.format(lacks=["patience"]))
    with Worker("loss.py:loss", WorkerSettings(odd, str(tmp_path))) as worker, pytest.raises(LoadFailure) as caught:
        worker.describe()
    assert caught.value.reason == "broken"
    assert "it lacks 'patience', which is no ability" in caught.value.message


def test_loading_in_parallel_does_not_wait(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(1.5)\ndef loss(logits): return logits.sum()\n")
    workers = [Worker("slow.py:loss", WorkerSettings(cwd=str(tmp_path))) for _ in range(2)]
    begun = time.monotonic()
    for worker in workers:
        worker.start()
    assert time.monotonic() - begun < 0.5
    for worker in workers:
        worker.describe()
        worker.close()


def test_safetensors_is_the_only_other_thing(needy: Path) -> None:
    """The environment above is as bare as it claims."""
    assert Path(safetensors.__file__).parent.name in TORCH_NEEDS
    (packages,) = (needy.parent.parent / "lib").glob("python*/site-packages")
    assert not (packages / "numpy").exists()
    assert not list(packages.glob("*shiftproof*"))
