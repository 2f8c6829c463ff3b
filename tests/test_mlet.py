"""MLET: equation (2) and Theorem 1, the collapse, training, resume, compare, eight bits."""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from cases import BAGS, BUILDABLE, batch
from distributed.sharded import plan, policy_of
from seo_rec import recipes
from seo_rec.batch import Batch
from seo_rec.data.dataset import DataSet
from seo_rec.data.stream import Stream
from seo_rec.data.synthetic import synthetic
from seo_rec.embed import PolicyEmbedding
from seo_rec.methods import Mlet, inner_policy, two_layer_tables
from seo_rec.model import ModelSettings, RecModel, build_model
from seo_rec.policy import Feature, Lookup, Policy, PolicyError, Table
from seo_rec.report.frequency import FrequencySets, frequency_quality, frequency_sets
from seo_rec.runs import RunError
from seo_rec.train import (
    Checkpoints,
    FitSettings,
    Start,
    Training,
    distribute,
    fit,
    fit_policy,
    make_optimizers,
    ranks,
)
from seo_rec.train.state import Sharded, weights_of
from spawn import run_ranks

MLET = Mlet(12, 0.5)
SMALL = ModelSettings(hidden=(8,), mlet=MLET)
ROWS = sorted(name for name, policy in BUILDABLE.items() if policy.tables)


def settings(**other: Any) -> FitSettings:
    given = {"epochs": 2, "batch_size": 200, "row_lr": 0.02, "dense_lr": 0.02, "log_every": 1}
    return FitSettings(**{**given, **other})


# ---- the two layers and their collapse -----------------------------------------------------


