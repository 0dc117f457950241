import pytest

from jaxcifar.commands import sweep, train
from jaxcifar.commands.experiment import experiment_parser
from jaxcifar.recipes.presets import EXPERIMENTS
from jaxcifar.recipes.recipe import Recipe


def make_parser(*arguments):
    return experiment_parser(
        "jaxcifar train", arguments, usage="--field F ", text="Train.", workdir="runs/EXPERIMENT"
    )


def test_help_lists_the_experiments_within_the_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "70")
    text = make_parser().format_help()
    assert text.startswith("usage: jaxcifar train EXPERIMENT --field F [options]\n\nTrain.\n")
    listing = text[text.index("\nexperiments:\n") : text.index("\n\nEach experiment")]
    for name, experiment in EXPERIMENTS.items():
        assert f"\n  {name} " in listing
        assert experiment.text in " ".join(listing.split())
    assert max(map(len, listing.splitlines())) <= 70
    assert text.endswith("see jaxcifar train EXPERIMENT --help.\n")


def test_the_defaults_shown_are_those_of_the_experiment():
    text = Recipe.__dataclass_fields__["batch_size"].metadata["help"]
    for arguments, size in (((), 128), (("demo", "--epochs", "2"), 64), (("no-such",), 128)):
        shown = " ".join(make_parser(*arguments).format_help().split())
        assert f"{text} (default: {size})" in shown
    assert make_parser("freeze-a").format_help() == make_parser("freeze_a").format_help()


def test_a_missing_experiment_lists_them_all(capsys):
    for arguments in ([], ["--epochs", "3"]):
        with pytest.raises(SystemExit):
            make_parser().parse(arguments)
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert f"EXPERIMENT is one of {', '.join(EXPERIMENTS)} (see" in error


def test_the_rates_and_batches_have_short_names():
    parsed = make_parser().parse(["demo", "--lr", "0.1", "--bs", "32"])
    assert (parsed.learning_rate, parsed.batch_size) == (0.1, 32)


@pytest.mark.parametrize(
    ("words", "resume"),
    [
        ("demo", False),
        ("demo --resume --epochs 5", True),
        ("--resume demo", True),  # not "demo" for the value of --resume
        ("demo --resume auto", "auto"),
        ("demo --resume=auto --epochs 5", "auto"),
        ("--resume auto demo", "auto"),
    ],
)
def test_resume_takes_auto_and_nothing_else(words, resume):
    parsed = train.make_parser("jaxcifar train", words.split()).parse(words.split())
    assert (parsed.resume, parsed.experiment) == (resume, "demo")


def test_sweeps_do_not_take_auto(capsys):
    words = ["demo", "--field", "seed", "--values", "0", "--resume", "auto"]
    parser = sweep.make_parser("jaxcifar sweep", words)
    with pytest.raises(SystemExit):
        parser.parse(words)
    assert "unexpected argument 'auto'" in capsys.readouterr().err
