import json

import numpy as np
import pytest

from jaxcifar.common.errors import RecipeError, RunError
from jaxcifar.visualize.counts import check_counts, write_counts


def test_the_matrix_of_a_thousand_classes_can_be_replaced(tmp_path):
    path, names = tmp_path / "c.json", [f"class \0 {n}" for n in range(1_000)]
    rows = np.random.default_rng(0).integers(0, 100, (1_000, 1_000)).tolist()
    numbers = {"class_names": names, "confusion": rows, "per_class_accuracy": [None, 0.5]}
    write_counts(path, numbers)
    assert json.loads(path.read_text()) == numbers
    assert path.stat().st_size < 5e6
    check_counts(path)
    write_counts(path, numbers | {"confusion": [[1]]})
    assert json.loads(path.read_text())["confusion"] == [[1]]


def test_a_file_of_somebody_elses_is_not_replaced(tmp_path):
    path = tmp_path / "c.json"
    check_counts(path)
    path.write_text("{}")
    with pytest.raises(RecipeError, match="holds no confusion matrix"):
        check_counts(path)
    path.write_text("[")
    with pytest.raises(RunError):
        check_counts(path)
