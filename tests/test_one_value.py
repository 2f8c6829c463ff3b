"""One categorical value, followed from the cell of a raw file to a score.

``CONTRIBUTING.md`` names the places on its way in the same order.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from seo_rec import recipes
from seo_rec.data.dataset import open_data
from seo_rec.data.split import Split
from seo_rec.data.table import TableColumns, prepare_table
from seo_rec.data.tokens import token_id
from seo_rec.embed.tables import table_key
from seo_rec.export import export_run
from seo_rec.model import ModelSettings, build_model
from seo_rec.policy.addresses import hash_rows
from seo_rec.serve import Predictor
from seo_rec.train import FitSettings, Training

COLOURS = ("red", "green", "blue", "pink")
ROWS = 240


def write_clicks(path: Path) -> None:
    """Clicks by user and colour; blue is clicked most of the time."""
    rng = np.random.default_rng(0)
    lines = ["user,colour,label"]
    for number in range(ROWS):
        colour = COLOURS[number % len(COLOURS)]
        clicked = rng.random() < (0.8 if colour == "blue" else 0.3)
        lines.append(f"{number % 30},{colour},{int(clicked)}")
    path.write_text("\n".join(lines) + "\n")


def test_a_value_from_its_cell_to_a_score(tmp_path: Path) -> None:
    write_clicks(tmp_path / "clicks.csv")
    columns = TableColumns("label", categorical=("user", "colour"))
    split = Split(fractions=(0.6, 0.2, 0.2))
    prepare_table(tmp_path / "clicks.csv", tmp_path / "data", columns=columns, split=split)

    # the cell is an id in the prepared rows, in the vocabulary and in a batch
    blue = token_id("blue")
    data = open_data(tmp_path / "data")
    assert blue in data.vocabulary("colour")
    batch = next(iter(data.stream("train", batch_size=16)))
    assert batch.sparse.keys() == ["user", "colour"]
    here = (batch.sparse["colour"].values() == blue).nonzero().flatten()
    assert len(here)

    # the policy says in which row of which table the feature finds it
    policy = recipes.method_policy("separate", data, 800, 8)
    place = [f.name for f in policy.features].index("colour")
    (lookup,) = policy.features[place].lookups
    (table,) = (t for t in policy.tables if t.name == lookup.table)
    assert lookup.address == "hash"
    (row,) = hash_rows(np.array([blue]), lookup.seed, table.num_rows)

    # the trained model reads this row as the feature's part of x_BE, in every row of the batch
    training = Training(ModelSettings(hidden=(8,)), FitSettings(epochs=2, batch_size=16, seed=0))
    recipes.train(data, policy, tmp_path / "run", training)
    model = recipes.load_trained(tmp_path / "run").eval()
    weight = model.embedding.ebc.embedding_bags[table_key(table.name)].weight
    begin = sum(policy.widths[:place])
    with torch.no_grad():
        x_BE = model.embedding(batch.sparse)
        part = x_BE[here, begin : begin + policy.widths[place]]
        assert torch.equal(part, weight[row].expand(len(here), -1))

        # the backbone makes a logit of it, and the loss is its cross entropy
        loss, logits_B = model(batch)
    scores_B = torch.sigmoid(logits_B)
    entropy = torch.nn.functional.binary_cross_entropy(scores_B, batch.labels_B)
    torch.testing.assert_close(loss, entropy)

    # training has moved the row that was read, and no row that no lookup reads
    fresh = build_model(policy, 0, training.model, training.fit.seed)
    before = fresh.embedding.ebc.embedding_bags[table_key(table.name)].weight
    known = hash_rows(data.vocabulary("colour"), lookup.seed, table.num_rows)
    moved = (weight != before).any(1).nonzero().flatten().tolist()
    assert moved == sorted(set(known.tolist()))

    # a package gives the same score to the raw cells
    export_run(tmp_path / "run", tmp_path / "package", formats=())
    predictor = Predictor.load(tmp_path / "package", engine="numpy")
    users = batch.sparse["user"].values()[here].tolist()  # numbers are their own ids
    rows = {"user": [str(u) for u in users], "colour": ["blue"] * len(users)}
    np.testing.assert_allclose(predictor(rows), scores_B[here].numpy(), rtol=1e-5)
