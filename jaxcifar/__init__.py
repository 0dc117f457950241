"""jaxcifar: functional training of small-image classifiers in JAX and Flax.

Names are loaded when first used, so that `import jaxcifar` costs little more than JAX itself.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxcifar.data import Dataset as Dataset
    from jaxcifar.data import Splits as Splits
    from jaxcifar.data import balanced_subset as balanced_subset
    from jaxcifar.data import load_dataset as load_dataset
    from jaxcifar.devices.compilation_cache import (
        enable_compilation_cache as enable_compilation_cache,
    )
    from jaxcifar.devices.layout import Layout as Layout
    from jaxcifar.devices.processes import DeviceOptions as DeviceOptions
    from jaxcifar.devices.processes import connect as connect
    from jaxcifar.devices.processes import make_layout as make_layout
    from jaxcifar.inference.activations import capture as capture
    from jaxcifar.inference.gradcam import grad_cam as grad_cam
    from jaxcifar.inference.load import load as load
    from jaxcifar.inference.network import Prediction as Prediction
    from jaxcifar.inference.network import TrainedNetwork as TrainedNetwork
    from jaxcifar.inference.predictions import predict as predict
    from jaxcifar.inference.scoring import evaluate_run as evaluate_run
    from jaxcifar.models.pretrained import export_weights as export_weights
    from jaxcifar.models.pretrained import load_pretrained as load_pretrained
    from jaxcifar.models.resnet import ResNet as ResNet
    from jaxcifar.models.resnet import resnet18 as resnet18
    from jaxcifar.models.resnet import resnet34 as resnet34
    from jaxcifar.models.resnet import resnet50 as resnet50
    from jaxcifar.recipes.presets import EXPERIMENTS as EXPERIMENTS
    from jaxcifar.recipes.presets import get_experiment as get_experiment
    from jaxcifar.recipes.recipe import Recipe as Recipe
    from jaxcifar.recipes.splits import load_splits as load_splits
    from jaxcifar.runs.checkpoints import Checkpoints as Checkpoints
    from jaxcifar.runs.curves import draw_curves as draw_curves
    from jaxcifar.runs.history import History as History
    from jaxcifar.runs.restore import restore_run as restore_run
    from jaxcifar.runs.transfer import export_run as export_run
    from jaxcifar.step.freeze import FREEZE_A as FREEZE_A
    from jaxcifar.step.freeze import FREEZE_B as FREEZE_B
    from jaxcifar.step.freeze import freeze_all_but as freeze_all_but
    from jaxcifar.step.freeze import freeze_up_to as freeze_up_to
    from jaxcifar.step.freeze import frozen_batch_norms as frozen_batch_norms
    from jaxcifar.step.freeze import label_params as label_params
    from jaxcifar.step.freeze import labels_at as labels_at
    from jaxcifar.step.freeze import layer_decay as layer_decay
    from jaxcifar.step.optimizer import make_optimizer as make_optimizer
    from jaxcifar.step.schedules import make_schedule as make_schedule
    from jaxcifar.step.state import TrainState as TrainState
    from jaxcifar.step.state import start_state as start_state
    from jaxcifar.step.steps import make_eval_step as make_eval_step
    from jaxcifar.step.steps import make_train_step as make_train_step
    from jaxcifar.studies.sweeps import sweep as sweep
    from jaxcifar.training.evaluation import evaluate as evaluate
    from jaxcifar.training.fit import fit as fit
    from jaxcifar.training.interruption import Interrupted as Interrupted
    from jaxcifar.training.resident import make_evaluation as make_evaluation
    from jaxcifar.training.resident import make_train_epoch as make_train_epoch
    from jaxcifar.training.streamed import make_streamed_epoch as make_streamed_epoch
    from jaxcifar.visualize.pictures import draw_activations as draw_activations
    from jaxcifar.visualize.pictures import draw_confusion as draw_confusion
    from jaxcifar.visualize.pictures import draw_grad_cam as draw_grad_cam
    from jaxcifar.visualize.pictures import draw_mistakes as draw_mistakes

_MODULES = {
    "data": ("Dataset", "Splits", "balanced_subset", "load_dataset"),
    "devices.compilation_cache": ("enable_compilation_cache",),
    "devices.layout": ("Layout",),
    "devices.processes": ("DeviceOptions", "connect", "make_layout"),
    "inference.activations": ("capture",),
    "inference.gradcam": ("grad_cam",),
    "inference.load": ("load",),
    "inference.network": ("Prediction", "TrainedNetwork"),
    "inference.predictions": ("predict",),
    "inference.scoring": ("evaluate_run",),
    "models.pretrained": ("export_weights", "load_pretrained"),
    "models.resnet": ("ResNet", "resnet18", "resnet34", "resnet50"),
    "recipes.presets": ("EXPERIMENTS", "get_experiment"),
    "recipes.recipe": ("Recipe",),
    "recipes.splits": ("load_splits",),
    "runs.checkpoints": ("Checkpoints",),
    "runs.curves": ("draw_curves",),
    "runs.history": ("History",),
    "runs.restore": ("restore_run",),
    "runs.transfer": ("export_run",),
    "step.freeze": (
        "FREEZE_A",
        "FREEZE_B",
        "freeze_all_but",
        "freeze_up_to",
        "frozen_batch_norms",
        "label_params",
        "labels_at",
        "layer_decay",
    ),
    "step.optimizer": ("make_optimizer",),
    "step.schedules": ("make_schedule",),
    "step.state": ("TrainState", "start_state"),
    "step.steps": ("make_eval_step", "make_train_step"),
    "studies.sweeps": ("sweep",),
    "training.evaluation": ("evaluate",),
    "training.fit": ("fit",),
    "training.interruption": ("Interrupted",),
    "training.resident": ("make_evaluation", "make_train_epoch"),
    "training.streamed": ("make_streamed_epoch",),
    "visualize.pictures": (
        "draw_activations",
        "draw_confusion",
        "draw_grad_cam",
        "draw_mistakes",
    ),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'jaxcifar' has no attribute {name!r}")
    return getattr(import_module(f"jaxcifar.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
