"""Messages leave the library by a few functions, which escape names that come from outside.

What these functions do is tested in tests/common; what the readers say, in
tests/test_names_in_messages.py.
"""

import ast
import builtins

import pytest

# Module -> what it may call directly, and why.
MAY_CALL = {
    "common/messages.py": {"print", "warnings.warn", "logging.getLogger"},
    "commands/main.py": {"print"},  # a completion script: its tabs must stay
    "commands/exit_status.py": {"logging.getLogger"},  # to silence another library
    "commands/prepare_data.py": {"logging.getLogger"},  # to set a level
    "data/quiet_pillow.py": {"logging.getLogger", "warnings.warn"},  # passes on Pillow's own
    "runs/failed_saves.py": {"logging.getLogger"},  # to silence other libraries
}
CHOKED = {"print", "warnings.warn", "logging.getLogger", "sys.stdout.write", "sys.stderr.write"}
# Exceptions without the common base. A reader catches all of the first group and says in its own
# error what it was; the others have no text, or escape it.
CAUGHT = {"Refused", "_Failed", "_Slow", "_Cut", "_WrongBytes"}
OTHERS = {"MessageError", "StopRequested", "Interrupted", "_Terminated", "CheckpointWarning"}
# Raised from other libraries: caught where they are raised, the last by `Parser.error`.
FOREIGN = {"tarfile.ReadError", "pickle.UnpicklingError", "argparse.ArgumentTypeError"}
# What built-in exceptions show without `!r` or a format: numbers, and names of ours.
OURS = {
    "common/files.py": "error",  # an Unusable, which is escaped
    "data/image_file.py": "image.mode",
    "data/reading.py": "prefetch; threads",
    "models/conv.py": """
        ', '.join(get_args(Lowering)); images.shape[1]; images.shape[2]; images.shape[3];
        kernel.shape[0]; kernel.shape[1]; kernel.shape[2]; padding; stride""",
    "models/layers.py": "devices; images * devices; self.groups",
    "models/normalization.py": "x.shape[-2]; x.shape[-3]",
    "models/resnet.py": """
        ', '.join(ARCHITECTURES); ', '.join(children); ', '.join(choices);
        model.batch_norm_decay; model.dropout_rate; model.num_classes; name""",
    "runs/stored_steps.py": "name",
    "step/augment.py": """
        ', '.join(NORMALIZATIONS); ', '.join(get_args(Interpolation));
        ', '.join(get_args(TranslateFill))""",
    "step/lookahead.py": "share; steps",
    "step/optimizer.py": "', '.join(get_args(OptimizerName)); bias_scale; clip_norm",
    "step/schedules.py": "', '.join(choices); period; repeated; steps_per_epoch; warmup",
    "step/steps.py": "name; shift; start",
    "studies/reproduction/page.py": "len(ragged[0]); len(self.columns)",
    "training/epoch.py": "batch_size; size",
    "training/plan.py": "data; expected",
    "training/run.py": "', '.join(broken); advice; epoch; kept; shown(answer); step",
    "inference/activations.py": "hint",
    "inference/gradcam.py": "SMALLEST_MAP; did_you_mean(layer, children); image_size",
    "inference/predictions.py": "labels.shape; name; num_classes - 1; predicted.shape",
}
DRAWN_OURS = {"rows", "columns", "count", "total", "image.shape[0]", "image.shape[1]", "epoch"}


@pytest.fixture
def modules(root):
    """Module -> its syntax tree."""
    package = root / "jaxcifar"
    return {
        path.relative_to(package).as_posix(): ast.parse(path.read_text())
        for path in package.rglob("*.py")
    }


def nodes(modules, kind):
    for name, tree in modules.items():
        yield from ((name, node) for node in ast.walk(tree) if isinstance(node, kind))


def bare_values(call):
    """The values in an expression's f-strings that are shown by `str`: not `!r`, no format."""
    return {
        ast.unparse(part.value)
        for part in ast.walk(call)
        if isinstance(part, ast.FormattedValue) and part.conversion == -1 and not part.format_spec
    }


