"""What counts as other code, and what does not."""

from __future__ import annotations

import functools
import importlib
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from shiftproof.harness.worker.fingerprint import changed, fingerprint

LIBRARY = {
    "__init__.py": """
from . import inner
from .inner import helper

def __getattr__(name):
    if name == "late":
        globals()["late"] = inner.scaled
        return inner.scaled
    raise AttributeError(name) if name != "broken" else ImportError(name)
""",
    "inner.py": """
def helper(x):
    return x + 1

def scaled(x, by=2):
    return helper(x) * by

class Base:
    def __call__(self, x):
        return self.inside(x)

    @property
    def inside(self):
        return helper

class Loss(Base):
    def __call__(self, x):
        return super().__call__(x)

TABLE = {"scaled": scaled}
loss = Loss()

def chooses(x):
    return x in {"a", "b", "c", "d"} and (lambda y: y + 1)(2)
""",
}


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[types.ModuleType]:
    """A package like an installed one."""
    folder = tmp_path / "patched_library"
    folder.mkdir()
    for name, text in LIBRARY.items():
        (folder / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("patched_library")
    for name in [name for name in sys.modules if name.startswith("patched_library")]:
        del sys.modules[name]


def other(x: Any) -> Any:
    return x - 1


def loss_of(library: types.ModuleType) -> Callable[[Any], Any]:
    def loss(x: Any) -> Any:
        return library.inner.scaled(x)

    return loss


def test_a_function_is_marked_by_its_name_and_so_is_what_it_reads(library: Any) -> None:
    marks = fingerprint(library.inner.scaled)
    assert set(marks) == {"patched_library.inner.scaled", "patched_library.inner.helper"}
    assert len(set(marks.values())) == 2
    assert changed(marks, library.inner.scaled) == ""


@pytest.mark.parametrize("around", [lambda f: f, lambda f: functools.partial(f, by=3), lambda f: lambda x: f(x)])
def test_a_patched_function_is_found_through_what_reads_it(
    around: Callable[[Any], Any], library: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = around(library.inner.scaled)
    marks = fingerprint(found)
    monkeypatch.setattr(library.inner, "helper", other)
    assert changed(marks, found) == "patched_library.inner.helper"


@pytest.mark.parametrize(
    ("patched", "reads"),
    [
        ("Base.__call__", lambda inner: lambda x: inner.Loss()(x)),
        ("Base.__call__", lambda inner: lambda x: inner.loss(x)),
        ("Base.__call__", lambda inner: inner.loss),
        ("Base.__call__", lambda inner: inner.loss.__call__),
        ("Base.__call__", lambda inner: type("Own", (inner.Loss,), {})()),
        ("Base.inside", lambda inner: inner.Loss()),
        ("TABLE.scaled", lambda inner: lambda x: inner.TABLE["scaled"](x)),
    ],
)
def test_a_patched_method_and_a_patched_table_are_found(
    patched: str, reads: Callable[[Any], Any], library: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = reads(library.inner)
    marks = fingerprint(found)
    assert changed(marks, found) == ""
    owner, _, name = patched.partition(".")
    if owner == "TABLE":
        monkeypatch.setitem(library.inner.TABLE, name, other)
    else:
        changes = property(other) if name == "inside" else other
        monkeypatch.setattr(getattr(library.inner, owner), name, changes)
    assert changed(marks, found).rpartition(".")[2] == name


def test_what_a_lazy_package_has_not_imported_yet_is_no_difference(library: Any) -> None:
    def loss(x: Any) -> Any:
        return library.late(x) if x else library.broken(x)

    marks = fingerprint(loss)
    assert "patched_library.inner.scaled" in marks
    assert changed(marks, loss) == ""  # now that it is imported
    del library.late
    assert changed(marks, loss) == ""  # as in a process that has just begun


def test_a_function_behind_a_decorator_is_found(library: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    @functools.wraps(library.inner.scaled)
    def decorated(*arguments: Any) -> Any:
        return None

    marks = fingerprint(decorated)
    assert "patched_library.inner.helper" in marks
    monkeypatch.setattr(library.inner, "helper", other)
    assert changed(marks, decorated)


def test_a_forward_that_was_replaced_is_other_code(monkeypatch: pytest.MonkeyPatch) -> None:
    class Part(nn.Module):
        def forward(self, x: Any) -> Any:
            return x

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = Part()

        def forward(self, x: Any) -> Any:
            return self.part(x)

        def step(self, x: Any) -> Any:
            return self(x)

    for found in (Whole(), Whole().step):
        marks = fingerprint(found)
        assert changed(marks, found) == ""
        with monkeypatch.context() as patch:
            patch.setattr(Part, "forward", lambda self, x: -x)
            assert changed(marks, found).endswith("Part.forward")


def test_a_call_of_an_object_is_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    class Loss:
        def __call__(self, x: Any) -> Any:
            return x

    marks = fingerprint(Loss())
    assert len(marks) == 1
    monkeypatch.setattr(Loss, "__call__", lambda self, x: -x)
    assert changed(marks, Loss())


def compiled(text: str, file: str = "<a>") -> Callable[..., Any]:
    names: dict[str, Any] = {"__name__": "somewhere"}
    exec(compile(text, file, "exec"), names)
    found: Callable[..., Any] = names["f"]
    return found


def test_the_name_of_an_attribute_is_not_that_of_a_function_of_the_module() -> None:
    """A pickle brings the functions that are read, and not others that happen to have such a name."""
    found = compiled("def inner(): return 1\ndef f(x): return x.inner + (lambda: x.inner)()")
    assert [name.rpartition(".")[2] for name in fingerprint(found)] == ["f"]


@pytest.mark.parametrize(
    ("other", "differs"),
    [
        ("\n\n# moved\ndef f(x, y=1): return x + (lambda z: z * 2)(y)", False),
        ("def f(x, y=1): return x - (lambda z: z * 2)(y)", True),
        ("def f(x, y=1): return x + (lambda z: z * 3)(y)", True),
        ("def f(x, y=1): return g + (lambda z: z * 2)(y)", True),
    ],
)
def test_lines_and_files_do_not_count_and_what_is_done_does(other: str, differs: bool) -> None:
    marks = fingerprint(compiled("def f(x, y=1): return x + (lambda z: z * 2)(y)"))
    assert bool(changed(marks, compiled(other, "<b>"))) is differs


def test_it_is_the_same_in_another_process(library: Any, tmp_path: Path) -> None:
    """Where sets have another order: `chooses` has one among its constants."""
    source = Path(sys.modules[fingerprint.__module__].__file__ or "").parent
    script = (
        "import sys, importlib.util\n"
        f"spec = importlib.util.spec_from_file_location('marks', {str(source / 'fingerprint.py')!r})\n"
        "module = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        "import patched_library\n"
        "print(*module.fingerprint(patched_library.inner.chooses).values())\n"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", script], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert told == set(fingerprint(library.inner.chooses).values())


def test_what_nobody_patches_is_left_out() -> None:
    def loss(x: Any) -> Any:
        return functools.reduce(nn.functional.relu, [x])

    assert [name.rpartition(".")[2] for name in fingerprint(loss)] == ["loss"]


def test_functions_that_call_each_other_come_to_an_end(library: Any) -> None:
    found = compiled("def f(x): return g(x)\ndef g(x): return f(x)")
    assert set(fingerprint(found)) == {"somewhere.f", "somewhere.g"}


def test_a_cell_that_is_empty_is_nothing_to_read() -> None:
    def outer() -> Callable[[], Any]:
        def loss() -> Any:
            return later

        if outer is None:
            later = 1
        return loss

    assert len(fingerprint(outer())) == 1
