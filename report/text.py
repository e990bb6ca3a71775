"""The report as text for a terminal."""

from __future__ import annotations

from report.numbers import text_table
from report.tree import Report, TextTable
from utils import printable


def as_text(report: Report) -> str:
    """The report as lines of text; control characters in names are escaped."""
    out = list(report.differences)
    for section in report.sections:
        out += ["", section.title, f"{section.counts}.", *filter(None, [section.power])]
        out += [f"note: {n}" for n in section.notes]
        if section.table:
            out += ["", *_lines(section.table)]
        if section.beats:
            out += ["", report.beats_text, *_lines(section.beats)]
    if report.over_datasets:
        out += ["", "Over the datasets", *report.over_datasets.notes, "", *_lines(report.over_datasets.table)]
    out += ["", f"Metric: {report.subject}.", *report.reading]
    return "\n".join(map(printable, out))


def _lines(table: TextTable) -> list[str]:
    return text_table(table.header, table.rows).split("\n")
