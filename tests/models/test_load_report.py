import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxcifar.common.messages import escaped
from jaxcifar.models.pretrained import fill_model, load_pretrained, to_torch
from jaxcifar.models.resnet import ResNet
from tests.conftest import random_variables
from tests.hostile_names import NAMES

MODEL = ResNet(stage_sizes=(1, 1), width=4, num_classes=5)


def test_it_names_the_source_and_what_was_loaded(tmp_path):
    path = tmp_path / "w.safetensors"
    metadata = {"mean": "0.485 0.456 0.406", "std": "0.229 0.224 0.225", "size": "32"}
    save_file(to_torch(random_variables(MODEL)), path, metadata)
    _, report = load_pretrained(path, MODEL, new_head=True, key=jax.random.key(0))
    text = str(report)
    for part in (str(path), "18 parameter leaves and 12 statistics", "new: fc.bias, fc.kernel"):
        assert part in text
    assert "left out: fc.bias, fc.weight" in text
    assert "mean 0.485 0.456 0.406, std 0.229 0.224 0.225, 32 pixels" in text
    assert report.to_dict()["preprocessing"]["size"] == 32


def test_it_says_if_the_file_records_no_preprocessing():
    _, report = fill_model(MODEL, to_torch(random_variables(MODEL)), source="file")
    assert "does not record the mean and std of the training images" in str(report)
    assert report.preprocessing_values() == ((), ())


@pytest.mark.parametrize("name", NAMES)
def test_names_cannot_forge_a_line_of_it(name):
    tensors = to_torch(random_variables(MODEL)) | {f"fc.3.{name}": np.zeros(1)}
    _, report = fill_model(
        MODEL, tensors, source=name, sha256="ab", new_head=True, key=jax.random.key(0)
    )
    lines = str(report).split("\n")
    assert all(line.isprintable() for line in lines)
    assert lines[0].startswith(f"weights from {escaped(name)} (SHA-256 ab...)")
    assert [line[:2] for line in lines[1:]] == ["  "] * 3
    assert report.to_dict()["source"] == name  # data keep the true name
