"""Numbers of docs/results.md."""

from statistics import median

from tests.figures.reading import Figure, Given, Page
from tests.figures.runs import (
    best,
    cached,
    dropout_run,
    last,
    of_last_epoch,
    reported,
    run,
    seconds,
)

THREE = "{} / {} / {}"


def best_epoch(name: str) -> Figure:
    return Figure(f"| `{name}`, best epoch ({{}}) | - / {{}} / {{}} |", best(name))


def compared(name: str, ending: str, time: float, more: str = "") -> Figure:
    """A run of the report's, with the report's figures."""
    text = f"| `{name}`, last epoch{more} | {THREE} | {THREE} | {ending}"
    return Figure(text, last(name) + reported(name) + (time,))


def dropout(label: str, rate: float) -> Figure:
    return Figure(f"{label} | {THREE} |", of_last_epoch(dropout_run(rate)))


def best_of_dropout(rate: float) -> tuple[float, float]:
    scores = dropout_run(rate)["summary"]["best"]
    return scores["validation_accuracy"], scores["test"]["accuracy"]


RATES = (0.1, 0.2, 0.3, 0.4)
MEDIAN = "{} s an epoch (median)"
FIGURES = [
    compared(
        "scratch",
        "2 CPU cores, " + MEDIAN,
        median(seconds("scratch")),
        ", also the best by validation",
    ),
    compared("finetune", MEDIAN, median(seconds("finetune"))),
    best_epoch("finetune"),
    compared("freeze_a", "{} s the fastest epoch", min(seconds("freeze_a"))),
    best_epoch("freeze_a"),
    Figure(
        f"| `freeze_a_bn_frozen`, last epoch | {THREE} | | {{}} s (median)",
        (*last("freeze_a_bn_frozen"), median(seconds("freeze_a_bn_frozen"))),
    ),
    best_epoch("freeze_a_bn_frozen"),
    compared("freeze_b", MEDIAN, median(seconds("freeze_b"))),
    *(
        Figure(
            f"| `{name}`, last epoch | {THREE} | | {{}} s, then {{}} s an epoch |",
            last(name) + cached(name),
        )
        for name in ("freeze_b_bn_frozen", "freeze_b_modern")
    ),
    dropout("15 epochs, dropout 0.1", 0.1),
    dropout("| dropout 0.2", 0.2),
    dropout("| dropout 0.3", 0.3),
    dropout("| dropout 0.4", 0.4),
    Figure("| {} min of training |", (dropout_run(0.1)["summary"]["train_seconds"] / 60,)),
    Figure(
        f"| dropout 0.3 | {THREE} | {THREE} |", of_last_epoch(dropout_run(0.3)) + reported("mini")
    ),
    Figure(
        f"| `demo` (digits, 12 epochs) | {THREE} | | 2 CPU cores, {{}} s of training |",
        (*last("demo"), run("demo")["summary"]["train_seconds"]),
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
    Given("dropout {} |", "a setting", 4),
    Given("at a learning rate near {} for", "a setting"),
    Given("at 32x32 (validation accuracy {} on its 200 classes", "from those who trained them"),
]
PAGE = Page("docs/results.md", FIGURES, GIVEN)
