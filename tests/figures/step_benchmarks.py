"""Numbers of docs/benchmarks.md about a training step: times, rounding, the GPU program."""

from tests.figures.reading import Figure, result
from tests.figures.tables import Table, milliseconds, quotient, row

# A training step

EPOCH, STEP = "jaxcifar, epoch as one program", "jaxcifar, jitted step"
LAST, CONTIGUOUS = "PyTorch eager, channels_last", "PyTorch eager, contiguous"
COMPILED = "PyTorch torch.compile, channels_last"
FLAX, KERAS = "flax.linen layers, optax, jitted step", "Keras 3 on JAX, fit"


def step(file: str) -> Table:
    return result(f"step_time_{file}_cpu")["cases"]["batch 128, float32"]


def stems(peer: str, suffix: str = "", ours: str = EPOCH) -> tuple[float, float]:
    """Our time over a peer's, with the ImageNet and the CIFAR stem."""
    imagenet, cifar = step(f"imagenet{suffix}"), step(f"cifar{suffix}")
    return quotient(imagenet, ours, peer), quotient(cifar, ours, peer)


EPYC26 = ("imagenet_epyc26_first", "imagenet_epyc26", "cifar_epyc26")


EPYC26_IMAGENET = [milliseconds(step(file), EPOCH) for file in EPYC26[:2]]

TRAINING_STEP = [
    Figure(
        "| our own step, jitted and called one by one | {} | {} |"
        " | `flax.linen` layers and optax, jitted | {} | {} |"
        " | PyTorch eager, channels_last | {} | {} | | PyTorch eager, contiguous | {} | {} |"
        " | PyTorch `torch.compile`, channels_last | {} | {} |",
        stems(STEP) + stems(FLAX) + stems(LAST) + stems(CONTIGUOUS) + stems(COMPILED),
    ),
    row("Keras 3 on JAX, `fit`", quotient(step("imagenet"), EPOCH, KERAS)),
    Figure(
        "|---|---|---| | PyTorch eager, channels_last | {} | {} |"
        " | PyTorch eager, contiguous | {} | {} |",
        stems(LAST, "_xeon") + stems(CONTIGUOUS, "_xeon"),
    ),
    *(
        row(label, *(quotient(step(file), EPOCH, peer) for file in EPYC26))
        for label, peer in (
            ("our own step, jitted and called one by one", STEP),
            ("`flax.linen` layers and optax, jitted", FLAX),
            ("PyTorch eager, channels_last", LAST),
            ("PyTorch eager, contiguous", CONTIGUOUS),
            ("PyTorch `torch.compile`, channels_last", COMPILED),
        )
    ),
    Figure(
        "In both processes our step took {} to {} ms.",
        (min(EPYC26_IMAGENET), max(EPYC26_IMAGENET)),
    ),
    Figure(
        "our step with the CIFAR stem takes {} times as long as `torch.compile`'s",
        (quotient(step("cifar_epyc26"), STEP, COMPILED),),
    ),
    Figure("Called this way, it takes {} and {} of PyTorch's time", stems(LAST, ours=STEP)),
    Figure(
        "their ratio is {}, and they take {} and {} of PyTorch's time under the same setting",
        (
            quotient(step("imagenet_hugepages"), EPOCH, STEP),
            quotient(step("imagenet_hugepages"), EPOCH, LAST),
            quotient(step("imagenet_hugepages"), STEP, LAST),
        ),
    ),
]

# Rounding: the larger error of the two files of weights

PASSES = ("forward", "weight gradient", "input gradient")


def worst_layer(form: str, which: str) -> float:
    files = result("conv_error_cpu")["files"].values()
    return max(file["worst_layer"][form][which] for file in files)


def whole_gradient(form: str) -> float:
    return max(file["gradient"][form] for file in result("conv_error_cpu")["files"].values())


def errors(form: str) -> tuple[float, ...]:
    return (*(worst_layer(form, which) for which in PASSES), whole_gradient(form))


