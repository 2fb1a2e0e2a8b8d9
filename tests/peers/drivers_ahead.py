"""Losses of heads that predict several tokens ahead. Shapes: mtp_logits [B, S, D, V], labels [B, S]."""

from __future__ import annotations

import socket
from dataclasses import replace
from functools import cache
from types import MethodType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from shiftproof.harness.cases.recipe import Regime
from shiftproof.reference.batch import Batch

from .packages import load
from .peer import REGIMES, Answer, Cannot, Gives, answer, leaf, peer

MEGATRON = "megatron.core.models.gpt.gpt_model.GPTModel._postprocess"
SCALE = 0.1  # mtp_loss_scaling_factor, as Megatron-LM and MaxText ship


@cache
def _megatron() -> Any:
    """Megatron's GPT model, in a process group of one."""
    module = load("megatron.core.models.gpt.gpt_model")
    state = load("megatron.core.parallel_state")
    if not torch.distributed.is_initialized():
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=0, world_size=1)
    if not state.model_parallel_is_initialized():
        state.initialize_model_parallel()
    return module


def _ids_and_mask(batch: Batch) -> tuple[Tensor, Tensor]:
    mask = batch.tensor("loss_mask")
    labels = batch.tensor("labels")
    if ((labels < 0) & mask.bool()).any():
        raise Cannot("its labels are all ids; what is ignored is in the mask")
    return labels.clamp(min=0), mask.float()


PER_TOKEN = "megatron.core.tensor_parallel.vocab_parallel_cross_entropy"
SUMMED = {"reduction": "sum", "denominator": "one", "clamp": None}
SMOOTHED = {"label_smoothing": 0.1, "smoothing_over": "others"}


@peer("megatron-core", PER_TOKEN, "megatron", **SUMMED, note="Σ m·ℓ over its per-token losses")
@peer(
    "megatron-core",
    PER_TOKEN,
    "megatron.smoothing",
    **SUMMED,
    **SMOOTHED,
    regimes=tuple(regime for regime in REGIMES if regime is not Regime.HUGE),
    note="Σ m·ℓ over its per-token losses; not asked about logits of ±1e4, where its smoothing takes the log of a "
    "softmax that is 0: the loss is inf there, and NaN where masked",
)
def megatron(
    batch: Batch,
    reduction: str,
    denominator: str,
    clamp: None,
    label_smoothing: float = 0.0,
    smoothing_over: str = "others",
) -> Answer:
    """One loss a token; Σ m·ℓ is the training script's, which is not in the package."""
    _megatron()
    loss = load("megatron.core.tensor_parallel").vocab_parallel_cross_entropy
    logits = leaf(batch.tensor("logits"))
    labels, mask = _ids_and_mask(batch)
    # The clone is Megatron's to overwrite: it computes its softmax over the logits.
    losses = loss(logits.transpose(0, 1).contiguous().clone(), labels.transpose(0, 1).contiguous(), label_smoothing)
    return answer((losses.transpose(0, 1) * mask).sum(), logits=logits)


INJECTED = "the gradient that it injects; the value is what it logs. A depth without a pair: value and gradient NaN"


def ends_masked(batch: Batch) -> Batch:
    """The batch with a mask of 0 at the last position of every document but its row's last.

    The label there is the next document's first token. Megatron rolls labels and mask within documents, and scores what
    its data left at their ends.
    """
    assert batch.cu_seqlens is not None
    mask = batch.tensor("loss_mask").clone()
    ends = torch.zeros(mask.numel(), dtype=torch.bool)
    ends[batch.cu_seqlens[1:].long() - 1] = True
    ends = ends.reshape(mask.shape)
    ends[:, -1:] = False
    mask[ends] = 0
    return replace(batch, loss_mask=mask)


