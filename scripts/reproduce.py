"""The same as `jaxcifar reproduce`."""

from jaxcifar.commands.main import run_script

if __name__ == "__main__":
    run_script("reproduce")
