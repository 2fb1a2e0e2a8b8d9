"""Every driver against plain arithmetic on a batch made by hand: that it asks its package what its profile says.

The session `tests` installs the packages that are light, and their drivers must answer there; the others are asked in
`peers`.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import torch

from . import drivers_ahead, drivers_audio, drivers_text
from .packages import Missing
from .peer import PEERS, Cannot, Peer
from .plain import KINDS, work

MODULES = (drivers_ahead, drivers_audio, drivers_text)  # imported, they register
GROUPS = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]
LIGHT = {"torch", *(requirement.partition(">")[0] for requirement in GROUPS["peers-light"])}


def needs_no_more(one: Peer) -> bool:
    """Whether a row's package is light, and what is asked of it needs no interpreter of kernels."""
    return one.distribution in LIGHT and not one.interpreted


ROWS = [
    pytest.param(
        one, kind, id=f"{one.profile}-{one.name}-{kind}", marks=() if needs_no_more(one) else pytest.mark.peers
    )
    for one in PEERS
    for kind in KINDS
]


@pytest.mark.parametrize(("one", "kind"), ROWS)
def test_a_driver_asks_what_its_profile_says(one: Peer, kind: str) -> None:
    right = work(one, kind)
    try:
        found = one.ask(right.batch)
    except Missing as reason:
        if needs_no_more(one):
            raise
        pytest.skip(str(reason))
    except Cannot as reason:
        pytest.skip(str(reason))
    value = right.value
    if one.profile == "per_token" and one.options.get("shift") != 0:  # where the logits lie, and 0 in the last column
        value = torch.nn.functional.pad(value, (0, 1))
    torch.testing.assert_close(found.value.double(), value, rtol=2e-6, atol=2e-6, equal_nan=True)
    if value.isnan().any():  # what the gradient of NaN is, no profile says
        return
    narrow = "float32" not in one.dtypes
    for name, gradient in found.gradients.items():
        torch.testing.assert_close(
            gradient.double(), right.gradients[name], rtol=1e-3 if narrow else 2e-5, atol=2e-7, msg=name
        )
