"""Numbers of the README."""

from tests.figures.reading import Figure, Given, Page
from tests.figures.runs import dropout_run, last, of_last_epoch, reported, run
from tests.figures.step_benchmarks import (
    COMPILED,
    CONTIGUOUS,
    EPOCH,
    FLAX,
    KERAS,
    LAST,
    quotient,
    stems,
    step,
)
from tests.figures.tables import row


def result_row(name: str, label: str = "") -> Figure:
    """A run of the report beside ours."""
    label = label or f"`{name}`"
    return Figure(
        f"| {label} | {{}} / {{}} / {{}} | {{}} / {{}} / {{}} |", last(name) + reported(name)
    )


FIGURES = [
    Figure(
        "takes {} times as long as the fastest form of PyTorch we measured and {} times as long as "
        "stock Flax",
        (max(stems(peer)[0] for peer in (LAST, CONTIGUOUS, COMPILED)), stems(FLAX)[0]),
    ),
    result_row("scratch"),
    result_row("finetune"),
    result_row("freeze_a", "`freeze_a` (stem and layer1 frozen)"),
    result_row("freeze_b", "`freeze_b` (all but the head frozen)"),
    Figure(
        "| `mini`, dropout 0.3, at 64 pixels, 15 epochs | {} / {} / {} | {} / {} / {} (224 pixels",
        of_last_epoch(dropout_run(0.3)) + reported("mini"),
    ),
    Figure("| `demo` (digits) | {} / {} / {} |", last("demo")),
    row("`flax.linen` layers and optax, jitted", *stems(FLAX)),
    row("Keras 3 on JAX, `fit`", quotient(step("imagenet"), EPOCH, KERAS)),
    row("PyTorch eager, channels_last", *stems(LAST)),
    row("PyTorch eager, contiguous", *stems(CONTIGUOUS)),
    row("PyTorch `torch.compile`, channels_last", *stems(COMPILED)),
    Figure(
        "gave {}, plain SGD {}, both by six views.",
        (
            run("speedrun_9_epochs")["summary"]["last"]["test"]["accuracy"],
            run("speedrun_sgd_9_epochs")["test_with_six_views"]["accuracy"],
        ),
    ),
]
GIVEN = [
    Given("## {} seconds from Python", "a title"),
    Given("## {} seconds from the shell", "a title"),
    Given("Python {} or newer", "a version"),
    Given("`mini`, dropout {}, at 64 pixels", "a setting"),
    Given("[Apache {}]", "the name of a license"),
]
PAGE = Page("README.md", FIGURES, GIVEN)
