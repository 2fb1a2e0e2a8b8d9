"""What a candidate leaves behind: settings of the process, and seeds."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from shiftproof.harness.worker.global_state import changed, random_states, settings, step


@contextmanager
def restored(change: Callable[[], object], back: Callable[[], object]) -> Iterator[None]:
    change()
    try:
        yield
    finally:
        back()


THREADS = torch.get_num_threads()


@pytest.mark.parametrize(
    ("change", "back", "said"),
    [
        (
            lambda: torch.set_default_dtype(torch.float64),
            lambda: torch.set_default_dtype(torch.float32),
            "the default dtype from torch.float32 to torch.float64",
        ),
        (
            lambda: torch.set_num_threads(THREADS + 1),
            lambda: torch.set_num_threads(THREADS),
            f"the number of threads from {THREADS} to {THREADS + 1}",
        ),
        (
            lambda: torch.use_deterministic_algorithms(True),
            lambda: torch.use_deterministic_algorithms(False),
            "deterministic algorithms from False to True",
        ),
        (
            lambda: torch.autograd.set_detect_anomaly(True),
            lambda: torch.autograd.set_detect_anomaly(False),
            "anomaly detection from False to True",
        ),
        (
            lambda: torch.set_float32_matmul_precision("medium"),
            lambda: torch.set_float32_matmul_precision("highest"),
            "the precision of float32 products from highest to medium",
        ),
        (
            lambda: torch.set_autocast_enabled("cpu", True),
            lambda: torch.set_autocast_enabled("cpu", False),
            "autocast from [False, False] to [True, False]",
        ),
    ],
    ids=["dtype", "threads", "determinism", "anomaly", "precision", "autocast"],
)
def test_a_changed_setting_is_told_with_both_values(
    change: Callable[[], object], back: Callable[[], object], said: str
) -> None:
    before = settings()
    assert changed(before) == ()
    with restored(change, back):
        assert changed(before) == (said,)
    assert changed(before) == ()


def test_a_hook_on_all_modules_is_told() -> None:
    before = settings()
    handle = torch.nn.modules.module.register_module_forward_hook(lambda module, given, output: None)
    with restored(lambda: None, handle.remove):
        assert changed(before) == ("hooks on all modules from [0, 0, 0, 0] to [1, 0, 0, 0]",)


def test_hooks_on_saved_tensors_are_told() -> None:
    before = settings()
    with torch.autograd.graph.saved_tensors_hooks(lambda kept: kept, lambda kept: kept):
        assert changed(before) == ("hooks on saved tensors from False to True",)


def test_every_generator_that_moves_is_seen_and_no_other() -> None:
    for name, draw in {
        "torch": lambda: torch.rand(1),
        "random": random.random,
        "numpy.random": np.random.random,
    }.items():
        before = random_states()
        assert random_states() == before
        draw()
        assert {each for each, state in random_states().items() if before[each] != state} == {name}


def test_a_step_moves_every_generator() -> None:
    before = random_states()
    step()
    assert all(state != before[name] for name, state in random_states().items())


def test_the_same_seed_gives_the_same_state() -> None:
    found = []
    for _ in range(2):
        step()
        torch.manual_seed(7)
        random.seed(7)
        found.append(random_states())
    assert found[0]["torch"] == found[1]["torch"]
    assert found[0]["random"] == found[1]["random"]
    assert found[0]["numpy.random"] != found[1]["numpy.random"]
