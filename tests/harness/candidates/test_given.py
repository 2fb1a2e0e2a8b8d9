"""Python objects travel to another process by value, or stay in this one and say why."""

from __future__ import annotations

import functools
import gc
import importlib
import os
import pickle
import sys
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import shiftproof
from shiftproof.harness.candidates.declaration import Candidate
from shiftproof.harness.candidates.given import Given, give, name_of
from shiftproof.harness.isolation.client import Worker
from shiftproof.harness.isolation.settings import WorkerSettings
from shiftproof.harness.worker.exchange import Call, Returned
from shiftproof.harness.worker.target import LoadFailure, Target

LOGITS = torch.tensor([1.0, 2.0])
FACTOR = 3.0


def plain(logits: Tensor) -> Tensor:
    return FACTOR * logits.sum()


def helped(logits: Tensor) -> Tensor:
    return plain(logits) + 1


class Loss:
    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, logits: Tensor) -> Tensor:
        return self.factor * logits.sum()

    def method(self, logits: Tensor) -> Tensor:
        return self(logits) + 1


class Module(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, logits: Tensor) -> Tensor:
        return self.factor * logits.sum()


def made(factor: float) -> Callable[[Tensor], Tensor]:
    def loss(logits: Tensor) -> Tensor:
        return factor * helped(logits)

    return loss


def target(given: Given) -> Target:
    return Candidate("it", name_of(given.found), given=given).target


def elsewhere(given: Given, folder: Path) -> float:
    """What the loss gives in another process."""
    assert given.pickle is not None, given.stays
    with Worker(target(given), WorkerSettings(cwd=str(folder))) as worker:
        found = worker.call(Call({"logits": LOGITS}))
        assert isinstance(found, Returned), found
        return float(found.value)


@pytest.mark.parametrize(
    ("found", "value"),
    [
        (plain, 9.0),
        (helped, 10.0),
        (made(2.0), 20.0),
        (lambda logits: FACTOR * logits.sum() + 2, 11.0),
        (Loss(4.0), 12.0),
        (Loss(4.0).method, 13.0),
        (functools.partial(lambda factor, logits: factor * logits.sum(), 5.0), 15.0),
        (Module(6.0), 18.0),
        (torch.compile(made(2.0), backend="eager", dynamic=True), 20.0),
    ],
    ids=["function", "helped", "closure", "lambda", "instance", "method", "partial", "module", "compiled"],
)
def test_an_object_gives_the_same_in_another_process(found: Callable[..., Any], value: float, tmp_path: Path) -> None:
    assert elsewhere(give(found), tmp_path) == value


def test_it_runs_as_it_was_when_it_was_given(tmp_path: Path) -> None:
    loss = Loss(2.0)
    given = give(loss)
    loss.factor = 100.0
    assert elsewhere(given, tmp_path) == 6.0


def test_it_runs_in_another_process(tmp_path: Path) -> None:
    def loss(logits: Tensor) -> Tensor:
        return logits.sum() * 0 + os.getpid()

    assert elsewhere(give(loss), tmp_path) != os.getpid()


def test_what_is_in_main_travels(tmp_path: Path) -> None:
    """As a notebook's functions are."""
    names: dict[str, Any] = {"__name__": "__main__"}
    exec("scale = 7.0\ndef loss(logits):\n    return scale * logits.sum()\n", names)
    given = give(names["loss"])
    assert not given.has_name
    assert elsewhere(given, tmp_path) == 21.0


def backend_of(found: Any) -> Any:
    cells = [cell.cell_contents for cell in found.__closure__ or ()]
    [context] = [each for each in cells if hasattr(each, "callback") and hasattr(each, "fullgraph")]
    backend = context.callback
    while hasattr(backend, "_torchdynamo_orig_backend"):
        backend = backend._torchdynamo_orig_backend
    options = getattr(backend, "config", None)
    return context.fullgraph, backend.dynamic, backend.compiler_name, options


@pytest.mark.parametrize(
    "options",
    [
        {"backend": "eager", "fullgraph": True},
        {"backend": "aot_eager", "dynamic": False},
        {"dynamic": True},
        {"mode": "max-autotune"},
    ],
)
def test_a_compiled_function_keeps_how_it_was_compiled(options: dict[str, Any]) -> None:
    found = torch.compile(plain, **options)
    given = give(found)
    assert given.pickle is not None, given.stays
    again = pickle.loads(Path(given.pickle).read_bytes())
    assert backend_of(again) == backend_of(found)
    assert again._torchdynamo_orig_callable(LOGITS) == 9.0


def test_the_pickle_keeps_the_names_of_files(tmp_path: Path) -> None:
    """Branches are read from the file, and a traceback shows its lines."""
    given = give(made(2.0))
    assert given.pickle is not None
    again = pickle.loads(Path(given.pickle).read_bytes())
    assert again.__code__.co_filename == made(2.0).__code__.co_filename == __file__
    with Worker(target(given), WorkerSettings(cwd=str(tmp_path))) as worker:
        assert worker.describe().file == __file__


