"""Numbers of docs/results.md."""

from typing import Any

from tests.figures.reading import Fact, Figure, Given, Page, result
from tests.figures.runs import best_of, dropout_run, of_last_epoch, reported, run

RATES = (0.1, 0.2, 0.3, 0.4)
THREE = "{}/{}/{}"  # without spaces a browser keeps it on one line
REPORTED = ("scratch", "finetune", "freeze_a", "freeze_b")


def row(label: str, run: dict[str, Any], report: tuple[float, ...] = ()) -> Figure:
    """A run: last epoch, the report's figures, best epoch, images a second, training time."""
    summary = run["summary"]
    seconds = summary["train_seconds"]
    time, unit = (seconds, "s") if seconds < 100 else (seconds / 60, "min")
    cells = (label, THREE, THREE if report else "", "{}: {}/{}", "{}", "{} " + unit)
    text = "| " + " | ".join(cells) + " |"
    speed = summary["images_per_second"]
    return Figure(text, (*of_last_epoch(run), *report, *best_of(run), speed, time))


def confused(true: str, predicted: str) -> int:
    """How many test images of a class finetune took for another."""
    matrix = result("confusion_finetune_cpu")
    names = matrix["class_names"]
    return matrix["confusion"][names.index(true)][names.index(predicted)]


def mistakes() -> list[int]:
    """The counts beside the diagonal of finetune's confusion matrix."""
    rows = result("confusion_finetune_cpu")["confusion"]
    return [n for i, row in enumerate(rows) for j, n in enumerate(row) if i != j]


def seconds(name: str) -> float:
    return run(name)["summary"]["train_seconds"]


def scored(name: str) -> float:
    return of_last_epoch(run(name))[2]


def best_of_dropout(rate: float) -> tuple[float, ...]:
    return best_of(dropout_run(rate))[1:]


FIGURES = [
    *(row(f"`{name}`", run(name), reported(name)) for name in REPORTED),
    *(
        row(f"`{name}`", run(name))
        for name in ("freeze_a_bn_frozen", "freeze_b_bn_frozen", "freeze_b_modern")
    ),
    *(row(f"`mini` at 64 pixels, 15 epochs, dropout {rate}", dropout_run(rate)) for rate in RATES),
    row("`demo` (digits, 12 epochs)", run("demo")),
    Figure(f"for 50 epochs | not run | {THREE} |", reported("mini")),
    Figure(
        "{} cats are called dogs, {} dogs are called cats, and {} automobiles are called trucks",
        (confused("cat", "dog"), confused("dog", "cat"), confused("automobile", "truck")),
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
    Given("at a learning rate near {} for", "a setting"),
    Given("at 32x32 (validation accuracy {} on its 200 classes", "from those who trained them"),
]
FACTS = (
    Fact(
        "The largest groups of `finetune`'s mistakes",
        sorted(mistakes(), reverse=True)[:3]
        == [confused("cat", "dog"), confused("dog", "cat"), confused("automobile", "truck")],
    ),
    Fact(
        "saves a third of the time and costs little accuracy",
        abs(1 - seconds("freeze_a") / seconds("finetune") - 1 / 3) < 0.05
        and scored("finetune") - scored("freeze_a") < 0.02,
    ),
    Fact(
        "in the report's order: `finetune`, `freeze_a`, `scratch`, `freeze_b`",
        scored("finetune") > scored("freeze_a") > scored("scratch") > scored("freeze_b"),
    ),
    Fact(
        "Its file notes that it was resumed after epoch 8.",
        run("finetune")["resumed"] == [{"step": 8 * 313}],
    ),
)
PAGE = Page("docs/results.md", FIGURES, GIVEN, FACTS)
