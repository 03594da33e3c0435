"""Text of peers, made harmless for each place where it is shown."""

from __future__ import annotations

import doctest
import xml.etree.ElementTree as ET

import pytest

from ppx_server import text
from ppx_server.errors import PPXError, SimulatorError


def test_every_character_below_a_space_and_what_else_moves_things() -> None:
    unsafe = [*range(0x20), *range(0x7F, 0xA0), 0x61C, 0x200E, 0x200F, *range(0x2028, 0x202F)]
    unsafe += [*range(0x2066, 0x206A), 0xD800, 0xDFFF, 0xFFFE, 0xFFFF]
    for code in unsafe:
        shown = text.plain(chr(code))
        assert shown.isascii()
        assert shown.isprintable()
        assert shown.startswith("\\")
        text.paragraph(chr(code)).encode()
    kept = "é ü µ 漢字 🎲 [b] $ & < > \\ '"
    assert text.plain(kept) == kept


def test_lines_are_kept_where_they_are_wanted() -> None:
    assert text.plain("a\r\nb\x85c\td\x1be", lines=True) == "a\nb\nc   d\\x1be"
    assert text.plain("a\nb") == r"a\nb"


def test_what_is_quoted_does_not_begin_at_the_margin() -> None:
    assert text.paragraph("it failed: x\nerror: forged\n  more") == "it failed: x\n    error: forged\n  more"
    assert text.paragraph(text.paragraph("a\nb")) == text.paragraph("a\nb")


def test_every_error_is_text() -> None:
    assert str(PPXError("a\x1b[2J\rb")) == "a\\x1b[2J\n    b"
    assert str(SimulatorError("a\x07", seed=1, index=2)) == "a\\x07 [seed 1, trace 2]"
    assert PPXError(3).args == (3,)


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@x", "  =1", "\t=1", "\r=1"])
def test_no_cell_is_a_formula(cell: str) -> None:
    assert not text.cell(cell).startswith(("=", "+", "-", "@", "\t", "\r"))
    assert text.cell("mu") == "mu"


def test_svg_is_well_formed_and_says_the_same() -> None:
    said = "a<b>&\"'[/c]"
    element = ET.fromstring(f'<a b="{text.xml(said)}">{text.xml(said)}</a>')
    assert element.text == element.get("b") == said
    ET.fromstring(f"<a>{text.xml(chr(0xFFFE) + chr(0) + chr(0xD800))}</a>")


def test_numbers_have_their_noun() -> None:
    assert [text.counted(n, "address") for n in (0, 1, 2)] == ["0 addresses", "1 address", "2 addresses"]
    assert text.counted(17_100, "draw") == "17,100 draws"
    assert text.counted(1.5, "draw") == "1.5 draws"
    assert text.counted(17_100.4, "draw") == "17,100 draws"
    assert text.counted(3, "quantity") == "3 quantities"


def test_examples() -> None:
    assert doctest.testmod(text).failed == 0