def embedding_of(policy: Policy) -> PolicyEmbedding:
    """With weights of the size of trained ones."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return PolicyEmbedding(policy, init_scale=1.0, mlet=MLET)


@torch.no_grad()
@pytest.mark.parametrize("name", ROWS)
def test_the_collapsed_tables_give_equal_outputs(name: str) -> None:
    policy = BUILDABLE[name]
    two, names = embedding_of(policy), policy.columns
    one = two.collapsed()
    held = {n: w.shape for n, w in one.state_dict().items()}
    assert held == {n: w.shape for n, w in PolicyEmbedding(policy).state_dict().items()}
    for bags in ("single", "bags-weighted", "empty"):
        features = batch(names, BAGS[bags])
        expected = two(features)
        largest = max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(one(features), expected, atol=1e-6 * largest, rtol=0)
    assert two.dims == one.dims == policy.widths
    assert one.stored == one.policy == policy


@pytest.mark.parametrize("name", ["separate", "seo-exact", "multiplexed-qr", "hash-embedding"])
def test_a_looked_up_vector_is_a_row_of_the_product(name: str) -> None:
    """Against a float64 reference made by hand; products and weighted sums come after W2."""
    policy = BUILDABLE[name]
    two, features = embedding_of(policy), batch(("user", "item", "hour"), BAGS["single"])
    assert two.factors is not None
    bags, linear = two.ebc.embedding_bags, two.factors.linear
    rows = two.remap(features)
    parts = []
    for f in policy.features:
        found = []
        for j, k in enumerate(f.all_lookups):
            key = f"{f.name}:weights" if k is f.weights else f"{f.name}:{j}"
            rows_V = rows[key].values()
            inner = bags[k.table].weight[rows_V].double()
            found.append(inner @ linear[k.table].weight.double().T if k.table in linear else inner)
        if f.combine == "mul":
            parts.append(math.prod(found[1:], start=found[0]))
        elif f.combine == "weighted_sum":
            *vectors, factors = found
            parts.append(sum(v * factors[:, j, None] for j, v in enumerate(vectors)))
        else:
            parts += found
    torch.testing.assert_close(two(features).double(), torch.cat(parts, 1), atol=1e-5, rtol=1e-5)


def test_one_factor_per_table_and_none_for_importance_weights() -> None:
    policy = BUILDABLE["seo-exact"]
    factors = embedding_of(policy).factors
    assert factors is not None
    assert set(factors.linear) == {t.name for t in policy.tables}
    assert {tuple(w.shape) for w in factors.parameters()} == {
        (t.dim, MLET.dim) for t in policy.tables
    }
    weighted = BUILDABLE["hash-embedding"]
    single = {f.weights.table for f in weighted.features if f.weights}
    assert single and set(two_layer_tables(weighted)).isdisjoint(single)
    wide = inner_policy(weighted, MLET)
    assert {t.dim for t in wide.tables if t.name not in single} == {MLET.dim}


def test_the_factor_starts_as_gaussian_of_its_own_std() -> None:
    policy = Policy((Table("a", 10, 64),), (Feature("f", (Lookup("a"),)),))
    for std in (0.25, 0.5):
        model = build_model(policy, 0, replace(SMALL, mlet=Mlet(256, std)), seed=0)
        assert model.embedding.factors is not None
        weight = model.embedding.factors.linear["a"].weight.detach()
        assert weight.std() == pytest.approx(std, rel=0.02)
        assert float(((weight / std) ** 4).mean()) == pytest.approx(3, abs=0.1)  # kurtosis
        inner = model.embedding.ebc.embedding_bags["a"].weight
        assert float(inner.detach().abs().max()) <= 0.01


# ---- the theory: updates of gradient descent ---------------------------------------------------


def update_of(
    policy: Policy, features: torch.Tensor, lr: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """W1 (n, k), W2 (k, d), the gradient G (n, d) of the loss, and the change of W1 W2 by a step of
    the project's own SGD; float64.
    """
    torch.manual_seed(0)
    made = build_model(policy, 1, ModelSettings(hidden=(5,), init_scale=0.7, mlet=Mlet(6, 0.4)), 3)
    labels = (torch.arange(len(features)) % 2).float()
    ids = KeyedJaggedTensor(["f"], features, lengths=torch.ones(len(features), dtype=torch.int32))
    rows = Batch(torch.zeros(len(features), 1), ids, labels)
    single = made.collapsed()
    single(rows)[0].backward()
    gradient = single.embedding.ebc.embedding_bags["a"].weight.grad.double()
    single.zero_grad()
    inner, factors = made.embedding.ebc.embedding_bags["a"].weight, made.embedding.factors
    assert factors is not None
    factor = factors.linear["a"].weight
    before = inner.detach().double(), factor.detach().double().T
    optimizers = make_optimizers(made, "sgd", lr, lr)
    assert set(optimizers) == {"rows", "factors", "dense"}
    made.zero_grad()
    made(rows)[0].backward()
    for optimizer in optimizers.values():
        optimizer.step()
    change = inner.detach().double() @ factor.detach().double().T - before[0] @ before[1]
    return *before, gradient, change


def test_equation_2_and_theorem_1_hold_for_a_training_step() -> None:
    """Here W (n, d) is the paper's transposed: its W1 is our W2 transposed, and so on."""
    policy = Policy((Table("a", 9, 4),), (Feature("f", (Lookup("a", seed=1),)),))
    ids, lr = torch.arange(12), 0.5
    inner, factor, gradient, change = update_of(policy, ids, lr)
    flow = gradient @ factor.T @ factor + inner @ inner.T @ gradient
    second = lr**2 * (gradient @ factor.T) @ (inner.T @ gradient)  # equation (3), exactly
    torch.testing.assert_close(change, -lr * flow + second, atol=2e-7, rtol=0)
    assert float(change.abs().max()) > 1e-3
    assert float(second.abs().max()) < 0.05 * float((lr * flow).abs().max())

    # in the basis of singular vectors every direction keeps its coordinate, times its weight
    u, sigma_factor, _ = torch.linalg.svd(factor.T, full_matrices=True)  # d x d, of the paper's W1
    v, sigma_inner, _ = torch.linalg.svd(inner, full_matrices=True)  # n x n, of the paper's W2
    weights = torch.zeros(9, 4, dtype=torch.float64)
    weights[:, : len(sigma_factor)] += sigma_factor**2
    weights[: len(sigma_inner), :] += sigma_inner[:, None] ** 2
    coordinates = v.T @ gradient @ u
    torch.testing.assert_close(v.T @ flow @ u, weights * coordinates)

    # cross-category: rows that no id of the batch reads move too, those of one layer do not
    unread = gradient.abs().amax(1) == 0
    assert unread.any() and not unread.all()
    assert float(change[unread].abs().amax(1).min()) > 1e-4


