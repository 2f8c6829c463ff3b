"""Does every backbone reach the AUC that is published for its kind? One run each on MovieLens-1M.

    python -m benchmarks.accuracy.backbones --data data/ml-1m [--only dcn-v2 dlrm] [--record]

Each backbone is trained once with collisionless tables of width 16 (``--tables multi-size``: with
multi-size tables of 96,000 floats). All have one setting, from ``benchmarks.accuracy.evidence``
(batch 2,048, Adam 2e-3, L2 2e-4 on the tables, hidden layers 256 and 128), which was chosen for the
MLP and for none of the others. The best epoch is chosen on validation rows, and test rows are read
once.
This is a check that the backbones are sound, not a ranking of them: that would take a search of
settings for each.

The published AUCs to compare with:

    MovieLens-1M, collisionless, width 30   DCN-V2 0.8872 (Unified Embedding), 0.8985 (a public
                                            replication of it), MLP 0.8963 (the replication)
    BARS, two other data sets               a backbone's distance to the plain DNN, ``gains``

A backbone of BARS is in the range if it reaches 0.8872 with collisionless tables, and if its
distance to the MLP of the same tables lies between its own two of ``gains``, or off by no more than
``SLACK``. One without deep layers (a factorization machine, a cross network, attention) may be
nearer to the MLP than there: six features have few pairs. One that is not there is in the range if
its AUC with collisionless tables is between the least and the largest published for these data, or
above by no more than ``SLACK``. The distances belong to finished trainings: with few
``--epochs`` backbones that learn faster than the MLP are far above it.

DLRM has no gains: BARS' DLRM has 417,891 parameters on Frappe, 53,890 of them embeddings (5,389 ids
of 10 floats, as DeepFM's 423,280 confirm) and 2,400 of batch normalisation. The rest is what three
layers of 400 on all 100 floats take, not on 45 inner products: it is the form that concatenates,
which is a plain DNN. Runs go to ``--out`` and are found again there, also unfinished ones;
``--record`` adds the lines that the record does not have yet.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.command import make_parser, set_up
from benchmarks.record import Line, Records, outcome, path_of
from seo_rec import recipes
from seo_rec.backbones import DCNv2Settings, build_backbone
from seo_rec.backbones.layers import FeatureVectors
from seo_rec.data.dataset import DataSet, open_data
from seo_rec.model import ModelSettings
from seo_rec.policy import Policy
from seo_rec.settings import FitSettings, Training

RECORD = path_of("backbones")
IDENTITY = (
    "name", "tables", "seed", "data_fingerprint", "model", "embedding_params", "epochs_at_most",
    "row_l2",
)  # fmt: skip
TABLES = ("collisionless", "multi-size")
PARAMS, DIM = 96_000, 16
COLLISIONLESS = 0.8872  # Unified Embedding, Table 1
AUCS = (COLLISIONLESS, 0.8985)  # the paper, and the replication of it
L2 = 2e-4
SLACK = 0.002  # more than twice the standard deviation over seeds of one backbone


@dataclass(frozen=True)
class Row:
    """A backbone as it is run; ``gains``: published test AUC minus the plain DNN's, by data set.

    BARS, Frappe_x1 (DNN 0.984045) and MovielensLatest_x1 (DNN 0.967683); None: not published.
    """

    settings: ModelSettings
    gains: tuple[float, float] | None = None


ROWS = {
    "mlp": Row(ModelSettings("mlp"), (0.0, 0.0)),
    "dcn-v2": Row(ModelSettings("dcn-v2")),
    "dcn-v2-parallel": Row(
        ModelSettings("dcn-v2", interaction=DCNv2Settings(structure="parallel")),
        (-0.000221, 0.000974),
    ),
    "dcn-v2-low-rank": Row(ModelSettings("dcn-v2", interaction=DCNv2Settings(rank=24))),
    "dcn-v2-cross": Row(ModelSettings("dcn-v2", hidden=()), (-0.011131, -0.007083)),
    "dcn": Row(ModelSettings("dcn"), (-0.000627, 0.000673)),
    "dlrm": Row(ModelSettings("dlrm")),
    "wide-deep": Row(ModelSettings("wide-deep"), (-0.000972, 0.000710)),
    "deepfm": Row(ModelSettings("deepfm"), (-0.000098, 0.000540)),
    "deepfm-fm": Row(ModelSettings("deepfm", hidden=()), (-0.016937, -0.024248)),
    "fnn": Row(ModelSettings("fnn")),
    "ipnn": Row(ModelSettings("ipnn"), (0.000077, 0.002202)),
    "xdeepfm": Row(ModelSettings("xdeepfm"), (0.000093, 0.000415)),
    "autoint": Row(ModelSettings("autoint"), (0.000767, 0.001505)),
    "autoint-attention": Row(ModelSettings("autoint", hidden=()), (-0.000960, -0.001391)),
    "nfm": Row(ModelSettings("nfm")),
}
ALONE = tuple(name for name, row in ROWS.items() if not row.settings.hidden)


def allowed_gain(name: str) -> tuple[float, float] | None:
    """The distances to the MLP that count as in the range; a row alone may always be nearer."""
    own = ROWS[name].gains
    if own is None:
        return None
    return min(own) - SLACK, max(0.0, *own) + SLACK if name in ALONE else max(own) + SLACK


def one(
    name: str, tables: str, data: DataSet, out: Path, epochs: int, seed: int, l2: float
) -> Line:
    """Train one backbone on one kind of tables, or find the finished run again."""
    settings = ROWS[name].settings
    policy = recipes.method_policy(tables, data, PARAMS, DIM, seed=seed)
    training = Training(settings, FitSettings(epochs=epochs, row_l2=l2, seed=seed))
    special = [] if l2 == L2 else [f"l2={l2:g}"]
    folder = out / "-".join([name, tables, str(seed), str(epochs), *special])
    run = recipes.train(data, policy, folder, training, method=tables, resume=True)
    return {
        **outcome(run),
        "name": name,
        "tables": tables,
        "seed": seed,
        "model": settings.as_json(),
        **backbone_params(policy, data.num_numeric, settings),
        "epochs_at_most": epochs,
        "row_l2": l2,
    }


def backbone_params(policy: Policy, num_dense: int, model: ModelSettings) -> dict[str, int]:
    """Floats of the backbone, and of them those that bring features to one width."""
    module = build_backbone(
        model.backbone, num_dense, policy.widths, model.hidden, model.dropout, model.interaction
    )
    vectors = [m for m in module.modules() if isinstance(m, FeatureVectors)]
    return {
        "backbone_params": sum(p.numel() for p in module.parameters()),
        "projection_params": sum(p.numel() for m in vectors for p in m.parameters()),
    }


def judge(line: Line, mlp_auc: float | None) -> Line:
    """The distance to the MLP's test AUC, the published ones, and whether it is in the range."""
    gain = None if mlp_auc is None else line["test_auc"] - mlp_auc
    allowed, gains = allowed_gain(line["name"]), ROWS[line["name"]].gains
    collisionless = line["tables"] == "collisionless"
    inside = None
    if allowed is not None and gain is not None:
        far = collisionless and line["test_auc"] < COLLISIONLESS and line["name"] not in ALONE
        inside = allowed[0] <= gain <= allowed[1] and not far
    elif allowed is None and collisionless:
        inside = AUCS[0] <= line["test_auc"] <= AUCS[1] + SLACK
    return {"gain_over_mlp": gain, "published_gains": gains, "in_range": inside}


