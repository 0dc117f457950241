"""The same as `jaxcifar prepare-data`."""

from jaxcifar.commands.main import run_script

if __name__ == "__main__":
    run_script("prepare-data")
