"""jaxcifar: functional training of small-image classifiers in JAX and Flax.

Names are loaded when first used, so that `import jaxcifar` costs little more than JAX itself.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxcifar.activations import capture as capture
    from jaxcifar.checkpoint import Checkpoints as Checkpoints
    from jaxcifar.compilation_cache import enable_compilation_cache as enable_compilation_cache
    from jaxcifar.data import Dataset as Dataset
    from jaxcifar.data import Splits as Splits
    from jaxcifar.data import balanced_subset as balanced_subset
    from jaxcifar.data import load_dataset as load_dataset
    from jaxcifar.epoch import make_evaluation as make_evaluation
    from jaxcifar.epoch import make_train_epoch as make_train_epoch
    from jaxcifar.evaluation import evaluate as evaluate
    from jaxcifar.evaluation import evaluate_run as evaluate_run
    from jaxcifar.evaluation import restore_run as restore_run
    from jaxcifar.experiments import EXPERIMENTS as EXPERIMENTS
    from jaxcifar.experiments import get_experiment as get_experiment
    from jaxcifar.gradcam import grad_cam as grad_cam
    from jaxcifar.interruption import Interrupted as Interrupted
    from jaxcifar.optim import make_optimizer as make_optimizer
    from jaxcifar.parallel import DeviceOptions as DeviceOptions
    from jaxcifar.parallel import Layout as Layout
    from jaxcifar.parallel import connect as connect
    from jaxcifar.parallel import make_layout as make_layout
    from jaxcifar.partition import FREEZE_A as FREEZE_A
    from jaxcifar.partition import FREEZE_B as FREEZE_B
    from jaxcifar.partition import freeze_all_but as freeze_all_but
    from jaxcifar.partition import freeze_up_to as freeze_up_to
    from jaxcifar.partition import frozen_batch_norms as frozen_batch_norms
    from jaxcifar.partition import label_params as label_params
    from jaxcifar.partition import labels_at as labels_at
    from jaxcifar.partition import layer_decay as layer_decay
    from jaxcifar.predictions import predict as predict
    from jaxcifar.pretrained import export_weights as export_weights
    from jaxcifar.pretrained import load_pretrained as load_pretrained
    from jaxcifar.recipe import Recipe as Recipe
    from jaxcifar.recipe import load_splits as load_splits
    from jaxcifar.resnet import ResNet as ResNet
    from jaxcifar.resnet import resnet18 as resnet18
    from jaxcifar.resnet import resnet34 as resnet34
    from jaxcifar.resnet import resnet50 as resnet50
    from jaxcifar.schedules import make_schedule as make_schedule
    from jaxcifar.state import TrainState as TrainState
    from jaxcifar.state import start_state as start_state
    from jaxcifar.steps import make_eval_step as make_eval_step
    from jaxcifar.steps import make_train_step as make_train_step
    from jaxcifar.streamed import make_streamed_epoch as make_streamed_epoch
    from jaxcifar.sweeps import sweep as sweep
    from jaxcifar.train import fit as fit
    from jaxcifar.transfer import export_run as export_run

_MODULES = {
    "activations": ("capture",),
    "checkpoint": ("Checkpoints",),
    "compilation_cache": ("enable_compilation_cache",),
    "data": ("Dataset", "Splits", "balanced_subset", "load_dataset"),
    "epoch": ("make_evaluation", "make_train_epoch"),
    "evaluation": ("evaluate", "evaluate_run", "restore_run"),
    "experiments": ("EXPERIMENTS", "get_experiment"),
    "gradcam": ("grad_cam",),
    "interruption": ("Interrupted",),
    "optim": ("make_optimizer",),
    "parallel": ("DeviceOptions", "Layout", "connect", "make_layout"),
    "partition": (
        "FREEZE_A",
        "FREEZE_B",
        "freeze_all_but",
        "freeze_up_to",
        "frozen_batch_norms",
        "label_params",
        "labels_at",
        "layer_decay",
    ),
    "predictions": ("predict",),
    "pretrained": ("export_weights", "load_pretrained"),
    "recipe": ("Recipe", "load_splits"),
    "resnet": ("ResNet", "resnet18", "resnet34", "resnet50"),
    "schedules": ("make_schedule",),
    "state": ("TrainState", "start_state"),
    "steps": ("make_eval_step", "make_train_step"),
    "streamed": ("make_streamed_epoch",),
    "sweeps": ("sweep",),
    "train": ("fit",),
    "transfer": ("export_run",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'jaxcifar' has no attribute {name!r}")
    return getattr(import_module(f"jaxcifar.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
