import re
import runpy


def test_the_readme_is_short_and_names_the_two_commands(root):
    text = (root / "README.md").read_text()
    assert len(text.splitlines()) <= 200
    assert "make demo" in text
    assert "make test" in text


def test_the_python_example_runs_as_it_stands(root, tmp_path, monkeypatch, capsys):
    readme = (root / "README.md").read_text()
    example = re.search(r"## 60 seconds from Python\n+```python\n(.*?)```", readme, re.DOTALL)
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
