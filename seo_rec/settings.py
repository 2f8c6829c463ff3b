"""How a model is built, trained and served, as a person states it; needs no torch.

The settings of a search are beside the search, and what a backbone alone has is in
:mod:`seo_rec.backbone_settings`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from seo_rec.backbone_settings import BACKBONE_NAMES, INTERACTIONS, Interaction
from seo_rec.methods import Mlet
from seo_rec.multi_task import MultiTask

INIT_SCALE = 0.01
LARGEST_SEED = 2**63 - 1
# what `seo-rec compare` and the demonstration compare
COMPARED_METHODS = ("separate", "monolithic", "multi-size", "seo-exact", "seo-rr", "seo")
ROW_OPTIMIZER_NAMES = ("auto", "adam", "lazy_adam", "adagrad", "rowwise_adagrad", "sgd")
DENSE_OPTIMIZER_NAMES = ("adam", "sgd", "adagrad")
ADAGRAD_RATE = 10.0  # times Adam's learning rate, where auto takes row-wise Adagrad
# settings that the first runs lack
LATER = ("storage", "schedule", "clip_norm", "keep_by", "dense_optimizer")
SCHEDULES = ("constant", "cosine")
L2_ON_NAMES = ("auto", "all", "read", "frequency")
HALVES = ("float16", "bfloat16")  # types of 16 bits
STORAGES = ("float32", *HALVES)  # of tables while they are trained
AUTO_STORAGE = "auto"  # the type of the policy, see seo_rec.train.storage
KEEP_BY_NAMES = ("auc", "logloss")
# Floats of tables at which a step with dense Adam took 1.08 times as long as with row-wise Adagrad;
# at 10,000,000 it took 2.1 times as long (benchmarks/speed/size.py, docs/measured/size.md).
LARGEST_DENSE = 3_000_000


@dataclass(frozen=True)
class Regression:
    """A number that is predicted: ``mean + std * backbone(dense, x)``.

    The backbone so predicts numbers of the size of 1, whatever the unit of the label.

    Args:
        mean: The mean label of the training rows.
        std: The standard deviation of the label in the training rows.
    """

    mean: float
    std: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and 0 < self.std < math.inf):
            raise ValueError(
                f"labels of mean {self.mean} and standard deviation {self.std}; allowed: finite "
                "numbers that are not all equal"
            )


@dataclass(frozen=True)
class ModelSettings:
    """What a model is besides its policy.

    Args:
        backbone: The network that reads the dense columns and the embeddings.
        hidden: Widths of the hidden layers of the network.
        dropout: Share of the hidden units that training drops, 0 to below 1.
        init_scale: Embeddings start uniformly distributed between minus this number and this
            number.
        interaction: Settings of the backbone itself; backbones that have no settings keep None.
        mlet: How the tables are trained as two layers; None trains them as one layer.
        positive_weight: Factor of the loss of rows with label 1.
        regression: The scale of a label that is any number; None for a label of 0 and 1.
        multi_task: What several labels share and count; None for one label.
    """

    backbone: str = "mlp"
    hidden: tuple[int, ...] = (256, 128)
    dropout: float = 0.0
    init_scale: float = INIT_SCALE
    interaction: Interaction | None = None
    mlet: Mlet | None = None
    positive_weight: float = 1.0
    regression: Regression | None = None
    multi_task: MultiTask | None = None

    def __post_init__(self) -> None:
        if self.backbone not in BACKBONE_NAMES:
            raise ValueError(f"backbone {self.backbone!r}; allowed: {', '.join(BACKBONE_NAMES)}")
        wanted = INTERACTIONS.get(self.backbone)
        if self.interaction is None and wanted is not None:
            object.__setattr__(self, "interaction", wanted())
        elif self.interaction is not None and type(self.interaction) is not wanted:
            raise ValueError(
                f"interaction {self.interaction} of backbone {self.backbone}; allowed: "
                f"{wanted.__name__ + '(...)' if wanted else 'None, it has no settings'}"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout {self.dropout}; allowed: 0 <= dropout < 1")
        if any(h < 1 for h in self.hidden):
            raise ValueError(f"hidden {self.hidden}; allowed: widths of 1 or more")
        if not 0 < self.positive_weight < math.inf:
            raise ValueError(f"positive_weight {self.positive_weight}; allowed: numbers above 0")
        if self.regression and self.positive_weight != 1:
            raise ValueError(
                f"positive_weight {self.positive_weight} with a regression label, which has no "
                "positive rows; allowed: 1"
            )
        tasks = self.multi_task
        if tasks and (tasks.shared or tasks.sharing == "mmoe") and self.backbone != "mlp":
            raise ValueError(
                f"layers shared by labels, with backbone {self.backbone}, whose towers read the "
                "embeddings themselves; allowed: backbone mlp, or sharing bottom without layers"
            )

    def as_json(self) -> dict[str, Any]:
        """What ``run.json`` holds, without what is None and a ``positive_weight`` of 1."""
        values = {k: v for k, v in asdict(self).items() if v is not None}
        if self.multi_task is not None:
            values["multi_task"] = self.multi_task.as_json()
        if self.positive_weight == 1.0:
            del values["positive_weight"]
        return values

    @classmethod
    def from_json(cls, read: Mapping[str, Any]) -> ModelSettings:
        """The settings that ``as_json`` gave; JSON's lists were tuples."""
        given = _tuples(read)
        if read.get("interaction") is not None:
            kind = INTERACTIONS[read["backbone"]]
            given["interaction"] = kind(**_tuples(read["interaction"]))
        if read.get("mlet") is not None:
            given["mlet"] = Mlet(**read["mlet"])
        if read.get("regression") is not None:
            given["regression"] = Regression(**read["regression"])
        if read.get("multi_task") is not None:
            given["multi_task"] = MultiTask.from_json(read["multi_task"])
        return cls(**given)


