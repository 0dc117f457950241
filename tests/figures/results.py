"""Numbers of docs/results.md."""

from statistics import mean
from typing import Any

from tests.figures.reading import Fact, Figure, Given, Page, result
from tests.figures.runs import (
    accuracies_on_test,
    best_of,
    dropout_run,
    last,
    mean_of_seeds,
    of_last_epoch,
    reported,
    run,
    seeds,
    spread_of_seeds,
)

RATES = (0.1, 0.2, 0.3, 0.4)
THREE = "{}/{}/{}"  # without spaces a browser keeps it on one line
REPORTED = ("scratch", "finetune", "freeze_a", "freeze_b")
MACHINES = {
    "AMD EPYC, family 26, AVX-512": "a",
    "AMD EPYC, family 26, model 2, AVX-512": "a",
    "AMD EPYC": "b",
    "AMD EPYC, family 25, model 17, AVX-512": "d",
    "Intel(R) Xeon(R) Processor": "c",
}


def row(label: str, run: dict[str, Any]) -> Figure:
    """A run: last epoch, best epoch, images a second, training time, machine."""
    summary = run["summary"]
    seconds = summary["train_seconds"]
    time, unit = (seconds, "s") if seconds < 100 else (seconds / 60, "min")
    machine = MACHINES[run["trained_on"]["processor"]]
    cells = (label, THREE, "{}: {}/{}", "{}", "{} " + unit, machine)
    text = "| " + " | ".join(cells) + " |"
    speed = summary["images_per_second"]
    return Figure(text, (*of_last_epoch(run), *best_of(run), speed, time))


def row_of_seeds(name: str) -> Figure:
    """A recipe: mean and standard deviation, the test accuracy of each seed, the report's."""
    pairs = zip(mean_of_seeds(name), spread_of_seeds(name), strict=True)
    means = [number for pair in pairs for number in pair]
    return Figure(
        f"| `{name}` | {{}} ± {{}} | {{}} ± {{}} | {{}} ± {{}} | {{}}, {{}}, {{}} | {THREE} |",
        (*means, *accuracies_on_test(name), *reported(name)),
    )


def confused(true: str, predicted: str) -> int:
    """How many test images of a class finetune_modern took for another."""
    matrix = result("confusion_finetune_modern_cpu")
    names = matrix["class_names"]
    return matrix["confusion"][names.index(true)][names.index(predicted)]


def mistakes() -> list[int]:
    """The counts beside the diagonal of finetune_modern's confusion matrix."""
    rows = result("confusion_finetune_modern_cpu")["confusion"]
    return [n for i, row in enumerate(rows) for j, n in enumerate(row) if i != j]


def shares(name: str) -> list[float]:
    """The time of a median epoch over that of finetune, for each seed."""
    pairs = zip(seeds("finetune"), seeds(name), strict=True)
    speed = "images_per_second"
    return [whole["summary"][speed] / part["summary"][speed] for whole, part in pairs]


def leads(name: str, other: str, which: int = 2) -> list[float]:
    """By how much a recipe leads another with each seed: 1 on validation, 2 on test images."""
    pairs = zip(seeds(name), seeds(other), strict=True)
    return [of_last_epoch(one)[which] - of_last_epoch(two)[which] for one, two in pairs]


def extremes(numbers: list[float]) -> tuple[float, float]:
    return min(numbers), max(numbers)


def speeds(first: int, last: int) -> list[float]:
    """Images a second of some epochs of speedrun at full width."""
    epochs = run("speedrun_20_epochs")["history"][first - 1 : last]
    return [epoch["images_per_second"] for epoch in epochs]


def best_of_dropout(rate: float) -> tuple[float, ...]:
    return best_of(dropout_run(rate))[1:]


def by_epoch(variant: str) -> list[float]:
    """The validation accuracies of scratch, ours ("auto") or PyTorch's ("torch")."""
    rows = result("stability_scratch_13_epochs_cpu")["rows"]
    return [each["validation_accuracy"] for each in rows if each["variant"] == variant]


