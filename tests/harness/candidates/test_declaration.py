"""Naming and declaring candidates: what is read, and one clear sentence for everything that cannot be."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from shiftproof.harness.candidates import declaration as candidate_module
from shiftproof.harness.candidates.declaration import Candidate, UsageError, declared_in, resolve


def declare(folder: Path, text: str) -> dict[str, Candidate]:
    path = folder / "pyproject.toml"
    path.write_text(text, encoding="utf-8")
    return declared_in(path)


TEXT = '[tool.shiftproof.candidates.text]\ncall = "m:f"\n'


def test_a_call_is_all_that_must_be_declared(tmp_path: Path) -> None:
    assert declare(tmp_path, TEXT) == {"text": Candidate(name="text", call="m:f", cwd=str(tmp_path.resolve()))}


def test_everything_that_can_be_declared(tmp_path: Path) -> None:
    found = declare(
        tmp_path,
        """
        [tool.shiftproof.candidates.audio]
        call = "losses.py:audio"
        spec = "preshifted"
        dtypes = ["float32", "bfloat16"]
        devices = ["cpu", "cuda"]
        precision = "native"
        rename = { logits = "x" }
        gradient = false
        python = "/opt/python"
        cwd = "/srv"
        expect = "fails"
        diagnosis = "double-shift"
        """,
    )
    assert found["audio"] == Candidate(
        name="audio",
        call="losses.py:audio",
        spec="preshifted",
        dtypes=("float32", "bfloat16"),
        devices=("cpu", "cuda"),
        precision="native",
        rename={"logits": "x"},
        gradient=False,
        python="/opt/python",
        cwd="/srv",
        expect="fails",
        diagnosis="double-shift",
    )


def test_candidates_keep_their_order_and_the_rest_of_the_file_is_not_ours(tmp_path: Path) -> None:
    other = '[tool.shiftproof.candidates.a]\ncall = "m:g"\n[tool.ruff]\nshiftproof = 1\n[project]\nname = "x"\n'
    assert list(declare(tmp_path, TEXT + other)) == ["text", "a"]


@pytest.mark.parametrize(
    "text", ["", "[project]\nname = 'x'\n", "[tool.shiftproof]\n", "[tool.shiftproof.candidates]\n"]
)
def test_nothing_declared_is_nothing_found(tmp_path: Path, text: str) -> None:
    assert declare(tmp_path, text) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[tool.shiftproof\n", r"is not valid TOML: .*line 1"),
        (
            "[tool.shiftproof.candidate.text]\n",
            r"\[tool.shiftproof\] has no key 'candidate' \(did you mean 'candidates'\?\)",
        ),
        (
            "[tool.shiftproof]\ncandidates = 3\n",
            r"candidates is not a table; write \[tool.shiftproof.candidates.NAME\]",
        ),
        ("[tool.shiftproof.candidates]\ntext = 'm:f'\n", r"candidates.text\] is not a table; write call = "),
        (TEXT + "device = ['cpu']\n", r"has no key 'device' \(did you mean 'devices'\?\); it has call, spec, "),
        (TEXT + "zzzzzz = 1\n", r"has no key 'zzzzzz'; it has call"),
        (TEXT + "spec = 3\n", r"text\]: spec is 3; expected a TOML string"),
        (TEXT + "dtypes = 'float32'\n", r"dtypes is 'float32'; expected a TOML array"),
        (TEXT + "rename = 'x'\n", r"rename is 'x'; expected a TOML table"),
        (TEXT + "gradient = 0\n", r"gradient is 0; expected a TOML boolean"),
        (
            TEXT + "dtypes = ['float32', 'bfloat']\n",
            r"dtypes has 'bfloat'.* \(did you mean 'bfloat16'\?\); it takes float32, ",
        ),
        (
            TEXT + "precision = 'strikt'\n",
            r"precision has 'strikt'.* \(did you mean 'strict'\?\); it takes strict, native",
        ),
        (
            TEXT + "expect = 'conform'\n",
            r"expect has 'conform'.* \(did you mean 'conforms'\?\); it takes conforms, fails",
        ),
        ("[tool.shiftproof.candidates.text]\nspec = 'sum'\n", r'text\] has no call; write call = "package.module:fun'),
        ("tool = 3\n", r"tool.shiftproof is not a table; write \[tool.shiftproof.candidates.NAME\]"),
        ("[tool]\nshiftproof = 3\n", r"tool.shiftproof is not a table; write \[tool.shiftproof.candidates.NAME\]"),
        (TEXT + "devices = [1]\n", r"text\]: devices holds 1; expected strings"),
        (TEXT + "dtypes = []\n", r"text\]: dtypes is empty; name at least one, or leave it out"),
        (TEXT + "rename = { logits = 3 }\n", r"text\]: rename holds 3; expected strings"),
        *(
            (
                f"[tool.shiftproof.candidates.text]\ncall = '{half}'\n",
                rf"text\]: call is '{half}'; expected package.module:function or path/file.py:function",
            )
            for half in ("no_colon", "module:", ":function")
        ),
    ],
)
def test_what_cannot_be_declared_is_said_in_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        declare(tmp_path, text)
    assert str(caught.value).startswith(str(tmp_path / "pyproject.toml"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "message"),
    [("binary", "binary is not valid TOML: .*utf-8"), ("folder", "folder cannot be read: .*; give the")],
)
def test_what_is_no_text_file(tmp_path: Path, kind: str, message: str) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match=message):
        declared_in(tmp_path / kind)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"pyproject.toml does not exist; give the path of a TOML file"):
        declared_in(tmp_path / "pyproject.toml")


DECLARED = {"text": Candidate(name="text", call="m:f", spec="sum")}


def test_a_declared_name_is_that_candidate() -> None:
    assert resolve("text", DECLARED) is DECLARED["text"]


def test_an_installed_entry_point_is_found_and_a_declared_one_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    offered = [EntryPoint(name, "pkg.losses:f", "shiftproof.candidates") for name in ("text", "theirs")]
    monkeypatch.setattr(candidate_module, "entry_points", lambda group: offered if group.startswith("shiftp") else [])
    assert resolve("theirs", DECLARED) == Candidate(name="theirs", call="pkg.losses:f")
    assert resolve("text", DECLARED) is DECLARED["text"]


@pytest.mark.parametrize("call", ["package.module:loss", "package.module:Class.method", "nowhere:x"])
def test_a_call_is_a_candidate_that_nobody_declared(call: str) -> None:
    assert resolve(call, {}) == Candidate(name=call, call=call)


def test_a_file_is_looked_for_at_once(tmp_path: Path) -> None:
    (tmp_path / "my_losses.py").write_text("")
    target = f"{tmp_path / 'my_losses.py'}:text"
    assert resolve(target, {}).call == target
    with pytest.raises(UsageError, match=r"my_loses.py does not exist.* \(did you mean '.*my_losses.py'\?\)"):
        resolve(f"{tmp_path / 'my_loses.py'}:text", {})
    with pytest.raises(UsageError, match=r"nowhere/f.py does not exist$"):
        resolve(f"{tmp_path / 'nowhere' / 'f.py'}:text", {})


def test_a_path_without_its_function() -> None:
    with pytest.raises(UsageError, match=r"neither .* of the form .*; name the function in it, as losses.py:my_loss"):
        resolve("losses.py", {})


def test_a_name_that_nobody_declared() -> None:
    with pytest.raises(UsageError, match=r"^'txet' is neither .* \(did you mean 'text'\?\)"):
        resolve("txet", DECLARED)
    with pytest.raises(UsageError, match=r"path/file.py:attribute$"):
        resolve("qqq", DECLARED)


@pytest.mark.parametrize("target", ["", ":", "module:", ":attribute", "losses.py:"])
def test_half_a_call_is_none(target: str) -> None:
    with pytest.raises(UsageError, match="neither a declared candidate nor of the form"):
        resolve(target, {})
