"""The reference's builders against transformers' own code for the same delays, labels and packs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from shiftproof.reference.builders import BUILDERS, BuilderBatch, answer
from shiftproof.reference.delay import (
    apply_delay,
    between,
    dia,
    input_frames,
    labels_boson,
    labels_hf,
    one_late,
    staircase,
    undo_delay,
)

pytestmark = pytest.mark.peers
models = pytest.importorskip("transformers.models")

BOS, EOS, PAD = 1024, 1025, 1026
SIZES = [(rows, codebooks, frames) for rows in (1, 3) for codebooks in (2, 3, 8) for frames in (9, 20)]
sizes = pytest.mark.parametrize(("rows", "codebooks", "frames"), SIZES)


def codes(rows: int, codebooks: int, frames: int) -> torch.Tensor:
    return torch.arange(rows * codebooks * frames).reshape(rows, codebooks, frames) % 1024


def higgs() -> Any:
    """A Higgs processor with its own ids, whose tokenizer, feature extractor and codec are stand-ins."""
    from transformers.models.higgs_audio_v2.processing_higgs_audio_v2 import HiggsAudioV2Processor

    processor = object.__new__(HiggsAudioV2Processor)
    processor.audio_stream_bos_id, processor.audio_stream_eos_id = BOS, EOS
    return processor


@sizes
def test_higgs_delay(rows: int, codebooks: int, frames: int) -> None:
    audio, delays = codes(rows, codebooks, frames), staircase(codebooks)
    delayed = apply_delay(audio, delays, BOS, EOS)
    assert delayed.equal(higgs().build_delay_pattern(audio))
    for row in range(rows):
        back = higgs().revert_delay_pattern(delayed[row].T)
        assert back.T.equal(undo_delay(delayed, delays)[row])


class Features(dict[str, Any]):
    """What a feature extractor returns, as far as the processor looks at it."""

    def to(self, device: object) -> Features:
        return self


class Tokenizer:
    """Text becomes a fixed row of ids, of which one is the audio token."""

    init_kwargs: dict[str, Any] = {}  # noqa: RUF012
    pad_token_id = 0

    def __call__(self, text: list[str], **kwargs: Any) -> dict[str, torch.Tensor]:
        return {"input_ids": torch.tensor([[5, 6, 7]])}


@pytest.mark.parametrize(("codebooks", "frames"), [(3, 4), (8, 20), (1, 3)])
def test_higgs_labels(codebooks: int, frames: int) -> None:
    """The whole processor, from codes to ``audio_labels``: K·T targets, no EOS."""
    audio = codes(1, codebooks, frames)
    processor = higgs()
    processor.tokenizer = Tokenizer()
    processor.feature_extractor = lambda audio, **kwargs: Features(input_values=audio)
    processor.audio_tokenizer = SimpleNamespace(
        device="cpu",
        config=SimpleNamespace(num_quantizers=codebooks),
        encode=lambda **kwargs: SimpleNamespace(audio_codes=audio),
    )
    processor.audio_token, processor.audio_delay_token = "<audio>", "<delay>"
    processor.audio_token_id, processor.audio_bos_token_id = 6, 7
    processor._merge_kwargs = lambda *args, **kwargs: {"text_kwargs": {"return_tensors": "pt"}, "audio_kwargs": {}}
    built = processor(text="<audio>", audio=torch.zeros(10).numpy(), output_labels=True)
    delays = staircase(codebooks)
    assert built["audio_input_ids"].transpose(1, 2).equal(input_frames(audio, delays, BOS, EOS))
    assert built["audio_labels"].transpose(1, 2).equal(labels_hf(audio, delays))
    assert int((built["audio_labels"][:, 1:] != -100).sum()) == codebooks * frames


@sizes
def test_musicgen(rows: int, codebooks: int, frames: int) -> None:
    """MusicGen begins with one frame of its pad id, which is its BOS as well."""
    from transformers.models.musicgen.modeling_musicgen import MusicgenForCausalLM

    audio = codes(rows, codebooks, frames)
    begun = between(audio, PAD, PAD)[..., :-1]
    model = SimpleNamespace(num_codebooks=codebooks, config=SimpleNamespace(audio_channels=1))
    _, mask = MusicgenForCausalLM.build_delay_pattern_mask(
        model, begun.flatten(0, 1), pad_token_id=PAD, max_length=frames + codebooks
    )
    assert mask.unflatten(0, (rows, codebooks)).equal(apply_delay(begun, staircase(codebooks), PAD, PAD))


@sizes
def test_moshi(rows: int, codebooks: int, frames: int) -> None:
    """As MoshiForConditionalGeneration.forward calls it on the audio labels."""
    from transformers.models.moshi.modeling_moshi import MoshiForConditionalGeneration

    audio = codes(rows, codebooks, frames)
    labels, mask = MoshiForConditionalGeneration.build_delay_pattern_mask(
        None, audio, bos_token_id=BOS, pad_token_id=BOS, max_length=frames + 1
    )
    batch = BuilderBatch(audio_codes=audio, delays=one_late(codebooks), bos_token_id=BOS)
    assert labels.equal(answer(BUILDERS["delay.moshi"].build, batch))
    assert mask.equal(apply_delay(audio, one_late(codebooks), BOS, BOS))


@pytest.mark.parametrize(("rows", "frames"), [(1, 1), (1, 20), (3, 7)])
def test_dia(rows: int, frames: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole processor but for its codec: inputs, labels, and the way back."""
    from transformers.models.dia.processing_dia import DiaProcessor

    audio, delays = codes(rows, 9, frames), dia(9)
    longest = max(delays)
    framed = between(audio, BOS, EOS)
    encoded = {
        "input_ids": torch.zeros(rows, 1),
        "decoder_input_ids": framed.transpose(1, 2),
        "decoder_attention_mask": torch.ones(rows, frames + 2 + longest),
    }
    monkeypatch.setattr("transformers.processing_utils.ProcessorMixin.__call__", lambda self, **kwargs: encoded)
    settings = {"generation": False, "delay_pattern": list(delays), "bos_token_id": BOS, "pad_token_id": PAD}
    processor = object.__new__(DiaProcessor)
    processor._merge_kwargs = lambda *args, **kwargs: {
        "text_kwargs": {"return_tensors": "pt"},
        "audio_kwargs": settings,
    }
    built = processor(text=["a"] * rows, audio=[], output_labels=True)
    delayed = apply_delay(framed, delays, BOS, PAD)
    assert built["decoder_input_ids"].transpose(1, 2).equal(delayed[..., :-1].to(built["decoder_input_ids"].dtype))
    batch = BuilderBatch(audio_codes=audio, delays=delays, bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD)
    assert built["labels"].equal(answer(BUILDERS["delay.dia"].build, batch))
    assert int((built["labels"] != -100).sum()) == rows * 9 * (frames + 1)

    indices = DiaProcessor.build_indices(rows, frames + 2 + longest, 9, list(delays), revert=True)
    back = DiaProcessor.apply_audio_delay(delayed.transpose(1, 2), -1, -1, indices)
    assert back[:, : frames + 2].transpose(1, 2).equal(undo_delay(delayed, delays))


