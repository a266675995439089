"""Parts of a page of HTML: tables, sections, the document. Whatever is put in is escaped here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from evo.benchmark import Objective

REFRESH_S = 5  # between two looks of a live page


@dataclass(frozen=True)
class Scale:
    """Gains as a figure shows them: percent where gains are ratios, else the score's own unit."""

    objective: Objective

    def number(self, gain: float) -> float:
        if self.objective.gain != "log-ratio":
            return gain
        sign = -1.0 if self.objective.direction == "minimize" else 1.0
        return 100 * sign * (math.exp(sign * min(gain, 50.0)) - 1)

    def told(self, number: float) -> str:
        if abs(number) < 1e-12:
            return "0"
        return f"{number:+.0f}%" if self.objective.gain == "log-ratio" else f"{number:+.3g}"


@dataclass(frozen=True)
class Link:
    text: str
    target: str

    def __str__(self) -> str:
        return self.text


def section(title: str, body: str) -> str:
    return f"<h2>{escape(title)}</h2>\n{body}" if body else ""


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Cells are escaped; what reads as a number stands on the right."""
    listed = list(rows)
    if not listed:
        return ""
    titles = "".join(f"<th>{escape(title)}</th>" for title in head)
    lines = [f"<tr>{titles}</tr>"] if head else []
    lines += ["<tr>" + "".join(_cell(value) for value in row) + "</tr>" for row in listed]
    return "<table>" + "\n".join(lines) + "</table>"


def _cell(value: object) -> str:
    if isinstance(value, Link):
        return f'<td><a href="{escape(value.target)}">{escape(value.text)}</a></td>'
    style = ' class="number"' if isinstance(value, int | float) else ""
    return f"<td{style}>{escape(str(value))}</td>"


def document(title: str, parts: Iterable[str], refresh: bool) -> str:
    style = (Path(__file__).parent / "page.css").read_text()
    policy = "default-src 'none'; style-src 'unsafe-inline'"  # a candidate's text could not fetch or run anything
    again = f'<meta http-equiv="refresh" content="{REFRESH_S}">\n' if refresh else ""
    body = "\n".join(part for part in parts if part)
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n{again}'
        f'<meta name="viewport" content="width=device-width">\n<title>{escape(title)}</title>\n'
        f"<style>\n{style}</style>\n<body>\n{body}\n</body>\n</html>\n"
    )
