"""Text losses of torch, trainers and kernels. Shapes: logits [B, S, V], labels [B, S]."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from shiftproof.reference.batch import Batch
from shiftproof.reference.spec import Compute

from .packages import Missing, entered, interpret_kernels, load
from .peer import Answer, Cannot, Gives, answer, leaf, peer, shifted


def _head(width: int, dtype: torch.dtype = torch.float32) -> torch.nn.Linear:
    """A head that passes its input on, so that a loss over hidden states is one over logits: x·1 + 0 is x exactly."""
    head = torch.nn.Linear(width, width, bias=False, dtype=dtype)
    with torch.no_grad():
        head.weight.copy_(_identity(width, dtype))
    return head


def _identity(width: int, dtype: torch.dtype) -> Tensor:
    """The weight of a head that passes its input on."""
    if width > WIDEST_HEAD:
        raise Cannot(f"its head would be an identity of more than {WIDEST_HEAD}² numbers")
    return torch.eye(width, dtype=dtype)


def _finite(*tensors: Tensor) -> None:
    """A loss over hidden states multiplies them by a head; ∞·0 there is NaN, which is no fault of the loss."""
    if not all(tensor.isfinite().all() for tensor in tensors):
        raise Cannot("its logits are a product with the head's weight, which spreads a NaN or ∞ over its row")


MEAN = {"denominator": "valid"}
WIDEST_HEAD = 4096  # one of 32771 classes is 4 GB


def _rows(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1, tensor.shape[-1])


# torch


@peer(
    "torch",
    "torch.nn.functional.cross_entropy",
    "nanogpt",
    variant={"ignore_index": -1},
    compute=Compute.NATIVE,
    note="as nanoGPT calls it; native: its autocast, not the function, upcasts",
)
@peer("torch", "torch.nn.functional.cross_entropy", "torch.cross_entropy")
@peer("torch", "torch.nn.functional.cross_entropy", "torch.cross_entropy", label_smoothing=0.1)
@peer(
    "torch",
    "torch.nn.functional.cross_entropy",
    "torch.cross_entropy",
    class_weights=True,
    denominator="class_weights",
)
@peer(
    "torch",
    "torch.nn.functional.cross_entropy",
    "torch.cross_entropy",
    class_weights=True,
    label_smoothing=0.1,
    denominator="class_weights",
)
def torch_cross_entropy(
    batch: Batch,
    label_smoothing: float = 0.0,
    class_weights: bool = False,
    denominator: str = "valid",
    ignore_index: int = -100,
) -> Answer:
    logits = leaf(batch.tensor("logits"))
    weight = batch.tensor("class_weights").to(logits.dtype) if class_weights else None
    value = F.cross_entropy(
        _rows(logits),
        batch.tensor("labels").flatten(),
        weight=weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
    )
    return answer(value, logits=logits)


@peer("torch", "torch.nn.functional.linear_cross_entropy", "torch.linear_cross_entropy")
@peer("torch", "torch.nn.functional.linear_cross_entropy", "torch.linear_cross_entropy", label_smoothing=0.1)
def torch_linear_cross_entropy(batch: Batch, label_smoothing: float = 0.0) -> Answer:
    logits = leaf(batch.tensor("logits"))
    _finite(logits)
    weight = _identity(logits.shape[-1], logits.dtype)
    value = F.linear_cross_entropy(
        _rows(logits), weight, batch.tensor("labels").flatten(), label_smoothing=label_smoothing
    )
    return answer(value, logits=logits)


# transformers


@peer("transformers", "transformers.loss.loss_utils.ForCausalLMLoss", "hf.causal_lm")
def transformers_causal_lm(batch: Batch) -> Answer:
    loss = load("transformers.loss.loss_utils").ForCausalLMLoss
    logits = leaf(batch.tensor("logits"))
    value = loss(
        logits,
        batch.labels,
        vocab_size=logits.shape[-1],
        num_items_in_batch=batch.num_items_in_batch,
        shift_labels=batch.shift_labels,
    )
    return answer(value, logits=logits)


@peer("transformers", "transformers.loss.loss_utils.ForMaskedLMLoss", "preshifted")
def transformers_masked_lm(batch: Batch) -> Answer:
    loss = load("transformers.loss.loss_utils").ForMaskedLMLoss
    logits = leaf(batch.tensor("logits"))
    return answer(loss(logits, batch.tensor("labels"), vocab_size=logits.shape[-1]), logits=logits)


@peer("transformers", "transformers.trainer_pt_utils.LabelSmoother", "hf.label_smoother", label_smoothing=0.1)
def transformers_label_smoother(batch: Batch, label_smoothing: float) -> Answer:
    smoother = load("transformers.trainer_pt_utils").LabelSmoother(epsilon=label_smoothing)
    logits = leaf(batch.tensor("logits"))
    value = smoother(
        {"logits": logits},
        batch.tensor("labels"),
        shift_labels=True,
        num_items_in_batch=batch.num_items_in_batch,
    )
    return answer(value, logits=logits)


def _tiny_seq2seq(name: str, vocabulary: int) -> Any:
    transformers = load("transformers")
    if name == "T5":
        config = transformers.T5Config(
            vocab_size=vocabulary,
            d_model=4,
            d_kv=2,
            d_ff=4,
            num_layers=1,
            num_heads=2,
            decoder_start_token_id=0,
            pad_token_id=0,
            tie_word_embeddings=False,
        )
        return transformers.T5ForConditionalGeneration(config)
    config = transformers.BartConfig(
        vocab_size=vocabulary,
        d_model=4,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=4,
        decoder_ffn_dim=4,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
        decoder_start_token_id=0,
        forced_eos_token_id=None,
    )
    return transformers.BartForConditionalGeneration(config)


T5 = "transformers.T5ForConditionalGeneration.forward"
BART = "transformers.BartForConditionalGeneration.forward"
NOT_UPCAST = "native: T5, unlike Bart, does not upcast"
DROPS_THE_COUNT = "it takes `num_items_in_batch`, which Trainer hands to every model, and averages over its own labels"


@peer("transformers", T5, "hf.seq2seq", variant={"model": "T5"}, compute=Compute.NATIVE, note=NOT_UPCAST, **MEAN)
@peer(
    "transformers",
    T5,
    "hf.seq2seq",
    variant={"model": "T5"},
    compute=Compute.NATIVE,
    differs="count-ignored",
    note=DROPS_THE_COUNT,
)
@peer("transformers", BART, "hf.seq2seq", variant={"model": "Bart"}, **MEAN)
@peer("transformers", BART, "hf.seq2seq", variant={"model": "Bart"}, differs="count-ignored", note=DROPS_THE_COUNT)
def transformers_seq2seq(batch: Batch, model: str, denominator: str = "") -> Answer:
    logits, labels = leaf(batch.tensor("logits")), batch.tensor("labels")
    tiny = _tiny_seq2seq(model, logits.shape[-1])
    tiny.lm_head = Gives(logits)
    source = torch.zeros(len(labels), 1, dtype=torch.int64)
    loss = tiny(input_ids=source, labels=labels, num_items_in_batch=batch.num_items_in_batch).loss
    return answer(loss, logits=logits)


@peer("transformers", "transformers.MoonshineForConditionalGeneration.forward", "hf.seq2seq")
def transformers_moonshine(batch: Batch) -> Answer:
    """The model's own `forward`, with the batch's logits in place of those of its head."""
    transformers = load("transformers")
    logits, labels = leaf(batch.tensor("logits")), batch.tensor("labels")
    model = _bare(transformers.MoonshineForConditionalGeneration, transformers.MoonshineConfig, logits.shape[-1])
    model.model = Gives(load("transformers.modeling_outputs").Seq2SeqModelOutput(last_hidden_state=logits))
    model.proj_out = torch.nn.Identity()
    return answer(model(labels=labels, num_items_in_batch=batch.num_items_in_batch).loss, logits=logits)


def _bare(model: Any, config: Any, vocabulary: int) -> Any:
    """A model of transformers without any of its parts; special ids that no vocabulary is too small for."""
    bare = model.__new__(model)
    load("transformers.modeling_utils").PreTrainedModel.__init__(
        bare, config(vocab_size=vocabulary, bos_token_id=0, eos_token_id=0, pad_token_id=0)
    )
    return bare


GIT = "transformers.models.git.modeling_git"


@peer("transformers", f"{GIT}.GitForCausalLM.forward", "hf.prefix_lm")
def transformers_git(batch: Batch) -> Answer:
    """The model's own `forward`; what stands before the text are the positions of its image."""
    module = load(GIT)
    logits, labels = leaf(batch.tensor("logits")), batch.tensor("labels")
    image = logits.shape[1] - labels.shape[1]
    attention = SimpleNamespace(self=SimpleNamespace(image_patch_tokens=image))
    body = Gives(load("transformers.modeling_outputs").BaseModelOutputWithPast(last_hidden_state=logits))
    body.encoder = SimpleNamespace(layer=[SimpleNamespace(attention=attention)])
    model = _bare(module.GitForCausalLM, load("transformers").GitConfig, logits.shape[-1])
    model.git, model.output = body, torch.nn.Identity()
    loss = model(input_ids=torch.zeros_like(labels), labels=labels, num_items_in_batch=batch.num_items_in_batch).loss
    return answer(loss, logits=logits)


