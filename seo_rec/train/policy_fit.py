"""Train the model of a policy on a data set, in one process or over all of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from seo_rec.data.dataset import DataSet
from seo_rec.embed.quantize import serve_stored_
from seo_rec.methods import inner_policy
from seo_rec.model import build_model
from seo_rec.plan import rates_of
from seo_rec.policy import Policy, stored_types
from seo_rec.runs import RunError
from seo_rec.settings import AUTO_STORAGE, HALVES, Training
from seo_rec.train.after_step import AfterStep
from seo_rec.train.earlier import Carried, Earlier, mean_starts_anew
from seo_rec.train.loop import fit
from seo_rec.train.memory import memory_said, require_memory
from seo_rec.train.optimizers import inner_model, optimizers_of
from seo_rec.train.ranks import ranks
from seo_rec.train.run_state import FitResult
from seo_rec.train.sharding import shard
from seo_rec.train.storage import check_storage, with_storage
from seo_rec.train.streams import eval_stream, train_stream
from seo_rec.train.warm_start import Begun, continue_from
from seo_rec.train.weights import load_weights


@dataclass(frozen=True)
class Start:
    """What a training starts from besides its settings.

    Args:
        plan: The plan file to shard by; None makes one for the machines that are there.
        weights: The weights file of a search of this policy to go on from; None starts afresh.
        earlier: The run to go on from, with its optimizer state and running mean.
    """

    plan: Path | None = None
    weights: Path | None = None
    earlier: Earlier | None = None


@dataclass(frozen=True)
class Trained:
    """A trained model in memory (sharded, if several processes trained it), and its outcome.

    ``carried`` says what of an earlier run it continued, in the session that began the training.
    """

    model: nn.Module
    result: FitResult
    carried: Carried | None = None


def fit_policy(
    data: DataSet,
    policy: Policy,
    training: Training,
    *,
    out: Path | None = None,
    title: str = "train",
    start: Start | None = None,
    validate: bool = True,
    after_step: AfterStep | None = None,
) -> Trained:
    """Train the model of ``policy`` on ``data``; the returned model has its best weights.

    Every process of a launch calls this. With MLET the model returned still has two layers.

    Args:
        data: The data set.
        policy: It fits the data (:func:`check_policy_fits`).
        training: The model and how it is trained.
        out: Folder for checkpoints and metrics, from which an interrupted training goes on.
        title: Words before the progress bar.
        start: A plan and initial weights, without MLET (:func:`check_start`); or an earlier run,
            which needs ``out``.
        validate: Whether validation rows decide which epoch was the best; without, it is the last.
        after_step: Called after each step and each epoch; None: nothing is.

    Raises:
        CheckpointError: The earlier run's state is damaged.
        TooLargeError: The tables do not fit into memory.
        ValueError: Tables of 16 bits where they cannot be trained (:func:`check_storage`).
    """
    start = start or Start()
    training = with_storage(training, policy, start)
    check_storage(policy, training)
    settings = training.fit
    train = train_stream(data, settings, policy.columns)
    val = eval_stream(data, "val", policy.columns) if validate else None
    here, mlet = ranks(), training.model.mlet
    stored = policy if mlet is None else inner_policy(policy, mlet)
    require_memory(stored, settings, here)
    afar = here.world_size > 1 and not start.weights
    with memory_said(stored, settings):
        begun = Begun()
        if start.earlier is not None:
            assert out is not None
            begun = continue_from(start.earlier, out, data, policy, training)
        whole = begun.model or build_model(
            policy,
            data.num_numeric,
            training.model,
            settings.seed,
            tables_on_meta=afar,
            storage=settings.storage,
        )
        if start.weights:
            load_weights(whole, start.weights)
        model = shard(whole, settings, start.plan, rates_of(data.schema))
        optimizers = begun.optimizers or optimizers_of(model, settings)
        result = fit(
            model,
            train,
            val,
            optimizers,
            settings,
            out=out,
            after_step=after_step,
            title=title,
            first=begun.first,
        )
    return Trained(model, result, begun.carried)


def store_(model: nn.Module, policy: Policy) -> bool:
    """Put the tables of a trained model through the types of its policy, as they are served.

    Args:
        model: What :func:`fit_policy` trained, with tables of one layer; its tables are changed.
        policy: The policy that it was built from.

    Returns:
        Whether the model now is as it is served. It is not if several processes hold parts of its
        tables, whose rows then stay float32.

    Raises:
        ValueError: A type cannot hold the numbers of a table.
    """
    if stored_types(policy) == ["float32"]:
        return True
    if ranks().world_size > 1:
        return False
    serve_stored_(inner_model(model).embedding, policy)
    return True


def check_policy_fits(data: DataSet, policy: Policy) -> None:
    """RunError unless the policy reads columns of the data, and serves or drops every one."""
    known = {c.name for c in data.schema.features}
    if unknown := sorted(set(policy.columns) - known):
        raise RunError(
            f"the policy reads columns {unknown} that the data lacks; it has {sorted(known)}"
        )
    if silent := sorted(known - set(policy.columns) - set(policy.dropped)):
        raise RunError(
            f"the policy says nothing about features {silent}; serve them or list them as dropped"
        )


def check_start(training: Training, start: Start) -> None:
    """ValueError if a plan or weights of tables of one layer are to be used with two, and the like.

    A training goes on from one thing only: weights of a search, or an earlier run. The weights of a
    search are float32 and do not go with tables of 16 bits; those of an earlier run have its type.
    """
    storage = training.fit.storage
    if start.weights and storage in HALVES:
        raise ValueError(
            f"--storage {storage} with --weights, whose tables are float32; allowed: "
            "--storage float32, or a training without --weights"
        )
    if start.weights and start.earlier:
        raise ValueError(
            f"weights {start.weights} and the earlier run {start.earlier.run}; a training goes on "
            "from one of them; leave --weights or --from out"
        )
    kept = start.earlier.training.fit.storage if start.earlier else storage
    if start.earlier and storage not in (AUTO_STORAGE, kept):
        raise ValueError(
            f"--storage {storage}, and the tables of {start.earlier.run} are "
            f"{kept}; name the same type"
        )
    if start.earlier and start.earlier.training.model != training.model:
        raise ValueError(
            f"the model of {start.earlier.run} has other settings, and a training that goes on "
            f"from it has {start.earlier.training.model}"
        )
    if start.earlier:
        mean_starts_anew(start.earlier.mean_anew, training.fit)
    options = [
        option for option, path in (("plan", start.plan), ("weights", start.weights)) if path
    ]
    if training.model.mlet is not None and options:
        raise ValueError(
            f"{' and '.join(options)} with MLET, which trains tables of width "
            f"{training.model.mlet.dim}; allowed: without MLET only, a plan is made for what is "
            "trained"
        )
