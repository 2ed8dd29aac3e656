"""How text from outside, times, numbers and charts look."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from otlp_arrow.cli import charts, listings, screen

MS, S = 10**6, 10**9


@given(st.text())
def test_nothing_that_a_terminal_obeys_passes(text: str):
    shown = screen.plain(text)
    assert all(letter.isprintable() or letter not in "\x1b\x07\x9b\n\r\u202e\u2028" for letter in shown)
    console = Console(width=40, markup=False)
    with console.capture() as captured:
        console.print(screen.cell(text))
    assert not any(ord(letter) < 32 and letter != "\n" for letter in captured.get())


def test_markup_is_shown_as_it_is():
    assert screen.cell("[red]x[/]").plain == "[red]x[/]"
    assert screen.plain("a\x1b[31m\n\t\x9b\u202e") == "a\\x1b[31m\\n\\t\\x9b\\u202e"


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (None, ""),
        (0, "0 ns"),
        (999, "999 ns"),
        (1500, "1.50 µs"),
        (999_960, "1.00 ms"),
        (95 * MS + MS // 2, "95.5 ms"),
        (999.9 * MS, "1.00 s"),
        (59 * S, "59.0 s"),
        (100 * S, "1 m 40 s"),
        (3599.7 * S, "1 h 00 m"),
        (90_000 * S, "25 h 00 m"),
        (-1500, "-1.50 µs"),
    ],
)
def test_durations_have_three_digits_and_a_unit(ns: float | None, text: str):
    assert screen.duration(ns) == text


@pytest.mark.parametrize(
    ("ns", "text"), [(90 * S, "90 s"), (120 * S, "2 m"), (86_400 * S, "1 d"), (5, "5 ns"), (7 * MS, "7 ms")]
)
def test_a_chosen_length_is_exact(ns: int, text: str):
    assert screen.length(ns) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (1234567, "1,234,567"),
        (2.0, "2"),
        (0.12345, "0.1235"),
        (12345.67, "12,345.7"),
        (math.nan, "nan"),
        (math.inf, "inf"),
    ],
)
def test_numbers_are_for_people(value: float | None, text: str):
    assert screen.number(value) == text


def test_values_of_every_type_have_a_text():
    values = {"s": "x y", "b": True, "i": 1, "d": 0.5, "y": b"\x00\xff", "l": [1, "a"], "m": {"k": b"\x00"}}
    assert screen.pairs(values).plain == 's=x y  b=true  i=1  d=0.5  y=0x00ff  l=[1, "a"]  m={"k": "AA=="}'


def test_a_day_is_said_once_if_there_is_only_one():
    assert screen.of_one_day(0, 5, 86_399 * S)
    assert not screen.of_one_day(5, 86_400 * S)
    assert screen.moment(None) == ""
    assert screen.moment(86_400 * S + 7 * MS) == "1970-01-02 00:00:00.007"


def test_the_loose_columns_give_way():
    table = screen.grid("a", "b", "c")
    table.add_row("x" * 10, "y" * 100, "z" * 20)
    screen.fit(table, 60, "b", "c")
    assert [column.width for column in table.columns] == [10, 26, 20]
    screen.fit(table, 10, "b", "c")
    assert [column.width for column in table.columns] == [10, 6, 6]


@given(st.lists(st.none() | st.floats()), st.integers(1, 50), st.integers(1, 10))
def test_charts_of_anything_fit(values: list[float | None], columns: int, rows: int):
    assert len(charts.sparkline(values, columns)) <= columns
    lines = charts.column_chart(values, columns, rows)
    assert len(lines) in (0, rows)
    assert all(len(line) <= columns for line in lines)


def test_charts_show_the_course():
    assert charts.sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8) == "▁▂▃▄▅▆▇█"
    assert charts.sparkline([1, None, 3], 8) == "▁ █"
    assert charts.sparkline([2, 2], 8) == "▄▄"
    assert charts.sparkline([None], 8) == ""
    assert charts.sparkline([0, 0, 8, 8], 2) == "▁█"
    assert charts.column_chart([0, 15], 4, 2) == [" █", "▁█"]
    assert charts.column_chart([], 4) == []


def test_rates_have_the_unit_that_shows_them():
    assert [listings._rate(rate) for rate in (None, 12.345, 0.05, 0.001, 1e-5)] == [
        "",
        "12.3/s",
        "3/m",
        "3.6/h",
        "0.864/d",
    ]
