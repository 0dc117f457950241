"""Write torch_resnet.npz: PyTorch's numbers for tiny ResNets, to test without PyTorch.

Run it where torch is installed: ``python tests/models/golden/make_torch_golden.py``.

Each case (see `CASES`) has, under "case/": images [n h w 3], label, logits in evaluation mode
("eval_logits") and in train mode ("logits"), the mean loss, and by dotted flax names "params",
"stats" (before), "new_stats" (after the pass in train mode) and "gradients".
"""

import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[3]))
from benchmarks.peers.torch_resnet import ResNet

CASES = {
    f"{block}_{stem}": {"bottleneck": block == "bottleneck", "stem": stem}
    for block in ("basic", "bottleneck")
    for stem in ("imagenet", "cifar")
}
SHAPE = {"stage_sizes": (1, 1), "width": 4, "num_classes": 5}


def flax_name(name, tensor):
    """The dotted flax name and the array in flax's layout for a torch name and tensor."""
    module, kind = name.rsplit(".", 1)
    array = tensor.detach().numpy()
    if kind == "weight":
        kind = "scale" if array.ndim == 1 else "kernel"
    if array.ndim == 4:
        array = array.transpose(2, 3, 1, 0)
    elif array.ndim == 2:
        array = array.T
    kind = {"running_mean": "mean", "running_var": "var"}.get(kind, kind)
    return f"{module}.{kind}", np.ascontiguousarray(array.copy(), np.float32)


def named(prefix, tensors):
    """The tensors as arrays by prefix and flax name."""
    renamed = (flax_name(name, tensor) for name, tensor in tensors)
    return {f"{prefix}/{name}": array for name, array in renamed}


def statistics(model):
    """The running means and variances."""
    return [(k, v) for k, v in model.named_buffers() if not k.endswith("num_batches_tracked")]


def record(case, generator):
    """All arrays of a case, computed in float64."""
    model = ResNet(**SHAPE, **CASES[case])
    with torch.no_grad():
        for name, value in [*model.named_parameters(), *statistics(model)]:
            if value.ndim == 1:  # biases, BatchNorm
                value.uniform_(-0.3, 0.3, generator=generator)
                if name.endswith(("weight", "running_var")):
                    value += 1
            else:
                fan_in = value[0].numel()
                value.normal_(0, (2 / fan_in) ** 0.5, generator=generator)
    size = 16 if CASES[case]["stem"] == "imagenet" else 8
    images = torch.randn(6, 3, size, size, generator=generator)
    label = torch.randint(0, SHAPE["num_classes"], (6,), generator=generator)
    arrays = {
        "images": images.permute(0, 2, 3, 1).numpy(),
        "label": label.numpy().astype(np.int32),
        **named("params", model.named_parameters()),
        **named("stats", statistics(model)),
    }
    # In float32, torch gave these narrow 1x1 convolutions a random gradient in some runs.
    model.double().eval()
    images = images.double()
    arrays["eval_logits"] = model(images).detach().numpy()
    model.train()
    logits = model(images)
    loss = torch.nn.functional.cross_entropy(logits, label)
    loss.backward()
    arrays["logits"] = logits.detach().numpy()
    arrays["loss"] = loss.detach().numpy()
    arrays.update(named("new_stats", statistics(model)))
    arrays.update(named("gradients", [(k, v.grad) for k, v in model.named_parameters()]))
    return {
        f"{case}/{name}": array if name == "label" else np.float32(array)
        for name, array in arrays.items()
    }


if __name__ == "__main__":
    arrays = {}
    for seed, case in enumerate(CASES):
        arrays |= record(case, torch.Generator().manual_seed(seed))
    np.savez_compressed(Path(__file__).with_name("torch_resnet.npz"), **arrays)
