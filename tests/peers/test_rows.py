"""The rows of docs/peers.md without their packages: every profile has one, and the reference is what the row's plain
arithmetic says. A change of a profile that its packages do not follow is seen here, in the fast tests."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from shiftproof.reference.oracle import evaluate
from shiftproof.reference.pairing import build_pairing
from shiftproof.reference.profiles import PROFILES

from . import drivers_ahead, drivers_audio, drivers_text
from .absent import HAND_WORKED
from .peer import DTYPES, PEERS, Peer
from .plain import KINDS, PLAIN, work
from .table import row_of, varied

MODULES = (drivers_ahead, drivers_audio, drivers_text)  # imported, they register
EXAMPLES = Path(__file__).parents[1] / "reference" / "test_profiles.py"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("one", [one for one in PEERS if not one.differs], ids=row_of)
def test_the_reference_is_the_plain_arithmetic_of_a_row(one: Peer, kind: str) -> None:
    right = work(one, kind)
    oracle = evaluate(build_pairing(one.spec, right.batch), right.batch)
    value = oracle.per_token.sum() if oracle.value is None else torch.tensor(oracle.value, dtype=torch.float64)
    torch.testing.assert_close(value, right.value.sum(), rtol=1e-9, atol=1e-12, equal_nan=True)
    if value.isnan():  # what the gradient of NaN is, no profile says
        return
    for name, gradient in oracle.gradients.items():
        torch.testing.assert_close(gradient, right.gradients[name], rtol=1e-6, atol=1e-9, msg=name)


@pytest.mark.parametrize("one", [one for one in PEERS if one.differs], ids=row_of)
def test_the_reference_is_not_what_a_package_that_differs_computes(one: Peer) -> None:
    right = work(one, "some")
    oracle = evaluate(build_pairing(one.spec, right.batch), right.batch)
    assert oracle.value is not None
    assert abs(oracle.value - float(right.value)) > 0.01


def test_every_profile_of_a_row_is_written_once_more() -> None:
    assert {one.profile for one in PEERS} == set(PLAIN)


def test_every_profile_is_accounted_for() -> None:
    by_a_package = {name for peer in PEERS for name in (peer.profile, *peer.profiles)}
    assert by_a_package | set(HAND_WORKED) == set(PROFILES)
    assert not by_a_package & set(HAND_WORKED)


@pytest.mark.parametrize("profile", [*HAND_WORKED, *varied(PEERS)])
def test_a_profile_without_a_package_of_its_own_has_a_hand_worked_example(profile: str) -> None:
    assert f'"{profile}"' in EXAMPLES.read_text(encoding="utf-8")


def test_rows_have_names_of_their_own() -> None:
    assert max(Counter(row_of(peer) for peer in PEERS).values()) == 1


def test_a_row_out_of_the_ordinary_says_why() -> None:
    odd = [
        peer
        for peer in PEERS
        if peer.compute or peer.differs or peer.nan_everywhere or peer.within or peer.dtypes != DTYPES
    ]
    assert odd
    assert not [row_of(peer) for peer in odd if not peer.note]
