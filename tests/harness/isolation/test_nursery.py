"""Workers are forks of a process that has imported torch: as good as new processes, and none can harm another."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from shiftproof.harness.isolation import nursery
from shiftproof.harness.isolation.client import Worker
from shiftproof.harness.isolation.settings import WorkerSettings
from shiftproof.harness.worker.exchange import Call, Died, NotAnswered, Outcome, Returned, TimedOut
from shiftproof.harness.worker.target import LoadFailure

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or not hasattr(os, "pidfd_open"), reason="only Linux has nurseries"
)

CANDIDATES = """
import json, os, signal, subprocess, sys, time


def parent(pid):
    return int(open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[1])


def tell():
    seen = {
        "guard": os.getppid(), "nursery": parent(os.getppid()), "cwd": os.getcwd(), "argv": sys.argv,
        "main": sys.modules["__main__"].__file__, "modules": sorted(sys.modules), "mine": os.environ.get("MINE"),
        "threads": len(os.listdir("/proc/self/task")), "session": os.getsid(0) == os.getpid(),
        "orig_argv": sys.orig_argv, "first": [os.path.isdir(entry) for entry in sys.path[:1]],
    }
    with open("seen.json", "w") as file:
        json.dump(seen, file)


def leave_in_another_session():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    with open("child.pid", "w") as file:
        file.write(str(child.pid))


def loss(logits, action="", **more):
    {
        "": lambda: None,
        "tell": tell,
        "kill guard": lambda: (os.kill(os.getppid(), signal.SIGKILL), time.sleep(2)),
        "kill guard and go on": lambda: (survive(), os.kill(os.getppid(), signal.SIGKILL), time.sleep(0.2)),
        "kill nursery": lambda: (os.kill(parent(os.getppid()), signal.SIGKILL), time.sleep(0.2)),
        "kill guard's group": lambda: (os.killpg(os.getpgid(os.getppid()), signal.SIGKILL), time.sleep(2)),
        "stop guard": lambda: (os.kill(os.getppid(), signal.SIGSTOP), time.sleep(600)),
        "leave": leave_in_another_session,
        "leave and hang": lambda: (leave_in_another_session(), time.sleep(600)),
        "exit": lambda: os._exit(3),
    }[action]()
    return logits.square().sum()


def survive():
    import ctypes
    ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)  # PR_SET_PDEATHSIG: none
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "those.py").write_text(CANDIDATES)
    return tmp_path


@pytest.fixture
def worker(folder: Path) -> Iterator[Worker]:
    with Worker("those.py:loss", WorkerSettings(cwd=str(folder), call_deadline=2)) as worker:
        yield worker


def ask(worker: Worker, action: str = "") -> Outcome:
    return worker.call(Call({"logits": torch.ones(2, 3)}, {"action": action}, gradients=("logits",)))


def assert_right(outcome: Outcome) -> None:
    assert isinstance(outcome, Returned), outcome
    assert outcome.value.item() == 6.0


def seen(worker: Worker, folder: Path) -> dict[str, object]:
    assert_right(ask(worker, "tell"))
    found: dict[str, object] = json.loads((folder / "seen.json").read_text())
    return found


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def ends(pid: int) -> bool:
    end = time.monotonic() + 5
    while is_running(pid) and time.monotonic() < end:
        time.sleep(0.02)
    return not is_running(pid)


# As good as a new process --------------------------------------------------------------------------------------------


def test_workers_of_one_interpreter_come_from_one_nursery(worker: Worker, folder: Path) -> None:
    first = seen(worker, folder)
    assert isinstance(ask(worker, "exit"), Died)
    second = seen(worker, folder)
    with Worker("those.py:loss", WorkerSettings(cwd=str(folder))) as other:
        third = seen(other, folder)
    assert len({each["guard"] for each in (first, second, third)}) == 3
    assert len({each["nursery"] for each in (first, second, third)}) == 1


def test_a_fork_looks_like_a_process_that_was_spawned(worker: Worker, folder: Path) -> None:
    forked = seen(worker, folder)
    with Worker("those.py:loss", WorkerSettings(cwd=str(folder), may_fork=False)) as other:
        spawned = seen(other, folder)
    assert forked["guard"] != os.getpid() == spawned["guard"]
    for name in ("cwd", "argv", "main", "mine", "threads", "session", "first"):
        assert forked[name] == spawned[name], name


def test_it_holds_torch_and_the_entry_point_of_a_worker_and_nothing_of_the_judge(worker: Worker, folder: Path) -> None:
    modules = seen(worker, folder)["modules"]
    assert isinstance(modules, list)
    assert {"torch", "safetensors.torch", "_shiftproof_worker.runner"} <= set(modules)
    assert [name for name in modules if name.partition(".")[0] in ("shiftproof", "hypothesis", "pytest", "click")] == []


