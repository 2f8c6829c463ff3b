"""Finished trainings loaded again, and what they score on a split."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from seo_rec.data.dataset import DataSet, require_opened
from seo_rec.data.stream import Stream
from seo_rec.documents import read_object
from seo_rec.embed.quantize import serve_stored_
from seo_rec.files import one_line
from seo_rec.metrics import Metrics, RegressionMetrics
from seo_rec.model import ModelSettings, RecModel, build_model
from seo_rec.places import place
from seo_rec.policy import Policy, with_precision
from seo_rec.recipes.groups import Grouping, quality_by_group
from seo_rec.runs import RunError, types_of
from seo_rec.runs.claim import unfinished
from seo_rec.runs.groups import GroupReport
from seo_rec.runs.layout import (
    BEST_FOLDER,
    COLLAPSED_FOLDER,
    POLICY_FILE,
    RESULT_FILE,
    RUN_FILE,
    TRAINED_FILE,
)
from seo_rec.schema import BINARY, REGRESSION
from seo_rec.train import (
    CheckpointError,
    Checkpoints,
    agree,
    eval_stream,
    evaluate,
    load_tensors,
    ranks,
)
from seo_rec.train.state import State, weights_of

if TYPE_CHECKING:
    from seo_rec.report.frequency import FrequencyQuality

log = logging.getLogger(__name__)

NO_GROUPS = Grouping()


def load_trained(run: Path | str) -> RecModel:
    """The model of a finished training run, whole, with its best weights.

    However many processes wrote it, one reads it.

    Raises:
        CheckpointError: The weights are damaged.
        RunError: The folder is not a finished training run, or its ``run.json`` is damaged.
    """
    run = place(run)
    if not (run / RESULT_FILE).exists() or not Checkpoints(run / BEST_FOLDER).steps():
        raise unfinished(run)
    asked = read_object(run / RUN_FILE, {"model": dict, "num_dense": int})
    policy = Policy.load(run / POLICY_FILE)
    try:
        settings = ModelSettings.from_json(asked["model"])
        as_trained = settings.mlet is None and not (run / TRAINED_FILE).exists()
        folder = run / (BEST_FOLDER if as_trained else COLLAPSED_FOLDER)
        return load_model(folder, policy, asked["num_dense"], replace(settings, mlet=None))
    except (CheckpointError, OSError):
        raise
    except Exception as error:  # whatever the values of a damaged file make of a model
        raise RunError(
            f"{run / RUN_FILE}: no model can be built of it ({type(error).__name__}: "
            f"{one_line(error)}); restore the file or train again"
        ) from error


def load_model(folder: Path, policy: Policy, num_dense: int, settings: ModelSettings) -> RecModel:
    """The model of the newest weights in ``folder``."""
    model = build_model(policy, num_dense, settings, seed=0)
    saved = Checkpoints(folder)
    load_tensors(saved.open(saved.steps()[-1]), named_weights(model))
    return model


def named_weights(model: nn.Module) -> State:
    """The weights of ``model`` by the names that they have in checkpoints."""
    return {f"model.{name}": value for name, value in weights_of(model).items()}


@dataclass(frozen=True)
class Served:
    """What a run is worth when it is served in a type, and what that takes.

    Args:
        metrics: On the split.
        precision: The type of all tables and arrays, or the types, separated by commas.
        num_bytes: Bytes of the embeddings in that type, ids and codes included.
        num_bytes_float32: The same in float32.
        groups: Quality by group, if it was asked for.
    """

    metrics: Metrics | RegressionMetrics
    precision: str
    num_bytes: int
    num_bytes_float32: int
    groups: GroupReport | None = None

    def to_json(self) -> dict[str, Any]:
        """The metrics, what it takes to serve, and quality by group under ``groups``."""
        own = {k: v for k, v in asdict(self).items() if k not in ("metrics", "groups")}
        groups = {"groups": self.groups.to_json()} if self.groups else {}
        return {**asdict(self.metrics), **own, **groups}


def evaluate_served(
    run: Path | str,
    data: DataSet,
    split: str,
    precision: str | None = None,
    grouping: Grouping = NO_GROUPS,
) -> Served:
    """Metrics of a finished training run on a split, and the bytes that serving it takes.

    Quality by group on the test split of the run's own data, in the types of the policy, is also
    kept in the run folder, where reports find it.

    Args:
        run: A finished training run.
        data: Prepared data.
        split: ``train``, ``val`` or ``test``.
        precision: The type in which tables and arrays are served, of :data:`seo_rec.policy.DTYPES`;
            with float32 the metrics are of the trained numbers themselves. None takes the types
            that the policy says.
        grouping: Groups of rows whose quality is measured, too.

    Raises:
        DataError: ``data`` lacks a feature, or was prepared by other rules; or a column of the
            grouping is no feature of the data.
        DisagreementError: The processes of this launch ask for different things.
        RunError: The folder is not a finished training run, or ``data`` has other numeric columns.
        ValueError: There is no such type, or it cannot hold the numbers of a table.
    """
    require_opened(data, "evaluate_served")
    run = place(run)
    _agree_on_evaluation(run, data, split, precision, grouping)
    grouping.check(data)
    model = load_trained(run)
    full = with_precision(model.embedding.policy, "float32")
    policy = with_precision(model.embedding.policy, precision)
    serve_stored_(model.embedding, policy)
    metrics, groups = _evaluated(run, model, data, split, grouping)
    if groups and split == "test" and policy == model.embedding.policy:
        ranks().on_first(partial(_keep, run, groups))
    return Served(metrics, types_of(policy), policy.num_bytes, full.num_bytes, groups)


def _keep(run: Path, groups: GroupReport) -> None:
    """Leave quality by group in the folder of the run, if it is of the data the run is of."""
    trained_on = read_object(run / RESULT_FILE, {"data_fingerprint": str})["data_fingerprint"]
    if groups.data_fingerprint != trained_on:
        return
    try:
        groups.save(run)
    except OSError as error:
        log.warning("%s: quality by group is not kept for reports (%s)", run, error)


def _agree_on_evaluation(
    run: Path, data: DataSet, split: str, precision: str | None, grouping: Grouping
) -> None:
    result = run / RESULT_FILE
    asked = {
        "kind": "eval",
        "data_fingerprint": data.fingerprint,
        "split": split,
        "precision": precision,
        "grouping": asdict(grouping),
        "result": result.read_text() if result.exists() else None,
    }
    agree(asked)


def _evaluated(
    run: Path, model: RecModel, data: DataSet, split: str, grouping: Grouping
) -> tuple[Metrics | RegressionMetrics, GroupReport | None]:
    """Metrics on a split, and quality by group if there is a grouping."""
    here = ranks()
    metrics, logits, labels = evaluate(model.to(here.device), stream_of(run, data, split))
    if not grouping:
        return metrics, None
    return metrics, here.on_first(lambda: quality_by_group(data, split, logits, labels, grouping))


def stream_of(run: Path, data: DataSet, split: str) -> Stream:
    """A split of ``data`` in file order, for the model of a finished training run.

    Raises:
        DataError: ``data`` lacks a feature, or was prepared by other rules.
        RunError: ``data`` has other numeric columns.
    """
    optional = {"numeric": list, "preparation": dict, "model": dict}
    asked = read_object(run / RUN_FILE, {"num_dense": int}, optional)
    model = asked.get("model", {})
    require_kind_of_label(run, bool(model.get("regression")), data)
    require_labels(run, _labels(run, model), data)
    wanted, names = asked["num_dense"], [c.name for c in data.schema.numeric]
    if wanted != data.num_numeric:
        raise RunError(
            f"{run} was trained on {wanted} numeric columns{_listed(asked.get('numeric'))} and "
            f"{data.path} has {data.num_numeric}{_listed(names)}; prepare the data with the same "
            "columns in the same order"
        )
    if asked.get("numeric", names) != names:  # runs of earlier releases know their number only
        raise RunError(
            f"{run} was trained on the numeric columns {asked['numeric']}, in this order, and "
            f"{data.path} has {names}; prepare the data with the same columns in the same order"
        )
    data.require_rules(asked.get("preparation", {}), str(run))
    return eval_stream(data, split, Policy.load(run / POLICY_FILE).columns)


def _listed(names: list[str] | None) -> str:
    """`` ['a', 'b']``; nothing without names, which runs of earlier releases did not record."""
    return f" {names}" if names else ""


def _labels(run: Path, model: Mapping[str, Any]) -> tuple[str, ...]:
    """The labels of the model of a run; none of a model of one label."""
    tasks = model.get("multi_task")
    if tasks is None:
        return ()
    labels = tasks.get("labels") if isinstance(tasks, dict) else None
    if not isinstance(labels, list) or not all(isinstance(name, str) for name in labels):
        raise RunError(f"{run / RUN_FILE}: labels of the model are {labels!r:.60}; allowed: names")
    return tuple(labels)


def require_kind_of_label(run: Path, is_regression: bool, data: DataSet) -> None:
    """RunError if a model of clicks meets a label to predict, or the other way round.

    Args:
        run: The training run of the model.
        is_regression: Whether it was trained on a regression label.
        data: The data that it is to score or to be trained on.
    """
    trained_on = REGRESSION if is_regression else BINARY
    if trained_on != data.schema.label_kind:
        raise RunError(
            f"{run} was trained on a {trained_on} label and the label of {data.path} is a "
            f"{data.schema.label_kind} one; give data of its kind of label"
        )


def require_labels(run: Path, labels: Sequence[str], data: DataSet) -> None:
    """RunError unless data have the labels of a model of several labels, or one for the others.

    Args:
        run: The training run of the model.
        labels: Its labels in their order; none of a model of one label.
        data: The data that it is to score or to be trained on.
    """
    found = data.schema.labels
    if tuple(labels) == found or (not labels and len(found) == 1):
        return
    was = f"the labels {', '.join(labels)}" if labels else "one label"
    raise RunError(
        f"{run} was trained on {was}, and {data.path} has {', '.join(found)}; give data with the "
        "same labels in the same order"
    )


def frequency(
    data: DataSet, runs: Sequence[Path | str], split: str = "test", share: float = 0.1
) -> dict[Path, FrequencyQuality]:
    """PR-AUC of finished training runs on the samples of the most and the least frequent ids.

    Args:
        data: Prepared as the data that the runs were trained on.
        runs: Folders of finished training runs.
        split: Whose samples are scored; the frequencies are counted in the training split.
        share: Of the split in each set; see :func:`frequency_sets`.

    Raises:
        RunError: A folder is not a finished training run, or ``data`` has other numeric columns.
        ValueError: The share is out of its range.
    """
    require_opened(data, "frequency")
    places = [place(run) for run in runs]
    from seo_rec.report.frequency import frequency_quality, frequency_sets  # plots load slowly

    data.require_binary("PR-AUC by frequency")
    models = {run: load_trained(run) for run in places}
    streams = {run: stream_of(run, data, split) for run in places}
    sets = frequency_sets(data, split, share)
    qualities = {}
    for run, model in models.items():
        _, logits, labels = evaluate(model.to(ranks().device), streams[run])
        qualities[run] = frequency_quality(logits, labels, sets)
    return qualities
