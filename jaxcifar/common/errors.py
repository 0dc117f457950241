"""Every error class that reaches a user, and which of them a command prints as one line.

The message of each is a sentence or two: what is wrong with which value, what was expected, and the
way out. It can be shown without a traceback.
"""


class DataError(ValueError):
    """Data, or a request for data, that cannot be served."""


class ImageFileError(ValueError):
    """A picture file that cannot be used."""


class WeightsError(ValueError):
    """Weights that cannot be read or do not fit the network."""


class RecipeError(ValueError):
    """A recipe whose settings contradict each other or the data."""


class FreezeError(ValueError):
    """Invalid freeze rules; the message names the rule or the parameter, and what to write."""


class RunError(ValueError):
    """A run directory that cannot be used as asked."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be used or written; one that was damaged is named."""


class FeatureError(ValueError):
    """Features of a frozen prefix that cannot be cached."""


class DeviceError(ValueError):
    """Devices or processes that are not there, or that cannot share the work."""


class ProcessLostError(DeviceError):
    """Another process of the run is gone."""


# Errors that a user can act on. Any other is a defect and keeps its traceback.
EXPECTED = (
    CheckpointError,
    DataError,
    DeviceError,
    FeatureError,
    FloatingPointError,
    ImageFileError,
    OSError,
    RecipeError,
    RunError,
    WeightsError,
)