# Liger-Kernel, its Triton kernels interpreted

LIGER = "liger_kernel.transformers.functional.liger_cross_entropy"
LIGER_LINEAR = "liger_kernel.transformers.functional.liger_fused_linear_cross_entropy"
ONE = {"reduction": "sum", "denominator": "one"}


@peer("liger-kernel", LIGER, "liger", interpreted=True)
@peer("liger-kernel", LIGER, "liger", interpreted=True, label_smoothing=0.1)
@peer("liger-kernel", LIGER, "liger", interpreted=True, z_loss=1e-2)
@peer("liger-kernel", LIGER, "liger", interpreted=True, softcap=30.0)
@peer("liger-kernel", LIGER, "liger", interpreted=True, label_smoothing=0.1, z_loss=1e-2, softcap=5.0)
@peer(
    "liger-kernel",
    LIGER,
    "liger",
    interpreted=True,
    class_weights=True,
    denominator="class_weights",
    note="without z-loss: Liger divides that by the count, and the rest by Σ c_y",
)
@peer("liger-kernel", LIGER, "liger", interpreted=True, **ONE)
def liger(
    batch: Batch,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
    class_weights: bool = False,
    reduction: str = "mean",
    denominator: str = "valid",
) -> Answer:
    interpret_kernels()
    liger_cross_entropy = load("liger_kernel.transformers.functional").liger_cross_entropy
    logits = leaf(batch.tensor("logits"))
    _nonempty(logits)
    if not logits.isfinite().all():
        raise Cannot("the interpreted kernels do not tell NaN from a number as the compiled ones do")
    weight = batch.tensor("class_weights").to(torch.float32) if class_weights else None
    # The clone is Liger's to overwrite: it writes the gradient over the logits.
    value = liger_cross_entropy(
        _rows(logits).clone(),
        batch.tensor("labels").flatten(),
        weight=weight,
        label_smoothing=label_smoothing,
        lse_square_scale=z_loss,
        softcap=softcap,
        reduction=reduction,
    )
    return answer(value, logits=logits)


