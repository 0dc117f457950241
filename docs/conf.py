"""Sphinx: guides in Markdown, the API from the docstrings."""

import dataclasses
import inspect
import re
from importlib.metadata import version as installed
from typing import Any

from docutils import nodes
from sphinx.domains.python import PyXRefRole

project = "jaxcifar"
author = "the jaxcifar authors"
project_copyright = "2026, the jaxcifar authors"
release = version = installed("jaxcifar")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3

default_role = "name"
add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
python_display_short_literal_types = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = [("Example", "example")]

html_theme = "sphinx_book_theme"
html_title = "jaxcifar"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_show_sourcelink = False
html_theme_options = {
    "show_toc_level": 2,
    "use_download_button": False,
    "use_fullscreen_button": False,
    # The sidebar has a search field of its own.
    "navbar_persistent": [],
    "navbar_start": [],
    "navbar_center": [],
    "navbar_end": [],
}


def name_role(role: str, rawtext: str, text: str, *rest: Any, **options: Any) -> Any:
    """Single backticks in docstrings: a link where it is a documented name, code everywhere."""
    if re.fullmatch(r"[\w.]+", text):
        return PyXRefRole()("py:obj", rawtext, text, *rest, **options)
    return [nodes.literal(rawtext, text)], []


def has_settings(obj: Any) -> bool:
    """Whether it is a dataclass whose fields have help texts."""
    return (
        inspect.isclass(obj)
        and dataclasses.is_dataclass(obj)
        and all("help" in field.metadata for field in dataclasses.fields(obj))
    )


def shorten_signature(
    app: Any, what: str, name: str, obj: Any, options: Any, signature: str, returns: str
) -> tuple[str, str] | None:
    """The settings are listed below: not in the signature, too."""
    return ("(**settings)", "") if has_settings(obj) else None


def list_settings(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Append to a dataclass of settings a list of them, as the command line describes them."""
    if not has_settings(obj):
        return
    fields = dataclasses.fields(obj)
    for group in dict.fromkeys(field.metadata["group"] for field in fields):
        lines += ["", f".. rubric:: {group.capitalize()}", ""]
        for field in fields:
            if field.metadata["group"] == group:
                text = field.metadata["help"].replace("*", r"\*")
                lines += [f"``{field.name}`` = ``{field.default!r}``", f"    {text}", ""]


def setup(app: Any) -> None:
    """Connect the functions above."""
    app.add_role("name", name_role)
    app.connect("autodoc-process-signature", shorten_signature)
    app.connect("autodoc-process-docstring", list_settings)
