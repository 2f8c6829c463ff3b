"""Score trained models on the samples with the most and the least frequent ids."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from seo_rec.recipes.training import load_trained, stream_of
from seo_rec.report.frequency import FrequencyQuality, frequency_quality, frequency_sets
from seo_rec.train import evaluate, ranks


def frequency(
    data: Path, runs: Sequence[Path], split: str = "test", share: float = 0.1
) -> dict[Path, FrequencyQuality]:
    """PR-AUC of finished training runs on two sets of samples; see :func:`frequency_sets`.

    Args:
        data: prepared as the data that the runs were trained on.
        runs: folders of finished training runs.
        split: whose samples are scored; frequencies are those of the training split.
        share: of the split in each set.

    Raises:
        RunError: a folder is not a finished training run, or ``data`` has other numeric columns.
        ValueError: the share is out of its range.
    """
    models = {run: load_trained(run) for run in runs}
    streams = {run: stream_of(run, data, split) for run in runs}
    sets = frequency_sets(data, split, share)
    found = {}
    for run, model in models.items():
        _, logits, labels = evaluate(model.to(ranks().device), streams[run])
        found[run] = frequency_quality(logits, labels, sets)
    return found
