"""Every error class that reaches a user, and which of them a command prints as one line.

The message of each is a sentence or two: what is wrong with which value, what was expected, and the
way out. It can be shown without a traceback.
"""

from jaxcifar.common.messages import escaped, join_lines


class MessageError(ValueError):
    """The common base; names from outside cannot forge a line of the message or hide in it.

    Each argument becomes one printable line of the message, by `messages.escaped`: a message of
    several lines passes each by itself.
    """

    def __init__(self, *lines: object) -> None:
        """Keep the escaped lines as `args`."""
        super().__init__(*map(escaped, lines))

    def __str__(self) -> str:
        return join_lines(self.args)


class DataError(MessageError):
    """Data, or a request for data, that cannot be served."""


class DataNotThereError(DataError):
    """The folder or the file that a dataset's name says does not exist: it may have been moved."""


class ImageFileError(MessageError):
    """A picture file that cannot be used."""


class WeightsError(MessageError):
    """Weights that cannot be read or do not fit the network."""


class RecipeError(MessageError):
    """A recipe whose settings contradict each other or the data."""


class FreezeError(MessageError):
    """Invalid freeze rules; the message names the rule or the parameter, and what to write."""


class RunError(MessageError):
    """A run directory that cannot be used as asked."""


class CheckpointError(MessageError):
    """A checkpoint that cannot be used or written; one that was damaged is named."""


class FeatureError(MessageError):
    """Features of a frozen prefix that cannot be cached."""


class DeviceError(MessageError):
    """Devices or processes that are not there, or that cannot share the work."""


class FigureError(MessageError):
    """A picture that cannot be drawn."""


class TwoPartError(MessageError):
    """An error whose way out depends on who asked: a caller keeps `problem` and says its own."""

    def __init__(self, *lines: object, way_out: str = "") -> None:
        """Make one sentence of the last line and the way out."""
        *others, last = lines or ("",)
        super().__init__(*others, f"{last}; {way_out}" if way_out else last)
        self.problem = join_lines(lines)


class ExhaustedError(TwoPartError, RunError):
    """Runs of a sweep that memory did not suffice for."""


class NoneFoundError(TwoPartError, RecipeError):
    """No image is as one looked for has to be."""


class ProcessLostError(DeviceError):
    """Another process of the run is gone."""


# Errors that a user can act on. Any other is a defect and keeps its traceback.
EXPECTED = (
    CheckpointError,
    DataError,
    DeviceError,
    FeatureError,
    FigureError,
    FloatingPointError,
    ImageFileError,
    OSError,
    RecipeError,
    RunError,
    WeightsError,
)


def message_lines(error: BaseException) -> list[str]:
    """The message of any error as printable lines; a foreign error's is one."""
    lines = error.args if isinstance(error, MessageError) else (error,)
    return [escaped(line) for line in lines] or [""]
