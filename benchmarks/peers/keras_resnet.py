"""The same ResNet-18 in Keras 3 with the JAX backend, as a Keras user writes it.

Import this module before anything else imports keras, because the import chooses the backend.
"""

import os
from typing import Any

os.environ["KERAS_BACKEND"] = "jax"

import keras
from keras import layers


def make_model(
    *,
    stem: str = "imagenet",
    width: int = 64,
    image_size: int = 32,
    num_classes: int = 10,
    dtype: str = "float32",
    learning_rate: float = 0.01,
) -> Any:
    """A compiled `keras.Model`; bfloat16 means Keras's mixed precision."""
    keras.mixed_precision.set_dtype_policy("mixed_bfloat16" if dtype == "bfloat16" else dtype)
    images = keras.Input((image_size, image_size, 3))
    size, stride = (7, 2) if stem == "imagenet" else (3, 1)
    x = layers.ReLU()(_conv_norm(images, width, size, stride))
    if stem == "imagenet":
        # After a ReLU, padding with zero gives the same maximum as torch's minus infinity.
        x = layers.MaxPooling2D(3, 2)(layers.ZeroPadding2D(1)(x))
    for i in range(4):
        for j in range(2):
            x = _block(x, width * 2**i, stride=2 if i > 0 and j == 0 else 1)
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(images, layers.Dense(num_classes, dtype="float32")(x))
    model.compile(
        optimizer=keras.optimizers.Adam(learning_rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def _conv_norm(x: Any, width: int, size: int, stride: int) -> Any:
    """Convolution and BatchNorm, padded as in torch; "same" pads a strided one differently."""
    if size > 1 and stride > 1:
        x = layers.ZeroPadding2D(size // 2)(x)
    padding = "same" if stride == 1 else "valid"
    x = layers.Conv2D(width, size, stride, padding=padding, use_bias=False)(x)
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)


def _block(x: Any, width: int, *, stride: int) -> Any:
    """The BasicBlock of torchvision."""
    y = layers.ReLU()(_conv_norm(x, width, 3, stride))
    y = _conv_norm(y, width, 3, 1)
    if stride != 1 or x.shape[-1] != width:
        x = _conv_norm(x, width, 1, stride)
    return layers.ReLU()(layers.Add()([x, y]))