def test_the_file_is_removed_when_nobody_needs_it() -> None:
    given = give(plain)
    path = Path(given.pickle or "")
    assert path.is_file()
    del given
    gc.collect()
    assert not path.exists()


def test_a_process_that_was_forked_removes_nothing_of_its_parents() -> None:
    given = give(plain)
    child = os.fork()
    if child == 0:
        try:
            del given
            gc.collect()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert Path(given.pickle or "").is_file()


def test_what_cannot_be_pickled_stays_and_says_so() -> None:
    lock = threading.Lock()

    def loss(logits: Tensor) -> Tensor:
        with lock:
            return logits.sum()

    given = give(loss)
    assert given.pickle is None
    assert given.stays.startswith("it cannot be pickled (")
    assert "lock" in given.stays
    assert target(given).object is loss


def test_it_stays_if_it_is_asked_to() -> None:
    given = give(plain, stays=True)
    assert (given.pickle, given.stays) == (None, "in_process was asked for")


def test_nothing_of_the_pickling_stays_registered() -> None:
    import cloudpickle

    before = set(cloudpickle.list_registry_pickle_by_value())
    give(made(2.0))
    assert set(cloudpickle.list_registry_pickle_by_value()) == before


# Installed packages ------------------------------------------------------------------------------------------------

LIBRARY = """
from torch import nn

def helper(x):
    return x.sum()

class Loss(nn.Module):
    def forward(self, logits):
        return 2 * helper(logits)
"""


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[types.ModuleType]:
    """A module in a folder of installed packages."""
    site = tmp_path / "site-packages"
    site.mkdir()
    (site / "sp_installed.py").write_text(LIBRARY)
    monkeypatch.syspath_prepend(str(site))
    yield importlib.import_module("sp_installed")
    del sys.modules["sp_installed"]


def test_an_installed_package_is_imported_there_by_name(library: Any, tmp_path: Path) -> None:
    for found in (library.Loss(), lambda logits: 2 * library.helper(logits)):
        given = give(found)
        assert b"sp_installed" in Path(given.pickle or "").read_bytes()
        assert elsewhere(given, tmp_path) == 6.0
    assert name_of(library.Loss()) == "sp_installed:Loss()"


@pytest.mark.parametrize("what", ["Loss.forward", "helper"])
def test_a_patch_of_an_installed_package_is_refused(
    what: str, library: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, _, name = what.rpartition(".")
    patched = (lambda self, logits: -logits.sum()) if owner else (lambda logits: -logits.sum())
    monkeypatch.setattr(getattr(library, owner) if owner else library, name, patched)
    given = give(library.Loss())
    with Worker(target(given), WorkerSettings(cwd=str(tmp_path))) as worker, pytest.raises(LoadFailure) as caught:
        worker.describe()
    assert (caught.value.reason, caught.value.is_usage) == ("other code", True)
    assert "was patched after it was imported" in caught.value.message


def test_the_hint_for_a_patched_package_works(library: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def patched() -> Any:
        import sp_installed  # type: ignore[import-not-found]

        sp_installed.helper = lambda x: -x.sum()
        return sp_installed.Loss()

    given = give(patched)
    with Worker(Candidate("it", "patched", given=given, init={}).target, WorkerSettings(cwd=str(tmp_path))) as worker:
        found = worker.call(Call({"logits": LOGITS}))
        assert isinstance(found, Returned), found
        assert float(found.value) == -6.0
    assert library.helper(LOGITS) == 3.0  # not patched here


# Names -------------------------------------------------------------------------------------------------------------


def test_an_object_is_called_by_its_file_and_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parent)
    assert name_of(plain) == "test_given.py:plain"
    assert name_of(Loss(1.0)) == "test_given.py:Loss()"
    assert name_of(Loss(1.0).method) == "test_given.py:Loss().method"
    assert name_of(functools.partial(plain)) == "test_given.py:partial(plain)"
    assert name_of(torch.compile(plain, backend="eager")) == "test_given.py:plain"
    assert name_of(made(1.0)) == "test_given.py:made.<locals>.loss"
    assert name_of(len) == "len"


def test_only_what_another_process_finds_by_its_name_has_one() -> None:
    assert give(plain, stays=True).has_name
    assert give(Loss, stays=True).has_name
    assert not give(made(1.0), stays=True).has_name
    assert not give(Loss(1.0), stays=True).has_name
    assert not give(functools.partial(plain), stays=True).has_name


def test_the_branches_of_a_closure_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = 1

    def loss(logits: Tensor, labels: Tensor, num_items_in_batch: int | None = None) -> Tensor:
        rows, targets = logits[:, :-first].flatten(0, 1).float(), labels[:, first:].flatten()
        if num_items_in_batch is None:
            return nn.functional.cross_entropy(rows, targets)
        return nn.functional.cross_entropy(rows, targets, reduction="sum") / num_items_in_batch

    found = shiftproof.check(loss, spec="hf.causal_lm", profile="brief", seed=1, dtypes=["float32"])
    assert found, str(found)
    branches = found.worst.branches
    assert branches is not None
    assert (branches.both, branches.unread) == (1, "")