def _tuples(read: Mapping[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in read.items()}


@dataclass(frozen=True)
class FitSettings:
    """How a model is trained.

    The running mean of the weights decays by ``min(average, (1 + t) / (10 + t))`` at step t.

    Args:
        epochs: The most passes over the training rows.
        patience: Epochs without a better one that end training.
        batch_size: Rows in a batch, over all processes.
        row_optimizer: Optimizer of tables: auto, adam, lazy_adam, adagrad, rowwise_adagrad, sgd.
        dense_optimizer: Optimizer of the dense layers: adam, sgd, adagrad.
        row_lr: Learning rate of the tables; auto takes ten times as much for row-wise Adagrad.
        dense_lr: Learning rate of the dense layers.
        row_l2: Weight of half the squared norm of the tables; tune it first.
        l2_on: Rows that L2 acts on: auto, all, read (by the batch), frequency (read, over reads).
        storage: Type of the tables while they are trained: auto, float32, float16, bfloat16.
        warmup_steps: Steps over which the learning rates rise linearly from 0.
        schedule: Learning rates after the warm-up: constant, or cosine, down to 0 at the last step.
        clip_norm: Largest norm of the gradient of the dense layers, not of tables; 0: no limit.
        checkpoint_every: Steps between checkpoints; 0: one per epoch.
        keep: Checkpoints that are kept on disk.
        log_every: Steps between two lines of metrics.jsonl.
        max_steps: Training ends after so many steps, whatever the epoch; 0 sets no limit.
        average: Decay of the mean of weights that is evaluated; 0: no mean.
        keep_by: Best epoch by validation auc or logloss.
        seed: Seed of weights, order of rows and hash functions.
    """

    epochs: int = 20
    patience: int = 2
    batch_size: int = 2048
    row_optimizer: str = "auto"
    dense_optimizer: str = "adam"
    row_lr: float = 2e-3
    dense_lr: float = 2e-3
    row_l2: float = 0.0
    l2_on: str = "auto"
    storage: str = "float32"
    warmup_steps: int = 0
    schedule: str = "constant"
    clip_norm: float = 0.0
    checkpoint_every: int = 0
    keep: int = 2
    log_every: int = 100
    max_steps: int = 0
    average: float = 0.998
    keep_by: str = "auc"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "patience", "batch_size", "keep", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed: 1 or more")
        for name in ("row_lr", "dense_lr"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed: numbers above 0")
        if not 0 <= self.average < 1:
            raise ValueError(f"average is {self.average}; allowed: 0 <= average < 1")
        if self.row_optimizer not in ROW_OPTIMIZER_NAMES:
            raise ValueError(
                f"row_optimizer is {self.row_optimizer!r}; "
                f"allowed: {', '.join(ROW_OPTIMIZER_NAMES)}"
            )
        if self.dense_optimizer not in DENSE_OPTIMIZER_NAMES:
            raise ValueError(
                f"dense_optimizer is {self.dense_optimizer!r}; "
                f"allowed: {', '.join(DENSE_OPTIMIZER_NAMES)}"
            )
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule is {self.schedule!r}; allowed: {', '.join(SCHEDULES)}")
        if not 0 <= self.clip_norm < math.inf:
            raise ValueError(f"clip_norm is {self.clip_norm}; allowed: 0 (no limit) or more")
        if self.keep_by not in KEEP_BY_NAMES:
            raise ValueError(f"keep_by is {self.keep_by!r}; allowed: {', '.join(KEEP_BY_NAMES)}")
        if not 0 <= self.row_l2 < math.inf:
            raise ValueError(f"row_l2 is {self.row_l2}; allowed: 0 or more")
        if self.l2_on not in L2_ON_NAMES:
            raise ValueError(f"l2_on is {self.l2_on!r}; allowed: {', '.join(L2_ON_NAMES)}")
        self._check_storage()
        if self.row_optimizer == "adam" and self.l2_on in ("read", "frequency"):
            raise ValueError(
                f"--l2-on {self.l2_on} with --optimizer adam, which moves every row in every step; "
                "allowed: --l2-on all, or another --optimizer"
            )
        if self.row_optimizer == "lazy_adam" and self.l2_on == "all":
            raise ValueError(
                "--l2-on all with --optimizer lazy_adam, which moves only the rows of the batch; "
                "allowed: --l2-on read or frequency, or --optimizer adam"
            )
        for name in ("warmup_steps", "checkpoint_every", "max_steps", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed: 0 or more")
        if self.seed > LARGEST_SEED:
            raise ValueError(f"seed is {self.seed}; allowed: 0 to {LARGEST_SEED}")

    def as_json(self) -> dict[str, Any]:
        """What ``run.json`` holds; without the settings in ``LATER`` where they are the default.

        A training of before there were these settings is so resumed by one that does not use them.
        """
        later = {f.name: f.default for f in fields(self) if f.name in LATER}
        return {k: v for k, v in asdict(self).items() if k not in later or v != later[k]}

    def _check_storage(self) -> None:
        if self.storage not in (AUTO_STORAGE, *STORAGES):
            allowed = ", ".join((AUTO_STORAGE, *STORAGES))
            raise ValueError(f"storage is {self.storage!r}; allowed: {allowed}")
        asked = {
            "--optimizer adam": self.row_optimizer == "adam",
            "--l2-on all": self.l2_on == "all",
        }
        dense = [name for name, is_asked in asked.items() if is_asked]
        if self.storage in HALVES and dense:
            raise ValueError(
                f"--storage {self.storage} with {dense[0]}, which moves every row in every step; "
                "allowed: --storage float32, or --optimizer auto, lazy_adam, adagrad, "
                "rowwise_adagrad or sgd with --l2-on auto, read or frequency"
            )

    @property
    def table_update(self) -> str:
        """The optimizer of the tables in words, for settings that are :func:`settled`."""
        kind = "every row in every step" if self.has_dense_gradients else "rows of the batch"
        l2 = f", L2 {self.row_l2:g} on {self.l2_on} rows" if self.row_l2 else ""
        stored = f", rows of {self.storage}" if self.storage in HALVES else ""
        return f"{self.row_optimizer} at {self.row_lr:g} ({kind}){l2}{stored}"

    @property
    def has_dense_gradients(self) -> bool:
        """Whether every step moves all rows; for settings that are :func:`settled`."""
        return self.row_optimizer == "adam" or (self.row_l2 > 0 and self.l2_on == "all")


def settled(settings: FitSettings, floats: int) -> FitSettings:
    """The settings with every ``auto`` decided for tables of so many floats.

    Up to :data:`LARGEST_DENSE` floats ``auto`` is ``adam``, or ``lazy_adam`` where ``l2_on`` asks
    for rows of the batch, or ``storage`` for 16 bits; above it is ``rowwise_adagrad``, at
    :data:`ADAGRAD_RATE` times the ``row_lr``. L2 acts on all rows of small tables, and on the rows
    of the batch of large ones, of ``lazy_adam`` and of tables of 16 bits. A ``storage`` of ``auto``
    is float32 here, since only a policy can say another (:func:`seo_rec.train.with_storage`).
    """
    small, by_rows = floats <= LARGEST_DENSE, settings.storage in HALVES
    optimizer, l2_on, row_lr = settings.row_optimizer, settings.l2_on, settings.row_lr
    if optimizer == "auto" and small:
        optimizer = "lazy_adam" if by_rows or l2_on in ("read", "frequency") else "adam"
    elif optimizer == "auto":
        optimizer, row_lr = "rowwise_adagrad", ADAGRAD_RATE * row_lr
    if l2_on == "auto":
        dense = optimizer == "adam" or (small and optimizer != "lazy_adam" and not by_rows)
        l2_on = "all" if dense else "read"
    storage = settings.storage if by_rows else "float32"
    return replace(settings, row_optimizer=optimizer, row_lr=row_lr, l2_on=l2_on, storage=storage)


def require_float32(settings: FitSettings, search: str) -> None:
    """Refuse tables of 16 bits, for a search: its own parts are trained beside them.

    Args:
        settings: Of the search's own training.
        search: Its name.

    Raises:
        ValueError: A ``storage`` of 16 bits; ``auto`` is one for the policies that it trains.
    """
    if settings.storage in HALVES:
        raise ValueError(
            f"--storage {settings.storage} with the search {search}; allowed: --storage auto or "
            "float32 to search, and another one to train the policy that it finds"
        )


def require_dense(settings: FitSettings, search: str) -> None:
    """Refuse what acts on the rows of a batch, for a search whose tables have dense gradients.

    Args:
        settings: Of the search's own training.
        search: Its name.

    Raises:
        ValueError: ``lazy_adam``, or L2 on rows that were read.
    """
    if settings.row_optimizer == "lazy_adam" or settings.l2_on in ("read", "frequency"):
        raise ValueError(
            f"optimizer {settings.row_optimizer} with L2 on {settings.l2_on} rows, and {search} "
            "moves all rows of its tables in every step; allowed: --l2-on all or auto, and another "
            "--optimizer than lazy_adam"
        )


@dataclass(frozen=True)
class Training:
    """Which model is trained and how; the two always travel together.

    Args:
        model: The backbone and how the tables start.
        fit: Optimizers, batches and length.
    """

    model: ModelSettings = field(default_factory=ModelSettings)
    fit: FitSettings = field(default_factory=FitSettings)

    def with_seed(self, seed: int) -> Training:
        """The same training with another seed of weights, order and hash functions."""
        return replace(self, fit=replace(self.fit, seed=seed))


@dataclass(frozen=True)
class ServerSettings:
    """Limits of the server, and its times in seconds.

    Args:
        max_body: Most bytes of a request's body.
        max_rows: Most rows of a request.
        max_requests: Most requests at a time; a further one gets status 429.
        batch_rows: Most rows that are scored in one call, of all requests that wait.
        batch_wait: Seconds that a request may wait for others.
        body_time: Seconds that a client may take to send the body of a request.
        drain: Seconds of answering on after SIGTERM, while clients are asked to leave.
        reload: Seconds between looks for a new package; 0 looks on SIGHUP only.
    """

    max_body: int = 16 << 20
    max_rows: int = 10_000
    max_requests: int = 256
    batch_rows: int = 1024
    batch_wait: float = 0.0
    body_time: float = 30.0
    drain: float = 2.0
    reload: float = 2.0

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            whole = f.name.startswith("max_") or f.name == "batch_rows"
            least = 1 if whole else 0
            if not least <= value < float("inf"):
                raise ValueError(f"{f.name} {value}; allowed: {least} or more, and finite")
        if self.body_time == 0:
            raise ValueError("body_time 0; allowed: more than 0")
