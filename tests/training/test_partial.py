from jaxcifar.step import metrics
from jaxcifar.training.partial import PartialEpoch


def test_what_an_older_version_kept_of_an_epoch_is_continued():
    """It did not count the labels among the five largest logits."""
    stored = PartialEpoch(2, metrics.zeros() | {"count": 7}, 1.5)
    values = {"epoch": 2, "seconds": 1.5, "sums": {"loss_sum": 3.0, "correct": 5, "count": 7}}
    values["sums"] |= {"gradient_norm_sum": 0.0, "nonfinite": 0, "nonfinite_kinds": 0}
    kept = PartialEpoch.from_dict(values)
    assert (kept.epoch, kept.seconds, int(kept.sums["count"])) == (2, 1.5, 7)
    assert int(kept.sums["top5"]) == 0
    assert kept.sums.keys() == stored.sums.keys()
