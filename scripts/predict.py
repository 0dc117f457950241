"""The same as `jaxcifar predict`."""

from jaxcifar.commands.main import run_script

if __name__ == "__main__":
    run_script("predict")
