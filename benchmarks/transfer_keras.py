"""Transfer learning on few images with Keras 3 on JAX: from the images to the test accuracy.

  python -m benchmarks.transfer_keras DATA.npz WEIGHTS.safetensors

`transfer_jaxcifar` does the same with jaxcifar, and `transfer` compares them.
"""

import argparse
import os
from typing import Any

import numpy as np
from safetensors import safe_open

os.environ["KERAS_BACKEND"] = "jax"

import keras
from keras import layers

BATCH_SIZE, EPOCHS = 64, 5
FROZEN = ("conv1", "bn1", "layer1", "layer2")


def conv_norm(x: Any, width: int, size: int, stride: int, conv: str, norm: str) -> Any:
    """Convolution and BatchNorm, padded as in torch; "same" pads a strided one differently."""
    x = layers.ZeroPadding2D(size // 2)(x)
    x = layers.Conv2D(width, size, stride, use_bias=False, name=conv)(x)
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=norm)(x)


def block(x: Any, width: int, stride: int, name: str) -> Any:
    """The BasicBlock of torchvision."""
    y = layers.ReLU()(conv_norm(x, width, 3, stride, f"{name}.conv1", f"{name}.bn1"))
    y = conv_norm(y, width, 3, 1, f"{name}.conv2", f"{name}.bn2")
    if stride != 1:
        x = conv_norm(x, width, 1, stride, f"{name}.downsample.0", f"{name}.downsample.1")
    return layers.ReLU()(layers.Add()([x, y]))


def make_model(mean: list[float], std: list[float], classes: int) -> Any:
    """A ResNet-18 for images in 0 to 255, which augments them in training."""
    images = keras.Input((32, 32, 3))
    x = layers.RandomFlip("horizontal")(images)
    x = layers.RandomTranslation(4 / 32, 4 / 32, "constant", interpolation="nearest")(x)
    x = layers.Rescaling(1 / 255)(x)
    x = layers.Normalization(mean=mean, variance=[value**2 for value in std])(x)
    x = layers.ReLU()(conv_norm(x, 64, 7, 2, "conv1", "bn1"))
    x = layers.MaxPooling2D(3, 2)(layers.ZeroPadding2D(1)(x))
    for i in range(4):
        x = block(x, 64 * 2**i, 1 if i == 0 else 2, f"layer{i + 1}.0")
        x = block(x, 64 * 2**i, 1, f"layer{i + 1}.1")
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(images, layers.Dense(classes, name="fc")(x))


def load_pretrained(path: str, classes: int) -> Any:
    """The network with the file's weights and a new head, frozen up to layer2."""
    norm = ("weight", "bias", "running_mean", "running_var")
    with safe_open(path, "numpy") as file:
        mean, std = ([float(v) for v in file.metadata()[name].split()] for name in ("mean", "std"))
        model = make_model(mean, std, classes)
        for layer in model.layers:
            if isinstance(layer, layers.Conv2D):
                kernel = file.get_tensor(f"{layer.name}.weight")
                layer.set_weights([kernel.transpose(2, 3, 1, 0)])
            elif isinstance(layer, layers.BatchNormalization):
                layer.set_weights([file.get_tensor(f"{layer.name}.{key}") for key in norm])
            # A BatchNorm that is not trainable keeps its statistics, and uses them.
            layer.trainable = not layer.name.startswith(FROZEN)
    return model


def main() -> None:
    """Train, then score the test images."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", help="x_train, y_train, x_validation, ..., of uint8 images")
    parser.add_argument("weights", help="of a ResNet-18, with torchvision's key names")
    parser.add_argument("--seed", type=int, default=0)
    parsed = parser.parse_args()

    keras.utils.set_random_seed(parsed.seed)
    data = np.load(parsed.data)
    model = load_pretrained(parsed.weights, classes=10)
    steps = EPOCHS * -(-len(data["x_train"]) // BATCH_SIZE)
    rate = keras.optimizers.schedules.CosineDecay(1e-3, steps)
    optimizer = keras.optimizers.AdamW(rate, weight_decay=0.01, epsilon=1e-8)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"])
    validation = (data["x_validation"], data["y_validation"])
    model.fit(
        data["x_train"],
        data["y_train"],
        batch_size=BATCH_SIZE,
        epochs=EPOCHS,
        validation_data=validation,
        validation_batch_size=500,
        verbose=2,
    )
    scores = model.evaluate(data["x_test"], data["y_test"], batch_size=500, verbose=0)
    print(f"test accuracy {scores[1]:.4f}")


if __name__ == "__main__":
    main()
