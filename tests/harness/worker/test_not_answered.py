"""Candidates that keep their process from answering: each is an outcome by name, and the next call is answered."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from shiftproof.harness.isolation import client
from shiftproof.harness.isolation.client import Worker
from shiftproof.harness.isolation.inprocess import InProcess
from shiftproof.harness.isolation.process import DeadlinePassed, spawn
from shiftproof.harness.isolation.settings import WorkerSettings
from shiftproof.harness.worker import scratch, wire
from shiftproof.harness.worker.exchange import Call, Died, NotAnswered, Outcome, Raised, Returned, TimedOut, Unusable
from shiftproof.harness.worker.target import LoadFailure

CallOf = Callable[..., Call]

BREAKING = f"{Path(__file__).parents[2] / 'candidates' / 'breaking.py'}:"


@pytest.fixture
def call() -> Call:
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(2, 5, 7, generator=generator)
    return Call({"logits": logits, "labels": torch.randint(0, 7, (2, 5), generator=generator)}, gradients=("logits",))


@pytest.fixture(scope="module")
def broken() -> Iterator[Worker]:
    """One worker for all that break their process: it starts another for each."""
    with Worker(BREAKING + "right", WorkerSettings(call_deadline=60)) as worker:
        worker.describe()
        yield worker


@pytest.fixture(scope="module")
def unbroken() -> Iterator[Worker]:
    """One worker for all that leave their process whole."""
    with Worker(BREAKING + "right", WorkerSettings(call_deadline=60)) as worker:
        worker.describe()
        yield worker


def is_right(outcome: Outcome, call: Call) -> bool:
    """Whether it is the value and the gradient of the ordinary loss."""
    if not isinstance(outcome, Returned):
        return False
    logits = call.tensors["logits"].clone().requires_grad_()
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), call.tensors["labels"][:, 1:].flatten())
    loss.backward()
    gradient = outcome.gradients["logits"]
    assert logits.grad is not None
    return torch.allclose(outcome.value, loss) and gradient is not None and torch.allclose(gradient, logits.grad)


@pytest.mark.representatives(4)
@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "limits_file_size",
            "cannot write its answer: OSError: [Errno 27] File too large (its process has a limit on file size",
        ),
        ("fills_the_disk", "cannot write its answer: OSError: [Errno 28] No space left on device (no space is left"),
        ("deletes_scratch_files", "(the judge's files were removed)"),
        ("writes_junk", r"expected one line of JSON, got b'loss: 0.5\n'"),
        ("writes_without_end", "a line of more than 16777216 bytes"),
        ("forges_by_counting", "expected the answer to message"),
        ("forges_another_verb", "expected the answer to message"),
        ("forges_a_result", "its answer 'returned' does not follow the protocol: FileNotFoundError"),
        ("closes_everything", "it lost its connection to the judge"),
        ("replaces_everything", "it lost its connection to the judge"),
    ],
)
def test_a_process_that_cannot_answer(broken: Worker, call: Call, name: str, words: str) -> None:
    broken.turn_to(BREAKING + name)
    outcome = broken.call(call)
    assert isinstance(outcome, NotAnswered), outcome
    assert outcome.side == "candidate"
    assert words in outcome.message
    assert broken.pid is None  # the next call starts another


def test_a_candidate_that_is_turned_away_from_while_it_loads(call: Call) -> None:
    with Worker(BREAKING + "writes_junk", WorkerSettings(call_deadline=60)) as worker:
        worker.turn_to(BREAKING + "right")
        assert is_right(worker.call(call), call)


def test_the_next_candidate_gets_a_fresh_process(broken: Worker, call: Call) -> None:
    broken.turn_to(BREAKING + "writes_junk")
    assert isinstance(broken.call(call), NotAnswered)
    broken.turn_to(BREAKING + "right")
    assert is_right(broken.call(call), call)


def test_used_up_descriptors_are_the_candidates_doing(broken: Worker, call: Call) -> None:
    """What fails first depends on what torch still has to import."""
    broken.turn_to(BREAKING + "uses_up_descriptors")
    outcome = broken.call(call)
    assert isinstance(outcome, (NotAnswered, Raised)), outcome
    assert "[Errno 24] Too many open files" in outcome.message
    assert isinstance(outcome, Raised) or (outcome.side == "candidate" and "used up" in outcome.message)


def test_an_exit_while_it_answers_is_a_death(broken: Worker, call: Call) -> None:
    broken.turn_to(BREAKING + "exits_while_it_answers")
    outcome = broken.call(call)
    assert isinstance(outcome, Died), outcome
    assert outcome.exit_code == 5


def test_a_process_that_stops_itself_meets_its_deadline(call: Call) -> None:
    with Worker(BREAKING + "stops_itself", WorkerSettings(call_deadline=2)) as worker:
        assert worker.call(call) == TimedOut(2.0)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("requires_grad_raises", "what it returned raises NotImplementedError: requires_grad is not for you"),
        ("detach_raises", "detach is not for you"),
        ("numel_raises", "numel is not for you"),
        ("has_no_memory", "what it returned raises"),
        ("ten_gigabytes", "tensor of shape [2500000000], 10000000000 bytes; expected a loss"),
    ],
)
def test_what_cannot_be_read_is_unusable_and_never_an_excuse(
    unbroken: Worker, call: Call, name: str, words: str
) -> None:
    """NotImplementedError of a call says that something is lacking; of a tensor that is read it says nothing."""
    unbroken.turn_to(BREAKING + name)
    outcome = unbroken.call(call)
    assert isinstance(outcome, Unusable), outcome
    assert words in outcome.description


@pytest.mark.parametrize("name", ["shape_raises", "dtype_raises", "every_use_raises"])
def test_what_cannot_be_gone_backward_from_has_raised(unbroken: Worker, call: Call, name: str) -> None:
    unbroken.turn_to(BREAKING + name)
    outcome = unbroken.call(call)
    assert isinstance(outcome, (Unusable, Raised)), outcome
    assert not isinstance(outcome, Raised) or outcome.during == "backward"


@pytest.mark.parametrize(
    ("name", "type", "message"),
    [
        ("raises_unprintable", "Unprintable", "<its __str__ raised KeyboardInterrupt>"),
        ("raises_unprintable_runtime", "UnprintableRuntime", "<its __str__ raised ValueError>"),
        ("raises_untraceable", None, None),
    ],
)
def test_an_exception_of_which_nothing_can_be_told_is_told(
    unbroken: Worker, call: Call, name: str, type: str | None, message: str | None
) -> None:
    unbroken.turn_to(BREAKING + name)
    outcome = unbroken.call(call)
    assert isinstance(outcome, Raised), outcome
    assert type is None or (outcome.type, outcome.message) == (type, message)


def test_those_have_left_the_process_whole(unbroken: Worker, call: Call) -> None:
    unbroken.turn_to(BREAKING + "right")
    assert is_right(unbroken.call(call), call)
    assert unbroken.restarts == 0


@pytest.mark.representatives(2)
@pytest.mark.parametrize(
    "name",
    [
        "default_device_meta",
        "default_device_cuda",
        "default_dtype_double",
        "function_mode",
        "dispatch_mode",
        "gradients_off",
        "inference_on",
        "low_files_closed",
    ],
)
def test_what_is_set_for_the_whole_process_does_not_reach_our_own_tensors(call: Call, name: str) -> None:
    with Worker(BREAKING + name, WorkerSettings(call_deadline=60)) as worker:
        outcome = worker.call(call)
        assert is_right(outcome, call), outcome


def test_replaced_output_is_no_matter_or_the_candidates_doing(call: Call) -> None:
    """torch asks for its encoding when it imports some of its modules."""
    with Worker(BREAKING + "output_replaced", WorkerSettings(call_deadline=60)) as worker:
        outcome = worker.call(call)
        assert is_right(outcome, call) or (isinstance(outcome, Raised) and "here" in outcome.message), outcome


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("descriptors_gone", "Too many open files"),
        ("all_files_closed", "got no answer: it lost its connection to the judge"),
        ("junk_while_loading", r"got an answer that cannot be read: expected one line of JSON, got b'loading...\n'"),
    ],
)
def test_a_process_that_breaks_while_it_loads(call: Call, name: str, words: str) -> None:
    with Worker(BREAKING + name, WorkerSettings()) as worker:
        with pytest.raises(LoadFailure) as caught:
            worker.call(call)
        assert (caught.value.reason, caught.value.is_usage) == ("broken", False)
        assert words in caught.value.message


def test_one_that_cannot_be_loaded_again_is_an_outcome(tmp_path: Path, call: Call) -> None:
    (tmp_path / "once.py").write_text(
        "import os\nif os.path.exists('seen'): raise RuntimeError('only once')\nopen('seen', 'w')\n"
        "def loss(logits, labels): os._exit(3)\n"
    )
    with Worker("once.py:loss", WorkerSettings(cwd=str(tmp_path))) as worker:
        assert isinstance(worker.call(call), Died)
        for _ in range(2):
            outcome = worker.call(call)
            assert isinstance(outcome, NotAnswered), outcome
            assert outcome.side == "candidate"
            assert "could not be loaded again" in outcome.message
            assert "only once" in outcome.message


# --- the judge's side -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), MemoryError("no room")])
def test_a_case_that_cannot_be_written_is_the_judges_failure(
    unbroken: Worker, call: Call, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fails(*arguments: Any) -> None:
        raise error

    monkeypatch.setattr(client, "encode_call", fails)
    outcome = unbroken.call(call)
    assert isinstance(outcome, NotAnswered)
    assert outcome.side == "judge"
    assert "could not be judged, because the judge's process failed: the case cannot be written" in outcome.describe()


def test_an_answer_that_the_judge_cannot_read_is_its_failure(
    unbroken: Worker, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(path: str) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    unbroken.turn_to(BREAKING + "right")
    with monkeypatch.context() as patched:
        patched.setattr(wire, "read_tensors", fails)
        outcome = unbroken.call(call)
    assert isinstance(outcome, NotAnswered)
    assert (outcome.side, "the answer cannot be read" in outcome.message) == ("judge", True)
    assert is_right(unbroken.call(call), call)


def test_an_interrupt_passes_through(unbroken: Worker, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(client, "encode_call", interrupted)
    with pytest.raises(KeyboardInterrupt):
        unbroken.call(call)


def test_our_own_failure_in_process_is_an_outcome(tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    from shiftproof.harness.isolation import inprocess

    def fails(*arguments: Any) -> None:
        raise TypeError("a fault of ours")

    monkeypatch.setattr(inprocess, "perform", fails)
    (tmp_path / "plain_loss.py").write_text("def loss(logits, labels): return logits.sum()\n")
    with InProcess("plain_loss.py:loss", WorkerSettings(cwd=str(tmp_path))) as worker:
        outcome = worker.call(call)
    assert isinstance(outcome, NotAnswered)
    assert outcome.message == "TypeError: a fault of ours"


def test_a_result_larger_than_was_asked_for_is_not_read(call: Call, tmp_path: Path) -> None:
    result = tmp_path / "result.safetensors"
    with result.open("wb") as file:
        file.truncate(wire.room_for(call) + 1)
    fields = {"kind": "tensor", "requires_grad": True, "gradients": [], "mutated": [], "seconds": 0.0}
    outcome, _ = wire.decode_outcome("returned", fields, call, str(result))
    assert isinstance(outcome, NotAnswered)
    assert "a result file of" in outcome.message


def test_room_is_made_for_all_that_may_be_written(call: Call) -> None:
    given = sum(tensor.nbytes for tensor in call.tensors.values())
    assert wire.room_for(call) > 2 * given
    grad_output = Call(call.tensors, grad_output=torch.ones(10**6))
    assert wire.room_for(grad_output) > 2 * (given + 4 * 10**6)
    assert wire.room_for(Call(call.tensors, outputs=("logits",))) > 2 * given + (1 << 30)


def test_a_scratch_folder_that_was_removed_is_made_again() -> None:
    folder = scratch.ScratchFolder()
    first = folder.for_bytes(0)
    os.rmdir(first)
    assert os.path.isdir(folder.for_bytes(0))
    folder.remove()


def test_a_process_that_takes_no_line_meets_the_deadline(tmp_path: Path) -> None:
    child = spawn(["sleep", "60"], str(tmp_path), {})
    with pytest.raises(DeadlinePassed):
        child.send(b"x" * (1 << 20) + b"\n", 0.0)
    child.kill()
