"""Whatever a peer names is text: names, addresses and reasons made harmless before they are shown anywhere.

A simulator chooses the name of its model, the addresses and names of its draws, the reasons of its failures and what it
prints; a file says what its writer wanted. None of it may move a cursor, colour a terminal, forge a line, begin a tag
or a formula. `plain` is what every place that shows text uses; the others add what one kind of place asks for.
Values stay as they are: addresses are sent back to the simulator byte by byte.
"""

from __future__ import annotations

import re
from xml.sax.saxutils import escape

# C0, DEL and C1; marks that turn the direction of writing; line separators; what no file in UTF-8 or XML can hold.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)
_LINE_ENDS = re.compile("\r\n|[\r\v\f\x85\u2028\u2029]")
_FORMULA = ("=", "+", "-", "@")
"""Beginnings of cells that a spreadsheet executes."""
_TAB = 4


def plain(text: str, *, lines: bool = False) -> str:
    r"""The text with every control character written out, as `\x1b`.

    Args:
        text: Anything.
        lines: Whether line feeds stay, and other ends of lines become line feeds; else they are written out as well.

    Example:
        >>> print(plain("a\x1b[31m[b]\n\u202ec"))
        a\x1b[31m[b]\n\u202ec
    """
    if lines:
        return "\n".join(map(plain, _LINE_ENDS.sub("\n", text).expandtabs(_TAB).split("\n")))
    return _UNSAFE.sub(_written_out, text)


def paragraph(text: str) -> str:
    """Lines of which only the first begins at the margin: what is quoted cannot pass for a message of its own."""
    first, *others = plain(text, lines=True).split("\n")
    return "\n".join(
        [first, *(line if line.startswith(" ") or not line else f"    {line}" for line in others)]
    )


def xml(text: str, *, lines: bool = False) -> str:
    """For the text and the attributes of SVG and HTML; `lines` as for `plain`."""
    return escape(plain(text, lines=lines), {'"': "&quot;", "'": "&#39;"})


def cell(text: str) -> str:
    """For a CSV file: one line that no spreadsheet takes for a formula."""
    written = plain(text)
    return f"'{written}" if written.lstrip().startswith(_FORMULA) else written


def label(text: str) -> str:
    """For a figure by matplotlib: a `$` begins no formula."""
    return plain(text).replace("$", r"\$")


def counted(number: float, noun: str) -> str:
    """A number with its noun, such as `1 address` and `17,100 addresses`.

    Args:
        number: How many, or the mean of how many.
        noun: In the singular.
    """
    written = f"{number:,.0f}" if number == round(number) or number >= 100 else f"{number:.3g}"
    plural = (
        f"{noun}es"
        if noun.endswith("s")
        else f"{noun.removesuffix('y')}ies"
        if noun.endswith("ty")
        else f"{noun}s"
    )
    return f"{written} {noun if number == 1 else plural}"


def _written_out(match: re.Match[str]) -> str:
    character = match[0]
    short = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}.get(character)
    return short or (f"\\x{ord(character):02x}" if ord(character) < 0x100 else f"\\u{ord(character):04x}")
