"""Section 4 of Unified Embedding: the closed form, what is measured, and the angles of weights."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from itertools import islice, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from real_data import real_data
from seo_rec import analysis, methods
from seo_rec.analysis.inner_products import SIGMAS
from seo_rec.analysis.orthogonality import SingleLayer, single_layer
from seo_rec.data.dataset import DataSet
from seo_rec.embed.remap import hash_rows
from seo_rec.policy.addresses import lookup_rows
from seo_rec.schema import Column, Schema
from seo_rec.train import FitSettings

SETS = {
    "a": (np.array([3, 5]), np.array([5, 8])),
    "b": (np.array([1, 2]), np.array([1, 2])),
    "c": (np.array([4]), np.array([7])),
}
# 5 and 1, 2 are in both: |x|^2 = 5, |y|^2 = 5, <x, y> = 3


def schema_of(sizes: dict[str, int]) -> Schema:
    columns = tuple(Column(name, "categorical", size) for name, size in sizes.items())
    return Schema("toy", columns, "label", {"train": 1}, {"train": 0.5})


# ---- the closed form ---------------------------------------------------------------------


def enumerated(encoding: analysis.Encoding, sets: Any) -> tuple[float, float]:
    """Mean and variance over every hash function and every sign of every token."""
    mean = spread = 0.0
    for features, rows in encoding.tables:
        tokens = sorted({(f, int(i)) for f in features for ids in sets[f] for i in ids})
        x = [i in sets[f][0] for f, i in tokens]
        y = [i in sets[f][1] for f, i in tokens]
        products = []
        for row in product(range(rows), repeat=len(tokens)):
            for sign in product((-1, 1), repeat=len(tokens)):
                phi = np.zeros((2, rows))
                for r, s, in_x, in_y in zip(row, sign, x, y, strict=True):
                    phi[:, r] += s * in_x, s * in_y
                products.append(phi[0] @ phi[1])
        mean += float(np.mean(products))
        spread += float(np.var(products))  # tables are independent
    return mean, spread


@pytest.mark.parametrize(
    "encoding",
    [
        analysis.Encoding("unified", ((("b", "c"), 3),)),
        analysis.Encoding("hashed", ((("a",), 2), (("b",), 3), (("c",), 1))),
        analysis.Encoding("two share", ((("a", "c"), 2), (("b",), 4))),
    ],
    ids=lambda e: e.name,
)
def test_the_closed_form_is_that_of_all_hash_functions(encoding: analysis.Encoding) -> None:
    there = {f for features, _ in encoding.tables for f in features}
    sets = {f: xy for f, xy in SETS.items() if f in there}
    mean, spread = enumerated(encoding, sets)
    assert mean == pytest.approx(sum(len(np.intersect1d(x, y)) for x, y in sets.values()))
    assert analysis.closed_form(encoding, sets) == pytest.approx(spread)


def test_the_advantage_of_one_table_is_that_of_the_paper() -> None:
    """sigma_H^2 - sigma_U^2 of orthogonal x and y, two features; zero where k1/M1 = k2/M2."""
    for k1, k2, m1, m2 in ((3, 5, 40, 8), (1, 1, 7, 7), (4, 2, 20, 10)):
        sets = {"a": k1, "b": k2}
        ids = {f: (np.arange(k), np.arange(k) + 100) for f, k in sets.items()}
        unified = analysis.Encoding("u", ((("a", "b"), m1 + m2),))
        hashed = analysis.Encoding("h", ((("a",), m1), (("b",), m2)))
        difference = analysis.closed_form(hashed, ids) - analysis.closed_form(unified, ids)
        root = math.sqrt(m1 / m2)
        assert difference == pytest.approx((k1 * m2 - k2 * m1) ** 2 / (m1 * m2 * (m1 + m2)))
        assert difference == pytest.approx((k1 / root - k2 * root) ** 2 / (m1 + m2))


def test_equal_sets_in_many_rows_have_little_variance_and_in_one_row_the_most() -> None:
    assert analysis.variance(1, 1, 1, 10) == 0  # one token meets only itself
    assert analysis.variance(1, 1, 0, 1) == 1  # two tokens in one row: +1 or -1
    assert analysis.variance(6, 6, 2, 600) == pytest.approx(36 / 600)


# ---- what is measured --------------------------------------------------------------------


def test_products_are_those_of_the_model_s_own_lookups() -> None:
    """Row by row, from the policies of the methods, against the vectorised measurement."""
    schema, seeds = schema_of({"a": 9, "b": 4, "c": 3}), [0, 1, 17]
    for encoding, make in zip(
        analysis.encodings(schema, 30),
        (
            methods.monolithic,
            lambda s, r, d, seed: methods.separate(s, r, d, rows="cardinality", seed=seed),
            methods.separate,
        ),
        strict=True,
    ):
        measured = analysis.inner_products(encoding, SETS, seeds)
        for seed, found in zip(seeds, measured, strict=True):
            policy = make(schema, 30, 1, seed=seed)
            assert {t.num_rows for t in policy.tables} == {r for _, r in encoding.tables}
            phi: dict[str, np.ndarray] = {t.name: np.zeros((2, t.num_rows)) for t in policy.tables}
            for f in policy.features:
                sign_seed = methods.lookup_seed(seed, f.name, "sign")
                for side, ids in enumerate(SETS[f.name]):
                    signs = 2 * hash_rows(torch.from_numpy(ids), sign_seed, 2).numpy() - 1
                    rows = lookup_rows(policy, f, f.lookups[0], ids)
                    np.add.at(phi[f.lookups[0].table][side], rows, signs)
            assert found == sum(float(p[0] @ p[1]) for p in phi.values())


@pytest.mark.parametrize("which", [0, 1, 2])
def test_the_closed_form_is_within_confidence(which: int) -> None:
    """The model's hash functions behave as random ones do; a wrong formula is outside."""
    rng = np.random.default_rng(3)
    ids = {f: np.sort(rng.choice(10**9, n, replace=False)) for f, n in (("a", 60), ("b", 20))}
    sets = {f: (v[: 2 * len(v) // 3], v[len(v) // 3 :]) for f, v in ids.items()}
    encoding = analysis.encodings(schema_of({"a": 60, "b": 20}), 50)[which]
    products = analysis.inner_products(encoding, sets, range(4000))
    found = analysis.summary(encoding, "", sets, products)
    assert (found.norm_x, found.norm_y, found.inner) == (53, 54, 27)
    assert found.within, found
    assert 0.02 < found.variance_error / found.variance < 0.04  # so it could be told apart
    wrong = found.closed_form * 1.2
    assert abs(found.variance - wrong) > SIGMAS * found.variance_error


def test_the_error_of_the_variance_is_that_of_repetitions() -> None:
    """The standard error against the spread of the sample variance over 300 repetitions."""
    rng = np.random.default_rng(0)
    encoding = analysis.Encoding("u", ((("a",), 4),))
    sets = {"a": (np.array([1, 2]), np.array([1, 3]))}
    rounds = [
        analysis.summary(encoding, "", sets, rng.choice([-1.0, 0.0, 0.0, 3.0], 200))
        for _ in range(300)
    ]
    spread = np.std([r.variance for r in rounds], ddof=1)
    assert np.mean([r.variance_error for r in rounds]) == pytest.approx(spread, rel=0.12)
    with pytest.raises(ValueError, match="3 seeds; allowed: 4 or more"):
        analysis.summary(encoding, "", sets, np.zeros(3))


def test_tokens_are_drawn_from_the_vocabularies(tiny_data: DataSet) -> None:
    schema = tiny_data.schema
    known = analysis.vocabularies_of(tiny_data, schema)
    rng = np.random.default_rng(0)
    ones = analysis.one_of_each(known, rng)
    parts = analysis.part_of_each(known, 0.3, rng)
    for name, (ids, _) in known.items():
        assert all(len(v) == 1 and v[0] in ids for v in ones[name])
        for v in parts[name]:
            assert len(v) == math.ceil(0.3 * len(ids)) == len(np.unique(v))
            assert np.isin(v, ids).all()
    assert set(ones) == {c.name for c in schema.features}
    with pytest.raises(ValueError, match="share is 0; allowed: above 0"):
        analysis.part_of_each(known, 0, rng)
    with pytest.raises(ValueError, match=r"features \['nobody'\]; allowed: strong_0"):
        analysis.only(schema, ("nobody",))


def test_the_command_prints_and_writes_the_figures(
    tiny: Path, tmp_path: Path, seo_rec: Callable[..., Any]
) -> None:
    out = tmp_path / "c.json"
    asked = ("analyze", "collisions", tiny, "--rows", "20,60", "--seeds", 500, "--share", 0.2)
    done = seo_rec(*asked, "--features", "strong_0,noise_0,noise_1", "--out", out)
    assert done.code == 0, done.err
    found = json.loads(out.read_text())
    assert len(found["inner_products"]) == 2 * 2 * 3 and len(found["shared_rows"]) == 2 * 3
    assert {m["encoding"] for m in found["inner_products"]} == {
        "unified",
        "hashed, by cardinality",
        "hashed, even",
    }
    assert {m["norm_x"] for m in found["inner_products"] if m["tokens"][0] == "o"} == {3}
    assert sum(m["within"] for m in found["inner_products"]) >= 11
    hashed = [c for c in found["shared_rows"] if c["method"] != "unified"]
    assert {c["inter"]["actual"] for c in hashed} == {0.0}
    assert "closed form" in done.out and "intra" in done.out
    assert seo_rec("analyze", "collisions", tiny, "--rows", "2").code == 2  # fewer than features


# ---- angles ------------------------------------------------------------------------------


def test_angles_of_weights_that_are_known() -> None:
    same = torch.tensor([[1.0, 2.0, 3.0]]).repeat(4, 1) * torch.tensor([[1.0], [2.0], [0.5], [9.0]])
    assert analysis.angles(same).shape == (6,)
    assert analysis.angles(same).max() < 1e-6
    assert analysis.angles(torch.eye(5)).tolist() == pytest.approx([90.0] * 10)
    small = [math.cos(1e-5), math.sin(1e-5)]
    turned = torch.tensor([[1.0, 0.0], small, [-2.0, 0.0]], dtype=torch.float64)
    assert analysis.angles(turned).tolist() == pytest.approx(
        [math.degrees(1e-5), 180.0, 180 - math.degrees(1e-5)], rel=1e-9
    )
    random = torch.randn(7, 12, generator=torch.Generator().manual_seed(0))
    cosines = torch.corrcoef(torch.cat([random, -random], 1))[*torch.triu_indices(7, 7, 1)]
    expected = torch.rad2deg(torch.arccos(cosines.double()))  # centred: the mean of each is zero
    assert analysis.angles(random).tolist() == pytest.approx(expected.tolist(), abs=1e-3)
    for bad in (torch.ones(1, 3), torch.tensor([[0.0, 0.0], [1.0, 0.0]])):
        with pytest.raises(ValueError, match="allowed: 2 or more, none of them zero"):
            analysis.angles(bad)


def test_the_layer_starts_with_one_direction_and_adds_up_features() -> None:
    layer = SingleLayer(3, 4, seed=1)
    assert analysis.angles(layer.theta_TD.detach()).max() < 1e-6
    assert layer.theta_TD.norm(dim=1).tolist() == pytest.approx([1.0] * 3)
    x_BE = torch.randn(5, 12)
    with torch.no_grad():
        layer.theta_TD.copy_(torch.arange(12.0).view(3, 4))
        whole = layer(torch.zeros(5, 2), x_BE)
        one_by_one = sum((x_BE[:, 4 * t : 4 * t + 4] * layer.theta_TD[t]).sum(1) for t in range(3))
    assert whole.tolist() == pytest.approx(one_by_one.tolist(), rel=1e-5)


def test_weights_turn_apart_in_a_small_table_and_less_in_a_large_one(tiny_data: DataSet) -> None:
    settings = analysis.OrthogonalitySettings((8, 4000), dim=8, tables=("unified", "separate"))
    fit = FitSettings(epochs=6, patience=6, batch_size=64, row_lr=0.03, dense_lr=0.03, average=0)
    small, apart, large = islice(analysis.orthogonality(tiny_data, settings, fit), 3)
    named = [(r.rows, r.tables) for r in (small, apart, large)]
    assert named == [(8, "unified"), (8, "separate"), (4000, "unified")]
    assert small.mean_angle > 1.5 * large.mean_angle
    assert small.mean_angle > apart.mean_angle  # it is sharing that turns them
    assert small.mean_norm > large.mean_norm  # more ids in a row
    assert 0 <= small.least_angle <= small.mean_angle <= small.largest_angle <= 180
    ids = sum(c.vocab_size or 0 for c in tiny_data.schema.features)
    assert small.ids_per_row == ids / 8
    again = next(analysis.orthogonality(tiny_data, settings, fit))
    assert (again.mean_angle, again.mean_norm) == (small.mean_angle, small.mean_norm)


def test_every_seed_has_its_own_order_of_rows(tiny_data: DataSet) -> None:
    """Seed 1 of two seeds is what seed 1 alone is."""
    settings = analysis.OrthogonalitySettings((20,), dim=4, seeds=2)
    fit = FitSettings(epochs=1, batch_size=64, row_lr=0.03, dense_lr=0.03, average=0)
    _, second = analysis.orthogonality(tiny_data, settings, fit)
    (alone,) = analysis.orthogonality(tiny_data, replace(settings, seeds=1), replace(fit, seed=1))
    assert replace(second, seconds=0) == replace(alone, seconds=0)


def test_growth_is_the_slope() -> None:
    row = analysis.Orthogonality("unified", 1, 0, 1, 1, 1, 1, 1, 1, 0.5, 1, 1, 1)
    line = [
        analysis.Orthogonality(
            **{**row.__dict__, "rows": r, "ids_per_row": 100 / r, "mean_square_norm": 7 / r**0.5}
        )
        for r in (10, 50, 400)
    ]
    assert analysis.growth(line) == pytest.approx(0.5)
    assert math.isnan(analysis.growth(line[:1]))


def test_the_plot_holds_every_size(tiny: Path, tmp_path: Path, seo_rec: Callable[..., Any]) -> None:
    asked = ("analyze", "orthogonality", tiny, "--out", tmp_path / "o", "--rows", "10,100")
    done = seo_rec(*asked, "--dim", 4, "--epochs", 1, "--batch-size", 512, "--seeds", 2)
    assert done.code == 0, done.err
    stored = json.loads((tmp_path / "o" / "orthogonality.json").read_text())
    assert [(m["rows"], m["seed"]) for m in stored["models"]] == [
        (10, 0),
        (100, 0),
        (10, 1),
        (100, 1),
    ]
    assert isinstance(stored["growth_of_square_norm"], float)
    assert (tmp_path / "o" / "orthogonality.png").read_bytes()[:4] == b"\x89PNG"
    found = [analysis.Orthogonality(**m) for m in stored["models"]]
    _, right = analysis.figure(found).axes
    (bars,) = right.containers
    means = [np.mean([r.mean_angle for r in found if r.rows == n]) for n in (10, 100)]
    assert bars[0].get_ydata().tolist() == pytest.approx(means)
    for wrong, said in (
        (("--features", "strong_0"), "2 or more, angles are between two"),
        (("--dim", 1), "a width of 2 or more"),
        (("--rows", "x"), "whole numbers"),
    ):
        bad = seo_rec("analyze", "orthogonality", tiny, "--out", tmp_path / "p", *wrong)
        assert bad.code == 2 and said in bad.err


# ---- real vocabularies -------------------------------------------------------------------


# ---- the parts of a gradient -------------------------------------------------------------------


def test_the_parts_are_the_equations_of_two_features() -> None:
    """Equations 3 to 5 with the counts of all pairs, as sums over pairs of ids.

    The paper's loss sums over rows of data; ids u, w of feature a and v of feature b.
    """
    rng = np.random.default_rng(0)
    count = rng.integers(0, 5, (2, 4, 3))  # y, u, v
    rows = {"a": np.array([0, 1, 0, 2]), "b": np.array([1, 0, 3])}
    theta = {"a": rng.normal(size=2), "b": rng.normal(size=2)}
    table = rng.normal(size=(4, 2))
    z = (table[rows["a"]] @ theta["a"])[:, None] + table[rows["b"]] @ theta["b"]
    residual = count.sum(0) / (1 + np.exp(-z)) - count[1]  # of all rows with (u, v)
    sums = {"a": residual.sum(1), "b": residual.sum(0)}
    parts = analysis.gradient_parts(sums, rows, theta, 4)
    for u in range(4):
        true = theta["a"] * sum(residual[u, v] for v in range(3))
        intra = theta["a"] * sum(
            residual[w, v] for w in range(4) for v in range(3)
            if w != u and rows["a"][w] == rows["a"][u]
        )  # fmt: skip
        inter = theta["b"] * sum(
            residual[w, v] for v in range(3) for w in range(4) if rows["b"][v] == rows["a"][u]
        )
        along = theta["a"] * (inter @ theta["a"]) / (theta["a"] @ theta["a"])
        for found, expected in zip(
            (parts.true_KD, parts.intra_KD, parts.inter_KD, parts.along_KD),
            (true, intra, inter, along),
            strict=True,
        ):
            np.testing.assert_allclose(found[u], expected, rtol=1e-12, atol=1e-14)
    assert np.abs(parts.intra_KD[[0, 2]]).min() > 0 and not parts.intra_KD[[1, 3]].any()
    assert not parts.inter_KD[3].any()  # nothing else reads row 2


def test_rows_of_their_own_and_orthogonal_weights_leave_the_true_part() -> None:
    rng = np.random.default_rng(1)
    sums = {"a": rng.normal(size=2), "b": rng.normal(size=2)}
    theta = {"a": np.array([2.0, 0.0]), "b": np.array([0.0, 0.5])}
    apart = analysis.gradient_parts(sums, {"a": np.arange(2), "b": np.arange(2, 4)}, theta, 4)
    assert apart.true_KD.any() and not apart.intra_KD.any() and not apart.inter_KD.any()
    shared = analysis.gradient_parts(sums, {"a": np.arange(2), "b": np.arange(2)}, theta, 2)
    assert shared.inter_KD.any(1).all() and not shared.along_KD.any()


def test_the_parts_add_up_to_the_gradient_of_the_model(tiny_data: DataSet) -> None:
    """Against autograd in float64, with bags, over all training rows and a table of 12 rows."""
    names = [c.name for c in tiny_data.schema.features]
    policy = methods.monolithic(tiny_data.schema, 12 * 4, 4, seed=0)
    model = single_layer(policy, 0).double()
    with torch.no_grad():
        model.backbone.theta_TD.add_(torch.randn(len(names), 4).double())
        next(model.embedding.ebc.parameters()).mul_(100)  # far from logits of 0
    known = analysis.vocabularies_of(tiny_data, tiny_data.schema)
    rows = {f.name: lookup_rows(policy, f, f.lookups[0], known[f.name][0]) for f in policy.features}
    batches = tiny_data.stream("train", batch_size=300)
    parts = analysis.parts_of(model, batches, known, rows, 12)
    (whole,) = tiny_data.stream("train", batch_size=10_000)
    logits_B, labels_B = model(whole)[1], whole.labels_B.double()
    functional.binary_cross_entropy_with_logits(logits_B, labels_B).backward()
    (table,) = model.embedding.ebc.parameters()
    expected = table.grad.numpy()[np.concatenate([rows[name] for name in known])]
    found = parts.true_KD + parts.intra_KD + parts.inter_KD
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    assert min(np.abs(p).max() for p in vars(parts).values()) > 1e-3


def test_training_turns_what_other_features_give_away_from_a_feature(tiny_data: DataSet) -> None:
    """All weights start in one direction, where the whole inter-feature part is along them."""
    fit = FitSettings(epochs=6, batch_size=100, row_lr=0.05, dense_lr=0.05, average=0.0)
    found = list(analysis.gradients(tiny_data, (10, 1000), 8, 1, (), fit))
    assert [(g.rows, g.when) for g in found] == [
        (10, "start"), (10, "end"), (1000, "start"), (1000, "end"),
    ]  # fmt: skip
    few, few_after, many, _ = found
    assert few.inter_along == pytest.approx(few.inter, rel=1e-6)
    assert few_after.inter_along < 0.8 * few_after.inter
    assert few.intra / few.true > 3 * many.intra / many.true
    assert few.inter / few.true > 3 * many.inter / many.true


def test_the_gradients_command_writes_parts_and_a_plot(
    tiny: Path, tmp_path: Path, seo_rec: Callable[..., Any]
) -> None:
    asked = ("analyze", "gradients", tiny, "--out", tmp_path / "g", "--rows", "10,100")
    done = seo_rec(*asked, "--dim", 4, "--epochs", 1, "--batch-size", 200)
    assert done.code == 0, done.err
    figures = json.loads((tmp_path / "g/gradients.json").read_text())
    assert [m["when"] for m in figures["models"]] == ["start", "end"] * 2
    assert all(m["true"] > 0 for m in figures["models"])
    assert (tmp_path / "g/gradients.png").read_bytes().startswith(b"\x89PNG")
    assert "inter along / true" in done.out
    bad = seo_rec("analyze", "gradients", tiny, "--out", tmp_path / "p", "--rows", "0")
    assert bad.code == 2 and "allowed: 1 or more each" in bad.err


def test_real_vocabularies_are_within_confidence() -> None:
    """MovieLens-1M's users and movies."""
    folder = real_data("ml-1m")
    users = np.unique([int(line.split(b"::")[0]) for line in (folder / "users.dat").open("rb")])
    movies = np.unique([int(line.split(b"::")[0]) for line in (folder / "movies.dat").open("rb")])
    known = {"user": (users, np.ones(len(users))), "movie": (movies, np.ones(len(movies)))}
    sets = analysis.part_of_each(known, 0.02, np.random.default_rng(0))
    sizes = {name: len(ids) for name, (ids, _) in known.items()}
    for encoding in analysis.encodings(schema_of(sizes), 500):
        products = analysis.inner_products(encoding, sets, range(2000))
        assert analysis.summary(encoding, "", sets, products).within, encoding.name
