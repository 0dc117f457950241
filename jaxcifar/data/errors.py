"""The one exception of the data folder."""


class DataError(ValueError):
    """Data or a request for data that cannot be served.

    The message is a sentence or two that names the thing and the way out, fit to be shown to a
    user without a traceback.
    """
