"""The losses that real systems promise, by name. Each says where it was read."""

from __future__ import annotations

from dataclasses import replace

from .spec import (
    Denominator,
    Documents,
    Empty,
    Extra,
    Layout,
    LossSpec,
    LossTerm,
    Reduction,
    ShiftedBy,
    Tail,
)

_NEXT_TOKEN = LossTerm()
_PRESHIFTED = LossTerm(shift=0, shifted_by=ShiftedBy.DATA)
_ALIGNED = LossTerm(shift=0, shifted_by=ShiftedBy.INPUTS)

PROFILES: dict[str, LossSpec] = {}


def _profile(name: str, term: LossTerm, formula: str, source: str, layout: Layout = Layout.BATCHED) -> None:
    if name in PROFILES:
        raise ValueError(f"two profiles are called {name!r}")
    PROFILES[name] = LossSpec(name=name, terms=(term,), formula=formula, source=source, layout=layout)


_profile(
    "hf.causal_lm",
    replace(_NEXT_TOKEN, denominator=Denominator.NUM_ITEMS_OR_VALID, accepts_shift_labels=True),
    "Σ ℓ(x_t, y_{t+1}) / N, or / num_items_in_batch when given; shift_labels replace the shifted labels",
    "transformers/loss/loss_utils.py ForCausalLMLoss",
)
_profile(
    "hf.seq2seq",
    _ALIGNED,
    "Σ ℓ(x_t, y_t) / N: the decoder's inputs were shifted right",
    "transformers models/t5/modeling_t5.py, models/bart/modeling_bart.py",
)
_profile(
    "hf.prefix_lm",
    replace(_NEXT_TOKEN, extra=Extra.PREFIX),
    "the last S of the logits, then Σ ℓ(x_t, y_{t+1}) / N",
    "transformers models/git/modeling_git.py, models/blip_2/modeling_blip_2.py",
)
_profile(
    "torch.cross_entropy",
    _PRESHIFTED,
    "Σ ℓ(x_n, y_n) / N over flattened logits; NaN if N = 0",
    "torch/nn/functional.py cross_entropy",
    Layout.FLAT,
)
_profile(
    "nanogpt",
    replace(_PRESHIFTED, ignore_index=-1),
    "Σ ℓ(x_t, y_t) / N, labels shifted by the data, ignore_index −1",
    "nanoGPT model.py, train.py get_batch",
)
_profile(
    "preshifted",
    _PRESHIFTED,
    "Σ ℓ(x_t, y_t) / N, labels shifted by the data",
    "axis 1 of the field's conventions: torchtitan, Megatron and nanochat all hand over shifted labels",
)
_profile(
    "higgs.text",
    replace(_PRESHIFTED, extra=Extra.SUFFIX),
    "Σ ℓ(x_t, y_t) / N with labels [B, S−1] for logits [B, S, V]: the last logits have no label",
    "Higgs-audio trainers whose collator cuts the first label column off: [2, 168, V] against [2, 167]",
)
_profile(
    "litgpt",
    replace(_PRESHIFTED, clamp=1.0),
    "Σ ℓ(x_t, y_t) / max(N, 1)",
    "litgpt/utils.py chunked_cross_entropy",
)
_profile(
    "torchtune",
    _NEXT_TOKEN,
    "Σ ℓ(x_t, y_{t+1}) / N, the recipe pads the shifted labels with ignore_index",
    "torchtune recipes/full_finetune_single_device.py, modules/loss",
)
_profile(
    "torchtitan",
    replace(_PRESHIFTED, denominator=Denominator.NUM_ITEMS),
    "Σ ℓ(x_t, y_t) / global_valid_tokens",
    "torchtitan/components/loss.py",
)
_profile(
    "megatron",
    replace(_PRESHIFTED, ignore_index=None, loss_mask=True, clamp=1.0),
    "Σ m_t ℓ(x_t, y_t) / max(Σ m, 1)",
    "Megatron-LM pretrain_gpt.py loss_func",
)
_profile(
    "maxtext",
    # Each document is shifted before it is packed, so that within the pack labels and logits are aligned.
    replace(
        _ALIGNED,
        ignore_index=None,
        documents=Documents.SEGMENT_IDS,
        epsilon=1e-8,
    ),
    "Σ m_t ℓ(x_t, y_t) / (Σ m + 1e-8), m = (segment ≠ 0), documents shifted before they are packed",
    "MaxText train.py loss_fn",
)
_profile(
    "trl.nll",
    replace(_NEXT_TOKEN, clamp=1.0),
    "Σ ℓ(x_t, y_{t+1}) / max(N, 1)",
    "trl/trainer/sft_trainer.py",
)
_profile(
    "liger",
    replace(_PRESHIFTED, empty=Empty.ZERO),
    "Σ ℓ(x_n, y_n) / N over flattened logits; 0 if N = 0",
    "liger_kernel/ops/cross_entropy.py",
    Layout.FLAT,
)
_profile(
    "fla",
    replace(_PRESHIFTED, clamp=1.0),
    "Σ ℓ(x_n, y_n) / max(N, 1) over flattened logits",
    "fla/modules/fused_cross_entropy.py",
    Layout.FLAT,
)
_profile(
    "eagle3",
    replace(_NEXT_TOKEN, loss_mask=True, ignore_index=None, denominator=Denominator.POSITIONS),
    "Σ m_{t+1} ℓ(x_t, y_{t+1}) / (B·S), every position counted",
    "SpecForge EAGLE-3 training loss",
)
_profile(
    "ms_swift",
    replace(_NEXT_TOKEN, token_weights=True, denominator=Denominator.NUM_ITEMS),
    "Σ w_{t+1} ℓ(x_t, y_{t+1}) / num_items_in_batch: the weights do not enter the denominator",
    "ms-swift swift/trainers loss_scale",
)
_profile(
    "weighted.count",
    replace(_NEXT_TOKEN, token_weights=True),
    "Σ w_{t+1} ℓ(x_t, y_{t+1}) / N: the weights do not enter the denominator",
    "ms-swift swift/trainers loss_scale, one micro-batch with its own count",
)
_profile(
    "weighted",
    replace(_NEXT_TOKEN, token_weights=True, denominator=Denominator.WEIGHTS),
    "Σ w_{t+1} ℓ(x_t, y_{t+1}) / Σ w",
    "moshi-finetune loss.py, one stream",
)
_profile(
    "masked",
    replace(_NEXT_TOKEN, loss_mask=True),
    "Σ m_{t+1} ℓ(x_t, y_{t+1}) / Σ m, the mask aligned with the labels",
    "verl trainer/fsdp_sft_trainer.py, NeMo completion masks",
)
_profile(
    "packed.position_ids",
    replace(_NEXT_TOKEN, documents=Documents.POSITION_IDS),
    "Σ ℓ(x_t, y_{t+1}) / N within each document; a document starts where position_ids restart",
    "torchtitan and transformers' padding-free batches",
)
_profile(
    "packed.cu_seqlens",
    replace(_NEXT_TOKEN, documents=Documents.CU_SEQLENS),
    "Σ ℓ(x_t, y_{t+1}) / N within each document, cu_seqlens over the flattened batch",
    "Megatron-LM packed sequences, flash-attention varlen batches",
)
_profile(
    "packed.segment_ids",
    replace(_NEXT_TOKEN, documents=Documents.SEGMENT_IDS),
    "Σ ℓ(x_t, y_{t+1}) / N within each segment; segment 0 is padding",
    "MaxText packed batches",
)
_profile(
    "sum",
    replace(_NEXT_TOKEN, reduction=Reduction.SUM, denominator=Denominator.ONE),
    "Σ ℓ(x_t, y_{t+1})",
    "fairseq and torchtune sum reductions",
)
_profile(
    "per_token",
    replace(_NEXT_TOKEN, reduction=Reduction.NONE, denominator=Denominator.ONE),
    "ℓ(x_t, y_{t+1}) for each label position [B, S], 0 where ignored and in the last column",
    "torch and Liger reduction='none' over padded labels",
)
_profile(
    "per_token.trimmed",
    replace(_NEXT_TOKEN, reduction=Reduction.NONE, denominator=Denominator.ONE, tail=Tail.TRIM),
    "ℓ(x_t, y_{t+1}) for each pair of columns, [B, S−1]; 0 where ignored",
    "cut-cross-entropy reduction='none'",
)
