"""A part of an epoch: what a checkpoint in its middle holds besides the state."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxcifar.step import metrics
from jaxcifar.step.metrics import Metrics


@dataclass(frozen=True)
class PartialEpoch:
    """What has been done of an epoch.

    Attributes:
        epoch: from 1; one more than the run has when only the test images are left.
        sums: of the metrics so far, or None where the epoch has not started.
        seconds: of training so far.
    """

    epoch: int
    sums: Metrics | None = None
    seconds: float = 0.0

    def later(self, seconds: float, sums: Metrics | None = None) -> "PartialEpoch":
        """The same after more seconds, with the sums up to there."""
        return PartialEpoch(self.epoch, self.sums if sums is None else sums, self.seconds + seconds)

    @property
    def known_sums(self) -> Metrics:
        """The sums of an epoch that has started."""
        assert self.sums is not None
        return self.sums

    def steps_before(self, steps_per_epoch: int) -> int:
        """The steps of the epochs before this one, which have their rows."""
        return (self.epoch - 1) * steps_per_epoch

    def to_dict(self) -> dict[str, Any]:
        """Plain values; float32 and int32 survive JSON exactly."""
        sums = jax.tree.map(lambda value: value.item(), jax.device_get(self.known_sums))
        return {"epoch": self.epoch, "sums": sums, "seconds": self.seconds}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "PartialEpoch":
        """What `to_dict` made."""
        zeros = metrics.zeros(own=values["sums"].get("own", ()))
        stored = (
            dict.fromkeys(zeros, 0) | {"own": {}} | values["sums"]
        )  # an older version has fewer
        sums = jax.tree.map(lambda zero, value: np.asarray(value, zero.dtype), zeros, stored)
        return cls(int(values["epoch"]), sums, float(values["seconds"]))
