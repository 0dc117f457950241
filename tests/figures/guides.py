"""Numbers of the guides that have few."""

from tests.figures.reading import Given, Page


def _guide(name: str, *given: Given) -> Page:
    """A guide without measured numbers."""
    return Page(f"docs/{name}.md", [], list(given))


_DATA = _guide(
    "data",
    Given("downloads {} MB", "the size of the publisher's file"),
    Given("CC BY {}", "the name of a license"),
    Given("may have {} MB", "a limit"),
    Given("and {} MB of encoded pictures", "a limit"),
)
_GPU = _guide(
    "gpu",
    Given("Python {} or later", "a version"),
    Given("must be above {} at the end", "a bound for what is to come"),
    Given("It fails above {}.", "a bound for what is to come"),
    Given("falls by at least {} %", "a bound for what is to come"),
    Given("Others report {} %", "published: cifar10-zoo"),
    Given("Below {} % suspect a bug", "a bound for what is to come"),
    Given("a difference below {} % says nothing", "a bound for what is to come"),
    Given("until it misses {} %", "a bound for what is to come"),
    Given("the mean is at least {} %", "a bound for what is to come"),
)
_INSPECTION = _guide(
    "inspection",
    Given("with probability {} or more", "a definition"),
    Given("correctly with p >= {}", "a definition"),
)
_NOTEBOOKS = _guide("notebooks", Given("it costs {} % of the time", "a limit"))
_TRAINING = _guide(
    "training",
    Given("{} is PyTorch's momentum of {}", "a setting"),
    Given("(decay {} by default, epsilon {}", "a setting"),
)
_TRANSFER = _guide("transfer", Given("at {} times the learning rate", "a setting"))
PAGES = [_DATA, _GPU, _INSPECTION, _NOTEBOOKS, _TRAINING, _TRANSFER]
WITHOUT = (
    "changelog contributing devices index inference interruptions own_parts reproduction sweeps"
)
PAGES += [_guide(name) for name in WITHOUT.split()]
