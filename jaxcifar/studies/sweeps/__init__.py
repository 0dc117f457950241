"""Several runs that differ in one number: one program or one after another, a table, a plot."""

from jaxcifar.studies.sweeps.directory import read_sweep as read_sweep
from jaxcifar.studies.sweeps.directory import stored_data_folder as stored_data_folder
from jaxcifar.studies.sweeps.loop import sweep as sweep
from jaxcifar.studies.sweeps.measured_mode import Mode as Mode
from jaxcifar.studies.sweeps.members import chooses_images as chooses_images
from jaxcifar.studies.sweeps.members import numeric_fields as numeric_fields
from jaxcifar.studies.sweeps.members import parse_values as parse_values
from jaxcifar.studies.sweeps.plot import plot_sweep as plot_sweep
from jaxcifar.studies.sweeps.result import MemberResult as MemberResult
from jaxcifar.studies.sweeps.result import SweepResult as SweepResult
