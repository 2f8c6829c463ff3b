"""The options of the model and of the training, which several commands have."""

from __future__ import annotations

from typing import Any

from seo_rec.backbone_settings import BACKBONE_NAMES, INTERACTIONS, Interaction
from seo_rec.cli.fields import fields_of, type_name, value_of
from seo_rec.cli.options import MODEL, RUN, TRAINING, FromSettings, Option
from seo_rec.methods import Mlet
from seo_rec.multi_task import MultiTask
from seo_rec.settings import AUTO_STORAGE, FitSettings, ModelSettings


def interaction(backbone: str, text: str) -> Interaction | None:
    """``"layers=3,rank=16"`` as settings of the backbone; widths are written ``512x256``.

    Raises:
        ValueError: A setting that the backbone does not have, or a value that is not allowed.
    """
    if not text:
        return None
    kind = INTERACTIONS.get(backbone)
    if kind is None:
        raise ValueError(
            f"--interaction {text!r} with --backbone {backbone}; allowed with: "
            f"{', '.join(INTERACTIONS)}"
        )
    fields, values = fields_of(kind), dict[str, Any]()
    for part in text.split(","):
        name, _, value = (word.strip() for word in part.partition("="))
        if name not in fields or name in values:
            raise ValueError(
                f"--interaction {text!r}: {part.strip()!r}; allowed, each once: "
                f"{', '.join(f'{n}={type_name(f.kind)}' for n, f in fields.items())}"
            )
        where = f"{name} of --interaction"
        values[name] = value_of(value.replace("x", ","), fields[name].kind, where)
    return kind(**values)


def _model(values: dict[str, Any]) -> ModelSettings:
    text = values.pop("interaction")
    return ModelSettings(interaction=interaction(values["backbone"], text), **values)


def _mlet(values: dict[str, Any]) -> Mlet | None:
    if values["dim"]:
        return Mlet(**values)
    if values["std"] != fields_of(Mlet)["std"].default:
        raise ValueError(
            f"--mlet-std {values['std']} without --mlet-dim; give the inner dimension too"
        )
    return None


MODEL_OPTIONS = FromSettings(
    ModelSettings,
    MODEL,
    (
        Option(
            "backbone",
            help=f"{', '.join(BACKBONE_NAMES[:-1])} or {BACKBONE_NAMES[-1]}",
        ),
        Option("interaction", help="Settings of the backbone, as layers=3,rank=16"),
        Option("hidden"),
        Option("dropout"),
        Option("positive_weight", panel=TRAINING),
    ),
    _model,
)
MLET_OPTIONS = FromSettings(
    Mlet,
    MODEL,
    (Option("mlet_dim", ("dim",), default=0), Option("mlet_std", ("std",))),
    _mlet,
)


def _multi_task(values: dict[str, Any]) -> MultiTask | None:
    made = MultiTask(**values)
    return None if made == MultiTask() else made


MULTI_TASK_OPTIONS = FromSettings(
    MultiTask,
    MODEL,
    (
        Option(
            "label_weights",
            ("weights",),
            help="Of several labels: factors of their losses, as click=1,buy=5 (else 1)",
            panel=TRAINING,
        ),
        Option("sharing", help="What several labels share above the embeddings: bottom, or mmoe"),
        Option("shared", help="Widths of the layers that labels share, or of an expert of mmoe"),
        Option("experts"),
        Option(
            "keep_label",
            ("kept",),
            help="Of several labels the one that says which epoch is best; by default the first",
            panel=TRAINING,
        ),
    ),
    _multi_task,
)

EPOCHS = Option("epochs")
PATIENCE = Option("patience")
BATCH_SIZE = Option("batch_size", word="auto")
LR = Option("lr", ("row_lr", "dense_lr"), help="Learning rate of tables and dense layers")
DENSE_LR = Option(
    "dense_lr", default=0.0, help="Learning rate of the dense layers; 0: as --lr", unset=0.0
)
OPTIMIZER = Option("optimizer", ("row_optimizer",))
DENSE_OPTIMIZER = Option("dense_optimizer")
AVERAGE = Option("average")
KEEP_BY = Option("keep_by")
L2 = Option("l2", ("row_l2",), word="auto")
L2_ON = Option("l2_on")
STORAGE = Option(
    "storage",
    default=AUTO_STORAGE,
    help="Tables: auto, float32, float16, bfloat16",
)
WARMUP = Option("warmup_steps")
SCHEDULE = Option("schedule")
CLIP_NORM = Option("clip_norm")
CHECKPOINT_EVERY = Option("checkpoint_every")
SEED = Option("seed", panel=RUN)
FIT = (EPOCHS, PATIENCE, KEEP_BY, BATCH_SIZE, LR, DENSE_LR, OPTIMIZER, AVERAGE, L2, L2_ON)
STEPS = (WARMUP, SCHEDULE, CLIP_NORM, DENSE_OPTIMIZER)

TRAIN_OPTIONS = FromSettings(FitSettings, TRAINING, (*FIT, STORAGE, *STEPS, CHECKPOINT_EVERY, SEED))
SEARCH_OPTIONS = FromSettings(FitSettings, TRAINING, (*FIT, STORAGE, CHECKPOINT_EVERY, SEED))
COMPARE_OPTIONS = FromSettings(FitSettings, TRAINING, (*FIT, STORAGE, *STEPS))
