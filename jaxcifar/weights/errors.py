"""The one exception of the weights folder."""


class WeightsError(ValueError):
    """Weights that cannot be used; the message says which and what to do."""
