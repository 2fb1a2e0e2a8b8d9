"""The pass over rows of logits as Triton kernels, for CUDA. Memory is read once and written once.

A row that fits in one block stays in registers. A longer row is read twice, the second time backwards, so that the end
is read again first. No more rows are processed at once than the L2 cache holds, so that the second read comes from the
cache. Offsets have 64 bits. Importing this module needs Triton.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..score import charge
from ..spec import Score

_LONGEST_BLOCK = 16384  # elements; with 32 warps, 16 float32 registers per thread
_SWEPT_BLOCK = 8192
_L2_SHARE = 0.5  # the share of the L2 cache for rows that are read again; the rest is for writes


@triton.jit
def _tanh(x):
    """tanh, accurate for small x too: the polynomial of Cephes' tanhf below 5/8, else by exp(−2|x|)."""
    squared = x * x
    series = -5.70498872745e-3 * squared + 2.06390887954e-2
    series = series * squared - 5.37397155531e-2
    series = series * squared + 1.33314422036e-1
    series = series * squared - 3.33332819422e-1
    small = series * squared * x + x
    decay = tl.exp(-2.0 * tl.abs(x))
    large = (1.0 - decay) / (1.0 + decay)
    return tl.where(tl.abs(x) < 0.625, small, tl.where(x < 0, -large, large))


@triton.jit
def _load(start, at, classes, SCALE: tl.constexpr, SOFTCAP: tl.constexpr):
    """Load x and z of one block of a row. Past the end they are −inf."""
    inside = at < classes
    x = tl.load(start + at, mask=inside, other=-float("inf")).to(tl.float32)
    z = x
    if SOFTCAP > 0:
        z = tl.where(inside, SOFTCAP * _tanh(x * (SCALE / SOFTCAP)), -float("inf"))
    elif SCALE != 1:
        z = x * SCALE
    return x, z


