"""A page as data, written as one HTML file and as Markdown."""

import base64
import html
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxcifar.common.messages import escaped, join_lines


@dataclass(frozen=True)
class Heading:
    """The heading of a section (level 2) or subsection (level 3)."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Text:
    """A paragraph of plain text."""

    text: str


@dataclass(frozen=True)
class Notice:
    """A highlighted paragraph."""

    text: str


@dataclass(frozen=True)
class Code:
    """Lines to type, unchanged but for control characters, which are escaped."""

    text: str


@dataclass(frozen=True)
class Table:
    """Rows of text under named columns; the first cell of each row is its name."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        ragged = [row for row in self.rows if len(row) != len(self.columns)]
        if ragged:
            raise ValueError(
                f"a row has {len(ragged[0])} cells, but there are {len(self.columns)} columns"
            )


@dataclass(frozen=True)
class Picture:
    """A PNG file with a description for readers who cannot see it (`alt`), and a caption."""

    path: Path
    alt: str
    caption: str


Block = Heading | Text | Notice | Code | Table | Picture


@dataclass(frozen=True)
class Page:
    """A title and blocks, all plain text: `to_html` and `to_markdown` escape it."""

    title: str
    blocks: tuple[Block, ...]


def to_html(page: Page) -> str:
    """The page as one HTML file: it contains style and pictures, has no script, loads nothing."""
    sections = [b for b in page.blocks if isinstance(b, Heading) and b.level == 2]
    links = "".join(f'<a href="#{_anchor(b)}">{_html_text(b.text)}</a>' for b in sections)
    return _DOCUMENT.format(
        title=_html_text(page.title),
        style=_STYLE,
        links=f"<nav>{links}</nav>\n" if sections else "",
        body="\n".join(_HTML[type(block)](block) for block in page.blocks),
    )


def to_markdown(page: Page, folder: Path) -> str:
    """The page in GitHub's Markdown; pictures are linked relative to `folder`, which holds them."""
    parts = [f"# {_plain(page.title)}"]
    for block in page.blocks:
        if isinstance(block, Picture):
            link = block.path.relative_to(folder).as_posix()
            parts.append(f"![{_plain(block.alt)}](<{link}>)\n\n{_plain(block.caption)}")
        else:
            parts.append(_MARKDOWN[type(block)](block))
    return "\n\n".join(parts) + "\n"


# In dark mode, pictures keep their white background. In a narrow window, pictures and tables keep a
# readable size and scroll in their own frame.
_STYLE = """
:root { color-scheme: light dark; --ground: #ffffff; --text: #1d2129; --soft: #5b6472;
  --line: #d5dae1; --stripe: #f5f7f9; --notice: #fff3d6; --edge: #d79b00; --link: #1f5fa8; }
@media (prefers-color-scheme: dark) { :root { --ground: #14171c; --text: #e4e7ec; --soft: #a3adba;
  --line: #373e49; --stripe: #1c2027; --notice: #3a2f12; --edge: #d79b00; --link: #8ab8f0; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 80rem; background: var(--ground);
  color: var(--text); font: 16px/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 1rem; }
h2 { font-size: 1.3rem; margin: 2.5rem 0 0.75rem; padding-top: 0.75rem;
  border-top: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 2rem 0 0.5rem; }
p { max-width: 48rem; margin: 0.5rem 0; }
a { color: var(--link); }
nav { display: flex; flex-wrap: wrap; gap: 0.25rem 1.25rem; margin: 1rem 0; }
.notice { background: var(--notice); border-left: 5px solid var(--edge); padding: 0.6rem 0.9rem;
  max-width: none; }
.scroll { overflow-x: auto; margin: 0.75rem 0; }
table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: 0.35rem 0.8rem 0.35rem 0.4rem;
  border-bottom: 1px solid var(--line); white-space: nowrap; }
thead th { border-bottom: 2px solid var(--line); vertical-align: bottom; white-space: normal; }
td.long { white-space: normal; min-width: 18rem; max-width: 44rem; }
tr { background: var(--ground); }
tbody tr:nth-child(even) { background: var(--stripe); }
tr > th:first-child { position: sticky; left: 0; background: inherit; font-weight: 600; }
figure { margin: 1rem 0; }
figure .scroll { background: #ffffff; border: 1px solid var(--line); margin: 0; }
img { display: block; max-width: 100%; height: auto; margin: 0 auto; }
@media (max-width: 48rem) { img { max-width: none; width: 46rem; } }
figcaption { color: var(--soft); font-size: 0.9rem; max-width: 48rem; margin-top: 0.35rem; }
pre { background: var(--stripe); border: 1px solid var(--line); padding: 0.6rem 0.8rem;
  overflow-x: auto; font-size: 0.85rem; }
"""
_DOCUMENT = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
{links}<main>
{body}
</main>
</body>
</html>
"""
_LONG_CELL = 40  # characters; shorter cells are not wrapped


def _anchor(heading: Heading) -> str:
    return re.sub(r"[^a-z0-9]+", "-", heading.text.lower()).strip("-")


def _one_line(text: str) -> str:
    """A paragraph's line ends are spaces; other control characters are escaped."""
    return escaped(text.replace("\n", " "))


