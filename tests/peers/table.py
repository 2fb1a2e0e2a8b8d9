"""docs/peers.md, as `nox -s peers` writes it: what every package's loss was found to be."""

from __future__ import annotations

import math
import platform
from collections.abc import Iterable, Mapping
from dataclasses import fields

import torch

from shiftproof.reference.profiles import PROFILES
from shiftproof.reference.spec import LossTerm, Score

from .absent import ABSENT, BUGS, HAND_WORKED
from .judged import Judged
from .packages import Missing, version_of
from .peer import Peer

Results = Mapping[tuple[str, str], Judged]
"""(`row_of` a peer, dtype) -> what was found."""

HEAD = """# Other people's losses against the reference

Written by `nox -s peers` on {date}, with torch {torch} and Python {python}, on the CPU of a {machine} machine;
kernels written in Triton ran in its interpreter. Not to be edited.

Every row is a function of a published package, called on drawn cases: text or codes of 2 to 17 positions, 2 to 257
classes, masks of every kind, logits that are calm, ordinary, near one-hot, tied, or ±1e4. Its value and every element
of every gradient were compared with the float64 reference. *Error / bound* is the worst difference in units of what
[the derived bounds](../harness/bounds/compare.py) allow a right implementation of that arithmetic: above 1 the row
fails.
*strict* accumulates in fp32, *native* computes in the dtype of the logits. *what* is the function, with settings of
the package's own in brackets; *profile* is what it was held to, as `shiftproof list profiles` has it, with what was
changed.

{rows} rows, {cases} cases, {seconds} s. Worst error / bound: value {value}, gradient {gradient}.
"""

COLUMNS = (
    "package",
    "version",
    "what",
    "profile",
    "compute",
    "cases",
    "value fp32",
    "value bf16",
    "gradient fp32",
    "gradient bf16",
    "note",
)


def row_of(peer: Peer) -> str:
    """What names a row: no two peers share it."""
    return f"{peer.profile}-{peer.name}"


def is_complete(peers: Iterable[Peer], results: Results) -> bool:
    """Whether every row was asked, under every dtype."""
    return all((row_of(peer), dtype) in results for peer in peers for dtype in peer.dtypes)


def varied(peers: Iterable[Peer]) -> list[str]:
    """The profiles that rows speak for only with something changed."""
    peers = list(peers)
    plain = {name for peer in peers for name in peer.profiles}
    return sorted({peer.profile for peer in peers} - plain)


def render(peers: Iterable[Peer], results: Results, date: str, seconds: float) -> str:
    """The whole page."""
    rows = sorted(peers, key=lambda peer: (peer.distribution, peer.profile))
    ran = [peer for peer in rows if not any(results[row_of(peer), dtype].missing for dtype in peer.dtypes)]
    right = [results[row_of(peer), dtype] for peer in ran if not peer.differs for dtype in peer.dtypes]
    head = HEAD.format(
        date=date,
        torch=torch.__version__,
        python=platform.python_version(),
        machine=f"{platform.system()} {platform.machine()}",
        rows=len(ran),
        cases=sum(results[row_of(peer), dtype].cases for peer in ran for dtype in peer.dtypes),
        seconds=round(seconds),
        value=_ratio(max((judged.worst_value for judged in right), default=0.0)),
        gradient=_ratio(max((judged.worst_gradient for judged in right), default=0.0)),
    )
    missing = {
        f"{peer.distribution} `{peer.name}`": results[row_of(peer), peer.dtypes[0]].missing
        for peer in rows
        if peer not in ran
    }
    return "\n".join(
        [
            head,
            _line(COLUMNS),
            _line(["---"] * len(COLUMNS)),
            *(_line(_cells(peer, results)) for peer in ran),
            "",
            "## What did not run",
            "",
            _line(["system", "why"]),
            _line(["---"] * 2),
            *(_line(item) for item in {**missing, **ABSENT}.items()),
            "",
            "## Known differences",
            "",
            *(
                f"- {peer.distribution} `{peer.function}` differs from `{peer.profile}`, the loss that was meant: "
                f"{peer.note}. shiftproof's name for it, `{peer.differs}`, predicts its value and its gradient on "
                "every case, within the same bounds."
                for peer in ran
                if peer.differs
            ),
            *(f"- {where}: {what}" for where, what in BUGS.items()),
            "",
            "## Profiles that no package speaks for",
            "",
            "Each of these has a hand-worked example in `tests/reference/test_profiles.py` instead.",
            f"So have {_listed(varied(rows))}, which packages speak for only with the changes shown above.",
            "",
            _line(["profile", "why"]),
            _line(["---"] * 2),
            *(_line([f"`{profile}`", why]) for profile, why in HAND_WORKED.items()),
            "",
        ]
    )


def _cells(peer: Peer, results: Results) -> list[str]:
    found = {dtype: results[row_of(peer), dtype] for dtype in peer.dtypes}
    try:
        version = version_of(peer.distribution)
    except Missing:
        version = "–"
    refused = dict.fromkeys(reason for judged in found.values() for reason in judged.refused)
    notes = [f"differs, as published: {peer.note}; shiftproof: `{peer.differs}`" if peer.differs else peer.note]
    if refused:
        notes.append(f"other cases left out: {'; '.join(refused)}")
    ratios = [
        "differs" if peer.differs else _ratios(found, name, dtypes)
        for name in ("worst_value", "worst_gradient")
        for dtypes in (("float32",), ("bfloat16", "float16"))
    ]
    return [
        peer.distribution,
        version,
        f"`{peer.function}`{_settings(peer.variant)}",
        _profile(peer),
        str(peer.spec.compute),
        str(sum(judged.cases for judged in found.values())),
        *ratios,
        "; ".join(note for note in notes if note),
    ]


def _profile(peer: Peer) -> str:
    """The profile that promises what the row does, or the nearest and what the row changes of it."""
    same = peer.profiles
    if same:
        return f"`{same[0]}`"
    profile = PROFILES[peer.profile].terms[0]
    changed = {name: value for name, value in peer.options.items() if _of(profile, name) != value}
    return f"`{peer.profile}`{_settings(changed)}"


def _of(term: LossTerm, name: str) -> object:
    holder = term.score if name in {field.name for field in fields(Score)} else term
    return getattr(holder, name)


def _settings(settings: Mapping[str, object]) -> str:
    return f" [{', '.join(f'{name}={value}' for name, value in settings.items())}]" if settings else ""


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "none"


def _ratios(found: Mapping[str, Judged], name: str, dtypes: Iterable[str]) -> str:
    """A column's cell; the 16-bit column is bf16's, and says so where a row has fp16 instead."""
    cells = [
        _ratio(getattr(found[dtype], name)) + (" (fp16)" if dtype == "float16" else "")
        for dtype in dtypes
        if dtype in found
    ]
    return ", ".join(cells) or "–"


def _ratio(number: float) -> str:
    return "∞" if math.isinf(number) else f"{number:.2f}"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
