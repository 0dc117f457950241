"""Write a run's weights under torchvision's key names, as safetensors.

jaxcifar export runs/finetune finetune.safetensors

In PyTorch: model.load_state_dict(safetensors.torch.load_file("finetune.safetensors"), strict=True)
"""

from collections.abc import Sequence
from pathlib import Path

from jaxcifar.commands.parser import Parser, add_checkpoint_option, add_run_argument
from jaxcifar.common.messages import say
from jaxcifar.devices.compilation_cache import enable_compilation_cache
from jaxcifar.runs.transfer import export_run


def make_parser(prog: str) -> Parser:
    """RUN and OUT."""
    parser = Parser(prog=prog, description=__doc__)
    add_run_argument(parser, type=Path)
    parser.add_argument("out", type=Path, metavar="OUT.safetensors", help="file to write")
    add_checkpoint_option(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    return parser


def run(prog: str, arguments: Sequence[str]) -> None:
    """Parse, export."""
    enable_compilation_cache()
    parsed = make_parser(prog).parse(arguments)
    export_run(parsed.run, parsed.out, which=parsed.checkpoint, overwrite=parsed.overwrite)
    say(f"wrote {parsed.out}")