def _html_text(text: str) -> str:
    return html.escape(_one_line(text))


def _html_heading(block: Heading) -> str:
    mark = f' id="{_anchor(block)}"' if block.level == 2 else ""
    return f"<h{block.level}{mark}>{_html_text(block.text)}</h{block.level}>"


def _html_table(block: Table) -> str:
    def row(cells: Sequence[str]) -> str:
        name, *rest = cells
        return f'<tr><th scope="row">{_html_text(name)}</th>{"".join(map(cell, rest))}</tr>'

    def cell(text: str) -> str:
        kind = ' class="long"' if len(text) > _LONG_CELL else ""
        return f"<td{kind}>{_html_text(text)}</td>"

    head = "".join(f'<th scope="col">{_html_text(column)}</th>' for column in block.columns)
    body = "\n".join(row(cells) for cells in block.rows)
    return (
        '<div class="scroll" tabindex="0"><table>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>"
    )


def _html_picture(block: Picture) -> str:
    data = base64.b64encode(block.path.read_bytes()).decode("ascii")
    return (
        f'<figure><div class="scroll" tabindex="0"><img alt="{_html_text(block.alt)}" '
        f'src="data:image/png;base64,{data}"></div>\n'
        f"<figcaption>{_html_text(block.caption)}</figcaption></figure>"
    )


_HTML: dict[type, Callable[..., str]] = {
    Heading: _html_heading,
    Text: lambda block: f"<p>{_html_text(block.text)}</p>",
    Notice: lambda block: f'<p class="notice" role="note">{_html_text(block.text)}</p>',
    Code: lambda block: f"<pre><code>{html.escape(_code_lines(block))}</code></pre>",
    Table: _html_table,
    Picture: _html_picture,
}


def _code_lines(block: Code) -> str:
    return join_lines(block.text.split("\n"))


def _plain(text: str) -> str:
    """Escape markup, so that Markdown shows the text unchanged; "_" in a word is not markup."""
    marked = re.sub(r"([\\`*<>\[\]|~])|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", _one_line(text))
    return re.sub(r"^(\d*)([#+.-])(?=\s)", r"\1\\\2", marked)


def _markdown_table(block: Table) -> str:
    def row(cells: Iterable[str]) -> str:
        return f"| {' | '.join(_plain(cell) for cell in cells)} |"

    rule = "|" + "---|" * len(block.columns)
    return "\n".join([row(block.columns), rule, *(row(cells) for cells in block.rows)])


_MARKDOWN: dict[type, Callable[..., str]] = {
    Heading: lambda block: f"{'#' * block.level} {_plain(block.text)}",
    Text: lambda block: _plain(block.text),
    Notice: lambda block: f"> **{_plain(block.text)}**",
    Code: lambda block: f"```\n{_code_lines(block)}\n```",
    Table: _markdown_table,
}
