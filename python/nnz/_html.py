"""Tables and pictures for notebooks. No script, no address, no style of the page's own."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._model import Layer

COLOURS = ("#1b6ca8", "#d1495b", "#2e8b57", "#8d6a9f", "#edae49", "#666666")
MOST = 40
FIRST = ("", "key", "name", "what", "recipe", "arm", "statement", "verdict", "seed", "layer", "class")
"""Columns that say what a row is about."""


def cell(value: Any) -> str:
    """A value for people."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    return escape(str(value))


def table(rows: list[dict[str, Any]]) -> str:
    """A table of the first rows."""
    if not rows:
        return "<p>nothing</p>"
    shown = [(k, v) for row in rows[:MOST] for k, v in row.items() if not isinstance(v, (list, dict))]
    # A column without a value says nothing.
    names = [n for n in dict.fromkeys(k for k, _ in shown) if any(k == n and v is not None for k, v in shown)]
    # Documents have their keys in the order of the alphabet; a row is found by its name.
    names.sort(key=lambda n: FIRST.index(n) if n in FIRST else len(FIRST))
    head = "".join(f"<th>{escape(n.replace('_', ' '))}</th>" for n in names)

    def line(row: dict[str, Any]) -> str:
        return "<tr>" + "".join(f"<td>{cell(row.get(n))}</td>" for n in names) + "</tr>"

    more = f"<p>and {len(rows) - MOST} more</p>" if len(rows) > MOST else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(map(line, rows[:MOST]))}</tbody></table>{more}"


def sections(document: dict[str, Any]) -> str:
    """A table of what is one value, and one for every list or object."""
    parts = [table([{k: v for k, v in document.items() if not isinstance(v, (list, dict))}])]
    for key, value in document.items():
        if isinstance(value, dict) and value:
            value = [value] if any(isinstance(v, dict) for v in value.values()) else [{"name": k, "value": brief(v)} for k, v in value.items()]
        if isinstance(value, list) and value:
            rows = [row if isinstance(row, dict) else {"value": row} for row in value]
            if any(not isinstance(v, (list, dict)) for row in rows for v in row.values()):
                parts.append(f"<h4>{escape(key.replace('_', ' '))}</h4>{table(rows)}")
    return "".join(parts)


def brief(value: Any) -> Any:
    """A list as a text."""
    return ", ".join(map(str, value)) if isinstance(value, list) else value


def curves(rows: list[dict[str, Any]], measure: str) -> str:
    """A line for each arm over its epochs."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if row.get(measure) is not None:
            lines.setdefault(row["arm"], []).append((row["epoch"], row[measure]))
    points = [p for line in lines.values() for p in line]
    if len({x for x, _ in points}) < 2:
        return ""
    (x0, x1), (y0, y1) = ((min(v), max(v)) for v in zip(*points))
    wide, high, left = 420, 160, 40

    def at(x: float, y: float) -> str:
        return f"{left + (x - x0) / (x1 - x0) * (wide - left - 10):.1f},{10 + (y1 - y) / ((y1 - y0) or 1) * (high - 30):.1f}"

    parts = [
        f'<text x="0" y="16">{y1:.3g}</text><text x="0" y="{high - 18}">{y0:.3g}</text>'
        f'<text x="{left}" y="{high - 4}">{escape(measure)} over epochs {x0:g} to {x1:g}</text>'
    ]
    for i, (name, line) in enumerate(lines.items()):
        colour = COLOURS[i % len(COLOURS)]
        path = " ".join(at(x, y) for x, y in line)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        parts.append(f'<text x="{wide + 5}" y="{20 + 14 * i}" fill="{colour}">{escape(name)}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide + 140}" height="{high}" font-size="11" '
        f'fill="currentColor" role="img">{"".join(parts)}</svg>'
    )


def topology(layer: Layer) -> str:
    """The connections of a weight, darker where a cell of the picture holds more of them."""
    import numpy as np

    rows, cols = layer.shape
    high, wide = min(rows, 64), min(cols, 160)
    _, columns, starts = layer.csr()
    at = np.repeat(np.arange(rows), np.diff(starts))
    counts = np.zeros((high, wide))
    np.add.at(counts, (at * high // rows, columns.astype(np.int64) * wide // cols), 1)
    size = np.outer(np.bincount(np.arange(rows) * high // rows), np.bincount(np.arange(cols) * wide // cols))
    share = counts / size
    top = share.max() or 1
    cells = [
        f'<rect x="{3 * x}" y="{3 * y}" width="3" height="3" fill-opacity="{share[y, x] / top:.2f}"/>'
        for y, x in zip(*np.nonzero(share))
    ]
    title = f"{layer.name}: {rows} x {cols}, {layer.nonzeros:,} connections, density {layer.density:.4g}"
    return (
        f'<figure><svg xmlns="http://www.w3.org/2000/svg" width="{3 * wide}" height="{3 * high}" fill="currentColor" role="img">'
        f"<title>{escape(title)}</title>{''.join(cells)}</svg><figcaption>{escape(title)}</figcaption></figure>"
    )
