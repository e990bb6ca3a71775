"""The files of a report: the ending of each, and the function that turns a report into its text."""

from __future__ import annotations

from collections.abc import Callable

from report.csv_table import as_csv
from report.markdown import as_markdown
from report.page import as_html
from report.tree import Report

VIEWS: dict[str, Callable[[Report], str]] = {
    "md": as_markdown,
    "csv": as_csv,
    "html": as_html,
}
