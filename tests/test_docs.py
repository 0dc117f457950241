"""The documentation: its code runs, its commands can be parsed, and its links lead somewhere."""

import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

import jaxcifar
from jaxcifar import Checkpoints, Recipe, resnet18, restore_run, start_state
from jaxcifar.commands.main import COMMANDS, load_command, make_parser
from jaxcifar.models.pretrained import export_weights
from jaxcifar.recipes.presets import EXPERIMENTS
from jaxcifar.runs.directory import RunDirectory
from jaxcifar.step.freeze import label_params
from jaxcifar.step.freeze_text import parse_rules
from tests.conftest import ROOT, assert_trees_identical, random_variables
from tests.test_floors import FLOORS

GUIDES = sorted(path.name for path in (ROOT / "docs").glob("*.md"))
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for path in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("docs/api/*.md")])
}


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def commands(text):
    """The command lines of a page's shell blocks, as words."""
    for block in blocks(text, "shell"):
        for line in block.replace("\\\n", "").splitlines():
            for part in line.split("#")[0].split("&&"):
                if words := shlex.split(part):
                    yield words


def prose(text):
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def slug(heading):
    """A heading's anchor, as on GitHub and in MyST."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.fixture
def workspace(digits, tmp_path, monkeypatch):
    """The files that the guides take for granted, in the current directory."""
    monkeypatch.chdir(tmp_path)
    export_weights(random_variables(resnet18()), "resnet18.safetensors")
    Path("resnet18.safetensors").rename("resnet18.pth")  # the format is told by the content
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            folder = Path("pets", part, name)
            folder.mkdir(parents=True)
            for number in range(5):
                Image.new("RGB", (70, 80), (50 * number, 0, 0)).save(folder / f"{number}.png")
    Image.new("RGB", (70, 80), "red").save("photo.jpg")
    recipe = Recipe(
        dataset="digits", train_size=120, validation_size=40, normalization="half", width=4,
        batch_size=40,
    )  # fmt: skip
    run = RunDirectory(Path("runs/mine"))
    run.create({"recipe": recipe.to_dict(), "data_fingerprint": digits.fingerprint})
    state = start_state(random_variables(recipe.make_model()), recipe.make_optimizer(), seed=0)
    with Checkpoints(run.checkpoints) as checkpoints:
        checkpoints.save(state, validation_accuracy=0.5)
    return tmp_path


def test_the_python_of_every_guide_runs_as_it_stands(workspace, capsys):
    found = {}
    for name in GUIDES:
        code = "\n".join(blocks(PAGES[f"docs/{name}"], "python"))
        if code:
            found[name] = {}
            exec(compile(code, name, "exec"), found[name])
    printed = capsys.readouterr().out
    assert {"data.md", "devices.md", "inference.md", "inspection.md", "transfer.md"} <= found.keys()
    assert "new: fc.bias, fc.kernel" in printed
    assert "one device" in printed
    by_orbax = found["interruptions.md"]["variables"]
    _, _, variables = restore_run("runs/mine")
    assert_trees_identical(by_orbax, variables)


@pytest.mark.parametrize("page", PAGES)
def test_every_command_can_be_parsed(page):
    for words in commands(PAGES[page]):
        while "=" in words[0]:  # the environment
            words = words[1:]
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        elif words[:2] == ["python", "-m"]:
            script = ROOT.joinpath(*words[2].split(".")).with_suffix(".py")
            source = script.read_text() + (ROOT / "benchmarks" / "harness.py").read_text()
            assert all(f'"{word}"' in source for word in words[3:] if word.startswith("--")), words
        elif words[0] == "jaxcifar":
            parser = load_command(words[1]).make_parser("jaxcifar")
            parsed, rest = parser.parse_known_args([w for w in words[2:] if w != "--help"])
            assert not rest, words
            assert getattr(parsed, "experiment", "demo").replace("-", "_") in EXPERIMENTS
        else:
            assert words[0].split("/")[-1] in ("pip", "pre-commit"), words


def test_every_option_in_the_text_exists():
    parsers = [load_command(name).make_parser("jaxcifar") for name in COMMANDS]
    actions = [
        action for parser in (make_parser("jaxcifar"), *parsers) for action in parser._actions
    ]
    known = {option for action in actions for option in action.option_strings}
    benchmarks = "".join(path.read_text() for path in (ROOT / "benchmarks").glob("*.py"))
    for page, text in PAGES.items():
        for code in re.findall(r"`([^`]+)`", prose(text)):
            for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+(?!\w)", code):
                assert option in known or f'"{option}"' in benchmarks, (page, option)


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(PAGES[page])):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        path = ROOT.joinpath(page).parent / name if name else ROOT / page
        assert path.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", prose(path.read_text()), re.MULTILINE)
            assert anchor in map(slug, headings), target


def test_every_measurement_is_linked():
    text = "".join(PAGES.values())
    for path in (ROOT / "benchmarks" / "results").glob("*.json"):
        assert path.name in text


def test_every_public_name_is_in_the_reference():
    text = "".join(text for page, text in PAGES.items() if page.startswith("docs/api/"))
    for name in jaxcifar.__all__:
        assert re.search(rf":: (jaxcifar\.)?{name}\b", text, re.MULTILINE), name


def test_every_experiment_is_described():
    table = PAGES["docs/training.md"].split("## Settings")[0]
    rows = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == EXPERIMENTS.keys()


def test_every_freeze_spec_in_the_guide_can_be_read():
    params = random_variables(resnet18())["params"]
    table = PAGES["docs/transfer.md"].split("| `--freeze` | meaning |")[1].split("\n\n")[0]
    rows = [line.split("|")[1] for line in table.splitlines()[2:]]
    specs = [spec.strip("'") for row in rows for spec in re.findall(r"`([^`]+)`", row)]
    assert len(specs) >= 8
    for spec in specs:
        label_params(params, parse_rules(spec, params))


def test_the_plan_of_the_house_is_the_one_that_is_checked():
    table = re.findall(r"^\| (`.*?) \|", PAGES["CONTRIBUTING.md"], re.MULTILINE)
    assert [" ".join(re.findall(r"`(\w+)`", row)) for row in table] == list(FLOORS)


def test_what_contributing_names_is_there():
    folders = (ROOT / "jaxcifar", ROOT / "tests" / "figures")
    sources = {path: path.read_text() for folder in folders for path in folder.rglob("*.py")}
    guides = PAGES["CONTRIBUTING.md"].split("## Add an augmentation")[1]
    for code in re.findall(r"`([^`]+)`", guides):
        if "/" in code:
            assert ROOT.joinpath(code.replace("NAME.py", "train.py")).exists(), code
        elif name := re.fullmatch(r"(?:\w+\.)?(\w{3,})(?:\(.*\))?", code):
            assert any(re.search(rf"\b{name[1]}\b", text) for text in sources.values()), code


def test_the_license_and_the_typing_marker_are_there():
    assert "Apache License" in (ROOT / "LICENSE").read_text()
    assert (ROOT / "jaxcifar" / "py.typed").is_file()
