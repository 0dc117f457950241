"""Numbers of docs/benchmarks.md about whole runs, data, prediction and what safety costs."""

from tests.figures.reading import Fact, Figure, result
from tests.figures.tables import milliseconds, quotient, row

# Start


def warm_over_cold(name: str) -> float:
    times = result(f"warm_start_{name}_cpu")["to"]
    return quotient(times, "warm, first step", "cold, first step")


START = [
    row("`scratch` on CIFAR-10", warm_over_cold("scratch")),
    row(
        "`scratch`, the warm one with another learning rate",
        warm_over_cold("scratch_learning_rate"),
    ),
    row("`demo`, which has no pictures to decode", warm_over_cold("demo")),
    Figure(
        "reaches the end of its first step in {} of the first call's time",
        (quotient(result("second_fit_cpu")["to"], "next call", "first call"),),
    ),
]

# Time to accuracy

FULL_WIDTH = result("run_speedrun_9_epochs_cpu")
FULL_WIDTH_SGD = result("run_speedrun_sgd_9_epochs_cpu")
SMALL = result("time_to_accuracy_speedrun_w8_16px_cpu")
UNCHANGED, MIRRORED = SMALL["test"]["accuracy"], SMALL["test"]["accuracy_mirrored"]

TIME_TO_ACCURACY = [
    row(
        "`speedrun`",
        FULL_WIDTH["test_without_views"]["accuracy"],
        FULL_WIDTH["summary"]["last"]["test"]["accuracy"],
    ),
    row(
        "`speedrun_sgd`",
        FULL_WIDTH_SGD["summary"]["last"]["test"]["accuracy"],
        FULL_WIDTH_SGD["test_with_six_views"]["accuracy"],
    ),
    Figure(
        "the same recipe with SGD at a learning rate of {} ({}):",
        (
            result("ablation_cpu")["settings"]["learning_rate"],
            result("ablation_cpu")["summary"]["reference"]["accuracy"],
        ),
    ),
    Figure(
        "Between three seeds of the preset (below), the standard deviation is {}.",
        (UNCHANGED["final_std"],),
    ),
    Figure(
        "`speedrun` is {} ahead",
        (
            FULL_WIDTH["test_without_views"]["accuracy"]
            - FULL_WIDTH_SGD["summary"]["last"]["test"]["accuracy"],
        ),
    ),
    Figure("the preset reached {} in those 8 epochs", (UNCHANGED["final_mean"],)),
    Figure(
        "(mean of three seeds, standard deviation {}; {} with mirror averaging)",
        (UNCHANGED["final_std"], MIRRORED["final_mean"]),
    ),
    Figure("and 0.70 in {} epochs", (UNCHANGED["reached"]["0.7"]["epoch"],)),
]

# Freezing


def frozen(label: str, variant: str) -> Figure:
    against = result("freeze_time_cpu")["against_finetune"][variant]
    columns = ("flops", "time", "off_by", "memory", "optimizer")
    return row(label, *(against[column] for column in columns))


FREEZING = [
    frozen("`freeze_a`", "freeze_a, bn batch"),
    frozen("`freeze_a`, BatchNorm frozen too", "freeze_a, bn frozen"),
    frozen("`freeze_a_bn_frozen`, cached features", "freeze_a, bn frozen, cached"),
    frozen("`freeze_b`", "freeze_b, bn batch"),
    frozen("`freeze_b`, BatchNorm frozen too", "freeze_b, bn frozen"),
    frozen("`freeze_b_bn_frozen`, cached features", "freeze_b, bn frozen, cached"),
    Figure(
        "The head on cached features takes {} ms a step in epochs of {} steps",
        (
            milliseconds(result("freeze_time_cpu")["steps"], "freeze_b, bn frozen, cached"),
            result("freeze_time_cpu")["variants"]["freeze_b, bn frozen, cached"]["steps"],
        ),
    ),
]

# Augmentation and feeding