def test_mean_weight_of_the_first_updates() -> None:
    """Warned of where it is small: the mean of sigma^2 of a Gaussian k x d is k std^2."""
    factor = torch.empty(200, 50).normal_(std=0.3, generator=torch.Generator().manual_seed(0))
    mean = float((torch.linalg.svdvals(factor) ** 2).mean())
    assert Mlet(200, 0.3).first_weight == pytest.approx(18) == pytest.approx(mean, rel=0.05)


@pytest.mark.parametrize(
    "mlet, said",
    [
        (Mlet(16, 0.5), ""),
        (Mlet(64, 0.05), "0.16 times as large"),
        (Mlet(4, 0.5), "less than the width of tables user, item, hour"),
    ],
)
def test_warnings(mlet: Mlet, said: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "seo_rec"):
        inner_policy(BUILDABLE["separate"], mlet)
    assert said in caplog.text
    assert bool(caplog.text) == bool(said)


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="inner dimension is 0; allowed: 1 or more"):
        Mlet(0)
    for std in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"std is .*; allowed: above 0"):
            Mlet(8, std)
    with pytest.raises(PolicyError, match="tables of rows as two layers and the policy has none"):
        inner_policy(BUILDABLE["hashednet"], MLET)

    class AnyGate:
        def widths(self, policy: Policy) -> tuple[int, ...]:
            return (1,)

        def __call__(self, lookups_BE: torch.Tensor) -> torch.Tensor:
            return lookups_BE

    with pytest.raises(ValueError, match="no MLET"):
        PolicyEmbedding(BUILDABLE["separate"], AnyGate(), mlet=MLET)


# ---- settings in files ---------------------------------------------------------------------


def test_settings_without_mlet_are_written_as_before() -> None:
    assert "mlet" not in ModelSettings().as_json()
    assert ModelSettings.from_json(ModelSettings().as_json()) == ModelSettings()
    read = json.loads(json.dumps(SMALL.as_json()))
    assert read["mlet"] == {"dim": 12, "std": 0.5}
    assert ModelSettings.from_json(read) == SMALL


# ---- training --------------------------------------------------------------------------------


def scores(model: RecModel, data: DataSet) -> np.ndarray[Any, Any]:
    model.eval()
    with torch.no_grad():
        return np.concatenate([model(b)[1].numpy() for b in Stream(data, "test", batch_size=64)])


@pytest.mark.parametrize("optimizer", ["adam", "rowwise_adagrad"])
def test_a_run_ends_with_one_layer_of_equal_scores(
    tiny_data: DataSet, tmp_path: Path, optimizer: str
) -> None:
    policy, out = policy_of(tiny_data), tmp_path / "run"
    wanted = Training(SMALL, settings(row_optimizer=optimizer, row_l2=1e-3))
    run = recipes.train(tiny_data, policy, out, wanted)
    one = recipes.load_trained(out)
    assert run.embedding_params == policy.num_params
    assert one.embedding.factors is None
    held = sum(w.numel() for w in one.embedding.ebc.parameters())
    assert held == run.embedding_params

    two = fit_policy(tiny_data, policy, wanted).model
    assert two.embedding.factors is not None
    np.testing.assert_allclose(scores(one, tiny_data), scores(two, tiny_data), atol=1e-6)
    assert recipes.evaluate_served(out, tiny_data, "test").metrics.auc == run.test_auc
    assert recipes.evaluate_served(out, tiny_data, "val").metrics.auc == pytest.approx(
        run.val_auc, abs=1e-6
    )
    assert run == recipes.train(tiny_data, policy, out, wanted, resume=True)
    plain = replace(wanted, model=replace(SMALL, mlet=None))
    with pytest.raises(RunError, match="differs in model"):
        recipes.train(tiny_data, policy, out, plain, resume=True)


def test_l2_is_of_the_first_layer_only(tiny_data: DataSet) -> None:
    model = build_model(policy_of(tiny_data), 1, SMALL, 0)
    optimizers = make_optimizers(model, "sgd", 1.0, 1.0, row_l2=0.25)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizers["rows"].step()
    optimizers["factors"].step()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.detach(), before[name] * (0.75 if ".ebc." in name else 1.0))


