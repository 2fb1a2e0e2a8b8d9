"""Tensors that do not fit together are refused where the batch is made, with the shape found and the shape expected."""

from __future__ import annotations

import re
from dataclasses import FrozenInstanceError

import pytest
import torch

from shiftproof.reference.batch import Batch, BatchError

LIKE_LABELS = ["shift_labels", "input_ids"]
LIKE_POSITIONS = ["loss_mask", "token_weights", "position_ids", "segment_ids", "attention_mask"]
ALIGNED = [*LIKE_LABELS, *LIKE_POSITIONS]


def batch_of(logits=(2, 4, 8), labels=(2, 4), **more):
    """A batch of zeros of these shapes."""
    return Batch(torch.zeros(logits), torch.zeros(labels, dtype=torch.long), **more)


@pytest.mark.parametrize(
    ("logits", "found"),
    [
        (torch.zeros(2, 4), "logits are float32 [2, 4]"),
        (torch.zeros(2, 4, 3, 8, 1), "logits are float32 [2, 4, 3, 8, 1]"),
        (torch.zeros(2, 4, 8, dtype=torch.int64), "logits are int64 [2, 4, 8]"),
        (torch.zeros(2, 4, 8, dtype=torch.cfloat), "logits are complex64 [2, 4, 8]"),
    ],
)
def test_logits_are_floating_and_have_three_or_four_dimensions(logits, found):
    with pytest.raises(BatchError, match=re.escape(f"{found}; expected floating [B, L, V] or [B, L, K, V]")):
        Batch(logits, torch.zeros(2, 4, dtype=torch.long))


@pytest.mark.parametrize("name", ["audio_logits", "depth_logits", "mtp_logits"])
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((2, 4, 8), torch.float32), ((2, 4, 3, 8, 1), torch.float32), ((2, 4, 3, 8), torch.int64)],
)
def test_logits_of_other_streams_have_codebooks_or_heads(name, shape, dtype):
    found = f"{name} are {str(dtype).removeprefix('torch.')} {list(shape)}; expected floating"
    with pytest.raises(BatchError, match=re.escape(found)):
        batch_of(**{name: torch.zeros(shape, dtype=dtype)})


@pytest.mark.parametrize("name", ["audio_logits", "depth_logits", "mtp_logits"])
def test_other_streams_may_have_other_rows_and_positions_than_the_labels(name):
    given = torch.zeros(1, 9, 3, 11)
    assert getattr(batch_of(**{name: given}), name) is given


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_floating_dtype_is_welcome(dtype):
    assert Batch(torch.zeros(2, 4, 8, dtype=dtype), torch.zeros(2, 4, dtype=torch.int32)).logits.dtype is dtype


@pytest.mark.parametrize("labels", [(8,), (2, 4, 3, 1)])
def test_labels_have_two_or_three_dimensions(labels):
    message = f"labels are int64 {list(labels)}; expected integers [B, S] or [B, S, K]"
    with pytest.raises(BatchError, match=re.escape(message)):
        batch_of(labels=labels)


@pytest.mark.parametrize(
    ("labels", "found"), [(torch.zeros(2, 4, dtype=torch.long), "int64 [2, 4]"), (torch.zeros(2, 4, 3), "float32")]
)
def test_audio_labels_are_integers_with_codebooks(labels, found):
    with pytest.raises(BatchError, match=re.escape(f"audio_labels are {found}")):
        batch_of(audio_labels=labels)


@pytest.mark.parametrize("labels", [(3, 4), (2, 4, 3)])
def test_whether_labels_fit_the_logits_is_for_the_spec_to_judge(labels):
    assert batch_of(labels=labels).labels.shape == labels


@pytest.mark.parametrize(
    ("dtype", "found"),
    [(torch.float32, "float32 [2, 4]"), (torch.float64, "float64 [2, 4]"), (torch.cfloat, "complex64")],
)
def test_labels_are_integers(dtype, found):
    with pytest.raises(BatchError, match=f"labels are {re.escape(found)}.*; expected integers"):
        Batch(torch.zeros(2, 4, 8), torch.zeros(2, 4, dtype=dtype))


@pytest.mark.parametrize("length", [0, 3, 5, 6])
def test_more_or_fewer_logits_than_labels_are_for_the_spec_to_judge(length):
    assert batch_of(logits=(2, length, 8)).logits.shape[1] == length


@pytest.mark.parametrize("name", ALIGNED)
@pytest.mark.parametrize("shape", [(2, 3), (2, 5), (1, 4), (4,), (4, 2)])
def test_what_travels_with_the_labels_has_their_shape(name, shape):
    with pytest.raises(
        BatchError, match=re.escape(f"{name} is int64 {list(shape)}; expected the labels' shape [2, 4]")
    ):
        batch_of(**{name: torch.zeros(shape, dtype=torch.long)})


