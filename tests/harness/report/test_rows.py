"""Several candidates: a row for each, and the end of the report."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shiftproof.harness.branches import Branches
from shiftproof.harness.report.events import CandidateJudged
from shiftproof.harness.results import CandidateResult, Coverage, NamedBug, Overall

from .made_up import BAD, COVERED, GOOD, KNOWN, MESSAGE, NEVER, finished, lines, shown, started, whole

CLEAN = replace(COVERED, candidate="right", dtypes=("float32",))


def test_rows_are_a_table_whose_columns_are_known_before_the_first() -> None:
    text = whole(CLEAN, replace(KNOWN, candidate="a-longer-name", dtypes=("float32", "bfloat16")))
    assert text[:5] + text[7:] == [
        "shiftproof 0.1.0 · seed 7 · 2 candidates, profile quick",
        "candidate      spec          dtypes    cases      s  verdict on cpu",
        "right          hf.causal_lm  f32         120    2.0  conforms",
        "a-longer-name  hf.causal_lm  f32+bf16     83    2.0  fails as expected: double-shift",
        "",
        "all 2 are as expected: 1 conforms and 1 fails · 203 cases in 3.0 s",
    ]
    assert text[5].startswith(
        "  those that conform were judged up to B=128 S=8193 V=128000, under loss scale, no_grad, inference_mode"
    )


def test_the_end_says_how_far_those_that_conform_were_judged() -> None:
    less = replace(CLEAN, laws=CLEAN.laws[:2], coverage=Coverage({}, largest={"B": 8, "S": 8193, "K": 4}))
    assert " ".join(" ".join(whole(CLEAN, less, KNOWN)[6:-1]).split()) == (
        "those that conform were judged up to B=8…128 S=8193 V=128000 K=4, under loss scale, no_grad, "
        "inference_mode (1 of 2), two losses at once (1 of 2), frozen logits (1 of 2), "
        "autocast (1 of 2); -v says more of each"
    )


def test_several_devices_have_a_column() -> None:
    heading, row = whole(CLEAN, replace(CLEAN, device="cuda:1"))[1:3]
    assert heading.split()[2:4] == ["device", "dtypes"]
    assert row.split()[2] == "cpu"


def test_only_what_is_not_expected_is_explained_and_is_named_again_at_the_end() -> None:
    text = whole(KNOWN, BAD, CLEAN)
    assert lines("\n".join(text)).count(MESSAGE) == 1
    assert text[-2:] == [
        "  bad.py:loss against hf.causal_lm: DOES NOT CONFORM: double-shift; shiftproof replay f340a7fb",
        "1 of 3 are not as expected: 1 conforms and 2 fail · 286 cases in 3.0 s",
    ]


@pytest.mark.parametrize(
    ("result", "row", "again"),
    [
        (
            replace(KNOWN, expected_diagnosis="no-shift"),
            "FAILS: double-shift; expected to fail as no-shift",
            "DOES NOT CONFORM: double-shift, expected to fail as no-shift; shiftproof replay f340a7fb",
        ),
        (replace(CLEAN, expect="fails"), "conforms; expected to fail", "CONFORMS, expected to fail"),
        (
            replace(BAD, diagnosis=(), laws=(replace(BAD.laws[1], message="was killed by SIGSEGV"),)),
            "FAILS: ALIGN-1: was killed by SIGSEGV",
            "DOES NOT CONFORM: ALIGN-1: was killed by SIGSEGV; shiftproof replay f340a7fb",
        ),
        (
            replace(
                BAD,
                diagnosis=(),
                laws=(replace(BAD.laws[1], message="x " * 90),),
                expect="fails",
                expected_diagnosis="no-shift",
            ),
            "…; expected to fail as no-shift",
            "DOES NOT CONFORM: ALIGN-1, expected to fail as no-shift; shiftproof replay f340a7fb",
        ),
        (
            replace(GOOD, verdict=Overall.ERROR, laws=(), message="importing it raised a very long " + "story " * 20),
            "COULD NOT BE JUDGED: importing it raised a very long story",
            "COULD NOT BE JUDGED: importing it raised a very long story story",
        ),
        (
            replace(GOOD, verdict=Overall.INCONCLUSIVE, coverage=Coverage(dict.fromkeys("abcd", 0), due_after=3)),
            "INCONCLUSIVE: 4 cells not judged",
            "INCONCLUSIVE: 4 cells not judged",
        ),
    ],
)
def test_what_is_not_as_expected(result: CandidateResult, row: str, again: str) -> None:
    text = whole(result, CLEAN)
    assert row in text[2]
    assert again in text[-2]
    assert max(map(len, (text[2], text[-2]))) <= 120


def test_all_that_conform() -> None:
    assert whole(CLEAN, CLEAN)[-1] == "all 2 conform · 240 cases in 3.0 s"
    assert whole(CLEAN, BAD)[-1] == "1 of 2 do not conform: 1 conforms and 1 fails · 203 cases in 3.0 s"


def test_names_are_never_broken() -> None:
    name = "/somewhere/far/away/" + "deep/" * 20 + "losses.py:text_loss"
    long = replace(
        BAD, candidate=name, spec="packed.position_ids", diagnosis=(replace(BAD.diagnosis[0], mutant="x" * 50),)
    )
    for text in (whole(long, CLEAN, width=100), whole(long, width=100)):
        assert any(name in line for line in text)
        assert any("x" * 50 in line for line in text)


def test_what_limits_one_that_conforms_is_told_in_full_below_the_rows() -> None:
    limited = replace(
        *(CLEAN,),
        candidate="a-candidate-with-a-long-name",
        branches=Branches((replace(NEVER, condition="torch.is_autocast_enabled() and more"),)),
        scope=("only sizes that it requires: length>=128 (the kernel's tile)",),
    )
    text = whole(limited, CLEAN)
    assert text[2].endswith("conforms, except losses.py:52…")
    assert text[5].startswith(
        "  a-candidate-with-a-long-name: except losses.py:52 (torch.is_autocast_enabled() and more"
    )
    assert max(map(len, text)) <= 120


# --- the declared candidates of this project --------------------------------------------------------------------------


def declared(**of_each: object) -> tuple[CandidateResult, ...]:
    """31 results with the longest names that pyproject.toml has; each second one fails as expected."""
    bug = NamedBug("all-ignored-nan-gradient", 1.0, "", "its gradient is NaN", "torch")
    right = replace(
        CLEAN, candidate="higgs-published-fix-preshifted", spec="torch.linear_cross_entropy", dtypes=COVERED.dtypes
    )
    wrong = replace(
        *(KNOWN,),
        candidate="torch-linear-chunked",
        spec="torch.linear_cross_entropy",
        diagnosis=(bug,),
        expected_diagnosis=bug.mutant,
    )
    return tuple(replace(wrong if index % 2 else right, **of_each) for index in range(31))  # type: ignore[arg-type]


def test_the_declared_candidates_take_a_row_each() -> None:
    text = whole(*declared())
    assert len(text) <= 37
    assert max(map(len, text)) <= 120
    assert text[3].endswith("expected: all-ignored-nan-gradient")
    assert text[-1].startswith("all 31 are as expected: 16 conform and 15 fail · ")


def test_they_fit_sixty_lines_whatever_limits_them() -> None:
    text = whole(*declared(branches=Branches((NEVER,) * 9), scope=("a limit " * 40,) * 9))
    assert len(text) <= 60
    assert max(map(len, text)) <= 120
    assert any("more of these (-v shows all)" in line for line in text)


# --- more and less ----------------------------------------------------------------------------------------------------


def test_quiet_is_the_last_line() -> None:
    assert whole(CLEAN, BAD, verbosity=-1) == ["1 of 2 do not conform: 1 conforms and 1 fails · 203 cases in 3.0 s"]


def test_more_shows_the_findings_of_each() -> None:
    text = "\n".join(whole(CLEAN, KNOWN, verbosity=1))
    assert "right against hf.causal_lm: CONFORMS" in text
    assert "the bug is called double-shift" in text
    assert text.count("law ") == 2


def test_a_run_that_was_not_announced_has_its_end_all_the_same() -> None:
    assert shown(finished(GOOD, BAD)).splitlines()[-1].startswith("1 of 2 do not conform")
    assert shown(started(GOOD), CandidateJudged(GOOD), finished(GOOD)).count("\n") == 3
