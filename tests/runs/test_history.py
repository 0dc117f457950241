"""A history is shown as a table, in text and in HTML, and becomes columns."""

import sys
import types
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxcifar.common.errors import RunError
from jaxcifar.runs.history import History

ROW = {
    "epoch": 1,
    "step": 10,
    "learning_rate": 0.01,
    "train_loss": 2.0,
    "train_accuracy": 0.25,
    "validation_loss": None,
    "validation_accuracy": None,
    "seconds": 12.34,
    "validation_seconds": 0.5,
    "images_per_second": 12345.6,
    "gradient_norm": 1.0,
    "skipped_steps": 0,
}


def history_of(epochs):
    return History(
        [
            ROW | {"epoch": i + 1, "step": 10 * i + 10, "validation_accuracy": i % 2 / 2 or None}
            for i in range(epochs)
        ]
    )


class Table(HTMLParser):
    """The cells of an HTML table, row by row; any other tag is an error."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.tags = [], []
        self.feed(text)
        assert not self.tags

    def handle_starttag(self, tag, attributes):
        assert tag in ("table", "caption", "tr", "th", "td")
        assert not attributes
        self.tags.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("th", "td"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.tags.pop() == tag

    def handle_data(self, text):
        if self.tags and self.tags[-1] in ("th", "td"):
            self.rows[-1][-1] += text


def test_a_long_history_is_its_last_epochs():
    lines = repr(history_of(943)).split("\n")
    assert len(lines) == 10
    assert max(map(len, lines)) <= 100
    title = "History(943 epochs; best validation accuracy 0.5000 in epoch 942)"
    assert lines[0] == f"{title}; 2 more columns in to_dict()"
    assert lines[1] == "... after 936 earlier ones"
    assert lines[2].split()[:3] == ["epoch", "step", "lr"]
    assert [line.split()[0] for line in lines[3:]] == [str(n) for n in range(937, 944)]
    assert len(set(map(len, lines[2:]))) == 1  # in columns


def test_values_are_rounded_for_their_unit():
    values = repr(History([ROW])).split("\n")[2].split()
    assert values == ["1", "10", "1.00e-02", "2.0000", "0.2500", "-", "-", "12.3", "0.5", "12,346"]


def test_a_metric_of_the_users_on_validation_finds_room_before_times():
    row = ROW | {"train_top3": 0.4, "validation_top3": 0.3, "validation_sure": 0.2}
    text = repr(History([row]))
    assert "validation top3" in text
    assert "validation sure" in text
    assert "more columns in to_dict()" in text
    assert max(map(len, text.split("\n"))) <= 100


def test_a_history_without_epochs_has_no_table():
    assert repr(History()) == "History(0 epochs)"
    assert Table(History()._repr_html_()).rows == []


@pytest.mark.parametrize("epochs", [1, 30, 31, 943])
def test_the_html_has_every_metric_of_at_most_thirty_epochs(epochs):
    heading, *rows = Table(history_of(epochs)._repr_html_()).rows
    assert heading == [name.replace("_", " ") for name in ROW]
    if epochs <= 30:
        assert [row[0] for row in rows] == [str(n + 1) for n in range(epochs)]
    else:
        shown = [*range(1, 16), "…", *range(epochs - 14, epochs + 1)]
        assert [row[0] for row in rows] == [str(n) for n in shown]


values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=60)


@given(st.lists(st.dictionaries(st.text(max_size=40), values, max_size=12), max_size=50))
def test_rows_of_somebody_else_are_escaped_and_short(rows):
    history = History([row | {"validation_accuracy": row.get("a", 0.5)} for row in rows])
    lines = repr(history).split("\n")
    assert len(lines) <= 10
    assert all(len(line) <= 100 and line.isprintable() for line in lines)
    table = history._repr_html_()
    assert all(line.isprintable() for line in table.split("\n"))
    assert len({len(row) for row in Table(table).rows}) <= 1


def test_numbers_beyond_a_float_and_hostile_names_are_shown():
    row = {"<script>\x1b": 10**5000, "train_loss": 10**400, "epoch": float("inf")}
    history = History([row | {"validation_accuracy": 10**400}])
    assert "0x" in repr(history)
    assert "<script>" not in history._repr_html_()
    assert "&lt;script&gt;\\x1b" in history._repr_html_()


def test_columns_have_none_where_an_epoch_has_no_value():
    history = History([{"epoch": 1, "a": 2}, {"epoch": 2, "b": 3}])
    assert history.to_dict() == {"epoch": [1, 2], "a": [2, None], "b": [None, 3]}


def test_a_table_of_pandas_has_the_columns(monkeypatch):
    pandas = types.ModuleType("pandas")
    pandas.DataFrame = lambda columns: ("frame", columns)
    monkeypatch.setitem(sys.modules, "pandas", pandas)
    history = history_of(2)
    assert history.to_pandas() == ("frame", history.to_dict())


def test_without_pandas_the_way_out_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(RunError, match=r"pip install pandas, or use history\.to_dict\(\)"):
        history_of(2).to_pandas()


def test_pandas_itself_takes_a_history():
    pytest.importorskip("pandas", reason="pandas is not installed")
    frame = history_of(4).to_pandas()
    assert list(frame.columns) == list(ROW)
    assert frame["validation_accuracy"].isna().tolist() == [True, False, True, False]
