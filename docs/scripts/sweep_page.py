"""Write docs/sweep-VERSION.md from the file of a sweep: every alarm, and where the library makes that loss.

    python docs/scripts/sweep_page.py SWEEP.jsonl [--python EXE] [--since OLDER.jsonl]

In another dtype than float32, the page is called after that too, as docs/sweep-VERSION-bfloat16.md.

A person decided by reading those lines whether an alarm is a bug or a design. ``sweep_verdicts.toml`` keeps the
decisions by bug and, for special classes, by class. An alarm without a decision ends the script.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tomllib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1]
VERDICTS = Path(__file__).with_name("sweep_verdicts.toml")
LINES = Path(__file__).with_name("loss_lines.py")


def main(arguments: Sequence[str] | None = None, docs: Path = DOCS) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--python", help="the interpreter that has the library (default: that of the sweep)")
    parser.add_argument("--since", type=Path, help="the sweep of an earlier release, to write what changed since")
    options = parser.parse_args(arguments)
    header, rows, footer = read(options.file)
    alarms = [row for row in rows if row["laws"] or row["documentation"].startswith("against")]
    lines_of = sources(options.python or header["python"] or sys.executable, [row["target"] for row in alarms])
    verdicts = tomllib.loads(VERDICTS.read_text(encoding="utf-8"))
    unread = [row for row in alarms if decided(row, verdicts) is None]
    for row in unread:
        file, line, block = lines_of[row["target"]]
        print(f"{row['target']} {row['diagnosis'] or row['laws']}: {row['reason']}\n  {file}:{line}")
        print("\n".join(block), end="\n\n")
    if unread:
        print(f"{len(unread)} of {len(alarms)} alarms have no verdict in {VERDICTS.name}", file=sys.stderr)
        return 1
    version = header["versions"][header["package"]]
    dtype = "" if header["dtype"] == "float32" else f"-{header['dtype']}"
    page = docs / f"sweep-{version}{dtype}.md"
    text = written(header, footer, rows, alarms, lines_of, verdicts)
    if options.since is not None:
        older, rows_before, _ = read(options.since)
        text += changes(older["versions"][older["package"]], rows_before, rows)
    page.write_text(text, encoding="utf-8")
    print(page)
    return 0


def read(file: Path) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any]]:
    """Return the header of a sweep's file, its rows in the order of the classes, and its footer."""
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    header = next(line["header"] for line in lines if "header" in line)
    footer = next(line["footer"] for line in reversed(lines) if "footer" in line)
    return header, sorted((line["row"] for line in lines if "row" in line), key=lambda row: row["target"]), footer


def changes(version: str, before: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> str:
    """Return the section that says which classes came, went, or have another outcome or other bugs."""
    old, new = ({row["target"].partition(":")[2]: found(row) for row in rows} for rows in (before, now))
    parts = [f"\n## Since {version}, as this judge finds both\n"]
    by_outcome: dict[str, list[str]] = defaultdict(list)
    for name in sorted(new.keys() - old.keys()):
        by_outcome[new[name]].append(name)
    parts += [f"- New, {outcome}: {', '.join(names)}." for outcome, names in sorted(by_outcome.items())]
    if gone := sorted(old.keys() - new.keys()):
        parts.append(f"- Gone: {', '.join(gone)}.")
    changed = [name for name in sorted(new.keys() & old.keys()) if new[name] != old[name]]
    parts += [f"- {name}: {new[name]}, where it was {old[name]}." for name in changed]
    return "\n".join([*parts, ""]) if len(parts) > 1 else "\n".join([*parts, "Nothing.", ""])


def found(row: Mapping[str, Any]) -> str:
    """Return the outcome of a class and its bugs, in words."""
    return " ".join([row["outcome"].replace("-", " "), *([f"({kind_of(row)})"] if row["laws"] else [])])


def sources(python: str, targets: Sequence[str]) -> dict[str, tuple[str, int, list[str]]]:
    """Return where each class makes its loss, as the library's own interpreter finds it."""
    ran = subprocess.run([python, str(LINES)], input=json.dumps(targets), capture_output=True, text=True, check=True)
    found: dict[str, tuple[str, int, list[str]]] = json.loads(ran.stdout)
    return found


def decided(row: Mapping[str, Any], verdicts: Mapping[str, Any]) -> str | None:
    """Return the decision for a row: that of its class, else that of its bug."""
    name = row["target"].partition(":")[2]
    own = verdicts.get("classes", {}).get(name)
    return own or verdicts.get("bugs", {}).get(kind_of(row))


def kind_of(row: Mapping[str, Any]) -> str:
    """Return the group of an alarm: its bugs, or its failed laws if no bug is known."""
    shift = "unshifted " if row["outcome"] == "unshifted" else ""
    return shift + " + ".join(row["diagnosis"] or row["laws"] or ["against its documentation"])


def written(
    header: Mapping[str, Any],
    footer: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    alarms: Sequence[Mapping[str, Any]],
    lines_of: Mapping[str, tuple[str, int, list[str]]],
    verdicts: Mapping[str, Any],
) -> str:
    package, versions = header["package"], header["versions"]
    counts = ", ".join(f"{count} {outcome}" for outcome, count in footer["counts"].items() if count)
    judged = sum(row["outcome"] not in ("no-pairs", "not-built", "not-judged") for row in rows)
    made = (
        "Made by `docs/scripts/sweep_page.py` from what `shiftproof sweep` found, with no hint on any class. "
        f"{len(rows)} classes, {judged} judged in {footer['seconds']:.0f} s: {counts}. "
        f"torch {versions['torch']}, {header['dtype']}, "
        f"profile {header['profile']}, seed {header['seed']}.\n\n"
        "Every alarm below was read in the source of that version; what was found there stands above each table.\n"
    )
    narrow = "" if header["dtype"] == "float32" else f" in {header['dtype']}"
    parts = [f"# {package} {versions[package]}{narrow}: every class with a language-model loss\n", made]
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for row in alarms:
        groups[kind_of(row), decided(row, verdicts) or ""].append(row)
    for (kind, verdict), members in sorted(groups.items(), key=lambda group: (-len(group[1]), group[0])):
        own = ", ".join(row["target"].partition(":")[2] for row in members)
        title = f"{kind}: {len(members)}" if verdict in verdicts["bugs"].values() else f"{own}: {kind}"
        parts.append(f"## {title}\n\n{verdict}\n")
        parts.append("| class | scored | broken | its loss |\n|---|---|---|---|")
        for row in members:
            file, line, _ = lines_of[row["target"]]
            name = row["target"].partition(":")[2]
            parts.append(f"| {name} | {row['alignment']} | {', '.join(row['laws'])} | `{file}:{line}` |")
        parts.append("")
    quiet = [row for row in rows if row["outcome"] == "unshifted" and row not in alarms]
    if quiet:
        parts.append(f"## Unshifted by design, and no alarm: {len(quiet)}\n")
        parts += [f"- {row['target'].partition(':')[2]}: {row['sentence'][:160]}" for row in quiet] + [""]
    for outcome, title in (
        ("no-pairs", "No pairs of a logit and a label, by evidence"),
        ("not-judged", "Not judged"),
        ("not-built", "Not built"),
    ):
        left = [row for row in rows if row["outcome"] == outcome]
        if left:
            parts.append(f"## {title}: {len(left)}\n")
            parts += [f"- {row['target'].partition(':')[2]}: {row['reason'][:200]}" for row in left] + [""]
    return "\n".join(parts)


if __name__ == "__main__":
    sys.exit(main())