def test_steps_a_kill_and_a_resume_equal_the_whole_run(tiny_data: DataSet, tmp_path: Path) -> None:
    """Both layers, their moments and their means come back, to the bit."""

    def trained(name: str, steps: int) -> dict[str, torch.Tensor]:
        wanted = settings(checkpoint_every=3, average=0.9, row_l2=1e-3, max_steps=steps)
        model = build_model(policy_of(tiny_data), 1, SMALL, 0)
        optimizers = make_optimizers(model, "adam", 0.02, 0.02, 1e-3)
        train = Stream(tiny_data, "train", batch_size=wanted.batch_size, shuffle=True, seed=0)
        val = Stream(tiny_data, "val", batch_size=64)
        fit(model, train, val, optimizers, wanted, out=tmp_path / name)
        saved = Checkpoints(tmp_path / name / "checkpoints").latest()
        assert saved is not None
        assert any("factors.linear.a.weight.exp_avg" in n for n in saved.sizes)
        return {n: w.clone() for n, w in model.state_dict().items()}

    whole = trained("whole", 9)
    trained("cut", 7)
    for later in Checkpoints(tmp_path / "cut" / "checkpoints").steps():
        if later > 6:  # as a kill at step 7 leaves it
            (tmp_path / "cut" / "checkpoints" / f"step-{later:09d}" / "complete.json").unlink()
    resumed = trained("cut", 9)
    assert whole.keys() == resumed.keys()
    for name, weight in whole.items():
        assert torch.equal(weight, resumed[name]), name


def test_a_run_killed_before_its_result_goes_on(tiny_data: DataSet, tmp_path: Path) -> None:
    policy, out, wanted = policy_of(tiny_data), tmp_path / "run", Training(SMALL, settings())
    run = recipes.train(tiny_data, policy, out, wanted)
    before = scores(recipes.load_trained(out), tiny_data)
    (out / "result.json").unlink()
    assert recipes.train(tiny_data, policy, out, wanted, resume=True).test_auc == run.test_auc
    np.testing.assert_array_equal(scores(recipes.load_trained(out), tiny_data), before)


def test_files_of_one_layer_are_refused(tiny_data: DataSet, tmp_path: Path) -> None:
    for given in ("plan", "weights"):
        with pytest.raises(ValueError, match=f"{given} with MLET, which trains tables of width 12"):
            recipes.train(
                tiny_data,
                policy_of(tiny_data),
                tmp_path,
                Training(SMALL, settings()),
                start=Start(**{given: tmp_path / "x"}),
            )
    assert not list(tmp_path.iterdir())


# ---- several processes ---------------------------------------------------------------------


@pytest.mark.parametrize("kind, optimizer", [("column_wise", "adagrad"), ("row_wise", "adam")])
def test_two_ranks_equal_one_process(tiny_data: DataSet, kind: str, optimizer: str) -> None:
    """The wide tables are sharded, fused where widths allow it; the factors are replicated."""
    policy, wide = policy_of(tiny_data), inner_policy(policy_of(tiny_data), Mlet(8, 0.5))
    wanted = settings(row_optimizer=optimizer, max_steps=8, average=0.0, batch_size=120)
    model = ModelSettings(hidden=(8,), mlet=Mlet(8, 0.5))

    def trained() -> dict[str, Any]:
        here = ranks()
        made: Any = build_model(policy, 1, model, 1)
        if here.world_size > 1:
            made = distribute(
                made, plan(wide, kind, 2), here, row_optimizer=optimizer, row_lr=wanted.row_lr
            )
        optimizers = make_optimizers(made, optimizer, wanted.row_lr, wanted.dense_lr)
        share = {"rank": here.rank, "world_size": here.world_size}
        size = wanted.batch_size // here.world_size
        train = Stream(tiny_data, "train", batch_size=size, shuffle=True, **share)
        fit(made, train, Stream(tiny_data, "val", batch_size=32, **share), optimizers, wanted)
        return {
            name: [(p.offsets, p.tensor.clone()) for p in value.pieces]
            if isinstance(value, Sharded)
            else [((0,) * value.dim(), value.clone())]
            for name, value in weights_of(made).items()
        }

    (alone,) = (trained(),)
    for found in run_ranks(trained, 2):
        assert found.keys() == alone.keys()
        for name, pieces in found.items():
            ((_, whole),) = alone[name]
            for offsets, part in pieces:
                where = tuple(slice(o, o + n) for o, n in zip(offsets, part.shape, strict=True))
                torch.testing.assert_close(part, whole[where], atol=2e-6, rtol=0)


