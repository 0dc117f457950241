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


IMAGENET = ("imagenet", "imagenet_epyc26_first", "imagenet_epyc26")


def of_fastest_torch(file: str) -> float:
    """The time of our step over that of PyTorch's fastest form."""
    return max(quotient(step(file), EPOCH, peer) for peer in (LAST, CONTIGUOUS, COMPILED))


FIGURES = [
    Figure(
        "takes {} to {} times as long as PyTorch's fastest form",
        (min(map(of_fastest_torch, IMAGENET)), max(map(of_fastest_torch, IMAGENET))),
    ),
    Figure(
        "at most {} times as long as stock Flax layers",
        (max(quotient(step(file), EPOCH, FLAX) for file in IMAGENET),),
    ),
    Figure(
        "with the CIFAR stem takes {} times as long as PyTorch's fastest form, the one with the "
        "ImageNet stem {} times.",
        (of_fastest_torch("cifar_epyc26"), of_fastest_torch("imagenet_epyc26")),
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
        "gave {}, plain SGD {}, both by the mean over six views",
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
