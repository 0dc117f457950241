"""Every measured number in the README and the guides comes from a committed file."""

import pytest

from tests.conftest import ROOT
from tests.figures import benchmarks, guides, keras, readme, results
from tests.figures.reading import Figure, Given, Page, agrees, find, unexplained, words

PAGES = [readme.PAGE, results.PAGE, benchmarks.PAGE, keras.PAGE, *guides.PAGES]
NAMES = [page.name for page in PAGES]


def text_of(page):
    return (ROOT / page.name).read_text()


def check(page, text):
    """Compare a page's figures; the numbers that differ, in words."""
    wrong = []
    for figure in page.figures:
        found = find(figure.text, words(text))
        if len(found) != 1:
            wrong.append(f"{figure.text!r} stands {len(found)} times in {page.name}")
            continue
        for shown, value in zip(found[0].groups(), figure.values, strict=True):
            if not agrees(shown, value):
                wrong.append(f"{figure.text!r}: {shown}, but {value} was measured")
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_numbers_are_those_of_the_files(page):
    assert check(page, text_of(page)) == []


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_no_measured_number_is_without_a_file(page):
    assert list(unexplained(page, text_of(page))) == []


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_reason_is_used_and_said(page):
    for given in page.given:
        assert "{}" in given.text
        assert given.reason
        assert len(find(given.text, words(text_of(page)))) == given.count, given.text


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_what_is_concluded_holds(page):
    for fact in page.facts:
        assert len(find(fact.text, words(text_of(page)))) == 1, fact.text
        assert fact.holds, fact.text


def test_every_page_is_read():
    pages = ["README.md", *(f"docs/{path.name}" for path in ROOT.glob("docs/*.md"))]
    assert sorted(NAMES) == sorted(pages)


def test_a_number_without_a_file_is_found():
    page = Page("page", [Figure("It took {} s", (1.26,))], [Given("rate of {}", "a setting")])
    text = "It took 1.3 s at a rate of 0.1."
    assert list(unexplained(page, text)) == []
    for more, count in (
        ("Then 40 s, or 0.7.\n\n| a | 12 |\n", 3),
        ("It needs 40%, 2.6x, 1.5s, -0.5 or 0.8-0.9 and 64 GiB, 12 seconds, 20 percent.", 9),
        ("| a | **12** | 3 / 4 | 1e-5 |", 4),
        ("ResNet-18 at 32x32, float32, 10 epochs, seed 0, v1.2.3", 0),
    ):
        assert len(list(unexplained(page, f"{text} {more}"))) == count, more
    quoted = "\n`--rate 0.5`, [it](a-0.1.png)\n```shell\ntrain 0.3\n```\n"
    assert list(unexplained(page, text + quoted)) == []


def test_a_number_that_differs_is_found():
    page = Page("page", [Figure("It took {} s and {}", (1.26, 5e-7))], [])
    assert check(page, "It took 1.3\ns and 5.0e-7.") == []
    assert len(check(page, "It took 1.2 s and 5.1e-7.")) == 2
    assert len(check(page, "It took long.")) == 1
    assert len(check(page, "It took 1.3 s and 5e-7. It took 1.3 s and 5e-7.")) == 1


@pytest.mark.parametrize(
    ("shown", "value", "same"),
    [
        ("0.58", 0.5849, True),
        ("0.58", 0.5851, False),
        ("0.70", 0.7, True),
        ("1,039", 1039.4, True),
        ("1,039", 1039.6, False),
        ("1.1e-5", 1.14e-5, True),
        ("1.1e-5", 1.16e-5, False),
        ("-3", -3.2, True),
    ],
)
def test_a_number_agrees_as_far_as_it_is_shown(shown, value, same):
    assert agrees(shown, value) is same
