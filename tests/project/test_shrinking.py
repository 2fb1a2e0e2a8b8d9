"""The comparison of two shrinkers: both keep the way in which a case fails, and the table counts what they found."""

from typing import Any

from shiftproof.harness.kill_table.subjects import subjects
from shiftproof.reference.profiles import PROFILES


def test_both_find_a_case_that_fails_in_the_same_way(scripts: Any) -> None:
    subject = next(each for each in subjects(PROFILES["hf.causal_lm"]) if each.name == "double-shift")
    found = scripts.shrinking.compare("hf.causal_lm", subject)
    assert found.law == "ALIGN-1"
    assert found.ours.size <= found.theirs.size <= found.first
    assert found.ours.judged > 1
    assert found.theirs.judged > 1


def test_the_table_counts_who_found_the_smaller_case(scripts: Any) -> None:
    def compared(ours: int | None, theirs: int | None) -> Any:
        shrunk = scripts.shrinking.Shrunk
        return scripts.shrinking.Compared("s", "b", "L-1", 40, shrunk(ours, 2, 0.5), shrunk(theirs, 4, 0.25))

    tables = scripts.shrinking.as_tables([compared(4, 8), compared(8, 4), compared(4, 4), compared(4, None)])
    assert "| finds no such case | 0 | 1 |" in tables["summary"]
    assert "| its case is the smaller one | 2 | 1 |" in tables["summary"]
    assert "| median judgements | 2 | 4 |" in tables["summary"]
    assert "| median seconds | 0.50 | 0.25 |" in tables["summary"]
    assert "| s | b | L-1 | 40 | 4 | 2 | 0.50 | none | 4 | 0.25 |" in tables["bugs"]


def test_bugs_are_spread_over_all_names(scripts: Any) -> None:
    found = [subject.name for subject in scripts.shrinking.bugs("hf.causal_lm", 5)]
    assert len(set(found)) == 5
    assert found == sorted(found)
