import re
import runpy

import pytest


def test_the_readme_names_the_two_commands(root):
    text = (root / "README.md").read_text()
    assert "make demo" in text
    assert "make test" in text
    for picture in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text):
        assert (root / picture).is_file(), picture


@pytest.mark.slow
def test_the_python_example_runs_as_it_stands(root, tmp_path, capsys):
    example = re.search(r"```python\n(.*?)```", (root / "README.md").read_text(), re.DOTALL)
    assert example is not None
    (tmp_path / "example.py").write_text(example[1])
    runpy.run_path(str(tmp_path / "example.py"))
    assert "'accuracy'" in capsys.readouterr().out