@peer("liger-kernel", LIGER_LINEAR, "liger", interpreted=True)
@peer("liger-kernel", LIGER_LINEAR, "liger", interpreted=True, label_smoothing=0.1, z_loss=1e-2, softcap=5.0)
def liger_linear(
    batch: Batch, label_smoothing: float = 0.0, z_loss: float = 0.0, softcap: float | None = None
) -> Answer:
    interpret_kernels()
    linear = load("liger_kernel.transformers.functional").liger_fused_linear_cross_entropy
    logits = leaf(batch.tensor("logits"))
    _nonempty(logits)
    _finite(logits)
    value = linear(
        _rows(logits),
        _identity(logits.shape[-1], logits.dtype),
        batch.tensor("labels").flatten(),
        label_smoothing=label_smoothing,
        lse_square_scale=z_loss,
        softcap=softcap,
    )
    return answer(value, logits=logits)


def _nonempty(logits: Tensor) -> None:
    if not logits.numel():
        raise Cannot("it raises without a row")


# cut-cross-entropy: the implementation that needs no GPU


CCE = "cut_cross_entropy.linear_cross_entropy"
COMPILED = {"impl": "torch_compile"}
CCE_BLOCK = 128  # classes at once in its kernels
KERNELS = "its kernels: their backward takes fp16 and bf16 only, and the interpreter multiplies bf16 matrices wrongly"


