"""The small parts that need no process."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch

from shiftproof.harness.isolation.settings import WorkerSettings
from shiftproof.harness.worker import scratch
from shiftproof.harness.worker import tensors as tensors_module
from shiftproof.harness.worker.exchange import Call, NotAnswered
from shiftproof.harness.worker.protocol import (
    ProtocolError,
    check_answer,
    decode_line,
    decode_scalar,
    encode_line,
    encode_scalar,
)
from shiftproof.harness.worker.target import LoadFailure
from shiftproof.harness.worker.tensors import read_tensors, same_bits, write_tensors
from shiftproof.harness.worker.wire import decode_description, decode_failure, decode_outcome


@pytest.mark.parametrize("line", [b"\n", b"[1]\n", b"nonsense\n", b"\xff\n", b'{"seq": 1\n'])
def test_malformed_lines(line: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_line(line)


@pytest.mark.parametrize(
    "message",
    [{"seq": 2, "loaded": {}}, {"loaded": {}}, {"seq": 1}, {"seq": 1, "loaded": 3}, {"seq": 1, "a": {}, "b": {}}],
)
def test_answers_to_something_else(message: dict[str, object]) -> None:
    with pytest.raises(ProtocolError):
        check_answer(message, 1)


@pytest.mark.parametrize("value", [0, -(2**70), 1.5, float("inf"), float("-inf"), True, None, "ℓ\n", [], [0, -(2**70)]])
def test_scalars_survive_a_line(value: object) -> None:
    line = encode_line({"x": encode_scalar(value)})  # type: ignore[arg-type]
    assert line.count(b"\n") == 1
    back = decode_scalar(decode_line(line)["x"])
    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize("value", [[1.5], [True], [[1]], ["a"], {"float": 1}, {}])
def test_what_is_no_scalar(value: object) -> None:
    with pytest.raises(ProtocolError, match="expected a scalar"):
        decode_scalar(value)


def test_a_worker_cannot_claim_what_only_the_harness_can_know() -> None:
    failure = decode_failure({"reason": "timed out", "message": "so it says", "traceback": "line 1"})
    assert (failure.reason, failure.traceback) == ("broken", "line 1")
    assert failure.message == "the candidate's own process failed while loading it: so it says"


def test_a_description_that_is_none_is_a_broken_process() -> None:
    with pytest.raises(
        LoadFailure, match="loading m:f got an answer that does not follow the protocol: KeyError"
    ) as caught:
        decode_description({}, "m:f")
    assert caught.value.reason == "broken"


@pytest.mark.parametrize(
    ("verb", "body"),
    [
        ("returned", {"seconds": 0.0}),
        ("returned", {}),
        ("raised", {"seconds": 0.0, "type": "E", "message": "", "traceback": "", "during": "lunch"}),
        ("unusable", {"seconds": "nan", "description": "x"}),
        ("out_of_memory", {"seconds": 0.0, "limit": None, "message": ""}),
        ("loaded", {"seconds": 0.0}),
        ("failed", {"message": "it broke"}),
    ],
)
def test_an_answer_that_is_none_says_nothing_of_the_candidate(verb: str, body: dict[str, object]) -> None:
    call = Call({"logits": torch.zeros(1)})
    outcome, seconds = decode_outcome(verb, body, call, "/no/such/file")
    assert isinstance(outcome, NotAnswered)
    assert (outcome.side, seconds) == ("candidate", 0.0)
    assert "it broke" in outcome.message or f"its answer {verb!r} does not follow the protocol" in outcome.message


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("rows", [3, 50_000])
def test_tensors_survive_a_file_that_is_written_over(tmp_path: Path, rows: int, mapped: bool) -> None:
    path = str(tmp_path / "case.safetensors")
    base = torch.arange(4 * rows).reshape(rows, 4)
    tensors = {"a": base.T, "b": base[1:], "c": torch.empty(0, 3), "d": torch.tensor(2.5, dtype=torch.bfloat16)}
    write_tensors(path, tensors)
    read = read_tensors(path, mapped=mapped)
    write_tensors(path, {"a": torch.zeros(100)})
    assert all(same_bits(read[name], tensors[name]) for name in tensors)
    (tmp_path / "short").write_bytes(b"\x08\x00")
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        read_tensors(str(tmp_path / "short"))


def test_the_disk_serves_where_shared_memory_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = scratch.ScratchFolder()
    monkeypatch.setattr(scratch, "_free_bytes", lambda where: 64 << 20)
    small, large = Path(folder.for_bytes(1 << 20)), Path(folder.for_bytes(65 << 20))
    assert small.parent == Path(scratch.SHARED_MEMORY)
    assert large.parent != small.parent
    assert large.stat().st_mode & 0o777 == 0o700
    folder.remove()
    assert not small.exists()
    assert not large.exists()


def test_only_our_folders_are_removed_for_a_harness_that_vanished(tmp_path: Path) -> None:
    theirs, ours = tmp_path / "theirs", tmp_path / (scratch.PREFIX + "x")
    for folder in (theirs, ours):
        folder.mkdir()
        scratch.remove_orphan(str(folder / scratch.CASE_FILE))
    assert theirs.exists()
    assert not ours.exists()


@pytest.mark.parametrize(
    "changes", [{"call_deadline": 0}, {"load_deadline": float("nan")}, {"memory_limit": -1}, {"device": "tpu"}]
)
def test_settings_that_cannot_be(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        WorkerSettings(**changes)  # type: ignore[arg-type]


def test_files_are_what_safetensors_itself_would_read(tmp_path: Path) -> None:
    path = str(tmp_path / "all.safetensors")
    tensors = {str(dtype): torch.tensor([[1, 0, 1]]).to(dtype) for dtype in tensors_module._NAMES}
    write_tensors(path, {**tensors, "scalar": torch.tensor(2.5), "empty": torch.empty(0, 3)})
    read = safetensors.torch.load_file(path)
    assert all(same_bits(read[name], tensors[name]) for name in tensors)
    assert (read["scalar"].item(), read["empty"].shape) == (2.5, (0, 3))
    with pytest.raises(ValueError, match=r"no dtype torch\.complex128"):
        write_tensors(path, {"z": torch.zeros(1, dtype=torch.complex128)})
    with pytest.raises(ValueError, match="sparse"):
        write_tensors(path, {"s": torch.eye(2).to_sparse()})


def test_bits() -> None:
    nan = torch.tensor([[float("nan")]])
    assert same_bits(nan, nan.clone())
    assert not same_bits(torch.tensor(0.0), torch.tensor(-0.0))
    assert same_bits(torch.tensor([[7, 8]])[:, ::2], torch.tensor([[7]])), "one element, with a stride of two"
    freed = torch.zeros(3)
    freed.untyped_storage().resize_(0)
    assert not same_bits(freed, torch.zeros(3))
