"""The report as Markdown, for a repository or an issue."""

from __future__ import annotations

from report.tree import Report, Section, TextTable
from utils import printable


def as_markdown(report: Report) -> str:
    """The report as Markdown; names stay text."""
    out = ["# Comparison of strategies", "", *_items([*report.differences, *report.problems])]
    for section in report.sections:
        out += _section(section, report.beats_text)
    if report.over_datasets:
        out += ["", "## Over the datasets", "", *report.over_datasets.notes, *_table(report.over_datasets.table)]
    out += ["", "## How to read this", "", f"- Metric: {report.subject}."]
    return "\n".join([*out, *(f"- {line}" for line in report.reading), ""])


def _section(section: Section, beats_text: str) -> list[str]:
    out = ["", f"## {_plain(section.title)}", "", f"{section.counts}. {_plain(section.power)}".rstrip(), ""]
    out += [f"- **{_plain(v.label)}: {v.verdict}.** {v.numbers}" for v in section.verdicts]
    out += _items([f"Note: {note}" for note in section.notes])
    if section.table:
        out += _table(section.table)
    if section.beats:
        out += [beats_text, *_table(section.beats)]
    return out


def _plain(text: str) -> str:
    """Text on one line that Markdown leaves as it is."""
    for mark in "\\|<`*_&~$":
        text = text.replace(mark, f"\\{mark}")
    return printable(" ".join(text.replace("](", "]\\(").split()))


def _items(lines: list[str]) -> list[str]:
    return [f"- {_plain(line)}" for line in lines]


def _table(table: TextTable) -> list[str]:
    rule = ["---"] + ["---:"] * (len(table.header) - 1)
    lines = [table.header, rule, *[[_plain(cell) for cell in row] for row in table.rows]]
    return ["", *("| " + " | ".join(line) + " |" for line in lines), ""]
