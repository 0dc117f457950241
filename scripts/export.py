"""Write a run's weights under torchvision's key names, as safetensors.

python scripts/export.py runs/finetune finetune.safetensors

In PyTorch: model.load_state_dict(safetensors.torch.load_file("finetune.safetensors"), strict=True)
"""

import argparse
from pathlib import Path

from jaxcifar.commands.cli import Parser, add_checkpoint_option, run_script
from jaxcifar.runs.transfer import export_run


def main() -> None:
    """Parse, export."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN", help="directory that train.py wrote")
    parser.add_argument("out", type=Path, metavar="OUT.safetensors", help="file to write")
    add_checkpoint_option(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    parsed = parser.parse()
    export_run(parsed.run, parsed.out, which=parsed.checkpoint, overwrite=parsed.overwrite)
    print(f"wrote {parsed.out}")


if __name__ == "__main__":
    run_script(main)