def test_the_three_higgs_conventions_differ_on_the_same_audio() -> None:
    audio, delays = codes(1, 3, 4), staircase(3)
    inputs = input_frames(audio, delays, BOS, EOS)
    boson, hf = labels_boson(audio, delays, EOS), labels_hf(audio, delays)
    assert [int((labels[..., 1:] != -100).sum()) for labels in (boson, inputs, hf)] == [15, 21, 12]


@pytest.mark.parametrize("lengths", [[3], [2, 1, 4], [1, 1], [7, 2]])
def test_packing(lengths: list[int]) -> None:
    from transformers import DataCollatorWithFlattening

    ids = torch.arange(sum(lengths)) + 10
    batch = BuilderBatch(input_ids=ids[None], seq_lengths=torch.tensor(lengths))
    packed = DataCollatorWithFlattening(return_flash_attn_kwargs=True)(
        [{"input_ids": document.tolist()} for document in ids.split(lengths)], return_tensors="pt"
    )
    assert packed["input_ids"].equal(ids[None])
    assert packed["labels"].equal(answer(BUILDERS["packing.labels"].build, batch))
    assert packed["position_ids"].equal(answer(BUILDERS["packing.position_ids"].build, batch))
    assert packed["cu_seq_lens_q"].tolist() == answer(BUILDERS["packing.cu_seqlens"].build, batch).tolist()
