"""Tables as lines of text: for a terminal, and for a Markdown page."""

from collections.abc import Sequence


def text_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of aligned columns: the first one to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))])
        for row in [head, *rows]
    ]


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] | range = ()) -> list[str]:
    """Lines of a Markdown table; the columns of these numbers (from 0) are aligned to the right."""
    rule = ["--:" if number in right else "---" for number in range(len(head))]
    return [f"| {' | '.join(row)} |" for row in [head, rule, *rows]]


def listed(words: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c" """
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)
