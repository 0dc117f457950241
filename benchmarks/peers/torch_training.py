"""Training the PyTorch twin, on CUDA if it is available, otherwise on all cores of the CPU."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from benchmarks.peers.torch_resnet import ResNet

Step = Callable[[torch.Tensor, torch.Tensor], None]


def device() -> torch.device:
    """The device on which PyTorch trains."""
    if torch.cuda.is_available():
        # TensorFloat-32 is JAX's default; PyTorch's default is to use it only in convolutions.
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True  # like XLA, it may try several convolutions
        return torch.device("cuda")
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    return torch.device("cpu")


def synchronize() -> None:
    """Wait until the device is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def make_step(
    *,
    stem: str,
    width: int,
    learning_rate: float,
    channels_last: bool = True,
    autocast: bool = False,
    compiled: bool = False,
    mode: str | None = None,
) -> Step:
    """A training step with Adam, on images [n, 3, h, w] and labels that are on the device.

    `mode` is that of `torch.compile`. A compiled step on CUDA has the fused Adam.
    """
    where = device()
    model: Any = ResNet((2, 2, 2, 2), stem=stem, width=width)
    model = model.to(where, memory_format=memory_format(channels_last))
    fused = compiled and where.type == "cuda"
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, fused=fused or None)
    forward = torch.compile(model, mode=mode) if compiled else model

    def step(images: torch.Tensor, labels: torch.Tensor) -> None:
        if mode == "reduce-overhead":
            torch.compiler.cudagraph_mark_step_begin()  # the last step's results may be overwritten
        optimizer.zero_grad()
        with torch.autocast(where.type, torch.bfloat16) if autocast else nullcontext():
            loss = torch.nn.functional.cross_entropy(forward(images), labels)
        loss.backward()
        optimizer.step()

    return step


def memory_format(channels_last: bool) -> torch.memory_format:
    """PyTorch's name for the layout of a batch in memory."""
    return torch.channels_last if channels_last else torch.contiguous_format


def to_device(
    images: NDArray[np.float32], labels: NDArray[np.int32], *, channels_last: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch of images [n, h, w, 3] as PyTorch tensors [n, 3, h, w] on the device."""
    placed = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    return (
        placed.to(device(), memory_format=memory_format(channels_last)),
        torch.from_numpy(labels.copy()).long().to(device()),
    )


class Images(Dataset):
    """A Dataset as in notebooks: ToTensor and Normalize for one image at a time."""

    def __init__(
        self,
        images: NDArray[np.uint8],
        labels: NDArray[np.int32],
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        """uint8 [n, h, w, 3] and int32 [n]."""
        self.images, self.labels = images, labels
        self.mean = torch.tensor(mean).reshape(3, 1, 1)
        self.std = torch.tensor(std).reshape(3, 1, 1)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        image = torch.from_numpy(self.images[i]).permute(2, 0, 1).float().div(255)
        return (image - self.mean) / self.std, int(self.labels[i])


def make_loader(images: Images, *, batch_size: int) -> DataLoader:
    """A loader with two workers that read ahead and stay from epoch to epoch.

    They are spawned, because a fork of a process with JAX's threads can hang.
    """
    return DataLoader(
        images,
        batch_size=batch_size,
        shuffle=True,
        num_workers=2,
        persistent_workers=True,
        multiprocessing_context="spawn",
        pin_memory=torch.cuda.is_available(),
    )


def on_device(loader: DataLoader) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The batches of an epoch, on the device."""
    for images, labels in loader:
        placed = images.to(device(), memory_format=torch.channels_last, non_blocking=True)
        yield placed, labels.to(device(), non_blocking=True)
