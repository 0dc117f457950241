"""The same networks in PyTorch, with torchvision's module names and forward pass.

torchvision itself is not used: it has no CPU-only build everywhere, and the benchmarks and tests
need nothing else from it. Structure: torchvision/models/resnet.py (v1.5 for the bottleneck).
"""

from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from torch import nn


class Block(nn.Module):
    """BasicBlock or Bottleneck."""

    def __init__(self, c_in: int, width: int, stride: int, bottleneck: bool) -> None:
        """Build the layers with torchvision's names."""
        super().__init__()
        out = width * (4 if bottleneck else 1)
        layers = [(c_in, width, 3, stride), (width, out, 3, 1)]
        if bottleneck:
            layers = [(c_in, width, 1, 1), (width, width, 3, stride), (width, out, 1, 1)]
        self.depth = len(layers)
        for i, (a, b, size, step) in enumerate(layers, start=1):
            setattr(self, f"conv{i}", nn.Conv2d(a, b, size, step, size // 2, bias=False))
            setattr(self, f"bn{i}", nn.BatchNorm2d(b))
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or c_in != out:
            conv = nn.Conv2d(c_in, out, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n, c, h, w] to [n, c', h', w']."""
        shortcut = x if self.downsample is None else self.downsample(x)
        for i in range(1, self.depth + 1):
            x = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(x))
            if i < self.depth:
                x = self.relu(x)
        x += shortcut
        return self.relu(x)


class ResNet(nn.Module):
    """The network of `jaxcifar.models.resnet.ResNet`, channels first."""

    def __init__(
        self,
        stage_sizes: tuple[int, ...],
        *,
        bottleneck: bool = False,
        num_classes: int = 10,
        width: int = 64,
        stem: str = "imagenet",
    ) -> None:
        """Build with torch's default initialisation."""
        super().__init__()
        size, stride, padding = (7, 2, 3) if stem == "imagenet" else (3, 1, 1)
        self.conv1 = nn.Conv2d(3, width, size, stride, padding, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if stem == "imagenet" else nn.Identity()
        channels = width
        self.stages = [f"layer{i + 1}" for i in range(len(stage_sizes))]
        for i, depth in enumerate(stage_sizes):
            blocks: OrderedDict[str, nn.Module] = OrderedDict()
            for j in range(depth):
                stride = 2 if i > 0 and j == 0 else 1
                blocks[str(j)] = Block(channels, width * 2**i, stride, bottleneck)
                channels = width * 2**i * (4 if bottleneck else 1)
            setattr(self, f"layer{i + 1}", nn.Sequential(blocks))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n, 3, h, w] to logits [n, classes]."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for name in self.stages:
            x = getattr(self, name)(x)
        return self.fc(torch.flatten(self.avgpool(x), 1))


def state_dict_from_flax(variables: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The tensors of a flax `ResNet` with torch's names and layouts."""
    renamed = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
    tensors: dict[str, torch.Tensor] = {}

    def walk(prefix: tuple[str, ...], tree: dict[str, Any]) -> None:
        for name, value in tree.items():
            if isinstance(value, dict):
                walk((*prefix, name), value)
                continue
            array = np.asarray(value)
            if name == "kernel":
                array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
            key = ".".join((*prefix, renamed.get(name, name)))
            tensors[key] = torch.from_numpy(np.array(array))

    walk((), variables["params"])
    walk((), variables["batch_stats"])
    return tensors


def load_from_flax(model: ResNet, variables: dict[str, Any]) -> None:
    """Copy the variables of a flax `ResNet` into `model`; all tensors must match."""
    missing, unexpected = model.load_state_dict(state_dict_from_flax(variables), strict=False)
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise ValueError(f"missing {missing}, unexpected {unexpected}")
