"""The losses that real systems promise, by name. Each gives its source."""

from __future__ import annotations

from dataclasses import replace

from .spec import (
    Axis,
    Combine,
    Compute,
    Denominator,
    Documents,
    Empty,
    Extra,
    Heads,
    LossSpec,
    LossTerm,
    Reduction,
    Score,
    ShiftedBy,
    Smoothing,
    Tail,
)

_NEXT_TOKEN = LossTerm()
_PRESHIFTED = LossTerm(shift=0, shifted_by=ShiftedBy.DATA)
_ALIGNED = LossTerm(shift=0, shifted_by=ShiftedBy.INPUTS)
_FLAT = (("logits", "(b s) v"), ("labels", "(b s)"))

PROFILES: dict[str, LossSpec] = {}


def _profile(
    name: str,
    terms: LossTerm | tuple[LossTerm, ...],
    formula: str,
    source: str,
    layouts: tuple[tuple[str, str], ...] = (),
    compute: Compute = Compute.STRICT,
) -> None:
    if name in PROFILES:
        raise ValueError(f"two profiles are called {name!r}")
    terms = terms if isinstance(terms, tuple) else (terms,)
    PROFILES[name] = LossSpec(name, terms, formula, source, layouts, compute)


_profile(
    "hf.causal_lm",
    replace(_NEXT_TOKEN, denominator=Denominator.NUM_ITEMS_OR_VALID, accepts_shift_labels=True),
    "Σ ℓ(x_t, y_{t+1}) / N, or / num_items_in_batch when given; shift_labels replace the shifted labels",
    "transformers/loss/loss_utils.py ForCausalLMLoss",
)
_profile(
    "hf.seq2seq",
    replace(_ALIGNED, denominator=Denominator.NUM_ITEMS_OR_VALID),
    "Σ ℓ(x_t, y_t) / N, or / num_items_in_batch when given: the decoder's inputs were shifted right",
    "transformers models/moonshine/modeling_moonshine.py, t5gemma; trainer.py hands all the count; T5, BART drop it",
)
_profile(
    "hf.prefix_lm",
    replace(_NEXT_TOKEN, extra=Extra.PREFIX, denominator=Denominator.NUM_ITEMS_OR_VALID),
    "the last S of the logits, then Σ ℓ(x_t, y_{t+1}) / N, or / num_items_in_batch when given",
    "transformers models/git/modeling_git.py, models/blip_2/modeling_blip_2.py",
)
_profile(
    "torch.cross_entropy",
    _PRESHIFTED,
    "Σ ℓ(x_n, y_n) / N over flattened logits; NaN if N = 0",
    "torch/nn/functional.py cross_entropy",
    _FLAT,
    Compute.NATIVE,
)
_profile(
    "torch.cross_entropy.smoothing",
    replace(_PRESHIFTED, score=Score(label_smoothing=0.1)),
    "Σ ((1−ε) ℓ + ε/V Σ_v −log p_v) / N, ε = 0.1",
    "torch/nn/functional.py cross_entropy label_smoothing",
    _FLAT,
    Compute.NATIVE,
)
_profile(
    "torch.cross_entropy.weight",
    replace(_PRESHIFTED, score=Score(class_weights=True), denominator=Denominator.CLASS_WEIGHTS),
    "Σ c_y ℓ(x_n, y_n) / Σ c_y with class weights c",
    "torch/nn/functional.py cross_entropy weight",
    _FLAT,
    Compute.NATIVE,
)
_profile(
    "torch.linear_cross_entropy",
    _PRESHIFTED,
    "Σ ℓ(h_n Wᵀ + b, y_n) / N: cross-entropy of a linear layer, judged at its logits",
    "torch/nn/functional.py linear_cross_entropy (2.13)",
    _FLAT,
    Compute.NATIVE,
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
    compute=Compute.NATIVE,
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
    replace(_NEXT_TOKEN, denominator=Denominator.NUM_ITEMS_OR_VALID, clamp=1.0),
    "Σ ℓ(x_t, y_{t+1}) / max(N, 1), or / max(num_items_in_batch, 1) when given",
    "trl/trainer/sft_trainer.py",
)
_profile(
    "liger",
    replace(_PRESHIFTED, empty=Empty.ZERO),
    "Σ ℓ(x_n, y_n) / N over flattened logits; 0 if N = 0",
    "liger_kernel/ops/cross_entropy.py",
    _FLAT,
)
_profile(
    "fla",
    replace(_PRESHIFTED, clamp=1.0),
    "Σ ℓ(x_n, y_n) / max(N, 1) over flattened logits",
    "fla/modules/fused_cross_entropy.py",
    _FLAT,
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

# Scores other than plain cross-entropy

_profile(
    "hf.label_smoother",
    replace(_NEXT_TOKEN, tail=Tail.TRIM, score=Score(label_smoothing=0.1), denominator=Denominator.NUM_ITEMS_OR_VALID),
    "(1−ε) Σ ℓ(x_t, y_{t+1}) / D + ε Σ_t Σ_v −log p_v / (D·V), ε = 0.1, D = N, or num_items_in_batch when given",
    "transformers/trainer_pt_utils.py LabelSmoother with shift_labels",
    compute=Compute.NATIVE,
)
_profile(
    "fairseq",
    replace(
        _ALIGNED,
        ignore_index=1,
        score=Score(label_smoothing=0.1, smoothing_over=Smoothing.OTHERS),
        reduction=Reduction.SUM,
        denominator=Denominator.ONE,
    ),
    "(1−ε−ε_i) Σ ℓ + ε_i Σ_t Σ_v −log p_v, ε_i = ε/(V−1), ε = 0.1; the padding id 1 is ignored",
    "fairseq/criterions/label_smoothed_cross_entropy.py",
)
_profile(
    "megatron.smoothing",
    replace(
        _PRESHIFTED,
        ignore_index=None,
        loss_mask=True,
        clamp=1.0,
        score=Score(label_smoothing=0.1, smoothing_over=Smoothing.OTHERS),
    ),
    "Σ m_t ((1−εV/(V−1)) ℓ + ε/(V−1) Σ_v −log p_v) / max(Σ m, 1), ε = 0.1",
    "Megatron-LM core/tensor_parallel/cross_entropy.py label_smoothing",
)
_profile(
    "nanochat",
    replace(_PRESHIFTED, ignore_index=-1, score=Score(softcap=15.0)),
    "Σ ℓ(15 tanh(x_t / 15), y_t) / N, labels shifted by the data, ignore_index −1",
    "nanochat gpt.py",
)
_profile(
    "liger.smoothing",
    replace(_PRESHIFTED, empty=Empty.ZERO, score=Score(label_smoothing=0.1)),
    "Σ ((1−ε) ℓ + ε/V Σ_v −log p_v) / N, ε = 0.1; 0 if N = 0",
    "liger_kernel/ops/cross_entropy.py label_smoothing",
    _FLAT,
)
_profile(
    "liger.z_loss",
    replace(_PRESHIFTED, empty=Empty.ZERO, score=Score(z_loss=0.01)),
    "Σ (ℓ + s lse²) / N, s = 0.01; 0 if N = 0",
    "liger_kernel/ops/cross_entropy.py lse_square_scale",
    _FLAT,
)
_profile(
    "liger.softcap",
    replace(_PRESHIFTED, empty=Empty.ZERO, score=Score(softcap=30.0)),
    "Σ ℓ(30 tanh(x_n / 30), y_n) / N; 0 if N = 0",
    "liger_kernel/ops/cross_entropy.py softcap",
    _FLAT,
)
_profile(
    "liger.weight",
    replace(
        _PRESHIFTED,
        empty=Empty.ZERO,
        score=Score(class_weights=True),
        denominator=Denominator.CLASS_WEIGHTS,
    ),
    "Σ c_y ℓ(x_n, y_n) / Σ c_y with class weights c; 0 if no label counts",
    "liger_kernel/ops/cross_entropy.py ce_weight",
    _FLAT,
)
_profile(
    "fla.scaled",
    replace(_PRESHIFTED, clamp=1.0, score=Score(logit_scale=0.5, softcap=20.0)),
    "Σ ℓ(20 tanh(x_n / 40), y_n) / max(N, 1): logit_scale 1/2, softcap 20",
    "fla/modules/fused_cross_entropy.py logit_scale, softcap",
    _FLAT,
)
_profile(
    "maxtext.z_loss",
    replace(
        _ALIGNED,
        ignore_index=None,
        documents=Documents.SEGMENT_IDS,
        epsilon=1e-8,
        score=Score(z_loss=0.01),
    ),
    "Σ m_t (ℓ + s lse²) / (Σ m + 1e-8), s = 0.01",
    "MaxText max_utils.py cross_entropy_with_logits z_loss",
)
_profile(
    "trl.dft",
    replace(_NEXT_TOKEN, denominator=Denominator.NUM_ITEMS_OR_VALID, clamp=1.0, score=Score(dft=True)),
    "Σ sg(p_y) ℓ(x_t, y_{t+1}) / max(N, 1), or / max(num_items_in_batch, 1) when given; no gradient through p_y",
    "trl/trainer/sft_trainer.py, loss_type='dft'",
)
_profile(
    "cce",
    replace(_NEXT_TOKEN, tail=Tail.TRIM),
    "Σ ℓ(x_t, y_{t+1}) / N",
    "cut_cross_entropy/linear_cross_entropy.py shift=1, reduction='mean'",
)

# Heads that predict further ahead

_profile(
    "medusa",
    LossTerm(
        name="heads",
        logits="mtp_logits",
        heads=Heads.AHEAD,
        shift=2,
        tail=Tail.TRIM,
        combine=Combine.SUM,
    ),
    "Σ_i mean_t ℓ(x^i_t, y_{t+2+i})",
    "Medusa medusa/train/train_legacy.py",
    (("mtp_logits", "k b s v"),),
    Compute.NATIVE,
)
_MEGATRON_MTP = LossTerm(
    name="mtp",
    weight=0.1,
    logits="mtp_logits",
    heads=Heads.AHEAD,
    shift=1,
    shifted_by=ShiftedBy.DATA,
    ignore_index=None,
    loss_mask=True,
    combine=Combine.MEAN,
)
_profile(
    "megatron.mtp",
    _MEGATRON_MTP,
    "λ/D Σ_d Σ_t m_{t+d} ℓ(x^d_t, y_{t+d}) / Σ_t m_{t+d}, λ = 0.1, y shifted by the data, d from 1",
    "Megatron-LM core/transformer/multi_token_prediction.py",
    (("mtp_logits", "k b s v"),),
)
_profile(
    "megatron.mtp.packed",
    replace(_MEGATRON_MTP, documents=Documents.CU_SEQLENS),
    "as megatron.mtp, over the pairs whose next token is of the document of t; cu_seqlens over the flattened batch",
    "Megatron-LM core/transformer/multi_token_prediction.py, roll_tensor with packed_seq_params since #3396",
    (("mtp_logits", "k b s v"),),
)
_profile(
    "torchtitan.mtp",
    (
        replace(_PRESHIFTED, name="main", denominator=Denominator.NUM_ITEMS),
        LossTerm(
            name="mtp",
            weight=0.3,
            logits="mtp_logits",
            heads=Heads.AHEAD,
            shift=1,
            shifted_by=ShiftedBy.DATA,
            combine=Combine.MEAN,
            denominator=Denominator.NUM_ITEMS,
        ),
    ),
    "(Σ ℓ(x_t, y_t) + 0.3 mean_d Σ_t ℓ(x^d_t, y_{t+d})) / global_valid_tokens of the main labels, d from 1",
    "torchtitan/components/loss.py, models with multi-token prediction",
    (("mtp_logits", "k b s v"),),
)
_profile(
    "maxtext.mtp",
    LossTerm(
        name="mtp",
        weight=0.1,
        logits="mtp_logits",
        heads=Heads.AHEAD,
        shift=1,
        shifted_by=ShiftedBy.DATA,
        ignore_index=None,
        loss_mask=True,
        combine=Combine.FLAT,
        epsilon=1e-8,
    ),
    "λ Σ_d Σ_t m_{t+d} ℓ(x^d_t, y_{t+d}) / (Σ_d Σ_t m_{t+d} + 1e-8), λ = 0.1: all depths in one mean",
    "MaxText layers/multi_token_prediction.py",
    (("mtp_logits", "k b s v"),),
)

# Codebooks and streams

_BOOKS = LossTerm(name="audio", heads=Heads.CODEBOOKS, shift=0, shifted_by=ShiftedBy.INPUTS)
_AUDIO = LossTerm(name="audio", logits="audio_logits", labels="audio_labels", heads=Heads.CODEBOOKS)
_HF_TEXT = replace(_NEXT_TOKEN, denominator=Denominator.NUM_ITEMS_OR_VALID)
_SEGMENTS = (("audio_logits", "(b s) k v"), ("audio_labels", "k (b s)"))
_DEPTH = LossTerm(
    name="depth",
    logits="depth_logits",
    heads=Heads.CODEBOOKS,
    axis=Axis.CODEBOOK,
    denominator=Denominator.NUM_ITEMS_OR_VALID,
)

_profile(
    "higgs.hf",
    (_HF_TEXT, replace(_AUDIO, combine=Combine.SUM, denominator=Denominator.NUM_ITEMS_OR_VALID)),
    "causal_lm(text) + Σ_k causal_lm(codebook k), each / N of its own, or / num_items_in_batch when given",
    "transformers models/higgs_audio_v2/modeling_higgs_audio_v2.py",
)
_profile(
    "higgs.boson",
    (_NEXT_TOKEN, replace(_AUDIO, empty=Empty.ZERO)),
    "text Σ ℓ(x_t, y_{t+1}) / N + audio Σ_k Σ_t ℓ(x_{t,k}, y_{t+1,k}) / N over all codebooks; the collator leaves the "
    "loss to trainers, and this is the plainest",
    "boson-ai/higgs-audio collator: audio logits [N, K, V], labels [K, N], segments concatenated, delay fill ignored",
    _SEGMENTS,
)
_profile(
    "higgs.mean_nonempty",
    (_NEXT_TOKEN, replace(_AUDIO, combine=Combine.MEAN_NONEMPTY, empty=Empty.ZERO)),
    "text Σ ℓ(x_t, y_{t+1}) / N + (1/|K₊|) Σ_{k∈K₊} mean_t ℓ(x_{t,k}, y_{t+1,k}), K₊ the codebooks with a label",
    "Higgs-audio trainers on top of boson-ai's collator",
    _SEGMENTS,
)
_profile(
    "csm",
    (replace(_HF_TEXT, name="backbone", heads=Heads.FIRST), _DEPTH),
    "causal_lm(codebook 0) + Σ ℓ(x_{t,j}, y_{t,j+1}) / N over frames × (K−1)",
    "transformers models/csm/modeling_csm.py",
    (("depth_logits", "(b s) k v"),),
)
_profile(
    "qwen3_tts",
    (
        replace(_NEXT_TOKEN, name="talker", heads=Heads.FIRST),
        replace(_DEPTH, weight=0.3, denominator=Denominator.VALID),
    ),
    "causal_lm(codebook 0) + 0.3 Σ ℓ(x_{t,j}, y_{t,j+1}) / N over frames × (K−1)",
    "Qwen3-TTS finetuning/sft_12hz.py, as intended: shifted once, where the published code shifts both axes twice",
    (("depth_logits", "(b s) k v"),),
)
_profile(
    "moshi",
    (_HF_TEXT, replace(_AUDIO, shift=0, shifted_by=ShiftedBy.INPUTS, sentinel=True)),
    "causal_lm(text) + Σ ℓ(x_{t,k}, y_{t,k}) / N over B·S·K; −100 and id V are ignored",
    "transformers models/moshi/modeling_moshi.py",
    (("audio_logits", "(b s) k v"), ("audio_labels", "(b s) k")),
)
_profile(
    "moshi.finetune",
    (
        replace(_ALIGNED, token_weights=True, denominator=Denominator.WEIGHTS),
        replace(
            _AUDIO,
            shift=0,
            shifted_by=ShiftedBy.INPUTS,
            codebook_weights=True,
            denominator=Denominator.WEIGHTS,
        ),
    ),
    "text Σ w ℓ / Σ w + audio Σ_k w_k Σ_t ℓ(x_{t,k}, y_{t,k}) / Σ_k w_k N_k",
    "kyutai-labs/moshi-finetune finetune/loss.py",
    (("audio_logits", "b k s v"), ("audio_labels", "b k s")),
)
_profile(
    "musicgen",
    replace(_BOOKS, extra=Extra.PREFIX, sentinel=True, combine=Combine.MEAN),
    "(1/K) Σ_k mean_t ℓ(x_{t,k}, y_{t,k}) over the last S logits; −100 and id V ignored; NaN if a codebook is empty",
    "transformers models/musicgen/modeling_musicgen.py; audiocraft solvers/musicgen.py",
    (("logits", "b k s v"),),
    Compute.NATIVE,
)
_profile(
    "parler",
    replace(_BOOKS, ignores_bos=True, stops_at_eos=True, combine=Combine.WEIGHTED_MEAN, codebook_weights=True),
    "Σ_k w_k mean_t ℓ(x_{t,k}, y_{t,k}) / Σ_k w_k where the input is not eos and the label neither −100 nor bos",
    "parler-tts modeling_parler_tts.py",
    (("logits", "b k s v"),),
    Compute.NATIVE,
)
_profile(
    "dia",
    replace(_BOOKS, denominator=Denominator.NUM_ITEMS_OR_VALID),
    "Σ ℓ(x_{t,k}, y_{t,k}) / N over B·K·S, or / num_items_in_batch when given",
    "transformers models/dia/modeling_dia.py",
    (("logits", "(b k) s v"), ("labels", "(b k) s")),
)
_profile(
    "moss_ttsd",
    replace(_BOOKS, shift=1, shifted_by=ShiftedBy.LOSS, combine=Combine.WEIGHTED_MEAN, codebook_weights=True),
    "Σ_k (w_k / Σ w) mean_t ℓ(x_{t,k}, y_{t+1,k}): a causal loss a channel",
    "MOSS-TTSD modeling_asteroid.py, channels of one vocabulary size",
)
