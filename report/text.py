"""The report as text for a terminal."""

from __future__ import annotations

import re

from report.numbers import text_table
from report.tree import Report, TextTable


def as_text(report: Report) -> str:
    """The report as lines of text; control characters in names are escaped."""
    out = list(report.differences)
    for section in report.sections:
        out += ["", section.title, f"{section.counts}.", *(f"note: {n}" for n in section.notes)]
        if section.table:
            out += ["", *_lines(section.table)]
        if section.beats:
            out += ["", report.beats_text, *_lines(section.beats)]
    if report.over_datasets:
        out += ["", "Over the datasets", *report.over_datasets.notes, "", *_lines(report.over_datasets.table)]
    out += ["", f"Metric: {report.subject}.", *report.reading]
    return "\n".join(map(_visible, out))


def _lines(table: TextTable) -> list[str]:
    return text_table(table.header, [[_visible(cell) for cell in row] for row in table.rows]).split("\n")


def _visible(text: str) -> str:
    """Text on one line that moves no cursor: a name may hold line breaks and escape sequences."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", lambda m: m[0].encode("unicode_escape").decode(), text)