@peer("megatron-core", MEGATRON, "megatron.mtp", nan_everywhere=True, note=INJECTED)
@peer(
    "megatron-core",
    MEGATRON,
    "megatron.mtp.packed",
    within=ends_masked,
    nan_everywhere=True,
    note=f"{INJECTED}. Rows lie one after the other, as its packed batches do, and the mask is 0 where a label is the "
    "next document's first token",
)
def megatron_mtp(batch: Batch) -> Answer:
    """The model's own `_postprocess`.

    It adds no value to the loss: it injects the gradient while the main loss runs backward, and keeps each depth's mean
    in a tracker for the log. So the gradient is what 0 · (main loss) has, and the value is λ/D · Σ of the tracker.
    """
    module = _megatron()
    tracker = load("megatron.core.transformer.multi_token_prediction").MTPLossLoggingHelper.tracker
    scaler = load("megatron.core.transformer.multi_token_prediction").MTPLossAutoScaler
    ahead = leaf(batch.tensor("mtp_logits"))
    labels, mask = _ids_and_mask(batch)
    laid, documents = ahead, None
    if batch.cu_seqlens is not None:
        laid, labels, mask = ahead.flatten(0, 1)[None], labels.flatten()[None], mask.flatten()[None]
        documents = SimpleNamespace(cu_seqlens_q=batch.cu_seqlens)
    rows, positions, depths, classes = laid.shape
    by_depth = laid.permute(2, 1, 0, 3).contiguous()  # [D, S, B, V], as Megatron lays logits out
    hidden = torch.zeros(positions * (1 + depths), rows, classes, requires_grad=True)
    given = iter([*(by_depth[depth].clone() for depth in range(depths)), None])

    def head(states: Tensor, **kwargs: object) -> tuple[Tensor, None]:
        logits = next(given)
        return (states.clone() if logits is None else logits), None

    config = SimpleNamespace(
        mtp_num_layers=depths,
        mtp_loss_scaling_factor=SCALE,
        calculate_per_token_loss=False,
        cross_entropy_loss_fusion=False,
        config_logger_dir="",
    )
    model = SimpleNamespace(
        config=config,
        training=True,
        share_embeddings_and_output_weights=False,
        post_process=True,
        output_layer=head,
        cp_group=None,
    )
    model.compute_language_model_loss = MethodType(module.GPTModel.compute_language_model_loss, model)
    tracker["values"] = torch.zeros(depths)
    scaler.set_loss_scale(torch.tensor(1.0))
    main = module.GPTModel._postprocess(
        model,
        hidden,
        None,
        None,
        labels,
        None,
        None,
        None,
        mtp_in_postprocess=False,
        loss_mask=mask,
        packed_seq_params=documents,
    )
    found = answer(main.sum() * 0, mtp_logits=ahead)
    return Answer(tracker["values"].sum() * SCALE / depths, found.gradients)


@peer("torchtitan", "torchtitan.models.deepseek_v3.mtp.MTPLoss", "torchtitan.mtp")
def torchtitan_mtp(batch: Batch) -> Answer:
    names = ("distributed.fsdp", "models.common", "protocols")
    module = load("torchtitan.models.deepseek_v3.mtp", ("tyro", *(f"torchtitan.{name}" for name in names)))
    logits, ahead, labels = leaf(batch.tensor("logits")), leaf(batch.tensor("mtp_logits")), batch.tensor("labels")
    depths = ahead.shape[2]
    if depths > labels.shape[1]:
        raise Cannot("it raises where a depth is longer than the row")
    positions = batch.position_ids
    if positions is None:
        positions = torch.arange(labels.shape[1]).expand(labels.shape)
    loss = module.MTPLoss(module.MTPLoss.Config())
    value, _ = loss(
        [logits, *ahead.unbind(2)],
        labels,
        torch.tensor(float(batch.num_items_in_batch or 0)),
        positions=positions,
    )
    return answer(value, logits=logits, mtp_logits=ahead)


@peer("medusa-llm", "medusa.train.train.CustomizedTrainer.compute_loss", "medusa")
def medusa(batch: Batch) -> Answer:
    trainer = load("medusa.train.train", ("fastchat", "medusa.model")).CustomizedTrainer
    ahead, labels = leaf(batch.tensor("mtp_logits")), batch.tensor("labels")
    depths, classes = ahead.shape[2:]
    if classes < 5:
        raise Cannot("it logs the five best of its classes, and raises with fewer")
    if labels.shape[1] <= 1 + depths:
        raise Cannot("a head past the row's end cuts its logits by −0, and raises")
    model = Gives(ahead.permute(2, 0, 1, 3))
    model.medusa = depths
    inputs = {"input_ids": None, "attention_mask": None, "labels": labels}
    return answer(trainer.compute_loss(SimpleNamespace(log=lambda log: None), model, inputs), mtp_logits=ahead)


@peer("nemo-automodel", "nemo_automodel.components.loss.mtp.calculate_mtp_loss", "megatron.mtp")
def nemo_automodel_mtp(batch: Batch) -> Answer:
    """Each depth by its own mean, as in Megatron; what Megatron masks is ignored in the labels."""
    stand_ins = ("nemo_automodel.components.loss.linear_ce_base", "nemo_automodel.components.distributed")
    module = load("nemo_automodel.components.loss.mtp", stand_ins)
    masked = load("nemo_automodel.components.loss.masked_ce", ("",)).MaskedCrossEntropy
    ahead = leaf(batch.tensor("mtp_logits"))
    labels = batch.tensor("labels").masked_fill(~batch.tensor("loss_mask").bool(), -100)
    value = module.calculate_mtp_loss(
        masked(reduction="mean"),
        mtp_per_depth_logits=list(ahead.unbind(2)),
        labels=labels,
        model=None,
        scaling_factor=SCALE,
    )
    return answer(value, mtp_logits=ahead)
