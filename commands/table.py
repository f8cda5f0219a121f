"""Plain-text tables for listings. They work in a pipe, in a narrow terminal and with grep."""

from collections.abc import Iterable, Sequence


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Left-aligned columns, two spaces apart. Without rows only the heads are shown."""
    lines = [list(heads), *([("-" if cell is None else str(cell)) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def short(digest: str | None) -> str:
    """The first twelve characters after `sha256:`, enough to compare by eye."""
    return (digest or "-").removeprefix("sha256:")[:12]
