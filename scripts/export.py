"""The same as `jaxcifar export`."""

from jaxcifar.commands.main import run_script

if __name__ == "__main__":
    run_script("export")
