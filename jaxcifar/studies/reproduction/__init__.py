"""The whole course report from one call: a plan, a loop that runs it, and a page of results."""

from jaxcifar.studies.reproduction.loop import describe_plan, reproduce
from jaxcifar.studies.reproduction.plan import PLAN, Item, Settings

__all__ = ["PLAN", "Item", "Settings", "describe_plan", "reproduce"]
