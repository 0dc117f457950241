import base64
import re
from html.parser import HTMLParser

import pytest
from matplotlib.figure import Figure

from jaxcifar.studies.reproduction.page import (
    Code,
    Heading,
    Notice,
    Page,
    Picture,
    Table,
    Text,
    to_html,
    to_markdown,
)

NASTY = """<script>alert("1")</script> & 'a' | b_c_ *d* `e` [f](g) <h>"""
VOID = {"meta", "img", "br", "link"}


class Reader(HTMLParser):
    """Checks that every tag is closed in order, and keeps the text and the references."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.text, self.references, self.alts = [], [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        values = dict(attrs)
        self.references += [values[name] for name in ("src", "href") if name in values]
        self.alts += [values["alt"]] if "alt" in values else []

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read(text):
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert not reader.open
    return reader


@pytest.fixture
def picture(tmp_path):
    (tmp_path / "pictures").mkdir()
    path = tmp_path / "pictures" / 'odd "name".png'
    Figure(figsize=(1, 1)).savefig(path)
    return Picture(path, 'says "x" & y', "A <caption>")


@pytest.fixture
def page(picture):
    table = Table(("run", "a | b"), (("one", NASTY), ("two", "0.730")))
    return Page(
        f"Title {NASTY}",
        (Heading("A part"), Text(NASTY), Notice("mind"), table, Code("a < b"), picture),
    )


def test_html_is_balanced_and_shows_the_text_unchanged(page):
    reader = read(to_html(page))
    text = "".join(reader.text)
    assert text.count(NASTY) == 4  # title twice, paragraph, cell
    assert "script" not in reader.tags
    assert reader.tags.count("tr") == 3
    assert reader.alts == ['says "x" & y']


def test_html_loads_nothing_and_holds_the_picture(page, picture):
    html = to_html(page)
    anchor, source = read(html).references
    assert anchor == "#a-part"
    assert 'id="a-part"' in html
    kind, data = source.split(",")
    assert kind == "data:image/png;base64"
    assert base64.b64decode(data) == picture.path.read_bytes()
    assert not re.search(r"https?:|url\(|@import", html)
    assert "default-src 'none'" in html


def test_markdown_has_the_same_blocks_and_links_pictures(page, tmp_path):
    text = to_markdown(page, tmp_path)
    lines = text.splitlines()
    assert lines[0].startswith("# Title ")
    assert "## A part" in lines
    assert "> **mind**" in lines
    assert '![says "x" & y](<pictures/odd "name".png>)' in lines
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 4
    # A bar in a cell is escaped: every row has two columns.
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {3}


def test_markdown_escapes_markup(tmp_path):
    def markdown(text):
        return to_markdown(Page("t", (Text(text),)), tmp_path).split("\n")[2]

    assert markdown("freeze_a_modern") == "freeze_a_modern"
    assert markdown("_x_ *y* <z> `w`") == r"\_x\_ \*y\* \<z\> \`w\`"
    assert markdown("- no list") == r"\- no list"
    assert markdown("1. no list") == r"1\. no list"
    assert markdown("a\nb") == "a b"


# Colours, a forged row, turned writing, a byte that is no text, and a fence.
@pytest.mark.parametrize("name", ["a\x1b[31m | b\n| c", "\u202e\r\udcff<b>\x00\u2028```"])
def test_a_name_stays_in_its_place_on_the_page(name, picture, tmp_path):
    table = Table(("run", name), ((name, name), ("two", name)))
    picture = Picture(picture.path, name, name)
    blocks = (Heading(name), Text(name), Notice(name), table, Code(f"x\ny {name}"), picture)
    html, markdown = to_html(Page(name, blocks)), to_markdown(Page(name, blocks), tmp_path)
    for text in (html, markdown):
        text.encode()
        assert all(line.isprintable() for line in text.split("\n"))
    assert read(html).tags.count("tr") == 3
    assert "b" not in read(html).tags
    rows = [line for line in markdown.split("\n") if line.startswith("| ")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in rows if "run" in line} == {3}
    assert len([line for line in rows if not line.startswith("| c")]) == 3
    assert sum(line.startswith("```") for line in markdown.split("\n")) == 2


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match="a row has 1 cells, but there are 2 columns"):
        Table(("a", "b"), (("c",),))
