"""Tables as a terminal and as a pipe see them."""

from __future__ import annotations

import contextlib
import io
import re

import pytest

from katacsi.cli.output import print_facts, print_table


class Terminal(io.StringIO):
    """A terminal of as many columns as the environment says."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def drawn(monkeypatch):
    """Give what a function of `output` draws on a terminal of 40 columns."""
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", "dumb")

    def draw(function, *arguments, **options) -> str:
        with contextlib.redirect_stdout(Terminal()) as terminal:
            function(*arguments, **options)
        return terminal.getvalue()

    return draw


def test_a_narrow_terminal_cuts_nothing_off(drawn, monkeypatch):
    """A long word is folded within its column: every sign of it is on the screen, and no line is too long."""
    word = "".join(f"{number:02}" for number in range(60))
    monkeypatch.setenv("TERM", "xterm")  # of a dumb terminal the width is not known
    shown = drawn(print_table, ("NAME", "SIZE"), [(word, "1Gi")], empty="")
    lines = re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines()
    assert max(map(len, lines)) <= 40
    assert "".join(line.split()[0] for line in lines[1:]) == word


def test_a_terminal_is_spared_columns_without_entries(drawn):
    """A column in which no row has anything takes no room."""
    assert "PROBLEM" not in drawn(print_table, ("NAME", "PROBLEM"), [("a", ""), ("b", "")], empty="")


def test_a_pipe_gets_a_line_for_each_row_and_every_column(capsys):
    """Where a program reads, no row is folded and the columns are always the same."""
    print_table(("NAME", "PROBLEM"), [("n" * 300, "")], empty="")
    heading, row = capsys.readouterr().out.splitlines()
    assert heading.split() == ["NAME", "PROBLEM"]
    assert row == "n" * 300


@pytest.mark.parametrize("sign", ["\x1b", "\r", "\x07", "\u202e"], ids=["escape", "return", "bell", "bidi"])
def test_control_signs_do_not_reach_a_terminal(drawn, sign):
    """A name that would move the cursor, ring or turn the line round is shown as text."""
    for text in (
        drawn(print_table, ("NAME",), [(f"a{sign}b",)], empty=""),
        drawn(print_facts, [("Name", f"a{sign}b")]),
    ):
        assert sign not in text
        assert f"a{repr(sign)[1:-1]}b" in text


def test_markup_in_a_name_is_a_name(drawn):
    """Square brackets in a name are no instruction to the table."""
    assert "[bold]x[/bold]" in drawn(print_table, ("NAME",), [("[bold]x[/bold]",)], empty="")
