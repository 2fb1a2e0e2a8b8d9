"""The Triton kernels: their numbers on a CPU, interpreted, and on a CUDA device with everything that needs its size."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch

from shiftproof.harness.bounds.compare import agreement, compare_tensors
from shiftproof.harness.bounds.derive import SAFETY
from shiftproof.harness.bounds.rounding import rounding
from shiftproof.harness.candidates.declaration import Candidate
from shiftproof.harness.cases.build import build_case
from shiftproof.harness.cases.recipe import Mask, Recipe
from shiftproof.harness.judge.ask import ask
from shiftproof.harness.judge.loading import LoadedCandidate, Options, jobs_of
from shiftproof.harness.judge.profile import Profile
from shiftproof.harness.laws import LAWS
from shiftproof.harness.results import Overall, overall
from shiftproof.harness.worker.device import device_of
from shiftproof.harness.worker.peak import Peak
from shiftproof.reference.profiles import PROFILES
from shiftproof.reference.score import evaluate_rows
from shiftproof.reference.spec import Score
from shiftproof.reference.yardstick import linear_yardstick, passes, yardstick

from .scores import SCORES

CAUSAL = PROFILES["hf.causal_lm"]
WITHOUT_TRITON = importlib.util.find_spec("triton") is None

BRIEFEST = Profile("briefest", 0.02)
INTERPRETED = (
    *("hf.causal_lm", "musicgen", "liger.softcap", "torch.cross_entropy.smoothing", "maxtext.z_loss"),
    *("torch.cross_entropy.weight", "trl.dft"),
)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def check(how: Score, dtype: torch.dtype, classes: int, device: str) -> None:
    """Seven rows, one of them ignored and full of NaN, one scored on a label that is no class, against float64."""
    from shiftproof.reference.yardstick import kernel

    generator = torch.Generator().manual_seed(classes)
    logits = (torch.randn(7, classes, generator=generator) * 3).to(dtype)
    logits[2] = torch.nan
    logits[3, 1:] -= 100  # near one-hot
    targets = torch.tensor([0, classes - 1, -1, 0, 1 % classes, classes // 2, classes])
    weights = torch.tensor([0.5, 0.25, 1.0, 2.0, -1.0, 0.0, 0.0])
    class_weights = torch.rand(classes, generator=generator)
    on = {name: value.to(device) for name, value in locals().items() if isinstance(value, torch.Tensor)}
    gradient = torch.full_like(on["logits"], 9)
    given = on["targets"], on["weights"], how, on["class_weights"] if how.class_weights else None
    alone = kernel.score_rows(on["logits"], *given)
    scores = kernel.score_rows(on["logits"], *given, gradient).cpu()
    assert torch.equal(alone.cpu()[:6], scores[:6])
    assert scores[6].isnan()
    assert scores[2] == 0
    assert (gradient[2] == 0).all()
    place = on["logits"].clone()
    assert torch.equal(kernel.score_rows(place, *given, place).cpu()[:6], scores[:6])
    assert torch.equal(place[:6], gradient[:6])
    apart = (
        torch.stack((each, each * 0 + 7), -1)[..., 0] if isinstance(each, torch.Tensor) else each for each in given
    )
    assert torch.equal(kernel.score_rows(on["logits"], *apart).cpu()[:6], scores[:6])  # not contiguous
    kept = torch.tensor([0, 1, 3, 4, 5])
    right = evaluate_rows(logits[kept].double(), targets[kept], how, class_weights if how.class_weights else None)
    expected = right.gradient * weights[kept, None]
    # As compare.derive_bounds puts them together.
    off = rounding(
        logits[kept].double(), targets[kept], weights[kept].double().abs(), right, how, class_weights, 2.0**-24
    )
    allowed = SAFETY * (off.score + torch.finfo(torch.float32).eps * right.loss.abs())
    assert bool(agreement(scores[kept].double(), right.loss, allowed).all())
    tiny = 2.0**-24 if dtype is torch.float16 else 2.0**-126
    allowed = SAFETY * (off.gradient + torch.finfo(dtype).eps * expected.abs() + tiny)
    mismatch = compare_tensors(gradient.cpu()[kept].double(), expected, allowed)
    assert mismatch is None, mismatch.describe("gradient")


def interpreted() -> None:
    """Rows of one block, and rows of several: of blocks so short that an interpreter gets through them."""
    from shiftproof.reference.yardstick import kernel

    cases = ((how, classes) for how in SCORES.values() for classes in (2, 33, 100))
    for (longest, swept), (index, (how, classes)) in product(((128, 64), (16, 16)), enumerate(cases)):
        kernel._LONGEST_BLOCK, kernel._SWEPT_BLOCK = longest, swept
        check(how, DTYPES[(index + index // 3) % 3], classes, "cpu")
    gradient, factors = torch.ones(3, 50), torch.tensor([1.0, -2.0, 0.0])
    kernel.scale_rows(gradient, factors)
    assert torch.equal(gradient, factors[:, None].expand(3, 50))
    kernel.scale_rows(gradient, torch.tensor(2.0).expand(3))  # as the backward of a sum hands them over
    assert torch.equal(gradient, 2 * factors[:, None].expand(3, 50))


@pytest.mark.skipif(WITHOUT_TRITON, reason="triton is not installed: it comes with torch for CUDA")
def test_numbers_interpreted() -> None:
    """In a process of its own: Triton asks once, when it is imported, whether it is to interpret."""
    code = "import sys; sys.path.insert(0, sys.argv[1]); from yardstick import test_kernel; test_kernel.interpreted()"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(Path(__file__).parents[1])],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.peers
@pytest.mark.skipif(WITHOUT_TRITON, reason="triton is not installed")
@pytest.mark.parametrize("name", INTERPRETED)
def test_laws_interpreted(name: str) -> None:
    """The yardstick with its kernels, as a candidate: every law, of a few small cases, since each takes so long."""
    dtype = ("float32", "bfloat16")[INTERPRETED.index(name) % 2]
    file = Path(__file__).parents[2] / "candidates" / "interpreted.py"
    call = f"{file}:{name.replace('.', '_')}"
    candidate = Candidate(name, call, name, dtypes=(dtype,), precision="strict")
    loaded = LoadedCandidate(jobs_of([candidate])[0], Options(deadline=120.0))
    try:
        trial = loaded.of_loss(replace(PROFILES[name], layouts=()))
        results = tuple(ask(law, trial, BRIEFEST, seed=0, among={law.id: law}) for law in LAWS.values())
    finally:
        loaded.close()
    assert [(law.id, law.message) for law in results if law.verdict.is_failure] == []
    assert overall(results) is Overall.CONFORMS


@pytest.mark.gpu
class TestOnDevice:
    @pytest.fixture(autouse=True)
    def kernels(self, gpu: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """A CPU that stands in for the GPU has the kernels interpreted."""
        if gpu == "cpu":
            pytest.importorskip("triton")
            monkeypatch.setattr(passes, "in_triton", lambda rows: True)

    @pytest.mark.parametrize("classes", [2, 1026, 16384, 16385, 32000, 128256])
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("how", SCORES.values(), ids=SCORES)
    def test_numbers(self, how: Score, dtype: torch.dtype, classes: int, gpu: str) -> None:
        check(how, dtype, classes, gpu)

    @pytest.mark.parametrize("name", ["hf.causal_lm", "musicgen", "higgs.mean_nonempty", "packed.cu_seqlens"])
    def test_the_same_as_on_the_cpu(self, name: str, gpu: str) -> None:
        case = build_case(
            PROFILES[name], Recipe(rows=3, length=9, classes=40, codebooks=4, masks=(Mask.NONE, Mask.HOLES))
        )
        given = {key: value for key, value in vars(case.batch).items() if value is not None}
        gradients = []
        for device in ("cpu", gpu):
            leaves = {
                key: value.detach().to(device) if isinstance(value, torch.Tensor) else value
                for key, value in given.items()
            }
            for key in case.spec.logits:
                leaves[key].requires_grad_()
            loss = yardstick(case.spec)(**leaves)
            (loss * 3).backward()
            gradients.append([loss.detach().cpu(), *(leaves[key].grad.cpu() for key in case.spec.logits)])
        torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-5, atol=1e-6)

    def test_more_elements_than_an_int32_counts(self, gpu: str) -> None:
        """2³¹ elements and one row more; what lies beyond is right, and what is scored last is not what lies first."""
        classes, elements = (131072, 2**31) if gpu == "cuda" else (64, 2**10)
        rows = elements // classes + 1
        if device_of(gpu).free_memory() < 3 * 2 * rows * classes:
            pytest.skip("needs 13 GB of free memory on the device")
        logits = torch.zeros(1, rows, classes, dtype=torch.bfloat16, device=gpu)
        logits[0, -1, 5] = 20.0 if gpu == "cuda" else 4.0
        labels = torch.full((1, rows), -100, device=gpu)
        labels[0, -1] = 5
        labels[0, 0] = 7
        logits.requires_grad_()
        loss = yardstick(PROFILES["preshifted"])(logits=logits, labels=labels)
        loss.backward()
        expected = evaluate_rows(logits.detach()[0, [0, -1]].double().cpu(), torch.tensor([7, 5]))
        torch.testing.assert_close(float(loss.detach()), float(expected.loss.mean()), rtol=1e-5, atol=0)
        assert logits.grad is not None
        torch.testing.assert_close(
            logits.grad[0, [0, -1]].double().cpu(), expected.gradient / 2, rtol=2**-7, atol=1e-30
        )
        assert not logits.grad[0, 1:-1].any()

    def test_a_label_that_is_no_class_is_nan(self, gpu: str) -> None:
        labels = torch.tensor([[0, 5, 2, 1]], device=gpu)
        assert yardstick(CAUSAL)(logits=torch.zeros(1, 4, 5, device=gpu), labels=labels).isnan()

    def test_peak_memory_is_one_gradient(self, gpu: str) -> None:
        tokens, classes = (512, 128256) if gpu == "cuda" else (64, 65536)
        logits = torch.randn(1, tokens, classes, device=gpu).bfloat16().requires_grad_()
        labels = torch.randint(classes, (1, tokens), device=gpu)
        device_of(gpu).settle()
        peak = Peak(torch.device(gpu))
        (yardstick(CAUSAL)(logits=logits, labels=labels) * 2).backward()
        taken = peak.bytes()
        assert taken is not None
        # The interpreter copies what it is given; and pages are only about what was asked for.
        most = 1.1 if gpu == "cuda" else 8
        assert 0.9 * logits.nbytes <= taken <= most * logits.nbytes

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_linear_layers(self, dtype: torch.dtype, gpu: str) -> None:
        shapes = {"hidden_states": (2, 300, 64), "lm_head_weight": (5000, 64)}
        drawn = {name: (torch.randn(shape) / 4).to(dtype) for name, shape in shapes.items()}
        labels = torch.randint(5000, (2, 300))
        found = []
        for device in ("cpu", gpu):
            leaves = {name: value.to(device).requires_grad_() for name, value in drawn.items()}
            loss = linear_yardstick(CAUSAL)(**leaves, labels=labels.to(device))
            loss.backward()
            found.append([loss.detach().cpu(), *(leaf.grad.cpu() for leaf in leaves.values())])
        eps = torch.finfo(dtype).eps
        torch.testing.assert_close(found[1], found[0], rtol=16 * max(eps, 1e-5), atol=eps)
