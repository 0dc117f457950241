"""Numbers of docs/benchmarks.md."""

from tests.figures import run_benchmarks, step_benchmarks
from tests.figures.reading import Given, Page

PAGE = Page(
    "docs/benchmarks.md",
    figures=step_benchmarks.FIGURES + run_benchmarks.FIGURES,
    given=[
        Given("PyTorch {}. The table has", "a version"),
        Given("with earlier code, it took {} ms, and {} of the time", "measured with earlier code"),
        Given("more than {} below that of the epoch before", "a definition"),
        Given("more than {} below the accuracy with batch statistics", "a definition"),
        Given("Muon's rate ({}) and momentum ({}), BatchNorm's decay ({})", "settings"),
        Given("with Muon at {} and a momentum of {}, a trained first layer", "settings"),
        Given("a decay of {}, shifts filled with zeros", "a setting"),
        Given("biases at {} times the learning rate", "a setting"),
        Given("with mirror averaging), and {} in", "a target"),
    ],
    facts=run_benchmarks.FACTS,
)
