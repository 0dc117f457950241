"""The command line: one file a subcommand.

Nothing else may import from here, and nothing here is more than options, a call and printing.
"""