def test_each_worker_has_its_own_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nurseries = set()
    for mine, test in (("1", "first"), ("1", "second"), ("2", "second")):
        monkeypatch.setenv("PYTEST_CURRENT_TEST", test)
        with Worker("those.py:loss", WorkerSettings(cwd=str(folder), environment={"MINE": mine})) as worker:
            found = seen(worker, folder)
        assert found["mine"] == mine
        nurseries.add(found["nursery"])
    assert len(nurseries) == 2, "an import of torch may depend on the environment, but not on the name of a test"


def test_numpy_draws_other_numbers_in_each(folder: Path) -> None:
    pytest.importorskip("numpy")
    (folder / "draws.py").write_text("import numpy\ndef loss(logits): return logits.sum() * 0 + numpy.random.rand()\n")
    drawn = set()
    for _ in range(2):
        with Worker("draws.py:loss", WorkerSettings(cwd=str(folder))) as worker:
            outcome = worker.call(Call({"logits": torch.ones(2, 3)}))
        assert isinstance(outcome, Returned)
        drawn.add(outcome.value.item())
    assert len(drawn) == 2


# Where it cannot be forked, it is spawned -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "start_up",
    ["import threading, time; threading.Thread(target=time.sleep, args=(600,), daemon=True).start()", "import nothing"],
)
def test_an_interpreter_without_a_nursery_spawns(folder: Path, monkeypatch: pytest.MonkeyPatch, start_up: str) -> None:
    if start_up == "import nothing":  # a nursery that ends before it serves
        start_up = "import sys; sys.argv[1:] and sys.argv[0].endswith('bootstrap.py') and __import__('os')._exit(9)"
        (folder / "usercustomize.py").write_text("")
    (folder / "sitecustomize.py").write_text(start_up)
    monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setattr(nursery, "_refused", set())
    with Worker("those.py:loss", WorkerSettings(cwd=str(folder))) as worker:
        assert seen(worker, folder)["guard"] == os.getpid()
        assert worker.restarts == 0
        assert isinstance(ask(worker, "exit"), Died)
        assert_right(ask(worker))
        assert worker.restarts == 1


def test_where_the_nursery_cannot_fork_it_spawns(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "sitecustomize.py").write_text(
        "import os\ndef fork(): raise OSError(11, 'no more processes')\nos.fork = fork\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setattr(nursery, "_refused", set())
    with Worker("those.py:loss", WorkerSettings(cwd=str(folder))) as worker:
        assert seen(worker, folder)["guard"] == os.getpid()


def test_a_program_with_another_name_is_no_python() -> None:
    with pytest.raises(nursery.NoNursery):
        nursery.fork("/bin/cat", "/", {})


# Candidates that harm those who look after them -----------------------------------------------------------------------


@pytest.mark.parametrize("action", ["kill guard", "kill guard's group", "kill guard and go on"])
def test_who_kills_its_parent_is_blamed(worker: Worker, folder: Path, action: str) -> None:
    with Worker("those.py:loss", WorkerSettings(cwd=str(folder))) as bystander:
        before = seen(bystander, folder)
        seen(worker, folder)
        outcome = ask(worker, action)
        assert isinstance(outcome, NotAnswered), outcome
        assert outcome.side == "candidate"
        assert outcome.message == "it killed its parent process, which belongs to the judge"
        assert_right(ask(worker))
        assert seen(bystander, folder) == before
        assert bystander.restarts == 0


def test_who_kills_the_nursery_is_blamed_and_the_next_gets_a_new_one(worker: Worker, folder: Path) -> None:
    with Worker("those.py:loss", WorkerSettings(cwd=str(folder))) as bystander:
        before = seen(bystander, folder)
        outcome = ask(worker, "kill nursery")
        assert isinstance(outcome, NotAnswered), outcome
        assert outcome.side == "candidate"
        assert outcome.message == "it killed the process from which the judge forks workers"
        assert seen(worker, folder)["nursery"] != before["nursery"]
        assert_right(ask(bystander))
        assert bystander.restarts == 0


def test_who_kills_its_parent_while_it_is_loaded_is_blamed(folder: Path) -> None:
    (folder / "early.py").write_text("import os, signal, time\nos.kill(os.getppid(), signal.SIGKILL)\ntime.sleep(9)\n")
    with Worker("early.py:loss", WorkerSettings(cwd=str(folder))) as worker, pytest.raises(LoadFailure) as caught:
        worker.describe()
    assert caught.value.reason == "broken"
    assert "it killed its parent process" in caught.value.message


def test_a_nursery_that_was_stopped_is_ended(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nursery, "_nurseries", {})
    with Worker("those.py:loss", WorkerSettings(cwd=str(folder), call_deadline=2.0)) as worker:
        pid = int(str(seen(worker, folder)["nursery"]))
        [own] = nursery._nurseries.values()
    os.kill(pid, signal.SIGSTOP)
    own.close()
    assert ends(pid)


def test_who_stops_its_parent_ends_all_the_same(worker: Worker, folder: Path) -> None:
    guard = seen(worker, folder)["guard"]
    pid = worker.pid
    assert pid is not None
    assert ask(worker, "stop guard") == TimedOut(2.0)
    assert ends(pid)
    assert ends(int(str(guard)))
    assert_right(ask(worker))


@pytest.mark.parametrize("action", ["leave", "leave and hang"])
def test_what_a_worker_leaves_in_another_session_ends_with_it(worker: Worker, folder: Path, action: str) -> None:
    outcome = ask(worker, action)
    assert isinstance(outcome, Returned if action == "leave" else TimedOut)
    worker.close()
    assert ends(int((folder / "child.pid").read_text()))


# The command imports torch once ---------------------------------------------------------------------------------------

LOSS = """
from those import tell
import torch.nn.functional as F
def loss(logits, labels):
    tell()
    return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())
"""


@pytest.fixture
def told(folder: Path) -> dict[str, object]:
    """What a candidate of the command sees."""
    (folder / "told.py").write_text(LOSS)
    command = [sys.executable, "-m", "shiftproof", "check", "told.py:loss", "--spec", "hf.causal_lm", "--seed", "7"]
    command += ["--profile", "brief"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("COV_", "PYTEST"))}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, object] = json.loads((folder / "seen.json").read_text())
    return found


