"""The same as `jaxcifar sweep`."""

from jaxcifar.commands.main import run_script

if __name__ == "__main__":
    run_script("sweep")
