import dataclasses

import pytest
from matplotlib.image import imread

from jaxcifar.recipe import RecipeError
from jaxcifar.train import fit
from jaxcifar.visualization import draw_activations, find_test_image


def test_a_class_name_wins_over_an_index(digits):
    assert digits.test.labels[find_test_image(digits, "8")] == 8
    assert find_test_image(digits, "11") == 11


@pytest.mark.parametrize(
    ("image", "message"), [("360", "there are 360"), ("shap", "did you mean 'ship'"), ("-1", "-1")]
)
def test_an_image_that_is_not_there_is_refused(digits, image, message):
    names = ("ship", *digits.class_names[1:])
    with pytest.raises(RecipeError, match=message):
        find_test_image(dataclasses.replace(digits, class_names=names), image)


def test_a_run_is_drawn_and_wrong_layers_are_named(recipe, digits, tmp_path):
    run = tmp_path / "run"
    fit(dataclasses.replace(recipe, epochs=1), digits, workdir=run)
    path = draw_activations(run, ["conv1", "layer1.0.conv2"], "8")
    assert path == run / "figures" / "activations_8.png"
    assert imread(path).ndim == 3
    with pytest.raises(RecipeError, match=r"did you mean 'layer1\.0\.conv2'"):
        draw_activations(run, ["layer1.0.conv3"], "8", out=tmp_path / "x.png")
    with pytest.raises(RecipeError, match="vector"):
        draw_activations(run, ["fc"], "8", out=tmp_path / "x.png")
    with pytest.raises(RecipeError, match=r"end in \.png, not 'x\.foo'"):
        draw_activations(run, ["conv1"], "8", out=tmp_path / "x.foo")
    assert not list(tmp_path.glob("x.*"))
