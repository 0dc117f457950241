"""Transfer learning on few images with jaxcifar: from the images to the test accuracy.

  python -m benchmarks.transfer_jaxcifar DATA.npz WEIGHTS.safetensors

`transfer_keras` does the same with Keras, and `transfer` compares them.
"""

import argparse

import numpy as np

from jaxcifar import Recipe, Splits, evaluate, fit


def main() -> None:
    """Train, then score the test images."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", help="x_train, y_train, x_validation, ..., of uint8 images")
    parser.add_argument("weights", help="of a ResNet-18, with torchvision's key names")
    parser.add_argument("--seed", type=int, default=0)
    parsed = parser.parse_args()

    data = np.load(parsed.data)
    parts = ("train", "validation", "test")
    splits = Splits.from_arrays(*[(data[f"x_{part}"], data[f"y_{part}"]) for part in parts])
    recipe = Recipe(
        weights=parsed.weights,
        new_head=True,
        normalization="imagenet",
        freeze="up_to:layer2",
        bn="frozen",
        flip_rate=0.5,
        translate_pixels=4,
        optimizer="adamw",
        learning_rate=1e-3,
        weight_decay=0.01,
        epochs=5,
        batch_size=64,
        seed=parsed.seed,
    ).on(splits)
    state, _ = fit(recipe, splits, verbose=True)
    model, preprocess = recipe.make_model(), recipe.make_preprocess()
    scores = evaluate(model, state.variables, splits.test, normalize=preprocess)
    print(f"test accuracy {scores['accuracy']:.4f}")


if __name__ == "__main__":
    main()