def direct_calls(modules):
    for name, call in nodes(modules, ast.Call):
        function = ast.unparse(call.func)
        if function in CHOKED and function not in MAY_CALL.get(name, ()):
            yield f"{name}:{call.lineno} calls {function}"


def unescaped_errors(modules):
    bases = {
        node.name: {ast.unparse(base) for base in node.bases}
        for _, node in nodes(modules, ast.ClassDef)
    }

    def is_error(name):
        built_in = getattr(builtins, name, None)
        if isinstance(built_in, type):
            return issubclass(built_in, BaseException)
        return any(map(is_error, bases.get(name, ())))

    def is_escaped(name):
        return name in {"MessageError"} | CAUGHT | OTHERS or any(
            map(is_escaped, bases.get(name, ()))
        )

    yield from (f"class {name}" for name in bases if is_error(name) and not is_escaped(name))


def unescaped_raises(modules):
    for name, node in nodes(modules, ast.Raise):
        if not isinstance(node.exc, ast.Call):
            continue
        error = ast.unparse(node.exc.func)
        if "." in error and "(" not in error and error[0].islower():
            foreign = error not in FOREIGN and not error.startswith(("self.", "run."))
            yield from [f"{name}:{node.lineno} raises {error}"] * foreign
        elif isinstance(getattr(builtins, error, None), type):
            known = " ".join(OURS.get(name, "").split()).split("; ")
            for value in bare_values(node.exc) - set(known):
                yield f"{name}:{node.lineno} raises {error} with {value}"


def unescaped_bars(modules):
    for name, call in nodes(modules, ast.Call):
        if ast.unparse(call.func) == "tqdm":
            labels = [ast.unparse(k.value) for k in call.keywords if k.arg == "desc"]
            if call.args or not all(label.startswith("escaped(") for label in labels):
                yield f"{name}:{call.lineno} labels a bar"


def unescaped_titles(modules):
    def is_drawn(text):
        whole = isinstance(text, ast.Call) and ast.unparse(text.func) in ("drawn", "fitted")
        if whole or isinstance(text, ast.Constant):
            return True
        values = bare_values(text) if isinstance(text, ast.JoinedStr) else {"all of it"}
        return all(value in DRAWN_OURS or value.startswith("drawn(") for value in values)

    for name, call in nodes(modules, ast.Call):
        function = getattr(call.func, "attr", "")
        titled = name != "common/figure.py" and function in ("suptitle", "set_title")
        if titled and not is_drawn(call.args[0]):
            yield f"{name}:{call.lineno} draws {ast.unparse(call.args[0])}"


CHECKS = (direct_calls, unescaped_errors, unescaped_raises, unescaped_bars, unescaped_titles)


@pytest.mark.parametrize("check", CHECKS)
def test_messages_leave_by_the_functions_that_escape_them(modules, check):
    assert list(check(modules)) == []


@pytest.mark.parametrize(
    ("check", "source"),
    [
        (direct_calls, "print(name)"),
        (direct_calls, "warnings.warn(f'{name} is gone', stacklevel=2)"),
        (direct_calls, "_log = logging.getLogger(__name__)"),
        (direct_calls, "sys.stderr.write(name)"),
        (unescaped_errors, "class RunError(ValueError): ..."),
        (unescaped_errors, "class LockError(KeyError, OSError): ..."),
        (unescaped_raises, "raise ValueError(f'no {path}')"),
        (unescaped_raises, "raise KeyError(f'no {key}, but {len(keys):,} others')"),
        (unescaped_raises, "raise zipfile.BadZipFile(f'no {key}')"),
        (unescaped_bars, "tqdm(desc=label, total=3)"),
        (unescaped_titles, "axes.set_title(f'{name}: {rows}')"),
        (unescaped_titles, "figure.suptitle(title, fontsize=9)"),
    ],
)
def test_a_message_that_leaves_by_itself_is_noticed(check, source):
    assert len(list(check({"runs/some.py": ast.parse(source)}))) == 1
