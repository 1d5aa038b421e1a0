"""Markdown tables that also read well as plain text."""

from __future__ import annotations

from collections.abc import Sequence


def markdown_table(header: Sequence[str], lines: Sequence[Sequence[str]], texts: int = 2) -> list[str]:
    """The lines of a table, its columns padded to equal widths.

    Args:
        texts: columns of words, left aligned; the others hold figures.
    """
    widths = [max(3, *(len(line[i]) for line in [header, *lines])) for i in range(len(header))]

    def rendered(cells: Sequence[str]) -> str:
        padded = [cell.ljust(width) for cell, width in zip(cells[:texts], widths[:texts], strict=True)]
        padded += [cell.rjust(width) for cell, width in zip(cells[texts:], widths[texts:], strict=True)]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * w if i < texts else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return [rendered(header), rendered(rule), *map(rendered, lines)]
