"""Shapes that a user names."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shiftproof.harness.candidates.shapes import parse_shape, read_shapes, shape_misfit
from shiftproof.reference.profiles import PROFILES


def test_shapes() -> None:
    assert read_shapes(["8,4096,128256", "2, 750, 8, 1026"]) == (
        {"rows": 8, "length": 4096, "classes": 128256},
        {"rows": 2, "length": 750, "codebooks": 8, "classes": 1026},
    )


@pytest.mark.parametrize("entry", ["8,4096", "8,0,5", "8x4096x5", "1,2,3,4,5", "text", 4096, ""])
def test_what_is_no_shape(entry: object) -> None:
    assert not isinstance(entry, str) or parse_shape(entry) is None
    with pytest.raises(ValueError, match="expected B,S,V or B,S,K,V"):
        read_shapes([entry])


@pytest.mark.parametrize(
    ("spec", "shape", "why"),
    [
        ("hf.causal_lm", "2,8,32000", ""),
        ("csm", "2,8,4,1026", ""),
        ("csm", "2,8,1026", "has codebooks or heads; give B,S,K,V"),
        ("hf.causal_lm", "2,8,4,1026", "has no codebooks or heads; give B,S,V"),
    ],
)
def test_whether_a_shape_fits_a_spec(spec: str, shape: str, why: str) -> None:
    assert shape_misfit(PROFILES[spec], read_shapes([shape])[0]) == why


def test_a_spec_may_fix_its_sizes() -> None:
    spec = PROFILES["csm"]
    fixed = replace(spec, terms=tuple(replace(term, codebooks=8, classes=1026) for term in spec.terms))
    assert shape_misfit(fixed, read_shapes(["2,9,8,1026"])[0]) == ""
    assert shape_misfit(fixed, read_shapes(["2,9,9,1026"])[0]) == "fixes K at 8, not 9"
    assert shape_misfit(fixed, read_shapes(["2,9,8,1025"])[0]) == "fixes V at 1026, not 1025"