def test_a_run_of_two_ranks_ends_with_one_layer(tiny_data: DataSet, tmp_path: Path) -> None:
    policy, wanted = policy_of(tiny_data), Training(SMALL, settings())

    def train() -> float:
        return recipes.train(tiny_data, policy, tmp_path / "two", wanted).test_auc

    aucs = run_ranks(train, 2)
    alone = recipes.train(tiny_data, policy, tmp_path / "one", wanted)
    assert aucs == pytest.approx([alone.test_auc] * 2, abs=1e-6)
    one, two = (recipes.load_trained(tmp_path / name) for name in ("one", "two"))
    np.testing.assert_allclose(scores(two, tiny_data), scores(one, tiny_data), atol=1e-5)


# ---- comparisons and the command line ------------------------------------------------------


def comparison(data: DataSet, *methods: str, mlet: Mlet | None) -> recipes.Comparison:
    families = {"multi-size": {"chunk_dim": 4}, "seo": {"chunk_dim": 4, "search_dim": 8}}
    return recipes.Comparison(
        data=(data,),
        methods=methods,
        params=800,
        dim=8,
        seeds=1,
        training=Training(ModelSettings(hidden=(8,)), settings(epochs=1)),
        settings={f: s for f, s in families.items() if any(m.startswith(f) for m in methods)},
        mlet=mlet,
    )


def test_compare_trains_the_same_policy_and_searches_once(
    tiny_data: DataSet, tmp_path: Path
) -> None:
    out = tmp_path / "compare"
    plain = recipes.compare(comparison(tiny_data, "multi-size", "seo-exact", mlet=None), out)
    asked = (out / "run.json").read_text()
    searched = {p: p.stat().st_mtime_ns for p in (out / "searches").rglob("search.json")}
    methods = ("multi-size+mlet", "seo-exact", "seo-exact+mlet")
    runs = recipes.compare(comparison(tiny_data, *methods, mlet=MLET), out)
    assert [r.method for r in runs] == list(methods)
    assert (out / "run.json").read_text() == asked  # older comparisons take new names
    assert {p: p.stat().st_mtime_ns for p in (out / "searches").rglob("search.json")} == searched
    for r, name in ((plain[0], "multi-size"), (plain[1], "seo-exact")):
        one, two = (out / "runs" / f"{name}{end}-seed0" for end in ("", "+mlet"))
        assert (one / "policy.json").read_bytes() == (two / "policy.json").read_bytes()
        assert json.loads((two / "run.json").read_text())["model"]["mlet"] == asdict(MLET)
        other = next(x for x in runs if x.method == f"{name}+mlet")
        assert other.embedding_params == r.embedding_params
        assert other.test_auc != r.test_auc
    with pytest.raises(RunError, match=r"methods\.json says .*'dim': 12.* of \+mlet and this"):
        recipes.compare(comparison(tiny_data, "multi-size+mlet", mlet=Mlet(4)), out)
    with pytest.raises(ValueError, match="give --mlet-dim"):
        recipes.compare(comparison(tiny_data, "multi-size+mlet", mlet=None), out)
    with pytest.raises(ValueError, match="method 'nothing'"):
        recipes.compare(comparison(tiny_data, "nothing+mlet", mlet=MLET), out)


def test_command_line(seo_rec: Callable[..., Any], tiny: Path, tmp_path: Path) -> None:
    given = ("train", tiny, "--method", "separate", "--params", 400, "--dim", 4)
    given = (*given, "--hidden", "8", "--epochs", 1, "--batch-size", 200, "--out", tmp_path / "run")
    refused = seo_rec(*given, "--mlet-std", 0.5)
    assert refused.code == 2 and "--mlet-std 0.5 without --mlet-dim" in refused.err
    assert seo_rec(*given, "--mlet-dim", 8, "--mlet-std", 0.5).code == 0
    full = json.loads(seo_rec("eval", tmp_path / "run", tiny).out)
    small = json.loads(seo_rec("eval", tmp_path / "run", tiny, "--precision", "int8").out)
    assert small["auc"] == pytest.approx(full["auc"], abs=0.01)
    assert full["num_bytes"] == small["num_bytes_float32"] == 1600
    assert small["num_bytes"] == 400 + 100 * 4  # a byte each, and 4 for each of 100 rows
    refused = seo_rec("eval", tmp_path / "run", tiny, "--precision", "int2")
    assert refused.code == 2 and "precision 'int2'; allowed: float32, float16" in refused.err
    compare = ("compare", tiny, "--out", tmp_path / "c", "--methods", "separate", "--mlet-dim", 8)
    refused = seo_rec(*compare)
    assert refused.code == 2 and "--mlet-dim with --methods separate would" in refused.err