TO_PLAIN_SUM = [worst_layer("auto", which) / worst_layer("patches", which) for which in PASSES]
ROUNDING = [
    Figure(
        "The rounding error in the worst layer was {} to {} times that of the plain sum",
        (min(TO_PLAIN_SUM), max(TO_PLAIN_SUM)),
    ),
    row("our default (Winograd)", *errors("auto")),
    row("plain sums (`patches`)", *errors("patches")),
    row("XLA's convolution", *errors("xla")),
    Figure("| the gradient of another batch | | | | {} |", (whole_gradient("another batch"),)),
]

# The GPU program


def program(name: str) -> Table:
    return result("gpu_program_h100")["cases"][name]


def counts(name: str) -> tuple[float, ...]:
    return tuple(program(name)[key] for key in ("kernels", "gigabytes", "kernels_with_atomics"))


GPU_PROGRAM = [
    row("CIFAR stem: ours", *counts("scratch_cifar_512")),
    row("CIFAR stem: Flax", *counts("flax_cifar_512")),
    row("ImageNet stem: ours", *counts("scratch_imagenet_512")),
    row("ImageNet stem: Flax", *counts("flax_imagenet_512")),
    Figure(
        "All {} convolutions are bfloat16 with the channels last (NHWC)",
        (program("scratch_cifar_512")["convolutions"]["bf16 NHWC"],),
    ),
    Figure("`speedrun` has {} kernels and {} GB", counts("speedrun")[:2]),
    Figure("`speedrun_sgd` has {}", counts("speedrun_sgd")[:1]),
    Figure(
        "in CUDA graphs, {} with the CIFAR stem",
        (program("scratch_cifar_512")["graphs"]["graphs"],),
    ),
]

# Stability of the validation accuracy


def stability(label: str, variant: str) -> Figure:
    """A row of the table: seeds, epochs, falls, an accuracy a seed, and the extremes."""
    scratch = result("stability_scratch_cpu")
    of_all = scratch["summary"][variant]
    accuracies = of_all["last_accuracies"].values()
    cell = ", ".join("{}" for _ in accuracies)
    extremes = ("largest_gap_to_batch_statistics", "largest_variance_ratio", "largest_logit")
    return Figure(
        f"| {label} | {{}} x {{}} | {{}} | {cell} | {{}} | {{}} | {{}} |",
        (
            of_all["seeds"],
            scratch["settings"]["recipe"]["epochs"],
            of_all["falls"],
            *accuracies,
            *(of_all[name] for name in extremes),
        ),
    )


DIP = 0.1  # of the accuracy, as benchmarks.stability defines it


def first_epoch(variant: str) -> list[Table]:
    rows = result("stability_within_epochs_cpu")["rows"]
    return [each for each in rows if each["variant"] == variant and each["epoch"] <= 1]


def dips(variant: str) -> int:
    return sum(
        each["accuracy_by_batch_statistics"] - each["validation_accuracy"] > DIP
        for each in first_epoch(variant)
    )


def largest_ratio(variant: str) -> float:
    return max(each["largest_variance_ratio"] for each in first_epoch(variant))


STABILITY = [
    stability("our default (Winograd)", "auto"),
    stability("plain sums (`patches`)", "patches"),
    stability("PyTorch", "torch"),
    Figure(
        "PyTorch for the first {} measurements",
        (result("stability_within_epochs_cpu")["summary"]["torch"]["measurements"],),
    ),
    Figure(
        "in {} of our {} measurements and in {} of PyTorch's {}.",
        (dips("auto"), len(first_epoch("auto")), dips("torch"), len(first_epoch("torch"))),
    ),
    Figure(
        "the largest logit is {} thousand in ours and {} thousand in PyTorch's",
        (
            first_epoch("auto")[0]["largest_logit"] / 1_000,
            first_epoch("torch")[0]["largest_logit"] / 1_000,
        ),
    ),
    Figure(
        "a running variance is up to {} times off in ours and up to {} times in PyTorch's",
        (largest_ratio("auto"), largest_ratio("torch")),
    ),
]

FIGURES = TRAINING_STEP + ROUNDING + GPU_PROGRAM + STABILITY
