"""Rows as people read them: progress lines and the tables of docs/architectures.md. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from tests.matrix.row import Row, counts

BEGIN, END = "<!-- matrix -->", "<!-- /matrix -->"
TOOLS = ("onnxruntime-genai", "onnxruntime", "transformers", "torch")
_TITLES = {
    "architecture": "### Architectures",
    "input": "### Other inputs (on a tiny Llama, where no family is named)",
    "target": "### Precisions and providers (of a tiny Llama)",
}


def line(row: Row) -> str:
    """One line for whoever watches."""
    figures = [] if row.difference is None else [f"{_number(row)} sd"]
    figures += [] if row.cosine is None else [f"cosine {row.cosine:.3f}"]
    parts = [row.name, row.status, ", ".join(figures), row.note, f"{row.seconds:.0f} s"]
    return "  ".join(part for part in parts if part)


def summary(rows: Sequence[Row]) -> str:
    """`N equal, N built, …`."""
    return ", ".join(f"{count} {status}" for status, count in counts(list(rows)).items())


def tables(rows: Sequence[Row], tools: Mapping[str, str]) -> str:
    """The document's part between the markers."""
    made_with = ", ".join(f"{name} {tools[name]}" for name in TOOLS)
    parts = [f"{summary(rows)}; with {made_with}."]
    for group, title in _TITLES.items():
        members = [row for row in rows if row.group == group]
        if members:
            head = "| case | result | FP32 difference | quantised cosine | note |"
            head += "\n|---|---|--:|--:|---|"
            parts.append("\n".join([title, "", head, *map(_table_line, members)]))
    return "\n\n".join(parts)


def rewritten(document: str, rows: Sequence[Row], tools: Mapping[str, str]) -> str:
    """The document with the part between its markers made anew."""
    before, _, rest = document.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{tables(rows, tools)}\n{END}{after}"


def _table_line(row: Row) -> str:
    cosine = "" if row.cosine is None else f"{row.cosine:.3f}"
    # a message may name folders of the machine it was seen on
    note = re.sub(r"(?<![\w/])(/[\w.-]+)+/(?=[\w.-]+)", "", row.note).replace("|", "\\|")
    return f"| `{row.name}` | {row.status} | {_number(row)} | {cosine} | {note} |"


def _number(row: Row) -> str:
    worst = max((d for d in (row.difference, row.stepwise) if d is not None), default=None)
    return "" if worst is None else f"{worst:.0e}"
