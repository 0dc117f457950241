"""The course report again, from one call: a plan, a loop that runs it, and one page of results.

The folder has floors of its own; a file imports only from lower ones:

    0  page        a page as data, as HTML and as Markdown
    1  report      runs and pictures to that page
    2  plan        what is run, in which order, and what the course report said
       drawings    which pictures are drawn from which run
    3  folder      the directory that holds it all
    4  loop        runs what is left
"""

from jaxcifar.reproduction.loop import describe_plan, reproduce
from jaxcifar.reproduction.plan import PLAN, Item, Settings

__all__ = ["PLAN", "Item", "Settings", "describe_plan", "reproduce"]