@peer("cut-cross-entropy", CCE, "cce", interpreted=True, dtypes=("float16",), variant={"impl": "cce"}, note=KERNELS)
@peer(
    "cut-cross-entropy",
    CCE,
    "cce",
    softcap=5.0,
    interpreted=True,
    dtypes=("float16",),
    classes=(128,),
    variant={"impl": "cce"},
    note=KERNELS,
)
@peer("cut-cross-entropy", CCE, "cce", variant=COMPILED)
@peer(
    "cut-cross-entropy",
    CCE,
    "cce",
    softcap=5.0,
    variant=COMPILED,
    compute=Compute.NATIVE,
    note="native: it caps the logits before it upcasts them",
)
@peer("cut-cross-entropy", CCE, "cce", shift=0, shifted_by="data", variant=COMPILED)
@peer("cut-cross-entropy", CCE, "per_token.trimmed", reduction="none", variant=COMPILED)
def cut_cross_entropy(
    batch: Batch,
    impl: str,
    softcap: float | None = None,
    shift: int = 1,
    shifted_by: str = "loss",
    reduction: str = "mean",
) -> Answer:
    if impl == "cce":
        interpret_kernels()
    linear_cross_entropy = load("cut_cross_entropy").linear_cross_entropy
    logits, labels = leaf(batch.tensor("logits")), batch.tensor("labels")
    _nonempty(logits)
    _finite(logits)
    if shift not in (0, 1):
        raise Cannot("this version shifts by 0 or 1")
    if impl == "cce" and logits.dtype not in (torch.float16, torch.bfloat16):
        raise Cannot("the backward of its kernels takes fp16 and bf16 only")
    if impl == "cce" and softcap is not None and logits.shape[-1] % CCE_BLOCK:
        raise Cannot(f"with a softcap it is wrong where {CCE_BLOCK} does not divide V")
    if impl == "cce" and not (labels[:, shift:] != -100).any():
        raise Cannot("without a target there is no grid for its kernels, and the interpreter divides by 0")
    value = linear_cross_entropy(
        logits,
        _identity(logits.shape[-1], logits.dtype),
        labels,
        softcap=softcap,
        shift=bool(shift),
        reduction=reduction,
        impl=impl,
    )
    return answer(value, logits=logits)


# TRL

TRL = ("accelerate", "datasets", "pandas", "psutil", "pyarrow")


@cache
def _tiny_llama(width: int) -> Any:
    transformers = load("transformers")
    config = transformers.LlamaConfig(
        vocab_size=width,
        hidden_size=width,
        intermediate_size=4,
        num_hidden_layers=0,
        num_attention_heads=1,
        head_dim=2,
        tie_word_embeddings=False,
    )
    model = transformers.LlamaForCausalLM(config)
    head = _head(width)
    model.get_output_embeddings = lambda: head
    load("trl.trainer.utils", TRL).add_fused_lm_head(model, outputs=("log_probs", "entropy", "is_top1"))
    return model


@peer("trl", "trl.trainer.sft_trainer.SFTTrainer.compute_loss", "trl.nll", variant={"loss_type": "nll"})
@peer("trl", "trl.trainer.sft_trainer.SFTTrainer.compute_loss", "trl.dft", variant={"loss_type": "dft"})
def trl(batch: Batch, loss_type: str) -> Answer:
    """The trainer's own `compute_loss`, on a Llama whose backbone gives the logits and whose fused head passes them."""
    trainer = load("trl.trainer.sft_trainer", TRL).SFTTrainer
    outputs = load("transformers.modeling_outputs")
    logits, labels = leaf(batch.tensor("logits")), batch.tensor("labels")
    _finite(logits)
    if labels.shape[1] < 2:
        raise Cannot("its fused head needs a row of at least two tokens")
    model = _tiny_llama(logits.shape[-1])
    model.model = Gives(outputs.BaseModelOutputWithPast(last_hidden_state=logits))
    accelerator = SimpleNamespace(parallelism_config=None, num_processes=1, gather_for_metrics=lambda tensor: tensor)
    args = SimpleNamespace(loss_type=loss_type, average_tokens_across_devices=False)
    this = SimpleNamespace(
        model=model,
        accelerator=accelerator,
        args=args,
        aux_loss_enabled=False,
        compute_loss_func=None,
        label_smoother=None,
        _metrics={mode: {"entropy": [], "mean_token_accuracy": []} for mode in ("train", "eval")},
        _total_train_tokens=0,
        _tp_size=1,
        get_tp_size=lambda: 1,
    )
    inputs = {"input_ids": torch.zeros_like(labels), "labels": labels, "attention_mask": torch.ones_like(labels)}
    with entered("trl.trainer.sft_trainer", TRL):  # its backward imports
        value = trainer.compute_loss(this, model, inputs, num_items_in_batch=batch.num_items_in_batch)
        return answer(value, logits=logits)