def torch_after(epoch: int) -> list[float]:
    """PyTorch's validation accuracies after an epoch, one a seed."""
    rows = result("stability_scratch_cpu")["rows"]
    chosen = (each for each in rows if (each["variant"], each["epoch"]) == ("torch", epoch))
    return [each["validation_accuracy"] for each in chosen]


def history(run: dict[str, Any]) -> list[float]:
    return [each["validation_accuracy"] for each in run["history"]]


DIFFERENCES = [abs(a - b) for a, b in zip(by_epoch("auto"), by_epoch("torch"), strict=True)]
WORST = 1 + DIFFERENCES.index(max(DIFFERENCES))
ALONE = {
    "`freeze_a_bn_frozen`": "freeze_a_bn_frozen",
    "`freeze_b_bn_frozen`": "freeze_b_bn_frozen",
    "`finetune_modern`": "finetune_modern",
    "`finetune_modern` without cutout and mirror images": "finetune_modern_without_cutout",
    "`freeze_a_modern`": "freeze_a_modern",
    "`freeze_b_modern`": "freeze_b_modern",
    "`scratch_modern`": "scratch_modern",
    "`scratch_modern` on smaller images first": "scratch_modern_growing",
    "`speedrun` with those images, 20 epochs": "speedrun_20_epochs",
    "`mini_modern` at 112 pixels, 50 epochs": "mini_modern_112_50_epochs",
    "`mini_modern` at 112 pixels, 20 epochs": "mini_modern_112",
    "`mini_modern` at 64 pixels, 15 epochs": "mini_modern_64",
    "`mini_modern` at 64 pixels, 15 epochs, batches of 128": "mini_modern_64_batch_128",
    "`mini` at 112 pixels, 50 epochs": "mini_112",
    "`demo` (digits, 12 epochs)": "demo",
}
FIGURES = [
    *map(row_of_seeds, REPORTED),
    Figure(
        "is above every run of `scratch`, by at least {} on the test images",
        (
            min(accuracies_on_test("finetune") + accuracies_on_test("freeze_a"))
            - max(accuracies_on_test("scratch")),
        ),
    ),
    Figure("leads with every seed, by {} to {}, but", extremes(leads("finetune", "freeze_a"))),
    Figure("leads `freeze_b` with every seed, by {} to {}", extremes(leads("scratch", "freeze_b"))),
    *(
        row(f"`{name}`, seed {seed}", run)
        for name in REPORTED
        for seed, run in enumerate(seeds(name))
    ),
    *(row(label, run(name)) for label, name in ALONE.items()),
    *(row(f"`mini` at 64 pixels, 15 epochs, dropout {rate}", dropout_run(rate)) for rate in RATES),
    Figure("for 50 epochs ({}/{}/{}).", reported("mini")),
    Figure(
        "without it their test accuracies are {}, {} and {}, and on\nsmaller images first {}.",
        tuple(
            run(name)["test_without_views"]["accuracy"]
            for name in (
                *("finetune_modern", "freeze_a_modern"),
                *("scratch_modern", "scratch_modern_growing"),
            )
        ),
    ),
    Figure(
        "That cost {} of the test accuracy.",
        (last("scratch_modern")[2] - last("scratch_modern_growing")[2],),
    ),
    Figure(
        "it is {} ahead of `scratch_modern` with mirror images; by the mean over six views, which "
        "is how `speedrun` is scored, it has {}, one seed each.",
        (
            last("speedrun_20_epochs")[2] - last("scratch_modern")[2],
            run("speedrun_20_epochs")["test_with_six_views"]["accuracy"],
        ),
    ),
    Figure(
        "{} to {} images a second at 32 pixels before (two epochs with pauses apart), {} to "
        "{} after",
        (*extremes(speeds(8, 13)), *extremes(speeds(16, 20))),
    ),
    Figure(
        "validation images of 32 pixels was {}.",
        (run("scratch_modern_growing")["history"][14]["validation_accuracy"],),
    ),
    Figure(
        "had {} on the test\nimages as they are.",
        (run("speedrun_9_epochs")["test_without_views"]["accuracy"],),
    ),
    Figure(
        "Beside the {} of `mini` at that size with dropout 0.3, its {} decides nothing",
        (of_last_epoch(dropout_run(0.3))[2], of_last_epoch(run("mini_modern_64"))[2]),
    ),
    Figure(
        "At 112 pixels and 50 epochs it has {} on the test images where `mini` has {}, each with "
        "one seed; 20 epochs gave {}.",
        tuple(
            last(name)[2] for name in ("mini_modern_112_50_epochs", "mini_112", "mini_modern_112")
        ),
    ),
    Figure("The report had {} at 224 pixels.", (reported("mini")[2],)),
    Figure("| ours |" + " {} |" * 13, tuple(by_epoch("auto"))),
    Figure("| PyTorch |" + " {} |" * 13, tuple(by_epoch("torch"))),
    Figure(
        f"The largest difference is {{}}, after epoch {WORST}, where PyTorch's own three seeds lie "
        "between {} and {}",
        (
            max(DIFFERENCES),
            min(torch_after(WORST), default=0.0),
            max(torch_after(WORST), default=0.0),
        ),
    ),
    Figure(
        "The means of the epochs from 5 on are {} and {}.",
        (mean(by_epoch("auto")[4:]), mean(by_epoch("torch")[4:])),
    ),
    Figure(
        "with seed 1 the last one ends at {}, after {}.",
        (history(run("scratch_seed1"))[-1], history(run("scratch_seed1"))[-2]),
    ),
    Figure(
        "a median epoch of `freeze_a` took {} to {} of the time of one of `finetune`, of "
        "`freeze_b` {} to {}.",
        (*extremes(shares("freeze_a")), *extremes(shares("freeze_b"))),
    ),
    Figure(
        "{} cats are called dogs, {} dogs are called cats, and {} trucks are called automobiles",
        (confused("cat", "dog"), confused("dog", "cat"), confused("truck", "automobile")),
    ),
    Figure("better than the report's {}.", (reported("freeze_b")[2],)),
    Figure(
        "a dropout rate of {} leads. By the best validated epoch {} leads",
        (
            max(RATES, key=lambda rate: of_last_epoch(dropout_run(rate))[1]),
            max(RATES, key=best_of_dropout),
        ),
    ),
    Figure(
        "as in the report ({}, test {}, against {}, {} and {})",
        (
            *best_of_dropout(0.3),
            best_of_dropout(0.4)[0],
            best_of_dropout(0.1)[0],
            best_of_dropout(0.2)[0],
        ),
    ),
]
GIVEN = [
    Given("15 epochs, dropout {} |", "a setting", 4),
    Given("| epoch |" + " {} |" * 13, "the epochs"),
    Given("learning rate stays near {} for", "a setting"),
    Given("of `mini` at that size with dropout {}, its", "a setting"),
    Given("and a rate of {}; batches of 32 and a rate of {} are the preset now", "settings"),
    Given("at 32x32 (validation accuracy {} on its 200 classes", "from those who trained them"),
]
FACTS = (
    Fact(
        "that is beyond the noise",
        min(leads("finetune", "scratch") + leads("freeze_a", "scratch"))
        > 3 * max(spread_of_seeds(name)[2] for name in ("scratch", "finetune", "freeze_a")),
    ),
    Fact(
        "but on the validation images only with one of the three",
        sum(lead > 0 for lead in leads("finetune", "freeze_a", which=1)) == 1,
    ),
    Fact(
        "The largest groups of mistakes",
        sorted(mistakes(), reverse=True)[:3]
        == [confused("cat", "dog"), confused("dog", "cat"), confused("truck", "automobile")],
    ),
    Fact(
        "The first one's file notes that it was resumed after epoch 8,",
        run("finetune")["resumed"] == [{"step": 8 * 313}],
    ),
    Fact(
        "that of `mini` at 112 pixels after epoch 30.",
        run("mini_112")["resumed"] == [{"step": 30 * 40}],
    ),
    Fact(
        "all accuracies agree in four digits",
        by_epoch("auto") == history(run("scratch"))[: len(by_epoch("auto"))],
    ),
)
PAGE = Page("docs/results.md", FIGURES, GIVEN, FACTS)
