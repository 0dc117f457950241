"""The same as `jaxcifar train`."""

from jaxcifar.commands.main import run_script

if __name__ == "__main__":
    run_script("train")