# Trainers' plain functions


@peer("litgpt", "litgpt.utils.chunked_cross_entropy", "litgpt", variant={"chunk_size": 128})
@peer("litgpt", "litgpt.utils.chunked_cross_entropy", "litgpt", variant={"chunk_size": 3})
@peer("litgpt", "litgpt.utils.chunked_cross_entropy", "litgpt", variant={"chunk_size": 3, "lists": True})
@peer("litgpt", "litgpt.utils.chunked_cross_entropy", "litgpt", clamp=None, variant={"chunk_size": 0})
def litgpt(batch: Batch, chunk_size: int, lists: bool = False, clamp: float | None = 1.0) -> Answer:
    chunked = load("litgpt.utils", ("lightning", "lightning_utilities", "psutil")).chunked_cross_entropy
    logits, labels = leaf(batch.tensor("logits")), batch.tensor("labels")
    given = list(logits.split(chunk_size, dim=1)) if lists else logits
    return answer(chunked(given, labels, chunk_size=chunk_size), logits=logits)


def _chunked_along_rows(loss: Callable[..., Tensor], logits: Tensor, labels: Tensor, chunks: int) -> Tensor:
    return loss(list(logits.chunk(chunks, dim=1)), labels)


@peer("torchtune", "torchtune.modules.loss.CEWithChunkedOutputLoss", "torchtune", variant={"chunks": 8})
@peer("torchtune", "torchtune.modules.loss.CEWithChunkedOutputLoss", "torchtune", variant={"chunks": 3})
def torchtune(batch: Batch, chunks: int) -> Answer:
    """The recipe shifts the labels, padding with the ignore index, and the model cuts the logits into chunks."""
    loss = load("torchtune.modules.loss.ce_chunked_output_loss", ("",)).CEWithChunkedOutputLoss(chunks)
    logits = leaf(batch.tensor("logits"))
    return answer(_chunked_along_rows(loss, logits, shifted(batch.tensor("labels"), -100), chunks), logits=logits)


@peer("axolotl", "axolotl.monkeypatch.loss.chunked.get_causal_lm_loss", "hf.causal_lm", variant={"chunks": 8})
def axolotl(batch: Batch, chunks: int) -> Answer:
    module = load("axolotl.monkeypatch.loss.chunked", ("",))
    logits = leaf(batch.tensor("logits"))
    value = module.get_causal_lm_loss(chunks)(
        logits, batch.labels, num_items_in_batch=batch.num_items_in_batch, shift_labels=batch.shift_labels
    )
    return answer(value, logits=logits)


TORCHTITAN = ("tyro",)


@peer("torchtitan", "torchtitan.components.loss.CrossEntropyLoss", "torchtitan")
def torchtitan(batch: Batch) -> Answer:
    module = load("torchtitan.components.loss", TORCHTITAN)
    logits = leaf(batch.tensor("logits"))
    loss = module.CrossEntropyLoss(module.CrossEntropyLoss.Config())
    value, _ = loss(logits, batch.tensor("labels"), torch.tensor(float(batch.num_items_in_batch or 0)))
    return answer(value, logits=logits)


@peer("torchtitan", "torchtitan.components.loss.ChunkedLossWrapper", "torchtitan", variant={"chunks": 2})
def torchtitan_chunked(batch: Batch, chunks: int) -> Answer:
    module = load("torchtitan.components.loss", TORCHTITAN)
    logits, labels = leaf(batch.tensor("logits")), batch.tensor("labels")
    _finite(logits)
    if not labels.shape[1] or labels.shape[1] % chunks:
        raise Cannot(f"it takes rows that {chunks} divides")
    config = module.ChunkedLossWrapper.Config(num_chunks=chunks, loss_fn=module.CrossEntropyLoss.Config())
    try:
        loss = module.ChunkedLossWrapper(config)
    except Exception as error:
        raise Missing(f"its configuration builds only with all of torchtitan: {error}") from error
    loss.set_lm_head(_head(logits.shape[-1], logits.dtype))
    value, _ = loss(logits, labels, torch.tensor(float(batch.num_items_in_batch or 0)))
    return answer(value, logits=logits)


FLA_LINEAR = "fla.modules.fused_linear_cross_entropy.fused_linear_cross_entropy_loss"
FLA = "fla.modules.fused_cross_entropy.cross_entropy_loss"


