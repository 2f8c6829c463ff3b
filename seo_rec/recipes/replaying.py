"""Days replayed in order: a model scores a day, then trains on it, day after day.

Every day is a run folder of its own below ``OUT/days``, which goes on from the day before. A day
is finished when its ``result.json`` is there, so a replay is resumed between days as well as within
one, and goes on when days are added.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from seo_rec.data.dataset import DataSet, open_data
from seo_rec.documents import read_object
from seo_rec.embed.quantize import serve_stored_
from seo_rec.files import finite, write_json
from seo_rec.metrics import binary_metrics, labels_metrics
from seo_rec.policy import Policy
from seo_rec.policy.addresses import known_as
from seo_rec.policy.renewal import SHARED, indexed_features, require_share
from seo_rec.recipes.continuing import DECAY, Continued, continued
from seo_rec.recipes.evaluation import load_trained, stream_of
from seo_rec.recipes.id_counts import first_counts, write_counts
from seo_rec.recipes.outcome import Scores, record_of, stored_policy
from seo_rec.recipes.replayed import (
    Day,
    Replayed,
    day_of,
    figures_of,
    plain_day,
    replayed,
    scored_day,
)
from seo_rec.recipes.training import (
    as_policy,
    asked_for,
    for_label,
    own_budget,
    save_policies,
    served_model,
)
from seo_rec.runs import Run, RunError, claim_run
from seo_rec.runs.layout import (
    BEST_FOLDER,
    CHECKPOINTS_FOLDER,
    COLLAPSED_FOLDER,
    COUNTS_FILE,
    POLICY_FILE,
    REPLAY_FILE,
    RESULT_FILE,
    SCORES_FOLDER,
    day_folder,
)
from seo_rec.schema import SPLITS, DataError, Schema, other_rules
from seo_rec.settings import Training
from seo_rec.train import (
    Start,
    check_policy_fits,
    check_start,
    check_storage,
    fit_policy,
    require_memory,
    with_storage,
)
from seo_rec.train.earlier import mean_starts_anew, open_earlier
from seo_rec.train.evaluation import NOT_EVALUATED, score
from seo_rec.train.ranks import ranks

KEPT_DAYS = 2  # whose weights are kept by default


def replay(
    days: Sequence[Path | str],
    out: Path | str,
    training: Training,
    *,
    policy: Policy | None = None,
    method: str = "policy",
    earlier: Path | str | None = None,
    decay: float = DECAY,
    renew: bool = True,
    shared: float = SHARED,
    candidates: bool = True,
    mean_anew: bool | None = None,
    keep: int = KEPT_DAYS,
    resume: bool = False,
    said: Callable[[Day], None] | None = None,
) -> Replayed:
    """Score each day with the model of the days before it, then train on it.

    All rows of a day are scored, of whatever split, and weighted as
    :func:`seo_rec.train.loop.score` says; its training rows are trained on for
    ``training.fit.epochs`` epochs, without validation. Vocabularies are renewed with every day.

    Args:
        days: Folders of prepared data with the same columns and rules, in order.
        out: The run folder.
        training: The model and how it is trained on a day.
        policy: Of the first day; None with an earlier run, which has one.
        method: Who decided it, for reports.
        earlier: A finished training that the first day goes on from; None starts afresh.
        decay, renew, shared, candidates, mean_anew: See :func:`seo_rec.recipes.continued`.
        keep: The number of last days whose weights are kept; 0 keeps all.
        resume: Whether ``out`` may hold this replay already.
        said: Called with each finished day.

    Raises:
        DataError: A day has other columns or labels than the first, or no training rows; or a label
            is not 0 or 1.
        RunError: ``out`` holds another run; or a finished day was of other data.
        ValueError: A setting is not allowed.
    """
    folders, out = [Path(day) for day in days], Path(out)
    earlier = None if earlier is None else Path(earlier)
    if (policy is None) == (earlier is None):
        raise ValueError("a replay starts from a policy or from an earlier run; give one of them")
    if keep == 1 or keep < 0:
        raise ValueError(f"keep {keep}; allowed: 2 or more days, which a resume needs, or 0 (all)")
    require_share(shared)
    mean_anew = mean_starts_anew(mean_anew, training.fit, out)
    opened = [open_data(path) for path in folders]
    _require_alike([d.schema for d in opened], folders)
    for data in opened:
        data.require_binary("a replay", several=True)
    begun = Start(earlier=None if earlier is None else open_earlier(earlier))
    training = with_storage(for_label(training, opened[0]), policy, begun, out)
    if earlier is not None:
        check_start(training, begun)
    elif policy is not None:
        check_storage(policy, training)
    start: dict[str, Any] = {
        "method": method,
        "policy": None if policy is None else policy.to_json(),
        "earlier": None if earlier is None else str(earlier.absolute()),
        "count_decay": decay,
        "renew": renew,
        "shared": shared,
        "candidates": candidates,
    }
    start |= {"mean_anew": True} if mean_anew else {}
    claim_run(out, _asked(opened[0], folders[0].parent, training) | start, resume)
    (out / SCORES_FOLDER).mkdir(exist_ok=True)
    done: list[Day] = []
    before, renewal = earlier, Renewal(decay, renew, shared, candidates, mean_anew)
    for number, (path, data) in enumerate(zip(folders, opened, strict=True)):
        day = _Day(path.name, data, out, training, renewal)
        result = day.run(before, policy if number == 0 else None, method)
        if said is not None:
            said(result)
        done.append(result)
        before = day.folder
        write_json(out / REPLAY_FILE, replayed(done, day.folder).to_json())
        if keep and number >= keep:
            _drop_weights(day_folder(out, folders[number - keep].name))
    assert before is not None
    return replayed(done, before)


def _asked(first: DataSet, folder: Path, training: Training) -> dict[str, Any]:
    """What decides a replay, besides its start; days may be added later."""
    return {
        "kind": "replay",
        "data": str(folder.absolute()),
        "data_fingerprint": first.fingerprint,
        "model": training.model.as_json(),
        "fit": asdict(training.fit),
    }


@dataclass(frozen=True)
class Renewal:
    """How vocabularies and the mean are renewed; see :func:`seo_rec.recipes.continued`."""

    decay: float
    renew: bool
    shared: float
    candidates: bool
    mean_anew: bool

    def continued(self, before: Path, data: DataSet) -> Continued:
        """How the training on a day goes on from the day before."""
        return continued(
            before,
            data,
            decay=self.decay,
            renew=self.renew,
            shared=self.shared,
            candidates=self.candidates,
            mean_anew=self.mean_anew,
        )


class _Day:
    """A day that is scored and trained on."""

    def __init__(
        self, name: str, data: DataSet, out: Path, training: Training, renewal: Renewal
    ) -> None:
        self.name, self.data, self.training = name, data, training
        self.renewal = renewal
        self.folder = day_folder(out, name)
        self.file = out / SCORES_FOLDER / f"{name}.json"

    def run(self, before: Path | None, policy: Policy | None, method: str) -> Day:
        """Score the day with the run of the day before, then train on it, where not yet done."""
        scored = self._kept()
        if scored is None:
            scored = self._score(before)
            self._keep(scored)
        if (self.folder / RESULT_FILE).exists():
            return scored
        started = time.perf_counter()
        following = None
        if before is not None:
            following = self.renewal.continued(before, self.data)
            policy, method = following.policy, following.earlier.method
        assert policy is not None
        record = self._train(policy, method, following, scored)
        turnovers = (following.turnovers if following else None) or {}
        trained = replace(
            scored,
            admitted=sum(t.admitted for t in turnovers.values()),
            train_rows=self.data.schema.num_rows["train"],
            train_seconds=max(record.seconds, time.perf_counter() - started),
        )
        self._keep(trained)
        write_json(self.folder / RESULT_FILE, record.to_json())
        return trained

    def _kept(self) -> Day | None:
        if not self.file.exists():
            return None
        document = read_object(self.file, {"data_fingerprint": str, "day": dict})
        if document["data_fingerprint"] != self.data.fingerprint:
            raise RunError(
                f"{self.data.path}: the replay has scored other data under this name; choose "
                "another --out, or give the day another name"
            )
        return day_of(document["day"], self.file)

    def _keep(self, day: Day) -> None:
        document = {"data_fingerprint": self.data.fingerprint, "day": finite(plain_day(day))}
        write_json(self.file, document)

    def _score(self, before: Path | None) -> Day:
        """The figures of the model of the day before on all rows of the day."""
        started, here = time.perf_counter(), ranks()
        splits = [s for s in SPLITS if self.data.schema.num_rows[s]]
        rows = sum(self.data.schema.num_rows[s] for s in splits)
        if before is None:
            return scored_day(self.name, rows, NOT_EVALUATED, {}, 0.0)
        model = load_trained(before)
        serve_stored_(model.embedding, model.embedding.policy)
        model.to(here.device)
        parts = [score(model, stream_of(before, self.data, s)) for s in splits]
        logits, labels, weights = (np.concatenate(column) for column in zip(*parts, strict=True))
        unknown = unknown_shares(self.data, Policy.load(before / POLICY_FILE))
        if (tasks := model.multi_task) is None:
            metrics = binary_metrics(logits, labels, weights)
        else:
            metrics = labels_metrics(logits, labels, weights, tasks)
        return scored_day(self.name, rows, metrics, unknown, time.perf_counter() - started)

    def _train(self, policy: Policy, method: str, following: Continued | None, scored: Day) -> Run:
        """Train on the day in a run folder of its own; what its ``result.json`` is to say."""
        data, training, out = self.data, self.training, self.folder
        start = Start(earlier=following.earlier if following else None)
        held = following.trained if following else policy
        check_policy_fits(data, policy)
        require_memory(stored_policy(held, training.model), training.fit, ranks())
        claim_run(out, asked_for(data, policy, training, method, start, held), True)
        save_policies(out, policy, held)
        counts = following.counts if following else first_counts(data, policy)
        if counts:
            write_counts(out / COUNTS_FILE, counts)
        settings = as_policy(training, policy, held)
        trained = fit_policy(
            data, held, settings, out=out, title=self.name, start=start, validate=False
        )
        served_model(trained, out, policy, data.num_numeric, training.model, held)
        figures = figures_of(scored, training.model)
        trained = replace(trained, result=replace(trained.result, val=figures))
        scores = Scores(figures, figures, as_served=True)
        budget = own_budget(policy)
        return record_of(
            data, policy, training, trained, scores, method=method, budget=budget, search=None
        )


def unknown_shares(data: DataSet, policy: Policy) -> dict[str, float]:
    """By feature with a vocabulary, the share of its training reads that are of other ids.

    Crosses are left out, whose ids are not counted in prepared data.
    """
    found = {}
    features = {f.name: f for f in policy.features}
    for name in indexed_features(policy):
        if not features[name].is_cross:
            ids, counts = data.counts(features[name].columns[0])
            known = known_as(ids, features[name].id_bits)
            outside = ~np.isin(known, policy.vocabularies[name])
            found[name] = float(counts[outside].sum() / max(1, counts.sum()))
    return found


def _require_alike(schemas: Sequence[Schema], days: Sequence[Path]) -> None:
    """DataError unless all days have the columns and the rules of the first, and rows to train."""
    names = [path.name for path in days]
    if twice := sorted({n for n in names if names.count(n) > 1}):
        raise DataError(f"days {twice} are given twice; give each folder a name of its own")
    first = [(c.name, c.kind) for c in schemas[0].columns]
    labels = schemas[0].labels
    for path, schema in zip(days, schemas, strict=True):
        columns = [(c.name, c.kind) for c in schema.columns]
        if columns != first:
            differ = sorted({n for n, _ in set(columns) ^ set(first)}) or ["their order"]
            raise DataError(
                f"{path}: other columns than {days[0]} ({', '.join(differ)}); prepare all days "
                "alike, or go on with `seo-rec train --from`"
            )
        if schema.labels != labels:
            raise DataError(
                f"{path}: the labels {', '.join(schema.labels)}, and {days[0]} has "
                f"{', '.join(labels)}; prepare all days with the same labels in the same order"
            )
        rules = {**dict.fromkeys(schema.preparation), **schemas[0].preparation}
        if said := other_rules(rules, schema.preparation):
            raise DataError(
                f"{path}: prepared by other rules than {days[0]} ({said}); prepare a table with "
                f"`seo-rec prepare table --like {days[0]}`, and other data with the same options"
            )
        if not schema.num_rows.get("train"):
            raise DataError(f"{path}: split train has no rows; prepare it with some (--fractions)")


def _drop_weights(folder: Path) -> None:
    for name in (CHECKPOINTS_FOLDER, BEST_FOLDER, COLLAPSED_FOLDER):
        shutil.rmtree(folder / name, ignore_errors=True)
