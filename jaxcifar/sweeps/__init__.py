"""Several runs that differ in one number: one program or one after another, a table, a plot.

The folder has floors of its own; a file imports only from lower ones:

    0  members
    1  choice, files, result
    2  plot, together
    3  run
"""

from jaxcifar.sweeps.choice import Mode as Mode
from jaxcifar.sweeps.files import read_sweep as read_sweep
from jaxcifar.sweeps.members import numeric_fields as numeric_fields
from jaxcifar.sweeps.members import parse_values as parse_values
from jaxcifar.sweeps.plot import plot_sweep as plot_sweep
from jaxcifar.sweeps.result import MemberResult as MemberResult
from jaxcifar.sweeps.result import SweepResult as SweepResult
from jaxcifar.sweeps.run import sweep as sweep