@peer("fla-core", FLA_LINEAR, "fla", interpreted=True)
@peer("fla-core", FLA_LINEAR, "fla", interpreted=True, label_smoothing=0.1)
@peer("fla-core", FLA_LINEAR, "fla", interpreted=True, logit_scale=0.5, softcap=20.0)
def fla_linear(
    batch: Batch, label_smoothing: float = 0.0, logit_scale: float = 1.0, softcap: float | None = None
) -> Answer:
    interpret_kernels()
    loss = load("fla.modules.fused_linear_cross_entropy.ops").fused_linear_cross_entropy_loss
    logits = leaf(batch.tensor("logits"))
    _nonempty(logits)
    _finite(logits)
    value = loss(
        _rows(logits),
        batch.tensor("labels").flatten(),
        _identity(logits.shape[-1], logits.dtype),
        label_smoothing=label_smoothing,
        logit_scale=logit_scale,
        logit_softcapping=softcap,
    )
    return answer(value, logits=logits)


PER_TOKEN: dict[str, Any] = {"reduction": "none", "denominator": "one", "clamp": None}


@peer("fla-core", FLA, "fla", interpreted=True, **PER_TOKEN)
@peer(
    "fla-core",
    FLA,
    "fla",
    interpreted=True,
    **PER_TOKEN,
    label_smoothing=0.1,
    z_loss=1e-2,
    logit_scale=0.5,
    softcap=5.0,
)
def fla(
    batch: Batch,
    reduction: str,
    denominator: str,
    clamp: float | None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    logit_scale: float = 1.0,
    softcap: float | None = None,
) -> Answer:
    """What its module reduces; the module itself refuses tensors on a CPU."""
    interpret_kernels()
    loss = load("fla.modules.fused_cross_entropy.ops").cross_entropy_loss
    logits, labels = leaf(batch.tensor("logits")), batch.tensor("labels")
    _nonempty(logits)
    value, _ = loss(
        _rows(logits),
        labels.flatten(),
        label_smoothing=label_smoothing,
        lse_square_scale=z_loss,
        logit_scale=logit_scale,
        logit_softcapping=softcap,
    )
    return answer(value.view(labels.shape), logits=logits)


ROLLS = "the first label of every row ignored, as prompts are: it would wrap to the row's last logits"
SWIFT = ("modelscope", "peft", "swift.model", "swift.sequence_parallel", "swift.utils")


def first_label_ignored(batch: Batch) -> Batch:
    """The batch with −100 as each row's first label, which `torch.roll` would carry to the row's last logits."""
    labels = batch.tensor("labels").clone()
    labels[:, :1] = -100
    return replace(batch, labels=labels)


@peer(
    "ms-swift",
    "swift.trainers.utils.per_token_loss_func",
    "per_token",
    within=first_label_ignored,
    note=ROLLS,
)
def ms_swift(batch: Batch) -> Answer:
    """Its losses lie where the logits lie, 0 in the last column."""
    stand_ins = SWIFT
    per_token = load("swift.trainers.utils", stand_ins).per_token_loss_func
    logits, labels = leaf(batch.tensor("logits")), batch.tensor("labels")
    if not labels.shape[1] or (labels[:, 0] != -100).any():
        raise Cannot("torch.roll scores a row's last logits on its first label, where that is not ignored")
    value = per_token(SimpleNamespace(logits=logits), labels).view(labels.shape)
    return answer(value, logits=logits)


TRAINER = "swift.trainers.seq2seq_trainer.Seq2SeqTrainer.compute_loss"


