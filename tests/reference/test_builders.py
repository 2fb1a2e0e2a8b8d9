"""Every builder's promise, worked by hand, and what a batch that does not fit is told."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from shiftproof.reference.builders import BUILDERS, BuilderBatch, BuilderError, answer

B, E, P, I = 91, 92, 93, -100  # noqa: E741
AUDIO = BuilderBatch(
    audio_codes=torch.tensor([[[1, 2, 3], [4, 5, 6]], [[7, 8, 9], [10, 11, 12]]]),
    delays=(0, 1),
    bos_token_id=B,
    eos_token_id=E,
)
DELAYED = [[[1, 2, 3, E], [B, 4, 5, 6]], [[7, 8, 9, E], [B, 10, 11, 12]]]
RAGGED = BuilderBatch(  # the last real token of each row is EOS, and so is the padding
    input_ids=torch.tensor([[1, 2, E, E, E], [3, 4, 5, 6, E]]),
    attention_mask=torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]),
    loss_mask=torch.tensor([[0, 1, 1, 0, 0], [1, 0, 0, 1, 0]]),
    prompt_lengths=torch.tensor([1, 3]),
    assistant_mask=torch.tensor([[0, 1, 1, 0, 0], [0, 1, 0, 1, 1]]),
    assistant_turns=torch.tensor([[[1, 2], [-1, -1]], [[1, 1], [3, 4]]]),
    pad_token_id=E,
    eos_token_id=E,
)
LEFT = BuilderBatch(
    input_ids=torch.tensor([[E, E, 1, 2, E], [3, 4, 5, 6, E]]),
    attention_mask=torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]),
    prompt_lengths=torch.tensor([1, 0]),
)
PACKED = BuilderBatch(input_ids=torch.tensor([[1, 2, 3, 4, 5, 6]]), seq_lengths=torch.tensor([2, 1, 3]))


@pytest.mark.parametrize(
    ("name", "batch", "expected"),
    [
        ("delay.apply", AUDIO, DELAYED),
        ("delay.undo", BuilderBatch(delayed_codes=torch.tensor(DELAYED), delays=(0, 1)), AUDIO.audio_codes),
        (
            "delay.labels.boson",
            AUDIO,
            [[[I, 1, 2, 3, E, I], [I, I, 4, 5, 6, E]], [[I, 7, 8, 9, E, I], [I, I, 10, 11, 12, E]]],
        ),
        (
            "delay.labels.filled",
            AUDIO,
            [[[B, 1, 2, 3, E, E], [B, B, 4, 5, 6, E]], [[B, 7, 8, 9, E, E], [B, B, 10, 11, 12, E]]],
        ),
        (
            "delay.labels.hf",
            AUDIO,
            [[[I, 1, 2, 3, I, I], [I, I, 4, 5, 6, I]], [[I, 7, 8, 9, I, I], [I, I, 10, 11, 12, I]]],
        ),
        ("delay.moshi", AUDIO, [[[1, 2, 3], [B, 4, 5]], [[7, 8, 9], [B, 10, 11]]]),
        ("delay.dia", AUDIO, [[1, 2, 3, E, I], [I, 4, 5, 6, E], [7, 8, 9, E, I], [I, 10, 11, 12, E]]),
        ("shift.pad", RAGGED, [[2, E, E, E, I], [4, 5, 6, E, I]]),
        ("shift.trim", RAGGED, [[2, E, E, E], [4, 5, 6, E]]),
        ("shift.trim.inputs", RAGGED, [[1, 2, E, E], [3, 4, 5, 6]]),
        ("shift.masked", RAGGED, [[2, E, I, I, I], [I, I, 6, I, I]]),
        ("packing.labels", PACKED, [[I, 2, I, I, 5, 6]]),
        ("packing.position_ids", PACKED, [[0, 1, 0, 0, 1, 2]]),
        ("packing.cu_seqlens", PACKED, [0, 2, 3, 6]),
        ("mask.padding", RAGGED, [[1, 2, E, I, I], [3, 4, 5, 6, E]]),
        ("mask.prompt", RAGGED, [[I, 2, E, I, I], [I, I, I, 6, E]]),
        ("mask.prompt.left", LEFT, [[I, I, I, 2, E], [3, 4, 5, 6, E]]),
        ("mask.assistant", RAGGED, [[I, 2, E, I, I], [I, 4, I, 6, E]]),
        ("mask.turns", RAGGED, [[I, 2, E, I, I], [I, 4, I, 6, E]]),
    ],
)
def test_by_hand(name: str, batch: BuilderBatch, expected: Any) -> None:
    built = answer(BUILDERS[name].build, batch)
    assert built.tolist() == torch.as_tensor(expected).tolist()


def test_every_spec_has_its_case_by_hand() -> None:
    [parametrize] = test_by_hand.pytestmark  # type: ignore[attr-defined]
    assert {name for name, *_ in parametrize.args[1]} == set(BUILDERS)


@pytest.mark.parametrize("spec", BUILDERS.values(), ids=BUILDERS)
def test_specs_say_what_they_read(spec: Any) -> None:
    fields = set(BuilderBatch.__dataclass_fields__)
    assert spec.inputs
    assert set(spec.inputs) <= fields
    assert all((spec.name, spec.formula, spec.source, spec.output))


def test_ignore_index_and_delays_are_the_batch_s() -> None:
    batch = BuilderBatch(
        audio_codes=torch.tensor([[[1], [2]]]), delays=(2, 0), eos_token_id=E, ignore_index=-1, bos_token_id=B
    )
    assert answer(BUILDERS["delay.labels.boson"].build, batch).tolist() == [[[-1, -1, -1, 1, E], [-1, 2, E, -1, -1]]]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("delay.labels.hf", [[[-1, -1, -1, 1, -1], [-1, 2, -1, -1, -1]]]),
        ("delay.dia", [[-1, -1, 1, E], [2, E, -1, -1]]),
    ],
)
def test_another_ignore_index(name: str, expected: Any) -> None:
    batch = BuilderBatch(audio_codes=torch.tensor([[[1], [2]]]), delays=(2, 0), eos_token_id=E, ignore_index=-1)
    assert answer(BUILDERS[name].build, batch).tolist() == expected


def test_no_documents_at_all() -> None:
    batch = BuilderBatch(seq_lengths=torch.tensor([], dtype=torch.long))
    places = answer(BUILDERS["packing.position_ids"].build, batch)
    assert places.shape == (1, 0)
    assert places.dtype == torch.long
    assert answer(BUILDERS["packing.cu_seqlens"].build, batch).tolist() == [0]


def test_a_turn_may_begin_a_row() -> None:
    batch = BuilderBatch(input_ids=torch.tensor([[1, 2, 3]]), assistant_turns=torch.tensor([[[0, 1]]]))
    assert answer(BUILDERS["mask.turns"].build, batch).tolist() == [[1, 2, I]]


@pytest.mark.parametrize("name", ["shift.pad", "shift.trim", "shift.trim.inputs"])
def test_one_token_has_no_next(name: str) -> None:
    batch = BuilderBatch(input_ids=torch.tensor([[5]]))
    assert answer(BUILDERS[name].build, batch).tolist() == ([[I]] if name == "shift.pad" else [[]])


def test_a_missing_input_is_named() -> None:
    with pytest.raises(BuilderError, match="reads attention_mask, but the batch has none"):
        answer(BUILDERS["mask.padding"].build, BuilderBatch(input_ids=torch.tensor([[1]])))


def test_an_input_that_no_batch_has_is_named() -> None:
    with pytest.raises(BuilderError, match="reads labels, but the batch has none"):
        answer(lambda labels: labels, BuilderBatch())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"input_ids": torch.zeros(3, dtype=torch.long)}, r"input_ids have shape \[3\]; expected \[B S\]"),
        ({"input_ids": torch.zeros(1, 3)}, "input_ids are torch.float32; expected integers"),
        (
            {"input_ids": torch.zeros(2, 3, dtype=torch.long), "attention_mask": torch.ones(2, 4, dtype=torch.long)},
            r"attention_mask have shape \[2, 4\]; expected \[B S\] = \[2 3\]",
        ),
        (
            {"audio_codes": torch.zeros(1, 3, 4, dtype=torch.long), "delays": (0, 1)},
            r"audio_codes have shape \[1, 3, 4\]; expected \[B K T\] = \[1 2 T\]",
        ),
        ({"seq_lengths": torch.tensor([2, 0])}, r"seq_lengths are \[2, 0\]; expected documents of at least one token"),
        (
            {"seq_lengths": torch.tensor([2, 2]), "input_ids": torch.zeros(1, 5, dtype=torch.long)},
            r"input_ids have shape \[1, 5\]; expected one row of all documents, \[1, 4\]",
        ),
        (
            {"assistant_turns": torch.zeros(1, 2, 3, dtype=torch.long)},
            r"shape \[1, 2, 3\]; expected \[B N 2\] = \[1 2 2\]",
        ),
    ],
)
def test_what_does_not_fit(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(BuilderError, match=message):
        BuilderBatch(**fields)