@pytest.mark.parametrize("name", ALIGNED)
def test_what_has_the_shape_of_the_labels_may_travel_with_them(name):
    given = torch.zeros(2, 4, dtype=torch.long)
    assert getattr(batch_of(logits=(2, 6, 8), **{name: given}), name) is given


@pytest.mark.parametrize("name", LIKE_LABELS)
@pytest.mark.parametrize("shape", [(2, 4), (2, 4, 4), (2, 3, 4)])
def test_ids_beside_labels_with_codebooks_have_codebooks_too(name, shape):
    message = f"{name} is int64 {list(shape)}; expected the labels' shape [2, 4, 3]"
    with pytest.raises(BatchError, match=re.escape(message)):
        batch_of(labels=(2, 4, 3), **{name: torch.zeros(shape, dtype=torch.long)})
    given = torch.zeros(2, 4, 3, dtype=torch.long)
    assert getattr(batch_of(labels=(2, 4, 3), **{name: given}), name) is given


@pytest.mark.parametrize("name", LIKE_POSITIONS)
def test_what_marks_positions_has_no_codebooks(name):
    message = f"{name} is int64 [2, 4, 3]; expected the labels' shape [2, 4]"
    with pytest.raises(BatchError, match=re.escape(message)):
        batch_of(labels=(2, 4, 3), **{name: torch.zeros(2, 4, 3, dtype=torch.long)})
    given = torch.zeros(2, 4, dtype=torch.long)
    assert getattr(batch_of(labels=(2, 4, 3), **{name: given}), name) is given


@pytest.mark.parametrize("name", ["codebook_weights", "class_weights"])
@pytest.mark.parametrize(
    ("weights", "found"), [(torch.ones(2, 3), "float32 [2, 3]"), (torch.ones(3, dtype=torch.long), "int64 [3]")]
)
def test_weights_of_codebooks_and_classes_are_floating_in_one_dimension(name, weights, found):
    message = f"{name} are {found}; expected floating [n], one dimension"
    with pytest.raises(BatchError, match=re.escape(message)):
        batch_of(**{name: weights})


def test_every_array_may_be_missing():
    assert Batch().labels is None


def test_an_array_that_is_read_is_there_or_named():
    batch = batch_of()
    assert batch.tensor("labels") is batch.labels
    message = "this spec reads audio_labels, but the batch has none; give it one"
    with pytest.raises(BatchError, match=message):
        batch.tensor("audio_labels")


@pytest.mark.parametrize(
    "ends",
    [
        pytest.param([], id="empty"),
        pytest.param([1, 8], id="starts late"),
        pytest.param([0, 4], id="one row only"),
        pytest.param([0, 9], id="too long"),
        pytest.param([0, 5, 3, 8], id="falls"),
        pytest.param([8], id="no start"),
    ],
)
def test_cu_seqlens_go_from_zero_to_all_tokens_and_never_fall(ends):
    message = f"cu_seqlens are {ends}; expected 0 … B·S = 8, never falling"
    with pytest.raises(BatchError, match=re.escape(message)):
        batch_of(cu_seqlens=torch.tensor(ends, dtype=torch.int32))


@pytest.mark.parametrize(("ends", "found"), [(8, "int64 []"), ([[0, 4], [4, 8]], "int64 [2, 2]")])
def test_cu_seqlens_have_one_dimension(ends, found):
    with pytest.raises(BatchError, match=re.escape(f"cu_seqlens are {found}; expected [documents + 1]")):
        batch_of(cu_seqlens=torch.tensor(ends))


@pytest.mark.parametrize("ends", [[0, 8], [0, 4, 8], [0, 3, 4, 5, 8], [0, 0, 4, 4, 8, 8]])
def test_cu_seqlens_may_cut_anywhere_and_hold_empty_documents(ends):
    assert batch_of(cu_seqlens=torch.tensor(ends)).cu_seqlens.tolist() == ends


def test_cu_seqlens_of_logits_with_a_prefix_count_the_labels():
    assert batch_of(logits=(2, 6, 8), cu_seqlens=torch.tensor([0, 8])).cu_seqlens is not None


def test_cu_seqlens_of_labels_with_codebooks_count_frames():
    assert batch_of(labels=(2, 4, 3), cu_seqlens=torch.tensor([0, 3, 8])).cu_seqlens is not None


@pytest.mark.parametrize("shape", [(0, 4), (2, 0), (0, 0)])
def test_a_batch_may_be_empty(shape):
    assert batch_of(logits=(*shape, 8), labels=shape, cu_seqlens=torch.tensor([0])).labels.numel() == 0


def test_a_batch_is_frozen():
    with pytest.raises(FrozenInstanceError):
        batch_of().labels = None


def test_a_batch_is_equal_to_itself_only():
    batch = batch_of()
    assert batch == batch
    assert batch != batch_of()


def test_a_batch_error_is_a_value_error():
    assert issubclass(BatchError, ValueError)