@peer("ms-swift", TRAINER, "weighted.count", within=first_label_ignored, note=ROLLS)
@peer("ms-swift", TRAINER, "ms_swift", within=first_label_ignored, note=ROLLS)
def ms_swift_trainer(batch: Batch) -> Answer:
    """The trainer's own `compute_loss` with a loss scale: the path on which it computes the loss itself."""
    stand_ins = (*SWIFT, "accelerate", "swift.trainers.mixin")
    trainer = load("swift.trainers.seq2seq_trainer", stand_ins).Seq2SeqTrainer
    logits, labels = leaf(batch.tensor("logits")), batch.tensor("labels")
    if not labels.shape[1] or (labels[:, 0] != -100).any():
        raise Cannot("torch.roll scores a row's last logits on its first label, where that is not ignored")
    outputs = load("transformers.modeling_outputs").CausalLMOutputWithPast(logits=logits)
    model = Gives(outputs)
    model.model_info = SimpleNamespace(is_moe_model=False)
    model._get_name = lambda: "LlamaForCausalLM"
    template = SimpleNamespace(
        sequence_parallel_size=1, padding_free=False, compute_sft_loss=lambda *args, **kwargs: outputs
    )
    this = SimpleNamespace(
        args=SimpleNamespace(
            enable_dft_loss=False,
            enable_channel_loss=False,
            tuner_backend="peft",
            router_aux_loss_coef=None,
            use_liger_kernel=False,
        ),
        label_smoother=None,
        template=template,
        model=model,
        accelerator=SimpleNamespace(unwrap_model=lambda it: it, num_processes=1),
        model_accepts_loss_kwargs=True,
        _compute_acc=lambda *args, **kwargs: None,
    )
    inputs = {"labels": labels, "loss_scale": batch.tensor("token_weights")}
    value = trainer.compute_loss(this, model, inputs, num_items_in_batch=batch.num_items_in_batch)
    return answer(value, logits=logits)


@peer("moshi", "moshi.utils.utils.cross_entropy", "per_token", shift=0, shifted_by="data")
@peer("moshi", "moshi.utils.utils.cross_entropy", "per_token", shift=0, shifted_by="data", softcap=5.0)
def moshi(batch: Batch, shift: int, shifted_by: str, softcap: float | None = None) -> Answer:
    """One codebook's losses. Its mask is an argument: here, the labels that are ids."""
    loss = load("moshi.utils.utils", ("",)).cross_entropy
    logits, labels = leaf(batch.tensor("logits")), batch.tensor("labels").unsqueeze(1)
    return answer(loss(logits.unsqueeze(1), labels, labels != -100, logits_soft_clip=softcap).squeeze(1), logits=logits)


NEMO = "nemo.collections.common.losses.smoothed_cross_entropy"


SMOOTHED = {"label_smoothing": 0.1, "smoothing_over": "others"}
MASKED: dict[str, Any] = {"shift": 0, "shifted_by": "data", "epsilon": 1e-6}
LOG_PROBS: dict[str, Any] = {
    "compute": Compute.NATIVE,
    "note": "native: it is given log-probabilities, in the logits' dtype",
}


@peer("nemo-toolkit", f"{NEMO}.SmoothedCrossEntropyLoss", "masked", **MASKED, **LOG_PROBS)
@peer("nemo-toolkit", f"{NEMO}.SmoothedCrossEntropyLoss", "masked", **MASKED, **SMOOTHED, **LOG_PROBS)
def nemo_smoothed(
    batch: Batch,
    shift: int,
    shifted_by: str,
    epsilon: float,
    label_smoothing: float = 0.0,
    smoothing_over: str = "others",
) -> Answer:
    loss = load(NEMO, ("nemo.core",)).SmoothedCrossEntropyLoss(label_smoothing=label_smoothing, eps=epsilon)
    logits, labels, mask = leaf(batch.tensor("logits")), batch.tensor("labels"), batch.tensor("loss_mask")
    mask = mask.bool() & (labels != -100)
    value = loss.forward(logits.log_softmax(-1), labels.clamp(min=0), mask.to(logits.dtype))
    return answer(value, logits=logits)


@peer("nemo-automodel", "nemo_automodel.components.loss.masked_ce.MaskedCrossEntropy", "torchtitan")
def nemo_automodel(batch: Batch) -> Answer:
    module = load("nemo_automodel.components.loss.masked_ce", ("",))
    logits, labels = leaf(batch.tensor("logits")), batch.tensor("labels")
    value = module.MaskedCrossEntropy()(logits, labels, num_label_tokens=batch.num_items_in_batch)
    return answer(value, logits=logits)


@peer(
    "nemo-automodel",
    "nemo_automodel.components.loss.chunked_ce.ChunkedCrossEntropy",
    "preshifted",
    variant={"chunk_len": 3},
)
def nemo_automodel_chunked(batch: Batch, chunk_len: int) -> Answer:
    module = load("nemo_automodel.components.loss.chunked_ce", ("",))
    logits, labels = leaf(batch.tensor("logits")), batch.tensor("labels")
    _finite(logits)
    loss = module.ChunkedCrossEntropy(chunk_len=chunk_len, compile=False, reduction="mean")
    weight = _identity(logits.shape[-1], logits.dtype)
    return answer(loss(logits, labels, weight), logits=logits)


DEEPSPEED = ("deepspeed.comm", "deepspeed.accelerator", "deepspeed.utils")