def show(line: Line) -> None:
    gain = "" if line["gain_over_mlp"] is None else f"{line['gain_over_mlp']:+.5f}"
    published = line["published_gains"]
    text = "" if published is None else " ".join(f"{g:+.4f}" for g in published)
    print(
        f"{line['name']:18} {line['tables']:13} {line['backbone_params']:8} {line['test_auc']:.5f} "
        f"{line['test_logloss']:.5f} {gain:>9} {text:>15} {line['epochs']:3} "
        f"{line['seconds_per_epoch']:6.1f} {line['in_range']}",
        flush=True,
    )


def main() -> None:
    parser = make_parser(__doc__, RECORD, out="runs/backbones")
    parser.add_argument("--data", type=Path, required=True, help="prepared MovieLens-1M")
    parser.add_argument("--only", nargs="*", choices=ROWS, default=list(ROWS), metavar="NAME")
    parser.add_argument("--tables", nargs="*", choices=TABLES, default=["collisionless"])
    parser.add_argument("--epochs", type=int, default=20, help="epochs at most")
    parser.add_argument("--l2", type=float, default=L2, help="L2 on the tables")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    set_up(options.threads)
    print(
        f"{'backbone':18} {'tables':13} {'floats':>8} {'test AUC':7} {'loss':7} {'- MLP':>9} "
        f"{'published':>15} {'ep.':>3} {'s/ep.':>6} in range"
    )
    records = Records(RECORD, IDENTITY, usual={"row_l2": L2}, writes=options.record)
    data = open_data(options.data)
    for tables in options.tables:
        mlp_auc = None
        for name in ["mlp", *(n for n in options.only if n != "mlp")]:
            line = one(name, tables, data, options.out, options.epochs, options.seed, options.l2)
            if name == "mlp":
                mlp_auc = line["test_auc"]
            line |= judge(line, mlp_auc)
            show(line)
            if not records.find(line):
                records.add(line)


if __name__ == "__main__":
    main()