# ---- frequent and rare samples -------------------------------------------------------------


def test_the_most_and_the_least_frequent_samples(tiny_data: DataSet) -> None:
    """Against a count of the training rows themselves, for every sample by itself."""
    columns = [c.name for c in tiny_data.schema.features]
    held: dict[str, Counter[int]] = {name: Counter() for name in columns}
    rows = 0
    for b in Stream(tiny_data, "train", batch_size=100):
        rows += b.num_rows
        for name in columns:
            held[name].update(b.sparse[name].values().tolist())
    ranked = []
    for i, b in enumerate(Stream(tiny_data, "test", batch_size=1)):
        found = [held[name][v] for name in columns for v in b.sparse[name].values().tolist()]
        product = math.prod(Fraction(n, rows) for n in found if n)
        ranked.append((-found.count(0), product, i))
    order = [i for *_, i in sorted(ranked)]
    sets = frequency_sets(tiny_data, "test", 0.25)
    size = len(order) // 4
    assert sets.least.tolist() == sorted(order[:size])
    assert sets.most.tolist() == sorted(order[-size:])
    assert any(unseen for unseen, *_ in ranked) and size > 10


def test_pr_auc_of_the_sets() -> None:
    """Average precision by hand: the mean, over positives, of the precision at each."""
    logits = np.array([4.0, 3.0, 2.0, 1.0, 0.0, -1.0])
    labels = np.array([1.0, 0.0, 1.0, 0.0, 0.0, 0.0])
    sets = FrequencySets(np.array([0, 1]), np.array([1, 2, 3]))
    found = frequency_quality(logits, labels, sets)
    assert (found.most, found.least) == (1.0, 0.5)
    assert found.all == pytest.approx((1 + 2 / 3) / 2)
    nothing = frequency_quality(logits, labels, FrequencySets(np.array([3]), np.array([0])))
    assert math.isnan(nothing.most)


def test_analyze_frequency(seo_rec: Callable[..., Any], tiny_data: DataSet, tmp_path: Path) -> None:
    runs = []
    for name, mlet in (("one", None), ("two", MLET)):
        runs.append(tmp_path / name)
        wanted = Training(replace(SMALL, mlet=mlet), settings(epochs=1))
        recipes.train(tiny_data, policy_of(tiny_data), runs[-1], wanted)
    out = tmp_path / "found.json"
    done = seo_rec("analyze", "frequency", tiny_data.path, *runs, "--share", 0.3, "--out", out)
    assert done.code == 0 and "least frequent" in done.out and "+0.00 %" in done.out
    found = json.loads(out.read_text())["runs"]
    model = recipes.load_trained(runs[1])
    logits = scores(model, tiny_data)
    labels = tiny_data.labels("test")
    sets = frequency_sets(tiny_data, "test", 0.3)
    assert found[str(runs[1])] == pytest.approx(asdict(frequency_quality(logits, labels, sets)))
    rare = 1.5 / len(labels)  # one sample in each set: at least one of the four is not positive
    done = seo_rec("analyze", "frequency", tiny_data.path, *runs, "--share", rare, "--out", out)
    assert done.code == 0 and "NaN" not in out.read_text()
    assert None in json.loads(out.read_text())["runs"][str(runs[0])].values()
    other = tmp_path / "other"
    synthetic(other, rows=300, strong=2, weak=2, noise=2, numeric=2, multivalent=1)
    refused = seo_rec("analyze", "frequency", other, runs[0])
    assert refused.code == 2 and "trained on 1 numeric columns" in refused.err
    for share in (0, 0.6, 1e-9):
        refused = seo_rec("analyze", "frequency", tiny_data.path, runs[0], "--share", share)
        assert refused.code == 2 and "allowed" in refused.err