def _deepspeed(name: str) -> Any:
    module = load("deepspeed.sequence.cross_entropy", DEEPSPEED)
    module.pg_utils.is_parallel = lambda group: False  # a stand-in of its process groups: one process
    return getattr(module, name)


@peer(
    "deepspeed",
    "deepspeed.sequence.cross_entropy.vocab_parallel_cross_entropy",
    "litgpt",
    compute=Compute.STRICT,
    note="strict: it upcasts, which litgpt does not",
)
def deepspeed(batch: Batch) -> Answer:
    logits = leaf(batch.tensor("logits"))
    return answer(_deepspeed("vocab_parallel_cross_entropy")(logits, batch.tensor("labels")), logits=logits)


@peer("deepspeed", "deepspeed.sequence.cross_entropy.VocabParallelCausalLMLoss", "trl.nll")
def deepspeed_causal(batch: Batch) -> Answer:
    logits = leaf(batch.tensor("logits"))
    loss = _deepspeed("VocabParallelCausalLMLoss")()
    value = loss(logits, batch.tensor("labels"), num_items_in_batch=batch.num_items_in_batch)
    return answer(value, logits=logits)


@peer(
    "deepspeed",
    "deepspeed.runtime.sequence_parallel.ulysses_sp.TiledFusedLogitsLoss",
    "sum",
    shift=0,
    shifted_by="data",
    variant={"shards": 2},
    note="the tiling is its own, the loss of a tile torch's",
)
def deepspeed_tiled(batch: Batch, shift: int, shifted_by: str, shards: int) -> Answer:
    """The tiling is DeepSpeed's, the loss of one tile the caller's: torch's sum, as its documentation does it."""
    module = load("deepspeed.runtime.sequence_parallel.ulysses_sp", (*DEEPSPEED, "deepspeed.sequence"))
    logits, labels = leaf(batch.tensor("logits")), batch.tensor("labels")
    _nonempty(logits)

    def loss(this: object, rows: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(rows.float(), targets, reduction="sum")

    value = module.TiledFusedLogitsLoss.apply(loss, None, logits, labels, None, shards, [], "sum")
    return answer(value, logits=logits)


@peer(
    "fairseq",
    "fairseq.criterions.label_smoothed_cross_entropy.label_smoothed_nll_loss",
    "fairseq",
    label_smoothing=0.1,
    note="given fp32 log-probabilities, as fairseq's models give them",
)
def fairseq(batch: Batch, label_smoothing: float) -> Answer:
    name = "fairseq.criterions.label_smoothed_cross_entropy"
    loss = load(name, ("fairseq.utils", "fairseq.metrics", "fairseq.dataclass", "omegaconf")).label_smoothed_nll_loss
    logits, labels = leaf(batch.tensor("logits")), batch.tensor("labels")
    pad = batch.pad_token_id
    if pad is None and (labels == -100).any():
        raise Cannot("its ignored label is the id of padding, a class; −100 cannot be gathered")
    log_probs = _rows(logits).float().log_softmax(-1)
    value, _ = loss(log_probs, labels.flatten(), label_smoothing, ignore_index=pad)
    return answer(value, logits=logits)


ONE_HOT = "its soft targets are one-hot here"


@peer("specforge", "specforge.core.loss._compute_loss", "eagle3", variant={"kernel": False}, note=ONE_HOT)
@peer(
    "specforge",
    "specforge.core.loss.LogSoftmaxLoss",
    "eagle3",
    variant={"kernel": True},
    interpreted=True,
    note=ONE_HOT,
)
def eagle3(batch: Batch, kernel: bool) -> Answer:
    """Its targets are distributions: one-hot here. The data shifts targets and mask by one, zero-filled."""
    interpret_kernels()
    module = load("specforge.core.loss")
    logits, labels = leaf(batch.tensor("logits")), batch.tensor("labels")
    _nonempty(logits)
    mask = shifted(batch.tensor("loss_mask").to(torch.int32), 0)
    targets = shifted(labels, 0).clamp(min=0, max=logits.shape[-1] - 1)
    one_hot = F.one_hot(targets, logits.shape[-1]).to(torch.float32)
    loss = module.LogSoftmaxLoss.apply if kernel else module._compute_loss
    # The kernel writes its gradient over the logits that it is given.
    return answer(loss(logits.clone(), one_hot, mask.unsqueeze(-1)), logits=logits)