def test_the_nursery_of_a_command_is_its_fork_and_knows_nothing_of_the_judge(told: dict[str, object]) -> None:
    modules = told["modules"]
    assert isinstance(modules, list)
    assert "torch" in modules
    assert [name for name in modules if name.partition(".")[0] in ("shiftproof", "hypothesis", "pytest", "click")] == []
    assert told["argv"] == [nursery.BOOTSTRAP]
    assert told["orig_argv"] == [], "the command that was forked would have its own here, with the seed"
    assert told["main"] == nursery.BOOTSTRAP
    assert told["threads"] == 3  # the candidate's, the one that watches the pipe, and the one that looks for imports
    assert not is_running(int(str(told["nursery"])))


def test_a_candidate_that_kills_the_nursery_is_named_and_the_next_is_judged(folder: Path) -> None:
    (folder / "killer.py").write_text(
        "import those, os, signal, time\n"
        "def loss(logits, labels):\n"
        "    os.kill(those.parent(os.getppid()), signal.SIGKILL)\n"
        "    time.sleep(0.2)\n"
        "    return logits.sum()\n"
    )
    (folder / "right.py").write_text(LOSS.replace("    tell()\n", ""))
    command = [sys.executable, "-m", "shiftproof", "check", "killer.py:loss", "right.py:loss", "--spec", "hf.causal_lm"]
    command += ["--profile", "brief", "--json", "r.json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 3, done.stdout + done.stderr
    verdicts = {
        each["candidate"]: each["verdict"] for each in json.loads((folder / "r.json").read_text())["candidates"]
    }
    assert verdicts == {"killer.py:loss": "error", "right.py:loss": "conforms"}
    assert "it killed the process from which the judge forks workers" in " ".join(done.stdout.split())


def test_no_nursery_outlives_its_process(folder: Path) -> None:
    code = (
        "import sys, time, torch\n"
        "from shiftproof.harness.isolation.client import Worker\n"
        "from shiftproof.harness.isolation.settings import WorkerSettings\n"
        "from shiftproof.harness.worker.exchange import Call\n"
        "worker = Worker('those.py:loss', WorkerSettings(cwd=sys.argv[1]))\n"
        "worker.call(Call({'logits': torch.ones(2, 3)}, {'action': 'tell'}))\n"
        "print('called', flush=True)\n"
        "time.sleep(600)\n"
    )
    harness = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True)
    with harness:
        assert harness.stdout is not None
        assert harness.stdout.readline() == "called\n"
        harness.send_signal(signal.SIGKILL)
    found = json.loads((folder / "seen.json").read_text())
    assert ends(found["nursery"])
    assert ends(found["guard"])
