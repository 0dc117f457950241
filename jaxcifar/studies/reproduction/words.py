"""Figures of a run as the text that stands in the page's tables."""

import dataclasses
import os
import shlex
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxcifar.common.messages import printable, shown
from jaxcifar.recipes.presets import EXPERIMENTS
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.studies.reproduction.stored_run import StoredRun

_SIZES = ("train_size", "validation_size")


def time_text(seconds: float) -> str:
    """Seconds in the form of the course report: "6m 4s"."""
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    parts = [f"{hours}h"] if hours else []
    parts += [f"{minutes}m"] if whole >= 60 else []
    return " ".join([*parts, f"{whole % 60}s"])


def mean_time(runs: Sequence[StoredRun]) -> str:
    """The mean training time of complete runs."""
    return time_text(statistics.fmean(run.train_seconds for run in runs))


def mean_text(values: Sequence[float]) -> str:
    """To 3 decimals; of several values the mean and the standard deviation."""
    mean = f"{statistics.fmean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.3f}"


def triple_text(columns: Iterable[Sequence[float]]) -> str:
    """Train, validation and test values, each as in `mean_text`."""
    return " / ".join(map(mean_text, columns))


def preset_differences(recipe: Mapping[str, Any], preset: str) -> list[str]:
    """How a run's recipe (from its config.json) differs from a preset's, as "epochs 2, not 20".

    Where the preset leaves a setting out, what that means is said if it is known: "train_size 9,
    not the default (40000)". Seeds and the source of the weights are ignored: the page shows them
    elsewhere.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(Recipe)}
    expected = defaults | EXPERIMENTS[preset].settings
    ignored = ("seed", "weights", "eval_batch_size")
    differing = {
        name: value
        for name, value in recipe.items()
        if name in expected and name not in ignored and value != expected[name]
    }
    unset = {field.name: field.metadata["unset"] for field in dataclasses.fields(Recipe)}
    known = unset | (_split_sizes(preset) if differing.keys() & set(_SIZES) else {})
    return [
        f"{name} {_value(value, unset[name])}, not {_value(expected[name], known[name])}"
        for name, value in differing.items()
    ]


def shared_differences(rows: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The differences that several rows of a page share, which it says once for all of them.

    Args:
        rows: the differences of each row by its name, as `preset_differences` returns them.

    Returns:
        Each difference of at least two rows, those of the most rows first, and these rows' names.
    """
    whose: dict[str, list[str]] = {}
    for name, differences in rows.items():
        for difference in differences:
            whose.setdefault(difference, []).append(name)
    shared = {difference: names for difference, names in whose.items() if len(names) > 1}
    return dict(sorted(shared.items(), key=lambda item: -len(item[1])))


def shared_text(shared: Mapping[str, Sequence[str]], rows: Sequence[str]) -> str:
    """`shared_differences` in sentences, one for each group of the page's rows.

    Whose they are is said as "All runs", "All runs but mini" or "mini and mini_modern".
    """
    groups: dict[str, list[str]] = {}
    for difference, names in shared.items():
        groups.setdefault(_described(list(names), list(rows)), []).append(difference)
    sentences = [f"{whose}: {'; '.join(differences)}." for whose, differences in groups.items()]
    return " ".join(["Differences from the recipes, which the rows do not repeat.", *sentences])


def checkpoint_text(run: StoredRun, which: str) -> str:
    """The epoch and the accuracies of the "best" or "last" checkpoint of a complete run."""
    assert run.summary is not None
    score = run.summary[which]
    epochs = [row["epoch"] for row in run.history.rows if row["step"] == score["step"]]
    name = f"epoch {epochs[0]}" if epochs else f"step {score['step']}"
    return (
        f"{name}: validation {score['validation_accuracy']:.3f}, "
        f"test {score['test']['accuracy']:.3f} ({score['test']['examples']:,} images)"
    )


def device_text(machine: Mapping[str, Any]) -> str:
    """The device of a run and, if there are several, their number."""
    return str(machine["device"]) + (f" x {machine['devices']}" if machine["devices"] > 1 else "")


def machine_cells(machine: Mapping[str, Any]) -> tuple[str, ...]:
    """Device, processor, cores and versions."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return (
        device_text(machine),
        str(machine["processor"]),
        str(machine["cores"]),
        f"Python {machine['python']}, {versions}",
    )


def resumed_text(run: StoredRun) -> str:
    """After which steps a run went on, and whether its machine or versions changed."""
    if not run.resumed:
        return "never"
    cells = set(map(machine_cells, run.machines))
    where = f', on {len(cells)} setups, see "What ran where"' if len(cells) > 1 else ""
    return f"after step {', '.join(map(str, dict.fromkeys(run.resumed)))}{where}"


def weights_cells(run: StoredRun) -> tuple[str, str]:
    """The weights a run started from: their name, without a local folder, and short SHA-256."""
    weights = run.config.get("weights")
    if weights is None:
        return "none: random initial weights", "-"
    source = Path(weights["source"])
    name = source.name if source.is_absolute() else weights["source"]
    return name, f"{weights['sha256'][:12]}..."


def shell_line(words: Iterable[str]) -> str:
    r"""A command to type: one printable line, whatever bytes the words have.

    >>> print(shell_line(["cat", "a file", "two\nlines"]))
    cat 'a file' $'two\nlines'
    """
    return " ".join(map(_shell_word, words))


def _shell_word(word: str) -> str:
    if word.isprintable():
        return shlex.quote(word)
    inside = repr(os.fsencode(word) + b'"')[2:-2]  # the mark makes repr quote by "'"
    return f"$'{inside}'"


def _described(names: Sequence[str], rows: Sequence[str]) -> str:
    """Some of the rows, by those that are fewer: these or the others."""
    others = [row for row in rows if row not in names]
    if not others:
        return "All runs"
    return f"All runs but {_listed(others)}" if len(others) < len(names) else _listed(names)


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _split_sizes(preset: str) -> dict[str, str]:
    """The sizes of a preset's splits, its dataset's own where it sets none."""
    return dict(zip(_SIZES, map(str, EXPERIMENTS[preset].recipe.split_sizes), strict=True))


def _value(value: Any, unset: str | None) -> str:
    """A recipe's value, which comes from a file; `unset` is what None means, if that is known."""
    if value is None:
        return "the default" if unset is None else f"the default ({unset})"
    return printable(value) if isinstance(value, str) else shown(value)