AUGMENTED = result("augment_time_32_cpu")
WHOLE_EPOCHS = [
    quotient(AUGMENTED["epochs"], name, "none") for name in AUGMENTED["variants"] if name != "none"
]


def fed(label: str, name: str) -> Figure:
    return row(label, quotient(result("input_time_w64_cpu")["epochs"], name, "on the device"))


DATA = [
    Figure(
        "{} for `mini`'s flip and rotation",
        (quotient(AUGMENTED["epochs"], "only mini: flip, rotate (nearest)", "none"),),
    ),
    Figure(
        "and {} for bilinear rotation, flip, shift and cutout together",
        (quotient(AUGMENTED["epochs"], "only all (bilinear)", "none"),),
    ),
    Figure(
        "Whole epochs with augmentation took {} to {} of the time without it",
        (min(WHOLE_EPOCHS), max(WHOLE_EPOCHS)),
    ),
    fed("streamed from the decoded cache", "streamed from the cache"),
    fed("streamed and decoded from PNG", "streamed, decoding PNG"),
    fed("a host-fed loop of float32 batches, without augmentation", "host-fed loop, float32"),
    fed(
        "a PyTorch DataLoader loop as in a notebook, also without augmentation",
        "PyTorch eager, DataLoader",
    ),
]

# Sweeps


def swept(label: str, case: str, steps: int) -> Figure:
    """A row: one program over one after another, in time and in memory."""
    results, memory = result("sweep_time_cpu")["cases"][case], result("sweep_time_cpu")["compiled"]
    one, other = "one program", "one after another"
    return row(
        label,
        quotient(results, f"{case}, {one}, {steps} step(s)", f"{case}, {other}, {steps} step(s)"),
        memory[case][one]["memory_mib"] / memory[case][other]["memory_mib"],
    )


SWEEPS = [
    swept("ResNet-18", "full", 1),
    swept("ResNet-18 of width 16", "narrow", 1),
    swept("its head alone on cached features", "head", 100),
]

# Prediction


def predicted(label: str, name: str) -> Figure:
    bases = ("evaluate", "read and evaluate", "read files and evaluate")
    return row(label, *(quotient(result("predict_time_cpu"), name, base) for base in bases))


ONE_PICTURE, MANY_PICTURES = result("predict_memory_cpu")["peaks"]
PREDICTION = [
    predicted("one array", "predict an array"),
    predicted("10,000 PNG files", "predict files"),
    Figure(
        "Predicting {} JPEGs of 2,000x1,500 pixels takes {} MB at the most, one takes {} MB",
        (MANY_PICTURES["pictures"], MANY_PICTURES["peak_mb"], ONE_PICTURE["peak_mb"]),
    ),
]

# What safety costs

SAVING = result("checkpoint_time_cpu")
IMAGES = SAVING["settings"]["images"]
EPOCH = milliseconds(SAVING, "epoch") / 1_000
ADDED = milliseconds(SAVING, "epoch beside a save") / 1_000 - EPOCH
KILLS = result("kill_and_resume_kill_cpu")
DEATHS = result("deaths_cpu")["scenarios"].values()
DAMAGED = result("damaged_checkpoints_cpu")["outcomes"]["all"]
UNVERIFIED = result("damaged_checkpoints_unverified_cpu")["outcomes"]["all"]

