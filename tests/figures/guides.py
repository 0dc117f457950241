"""Numbers of the guides that have few."""

from tests.figures.reading import Given, Page

_DATA = Page(
    "docs/data.md",
    figures=[],
    given=[
        Given("downloads {} MB", "the size of the publisher's file"),
        Given("CC BY {}", "the name of a license"),
        Given("may have {} MB", "a limit"),
        Given("and {} MB of encoded pictures", "a limit"),
    ],
)
_GPU = Page(
    "docs/gpu.md",
    figures=[],
    given=[
        Given("Python {} or later", "a version"),
        Given("must be above {} at the end", "a bound for what is to come"),
        Given("It fails above {}.", "a bound for what is to come"),
        Given("falls by at least {} %", "a bound for what is to come"),
        Given("Others report {} %", "published: cifar10-zoo"),
        Given("Below {} % suspect a bug", "a bound for what is to come"),
        Given("a difference below {} % says nothing", "a bound for what is to come"),
        Given("until it misses {} %", "a bound for what is to come"),
        Given("the mean is at least {} %", "a bound for what is to come"),
    ],
)
_INSPECTION = Page(
    "docs/inspection.md",
    figures=[],
    given=[
        Given("with probability {} or more", "a definition"),
        Given("correctly with p >= {}", "a definition"),
    ],
)
_NOTEBOOKS = Page("docs/notebooks.md", [], [Given("it costs {} % of the time", "a limit")])
_TRAINING = Page(
    "docs/training.md",
    figures=[],
    given=[
        Given("{} is PyTorch's momentum of {}", "a setting"),
        Given("(decay {} by default, epsilon {}", "a setting"),
    ],
)
_TRANSFER = Page("docs/transfer.md", [], [Given("at {} times the learning rate", "a setting")])
PAGES = [_DATA, _GPU, _INSPECTION, _NOTEBOOKS, _TRAINING, _TRANSFER]
WITHOUT = (
    "changelog contributing devices index inference interruptions own_parts reproduction sweeps"
)
PAGES += [Page(f"docs/{name}.md", figures=[], given=[]) for name in WITHOUT.split()]