@triton.jit
def _score_kernel(
    logits,
    gradient,
    targets,
    weights,
    class_weights,
    scores,
    rows,
    classes,
    row_stride,
    hard_share,  # the target's additional share of its class weight
    every_share,  # each class's share of its class weight, whichever class is the target
    z_loss,
    SCALE: tl.constexpr,
    SOFTCAP: tl.constexpr,
    SMOOTHED: tl.constexpr,
    WEIGHTED: tl.constexpr,
    DFT: tl.constexpr,
    WRITES: tl.constexpr,
    ONE_BLOCK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Each program takes every n-th row, with n programs. Without ``WRITES``, no gradient is written."""
    lanes = tl.arange(0, BLOCK)
    blocks = tl.cdiv(classes, BLOCK)
    row = tl.program_id(0).to(tl.int64)
    while row < rows:
        start = logits + row * row_stride
        out = gradient + row * classes
        target = tl.load(targets + row)
        if target == -1:
            tl.store(scores + row, 0.0)
            if WRITES:
                for block in range(blocks):
                    at = block * BLOCK + lanes
                    tl.store(out + at, tl.zeros([BLOCK], gradient.dtype.element_ty), mask=at < classes)
        else:
            known = target < classes
            at_target = tl.where(known, target, 0)
            if ONE_BLOCK:
                x, z = _load(start, lanes, classes, SCALE, SOFTCAP)
                top = tl.max(z, 0)
                base = tl.where(top == -float("inf"), 0.0, top)
                lse = base + tl.log(tl.sum(tl.exp(z - base), 0))
            else:
                tops = tl.full([BLOCK], -float("inf"), tl.float32)
                sums = tl.zeros([BLOCK], tl.float32)
                for block in range(blocks):
                    x, z = _load(start, block * BLOCK + lanes, classes, SCALE, SOFTCAP)
                    above = tl.maximum(tops, z)
                    bases = tl.where(above == -float("inf"), 0.0, above)
                    sums = sums * tl.exp(tops - bases) + tl.exp(z - bases)
                    tops = above
                top = tl.max(tops, 0)
                base = tl.where(top == -float("inf"), 0.0, top)
                lse = base + tl.log(tl.sum(sums * tl.exp(tops - base), 0))
            _, z_target = _load(start, at_target + tl.arange(0, 1), classes, SCALE, SOFTCAP)
            z_target = tl.sum(z_target, 0)
            nll = lse - z_target
            hard = hard_share
            if WEIGHTED:
                hard = hard_share * tl.load(class_weights + at_target).to(tl.float32)
            loss = hard * nll + z_loss * lse * lse
            mass = hard + 2.0 * z_loss * lse
            if SMOOTHED:
                # Σ every_v · (lse − z_v): reads the row once more. A long row is in the cache.
                charged = tl.zeros([BLOCK], tl.float32)
                charges = tl.zeros([BLOCK], tl.float32)
                for block in range(blocks):
                    at = block * BLOCK + lanes
                    x, z = _load(start, at, classes, SCALE, SOFTCAP)
                    every = tl.where(at < classes, every_share, 0.0)
                    if WEIGHTED:
                        every = every * tl.load(class_weights + at, mask=at < classes, other=0.0).to(tl.float32)
                    charged += tl.where(at < classes, every * (lse - z), 0.0)
                    charges += every
                loss += tl.sum(charged, 0)
                mass += tl.sum(charges, 0)
            weight = tl.load(weights + row)
            if DFT:
                p_target = tl.exp(-nll)
                loss = loss * p_target
                weight = weight * p_target
            # A label that is not a class makes the loss NaN, because the device cannot raise.
            tl.store(scores + row, tl.where(known, loss, float("nan")))
            if WRITES:
                for back in range(blocks):
                    at = (blocks - 1 - back) * BLOCK + lanes
                    if not ONE_BLOCK:
                        x, z = _load(start, at, classes, SCALE, SOFTCAP)
                    every = 0.0
                    if SMOOTHED:
                        every = every_share
                        if WEIGHTED:
                            every = every * tl.load(class_weights + at, mask=at < classes, other=0.0).to(tl.float32)
                    every = tl.where(at == target, every + hard, every)
                    found = weight * (mass * tl.exp(z - lse) - every)
                    if SOFTCAP > 0:
                        # 1 − tanh² as 4·e/(1 + e)², which does not cancel near the cap.
                        decay = tl.exp(-2.0 * tl.abs(x * (SCALE / SOFTCAP)))
                        found = found * (SCALE * 4.0 * decay / ((1.0 + decay) * (1.0 + decay)))
                    elif SCALE != 1:
                        found = found * SCALE
                    tl.store(out + at, found.to(gradient.dtype.element_ty), mask=at < classes)
        row += tl.num_programs(0)


@triton.jit
def _scale_kernel(gradient, factors, rows, classes, BLOCK: tl.constexpr):
    """Each program takes every n-th row, with n programs. Rows with factor 1 are not touched."""
    row = tl.program_id(0).to(tl.int64)
    while row < rows:
        factor = tl.load(factors + row)
        if factor != 1:
            start = gradient + row * classes
            for block in range(tl.cdiv(classes, BLOCK)):
                at = block * BLOCK + tl.arange(0, BLOCK)
                found = tl.load(start + at, mask=at < classes).to(tl.float32) * factor
                tl.store(start + at, found.to(gradient.dtype.element_ty), mask=at < classes)
        row += tl.num_programs(0)


def score_rows(
    logits: Tensor,
    targets: Tensor,
    weights: Tensor,
    how: Score,
    class_weights: Tensor | None = None,
    gradient: Tensor | None = None,
) -> Tensor:
    """Score as :func:`.blocks.score_rows` does, always in float32. A target that is not a class scores NaN."""
    # The kernel reads all but the logits by their place alone.
    rows, classes = logits.shape
    scores = torch.empty(rows, dtype=torch.float32, device=logits.device)
    if not rows:
        return scores
    logits = logits if logits.stride(1) == 1 else logits.contiguous()
    unit = charge(replace(how, class_weights=False), classes if how.label_smoothing else 1)
    one_block = classes <= _LONGEST_BLOCK
    block = triton.next_power_of_2(classes) if one_block else _SWEPT_BLOCK
    _score_kernel[(_programs(logits, one_block),)](
        logits,
        logits if gradient is None else gradient,
        targets.contiguous(),
        weights.float().contiguous(),
        weights if class_weights is None or not how.class_weights else class_weights.contiguous(),
        scores,
        rows,
        classes,
        logits.stride(0),
        float(unit.target[0]),
        float(unit.every[0]),
        how.z_loss,
        SCALE=float(how.logit_scale),
        SOFTCAP=float(how.softcap or 0.0),
        SMOOTHED=how.label_smoothing > 0,
        WEIGHTED=how.class_weights,
        DFT=how.dft,
        WRITES=gradient is not None,
        ONE_BLOCK=one_block,
        BLOCK=block,
        num_warps=min(max(block // 256, 1), 32) if one_block else 32,
    )
    return scores


def scale_rows(gradient: Tensor, factors: Tensor) -> None:
    """Multiply each row of ``gradient`` [n, V] by its factor [n] in place, except where the factor is 1."""
    rows, classes = gradient.shape
    if rows:
        block = min(triton.next_power_of_2(classes), _SWEPT_BLOCK)
        factors = factors.float().contiguous()
        _scale_kernel[(min(rows, 4096),)](gradient, factors, rows, classes, BLOCK=block, num_warps=8)


def _programs(logits: Tensor, one_block: bool) -> int:
    """The number of rows to process at once: all, or, if they are read again, as many as the L2 cache holds.

    At least half the number of multiprocessors, which keeps the memory busy: 1024 threads with 16 bytes each in flight.
    """
    if one_block or not logits.is_cuda:
        return len(logits)
    device: Any = torch.cuda.get_device_properties(logits.device)
    held = int(_L2_SHARE * device.L2_cache_size) // (logits.shape[1] * logits.element_size())
    processors = int(device.multi_processor_count)
    return min(len(logits), max(held, processors // 2), 2 * processors)