SAFETY = [
    Figure(
        "A save of ResNet-18 with Adam ({} MB) blocks for {} ms and takes {} s more in the",
        (
            SAVING["settings"]["megabytes"],
            milliseconds(SAVING, "save, blocking"),
            milliseconds(SAVING, "save, in the background") / 1_000,
        ),
    ),
    Figure(
        "Epochs of {} real images took {} times as long with a save as without. That is {} s;",
        (IMAGES, quotient(SAVING, "epoch beside a save", "epoch"), ADDED),
    ),
    Figure(
        "of an epoch of 40,000 images, not timed here, it would be {} %",
        (100 * ADDED / (EPOCH * 40_000 / IMAGES),),
    ),
    Figure("{} times `kill -9`", (KILLS["kills"],)),
    Figure("After {} SIGKILLs, {} of them during a save", (KILLS["kills"], KILLS["in_saves"])),
    Figure("before each of the {} file operations", (sum(each["operations"] for each in DEATHS),)),
    Figure(
        "{} processes had ended before their operation",
        (sum(each["operations"] - each["killed"] for each in DEATHS),),
    ),
    # Each damage is tried twice.
    Figure("single bits flipped: {} damages", (sum(DAMAGED.values()) / 2,)),
    Figure(
        "{} were refused, {} times the checkpoint before was used, {} were restored to the bit",
        (DAMAGED["refused"], DAMAGED["older one used"], DAMAGED["restored identically"]),
    ),
    Figure(
        "{} of {} trials were silently wrong",
        (UNVERIFIED["silently wrong"], sum(UNVERIFIED.values())),
    ),
]

# The worst pictures


def picture(label: str, name: str) -> Figure:
    """A row; its label may have the megabytes of the file."""
    worst = result("picture_memory")["worst"][name]
    cells = [
        worst[reader][column]
        for reader in ("read_image", "decode_square")
        for column in ("megabytes", "seconds")
    ]
    megabytes = [worst["file_megabytes"]] if "{} MB" in label else []
    return row(label, *cells)._replace(values=(*megabytes, *cells))


PICTURES = [
    picture("JPEG, progressive CMYK, {} MB", "jpeg, progressive CMYK"),
    picture("JPEG of 1,000 scans", "jpeg, 1,000 scans"),
    picture("PNG, interlaced RGBA of 16 bits, {} MB", "png, RGBA of 16 bits"),
    picture("GIF, animated", "gif, animated"),
    picture("BMP with a palette", "bmp, palette"),
    picture("BMP, run-length, 10 million pixels", "bmp, run-length"),
    picture("WEBP, animated, lossless, {} MB", "webp, animated"),
    picture("TIFF, one strip of RGBA, turned, {} MB", "tiff, one strip of RGBA"),
    picture("TIFF, YCbCr", "tiff, YCbCr"),
    picture("TIFF, tiles of 16x16", "tiff, raw tiles of 16x16"),
    picture("TIFF of 16x16 in a tile of 4,096x4,096", "tiff, 16x16 in a tile of 4,096"),
]

# What is said in words.

ABLATION = result("ablation_cpu")["summary"]
NOISE = UNCHANGED["final_std"]


def effect(variant: str, beside: str = "reference") -> float:
    """Of what a variant changes, in standard deviations of the preset's seeds."""
    return abs(ABLATION[variant]["accuracy"] - ABLATION[beside]["accuracy"]) / NOISE


FACTS = (
    Fact(
        "are not clearly larger than that",
        max(
            effect("no whitening"),
            effect("no lookahead"),
            effect("bias scale 16"),
            effect("muon, rate 0.1", "muon, rate 0.3"),
        )
        < 1.5,
    ),
    Fact(
        "are at least three times as large",
        min(effect("muon, rate 0.3"), effect("learning rate 0.6"), effect("no identities")) >= 3,
    ),
    Fact(
        "and in less than a second", milliseconds(result("second_fit_cpu")["to"], "next call") < 1e3
    ),
    Fact(
        "every run ended with the bits of the undisturbed one", KILLS["identical"] == KILLS["runs"]
    ),
    Fact("All ended as undisturbed, to the bit", not any(each["different"] for each in DEATHS)),
    Fact("and none was silently wrong", DAMAGED["silently wrong"] == 0),
)
FIGURES = [
    *START,
    *TIME_TO_ACCURACY,
    *FREEZING,
    *DATA,
    *SWEEPS,
    *PREDICTION,
    *SAFETY,
    *PICTURES,
]
