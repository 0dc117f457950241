"""`python -m jaxcifar` is the `jaxcifar` command."""

from jaxcifar.commands.main import main

if __name__ == "__main__":
    main("python -m jaxcifar")
