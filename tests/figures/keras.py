"""Numbers of docs/keras.md."""

from tests.figures.reading import Figure, Page, result
from tests.figures.tables import milliseconds, quotient

TRANSFER = result("transfer_cpu")
SECONDS, ACCURACY = TRANSFER["seconds"], TRANSFER["test_accuracy"]
LINES, KERAS_LINES = TRANSFER["lines"]["jaxcifar"], TRANSFER["lines"]["Keras"]
WHOLE, LATER = "the whole process", "one of the later epochs"
CACHED = "jaxcifar, programs cached"


def script(label: str, lines: int) -> Figure:
    """A row of the table: lines, seconds, mean and standard deviation of the accuracy."""
    moments = (WHOLE, "from its start to the end of epoch 1", LATER)
    times = [milliseconds(SECONDS[moment], label) / 1_000 for moment in moments]
    values = (lines, *times, ACCURACY[label]["mean"], ACCURACY[label]["std"])
    return Figure(f"| {label} | {{}} | {{}} | {{}} | {{}} | {{}} ± {{}} |", values)


PAGE = Page(
    "docs/keras.md",
    figures=[
        script("jaxcifar", LINES["all"]),
        script(CACHED, LINES["all"]),
        script("Keras", KERAS_LINES["all"]),
        Figure(
            "The whole process of jaxcifar takes {} of Keras's time, a later epoch {};",
            (
                quotient(SECONDS[WHOLE], "jaxcifar", "Keras"),
                quotient(SECONDS[LATER], "jaxcifar", "Keras"),
            ),
        ),
        Figure("with them the next run takes {}", (quotient(SECONDS[WHOLE], CACHED, "Keras"),)),
        Figure("their logits differ by at most {}", (TRANSFER["logits"]["largest_difference"],)),
        Figure(
            "jaxcifar's accuracy is higher by {}",
            (ACCURACY["jaxcifar"]["mean"] - ACCURACY["Keras"]["mean"],),
        ),
        Figure(
            "Of Keras's {} lines, {} are the network",
            (
                KERAS_LINES["all"],
                KERAS_LINES["conv_norm"] + KERAS_LINES["block"] + KERAS_LINES["make_model"],
            ),
        ),
        Figure("and {} load the weights and freeze", (KERAS_LINES["load_pretrained"],)),
        Figure(
            "is shorter in Keras: {} lines, and {} in jaxcifar",
            (KERAS_LINES["main"], LINES["main"]),
        ),
    ],
    given=[],
)
