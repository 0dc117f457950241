"""Many runs: sweeps, and the reproduction of the whole course report.

Nothing below may import from here.
"""

__all__ = ["reproduction", "sweeps"]
