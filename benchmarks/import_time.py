"""Time `import jaxcifar` and compare it with importing the libraries that it uses.

python -m benchmarks.import_time
"""

import subprocess
import sys
from functools import partial

from benchmarks.harness import compare, interleave, make_parser, save, show

STATEMENTS = {
    "import jaxcifar": "import jaxcifar",
    "from jaxcifar import resnet18, make_train_step": (
        "from jaxcifar import resnet18, make_train_step"
    ),
    "import jax, flax, optax": "import jax, flax, optax",
}


def run_python(code: str) -> None:
    """Run a statement in a new interpreter."""
    subprocess.run([sys.executable, "-c", code], check=True)


def main() -> None:
    """Measure, print, save."""
    parser = make_parser(__doc__, repeats=7, result="import_time")
    parsed = parser.parse_args()
    variants = {name: partial(run_python, code) for name, code in STATEMENTS.items()}
    base = "import jax, flax, optax"
    ratios = {f"{name} / {base}": (name, base) for name in STATEMENTS if name != base}
    compared = compare(interleave(variants, repeats=parsed.repeats), ratios)
    show("A new interpreter, from start to exit", compared)
    save("import_time", compared, out=parsed.out)


if __name__ == "__main__":
    main()
