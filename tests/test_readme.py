import re
import runpy

from jaxcifar.models.pretrained import export_weights
from jaxcifar.models.resnet import resnet18
from jaxcifar.step.freeze import label_params, parse_rules
from tests.conftest import random_variables


def test_the_readme_names_the_two_commands(root):
    text = (root / "README.md").read_text()
    assert "make demo" in text
    assert "make test" in text
    for picture in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text):
        assert (root / picture).is_file(), picture


def test_the_python_example_runs_as_it_stands(root, tmp_path, monkeypatch, capsys):
    readme = (root / "README.md").read_text()
    example = re.search(r"## From Python\n+```python\n(.*?)```", readme, re.DOTALL)
    assert example is not None
    statements = [line for line in example[1].splitlines() if line]
    assert len(statements) <= 10
    monkeypatch.chdir(tmp_path)
    (tmp_path / "example.py").write_text(example[1])
    names = runpy.run_path(str(tmp_path / "example.py"))
    assert "'accuracy'" in capsys.readouterr().out
    # One digit in ten is right by chance.
    assert max(names["history"].column("validation_accuracy")) > 0.4
    assert (tmp_path / "runs" / "mine" / "summary.json").is_file()


def test_the_transfer_example_runs_as_it_stands(root, tmp_path, monkeypatch, capsys):
    readme = (root / "README.md").read_text()
    example = re.search(r"```python\n(import jax\n.*?)```", readme, re.DOTALL)
    assert example is not None
    model = resnet18(20)
    export_weights(random_variables(model), tmp_path / "resnet18.safetensors")
    # Told by its content.
    (tmp_path / "resnet18.safetensors").rename(tmp_path / "resnet18.pth")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "example.py").write_text(example[1])
    names = runpy.run_path(str(tmp_path / "example.py"))
    assert "new: fc.bias, fc.kernel" in capsys.readouterr().out
    assert callable(names["step"])


def test_every_freeze_spec_in_the_readme_can_be_read(root):
    params = random_variables(resnet18())["params"]
    table = (root / "README.md").read_text().split("| `--freeze` | |")[1].split("\n\n")[0]
    rows = [line.split("|")[1] for line in table.splitlines()[2:]]
    specs = [spec.strip("'") for row in rows for spec in re.findall(r"`([^`]+)`", row)]
    assert len(specs) >= 8
    for spec in specs:
        label_params(params, parse_rules(spec, params))
