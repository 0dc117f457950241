"""The command line, one file a subcommand.

Nothing else may import from here, and a command does no more than parse options, call the library
and print. `main` imports a command only when it is run.
"""

__all__ = ["main"]
