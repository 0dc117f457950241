"""Numbers of the README."""

from tests.figures.reading import Figure, Given, Page
from tests.figures.runs import (
    last,
    mean_of_seeds,
    reported,
    run,
    spread_of_seeds,
)
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


def row_of_seeds(name: str, label: str = "") -> Figure:
    """Means of a recipe's seeds, the deviation on the test images, minutes, the report's."""
    return Figure(
        f"| `{name}`{label} | {{}} / {{}} / {{}} ± {{}} | {{}} min | {{}} / {{}} / {{}} |",
        (*mean_of_seeds(name), spread_of_seeds(name)[2], minutes(f"{name}_seed2"), *reported(name)),
    )


def minutes(name: str) -> float:
    return run(name)["summary"]["train_seconds"] / 60


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
    row_of_seeds("scratch"),
    row_of_seeds("finetune"),
    row_of_seeds("freeze_a", " (stem and layer1 frozen)"),
    row_of_seeds("freeze_b", " (all but the head frozen)"),
    Figure(
        "| `finetune_modern` (SGD, augmentation) | {} / {} / {} | {} min | |",
        (*last("finetune_modern"), minutes("finetune_modern")),
    ),
    Figure(
        "| `scratch_modern` (3x3 stem, SGD, augmentation) | {} / {} / {} | {} min |",
        (*last("scratch_modern"), minutes("scratch_modern")),
    ),
    Figure(
        "| `speedrun` with its images and epochs (Muon; {} by six views) | {} / {} / {} | {} min |",
        (
            run("speedrun_20_epochs")["test_with_six_views"]["accuracy"],
            *last("speedrun_20_epochs"),
            minutes("speedrun_20_epochs"),
        ),
    ),
    Figure(
        "| `mini`, dropout 0.3, at 112 pixels | {} / {} / {} | {} min | {} / {} / {} (224 pixels",
        (*last("mini_112"), minutes("mini_112"), *reported("mini")),
    ),
    Figure(
        "| `mini_modern` at 112 pixels | {} / {} / {} | {} min",
        (*last("mini_modern_112_50_epochs"), minutes("mini_modern_112_50_epochs")),
    ),
    row("`flax.linen` layers and optax, jitted", *stems(FLAX)),
    row("Keras 3 on JAX, `fit`", quotient(step("imagenet"), EPOCH, KERAS)),
    row("PyTorch eager, channels_last", *stems(LAST)),
    row("PyTorch eager, contiguous", *stems(CONTIGUOUS)),
    row("PyTorch `torch.compile`, channels_last", *stems(COMPILED)),
]
GIVEN = [
    Given("## {} seconds from Python", "a title"),
    Given("## {} seconds from the shell", "a title"),
    Given("Python {} or newer", "a version"),
    Given("`mini`, dropout {}, at 112 pixels", "a setting"),
    Given("[Apache {}]", "the name of a license"),
]
PAGE = Page("README.md", FIGURES, GIVEN)
