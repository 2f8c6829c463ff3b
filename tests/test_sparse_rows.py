"""Updates of the rows of a batch: against dense optimizers, closed forms and written references."""

from __future__ import annotations

import itertools
import multiprocessing
import os
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad

from cases import BUILDABLE
from patience import PATIENCE
from seo_kernels import native
from seo_kernels.row_bag import (
    L2_ON,
    ROW_OPTIMIZERS,
    Reads,
    RowLayout,
    RowTable,
    RowUpdate,
    add_rows,
    mean_share,
    read_rows,
    reference,
    settled_step,
    share_left,
    swap_means,
    update_rows,
    weight_gradient,
)
from seo_rec import recipes
from seo_rec.data.dataset import DataSet
from seo_rec.data.stream import Stream
from seo_rec.embed.initial import InitialRows
from seo_rec.embed.sparse import SparseTables
from seo_rec.model import ModelSettings, build_model
from seo_rec.recipes import method_policy
from seo_rec.search import find
from seo_rec.settings import ADAGRAD_RATE, LARGEST_DENSE, FitSettings, Training, settled
from seo_rec.train import SparseRows, fit, make_optimizers
from seo_rec.train.average import WeightAverage
from seo_rec.train.memory import TooLargeError, memory_said, require_memory, training_bytes
from seo_rec.train.ranks import Ranks

ROWS, DIMS, TABLE_OF = (7, 50, 3), (4, 3, 16), (0, 1, 1, 2)
LAYOUT = RowLayout(TABLE_OF, DIMS)
B = 13
PAGES = Path("/proc/self/pagemap")
needs_c = pytest.mark.skipif(native.missing() is not None, reason=str(native.missing()))


def tables(
    update: RowUpdate, dtype: torch.dtype = torch.float32, mean: bool = False
) -> list[RowTable]:
    """Random tables with what the optimizer, L2 and the mean keep, all at its start."""
    made = []
    rng = torch.Generator().manual_seed(5)
    for rows, dim in zip(ROWS, DIMS, strict=True):
        floats, counts = torch.zeros(rows, dim, dtype=dtype), torch.zeros(rows, 1).int()
        adam = update.optimizer == "lazy_adam"
        per_row = update.optimizer == "rowwise_adagrad"
        first = None if update.optimizer == "sgd" else floats[:, :1] if per_row else floats
        made.append(
            RowTable(
                torch.randn(rows, dim, generator=rng, dtype=torch.float64).to(dtype),
                None if first is None else first.clone(),
                floats.clone() if adam else None,
                counts.clone() if adam else None,
                counts.clone() if update.l2_on == "frequency" else None,
                torch.full_like(floats, 99.0) if mean else None,
                counts - 1 if mean else None,
            )
        )
    return made


def batch(step: int, bags: bool, weighted: bool, dtype: torch.dtype = torch.float32) -> Any:
    """Reads of all four lookups and a gradient of their output."""
    rng = torch.Generator().manual_seed(step)
    lengths = torch.randint(0, 4, (4 * B,), generator=rng) if bags else torch.ones(4 * B).long()
    offsets = torch.cat([torch.zeros(1).long(), lengths.cumsum(0)])
    counts = lengths.view(4, B).sum(1).tolist()
    pairs = zip(TABLE_OF, counts, strict=True)
    rows = torch.cat([torch.randint(0, ROWS[t], (n,), generator=rng) for t, n in pairs])
    weights = torch.rand(len(rows), generator=rng).to(dtype) if weighted else None
    reads = Reads(rows, offsets if bags else None, weights, B)
    return reads, torch.randn(B, LAYOUT.width, generator=rng, dtype=torch.float64).to(dtype)


def state(table: RowTable) -> dict[str, torch.Tensor]:
    return {f.name: v for f in fields(table) if (v := getattr(table, f.name)) is not None}


CASES = list(itertools.product(ROW_OPTIMIZERS, L2_ON, (False, True), (False, True), (False, True)))


@needs_c
@pytest.mark.parametrize("optimizer, l2_on, mean, bags, weighted", CASES)
def test_the_c_kernels_equal_the_reference(
    optimizer: str, l2_on: str, mean: bool, bags: bool, weighted: bool
) -> None:
    update = RowUpdate(optimizer, 0.05, 0, l2=0.1, l2_on=l2_on, decay=0.6 if mean else 0.0)
    ours, theirs = tables(update, mean=mean), tables(update, mean=mean)
    for step in range(1, 12):
        reads, gradient = batch(step, bags, weighted)
        found = read_rows([t.weight for t in ours], LAYOUT, reads)
        expected = reference.read_rows([t.weight for t in ours], LAYOUT, reads)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
        at = replace(update, step=step)
        update_rows(ours, LAYOUT, [reads], [gradient], at)
        reference.update_rows(theirs, LAYOUT, [reads], [gradient], at)
        if mean and step == 7:
            for back in (False, True):
                for a, b in zip(ours, theirs, strict=True):
                    swap_means(a, at, back)
                    reference.swap_means(b, at, back)
                    torch.testing.assert_close(a.weight, b.weight, rtol=2e-5, atol=2e-5)
    for a, b in zip(ours, theirs, strict=True):
        for name, value in state(b).items():
            torch.testing.assert_close(state(a)[name], value, rtol=2e-5, atol=2e-5, msg=name)


@pytest.mark.parametrize("l2", [0.0, 0.3])
@pytest.mark.parametrize("optimizer", ["sgd", "adagrad", "rowwise_adagrad"])
def test_equal_to_dense_optimizers_in_float64(optimizer: str, l2: float) -> None:
    """Without L2 a row that is not read has the gradient 0; with it, only read rows shrink."""
    made = {
        "sgd": torch.optim.SGD,
        "adagrad": lambda p, lr: torch.optim.Adagrad(p, lr=lr, eps=1e-8),
        "rowwise_adagrad": lambda p, lr: RowWiseAdagrad(p, lr=lr, eps=1e-8),
    }[optimizer]
    update = RowUpdate(optimizer, 0.1, 0, l2=l2, l2_on="read" if l2 else "none")
    ours = tables(update, torch.float64)
    dense = [torch.nn.Parameter(t.weight.clone()) for t in ours]
    theirs = made(dense, lr=0.1)
    for step in range(1, 9):
        reads, gradient = batch(step, True, True, torch.float64)
        x, touched = [], [torch.zeros(r, 1, dtype=torch.float64) for r in ROWS]
        for table, rows, bags, weights in reference._by_lookup(LAYOUT, reads):
            vectors = dense[table][rows] * weights[:, None]
            x.append(torch.zeros(B, DIMS[table]).double().index_add(0, bags, vectors))
            touched[table][rows] = 1.0
        theirs.zero_grad()
        loss = (torch.cat(x, 1) * gradient).sum()
        penalty = sum(l2 / 2 * (t * w.square()).sum() for t, w in zip(touched, dense, strict=True))
        (loss + penalty).backward()
        theirs.step()
        update_rows(ours, LAYOUT, [reads], [gradient], replace(update, step=step))
    for a, b in zip(ours, dense, strict=True):
        torch.testing.assert_close(a.weight, b.detach(), rtol=1e-12, atol=1e-12)


def test_lazy_adam_and_l2_by_frequency_as_written() -> None:
    """One row at a time in plain Python; a row that is not read stands still, moments and all."""
    update = RowUpdate("lazy_adam", 0.1, 0, l2=0.5, l2_on="frequency")
    ours = tables(update, torch.float64)
    weights = [t.weight.clone().numpy() for t in ours]
    kept: dict[tuple[int, int], list[Any]] = {}
    for step in range(1, 9):
        reads, gradient = batch(step, True, False, torch.float64)
        sums: dict[tuple[int, int], list[np.ndarray]] = {}
        for k, (table, rows, bags, _) in enumerate(reference._by_lookup(LAYOUT, reads)):
            columns = slice(LAYOUT.columns[k], LAYOUT.columns[k] + DIMS[table])
            for row, bag in zip(rows.tolist(), bags.tolist(), strict=True):
                sums.setdefault((table, row), []).append(gradient[bag, columns].numpy())
        for (table, row), parts in sums.items():
            m, v, n, seen = kept.get((table, row), [0.0, 0.0, 0, 0])
            n, seen = n + 1, seen + len(parts)
            g = np.sum(parts, 0) + 0.5 / seen * weights[table][row]
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
            kept[table, row] = [m, v, n, seen]
            bias = m / (1 - 0.9**n), v / (1 - 0.999**n)
            weights[table][row] -= 0.1 * bias[0] / (np.sqrt(bias[1]) + 1e-8)
        update_rows(ours, LAYOUT, [reads], [gradient], replace(update, step=step))
    for table, expected in zip(ours, weights, strict=True):
        np.testing.assert_allclose(table.weight.numpy(), expected, rtol=1e-11, atol=1e-12)
    assert len({n for _, _, n, _ in kept.values()}) > 1


@pytest.mark.parametrize("decay", [0.05, 0.6, 0.9, 0.998])
@pytest.mark.parametrize("dtype, bound", [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_the_lazy_mean_is_the_mean_of_every_step(
    dtype: torch.dtype, bound: float, decay: float
) -> None:
    update = RowUpdate("sgd", 0.01, 0, decay=decay)
    ours = tables(update, dtype, mean=True)
    means = [t.weight.double() for t in ours]
    for step in range(1, 60):
        reads, gradient = batch(step, False, False, dtype)
        only_first = Reads(reads.rows_V % 2 if step % 5 else reads.rows_V, None, None, B)
        update_rows(ours, LAYOUT, [only_first], [gradient], replace(update, step=step))
        for mean, table in zip(means, ours, strict=True):
            mean.lerp_(table.weight.double(), mean_share(step, decay))
        if step in (20, 59):
            for mean, table in zip(means, ours, strict=True):
                before = table.weight.clone()
                swap_means(table, replace(update, step=step), False)
                assert (table.weight.double() - mean).abs().max() <= bound
                swap_means(table, replace(update, step=step), True)
                assert torch.equal(table.weight, before)


@pytest.mark.parametrize("decay", [0.05, 0.1, 0.5, 0.9, 0.998])
def test_what_is_left_of_a_mean_has_a_closed_form(decay: float) -> None:
    for start, end in ((0, 0), (0, 7), (3, 200), (150, 151), (5000, 9000)):
        product = np.prod(
            [min(decay, (1 + i) / (10 + i)) for i in range(start + 1, end + 1)], dtype=np.float64
        )
        found = share_left(torch.tensor([start]), end, decay).item()
        assert found == pytest.approx(product, rel=1e-9, abs=1e-300), (start, end)
    last = settled_step(decay)
    assert last == 0 or (1 + last) / (10 + last) <= decay
    assert (2 + last) / (11 + last) > decay


@needs_c
def test_results_do_not_depend_on_threads_and_other_rows_stay() -> None:
    rows, threads = 100_000, torch.get_num_threads()
    layout, update = RowLayout([0] * 8, [16]), RowUpdate("rowwise_adagrad", 0.1, 1)
    ids = torch.randint(0, rows, (8 * 4096,), generator=torch.Generator().manual_seed(0))
    ids[::3] = 5  # a hot row
    gradient = torch.randn(4096, 128, generator=torch.Generator().manual_seed(1))
    results = []
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            table = RowTable(torch.ones(rows, 16), torch.zeros(rows, 1))
            reads = Reads(ids, None, None, 4096)
            update_rows([table], layout, [reads], [gradient], update)
            results.append((table.weight, table.first, read_rows([table.weight], layout, reads)))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
    untouched = torch.ones(rows).bool()
    untouched[ids] = False
    assert torch.equal(results[0][0][untouched], torch.ones(int(untouched.sum()), 16))


@needs_c
@pytest.mark.parametrize("row", [-1, 7])
def test_a_row_out_of_range_is_named_and_nothing_moves(row: int) -> None:
    update = RowUpdate("sgd", 0.1, 1)
    made = tables(update)
    before = [t.weight.clone() for t in made]
    reads, gradient = batch(1, False, False)
    reads.rows_V[3] = row
    for call in (
        lambda: read_rows([t.weight for t in made], LAYOUT, reads),
        lambda: update_rows(made, LAYOUT, [reads], [gradient], update),
    ):
        with pytest.raises(ValueError, match=r"lookup 0 reads a row that is not in \[0, 7\)"):
            call()
    bad = replace(reads, offsets=torch.zeros(4 * B + 1).long())
    with pytest.raises(ValueError, match="offsets must rise"):
        read_rows([t.weight for t in made], LAYOUT, bad)
    assert all(torch.equal(t.weight, b) for t, b in zip(made, before, strict=True))


def test_the_gradient_of_weights_of_ids() -> None:
    made = [t.weight for t in tables(RowUpdate("sgd", 0.1, 1), torch.float64)]
    reads, gradient = batch(3, True, True, torch.float64)
    assert reads.weights_V is not None
    weights = reads.weights_V.clone().requires_grad_()
    x = reference.read_rows(made, LAYOUT, replace(reads, weights_V=weights))
    (expected,) = torch.autograd.grad((x * gradient).sum(), weights)
    torch.testing.assert_close(weight_gradient(made, LAYOUT, reads, gradient), expected)


# ---- whole models ----------------------------------------------------------------------------


def trained(
    data: DataSet, policy: Any, dense: bool, wanted: FitSettings, model: ModelSettings
) -> tuple[list[torch.Tensor], float]:
    """Weights and validation AUC after a training by rows, or on dense gradients of torch's."""
    made = build_model(policy, data.num_numeric, model, 0)
    optimizers = make_optimizers(made, wanted.row_optimizer, wanted.row_lr, wanted.dense_lr)
    if dense:
        assert isinstance(optimizers["rows"], SparseRows)
        made.embedding.sparse = None
        parameters = list(made.embedding.ebc.parameters())
        kinds: dict[str, Any] = {
            "adagrad": lambda p: torch.optim.Adagrad(p, lr=wanted.row_lr, eps=1e-8),
            "rowwise_adagrad": lambda p: RowWiseAdagrad(p, lr=wanted.row_lr, eps=1e-8),
            "sgd": lambda p: torch.optim.SGD(p, lr=wanted.row_lr),
        }
        optimizers["rows"] = kinds[wanted.row_optimizer](parameters)
    train = Stream(data, "train", batch_size=wanted.batch_size, shuffle=True)
    result = fit(made, train, Stream(data, "val", batch_size=64), optimizers, wanted)
    return [p.detach().clone() for p in made.parameters()], result.val.auc


@pytest.mark.parametrize("average", [0.0, 0.9])
@pytest.mark.parametrize("optimizer", ["sgd", "adagrad", "rowwise_adagrad"])
@pytest.mark.parametrize("method", ["multi-size", "separate"])
def test_training_by_rows_is_training_on_dense_gradients(
    tiny_data: DataSet, method: str, optimizer: str, average: float
) -> None:
    policy = method_policy(method, tiny_data, 1600)
    wanted = FitSettings(
        epochs=2,
        batch_size=100,
        row_optimizer=optimizer,
        row_lr=0.5 if optimizer == "sgd" else 0.02,
        average=average,
    )
    model = ModelSettings(hidden=(8,))
    rows, auc = trained(tiny_data, policy, False, wanted, model)
    dense, dense_auc = trained(tiny_data, policy, True, wanted, model)
    assert auc == pytest.approx(dense_auc, abs=1e-6)
    for a, b in zip(rows, dense, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-6)


def test_gradients_of_two_batches_add_up_before_a_step(tiny_data: DataSet) -> None:
    policy = method_policy("multi-size", tiny_data, 1600)
    batches = list(itertools.islice(Stream(tiny_data, "train", batch_size=50), 2))
    found = []
    for dense in (False, True):
        made = build_model(policy, tiny_data.num_numeric, ModelSettings(hidden=(8,)), 0)
        optimizers = make_optimizers(made, "sgd", 0.5, 0.5)
        if dense:
            made.embedding.sparse = None
            optimizers["rows"] = torch.optim.SGD(made.embedding.ebc.parameters(), lr=0.5)
        for b in batches:
            made(b)[0].backward()
        for optimizer in optimizers.values():
            optimizer.step()
        found.append([p.detach().clone() for p in made.embedding.ebc.parameters()])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def bytes_taken(values: torch.Tensor) -> int:
    """The pages of a tensor that were ever touched, by the system's list of this process's pages.

    Unlike the memory of the process, it does not depend on what other tests took and freed.
    """
    if not PAGES.exists():
        pytest.skip(f"needs {PAGES}")
    page = os.sysconf("SC_PAGE_SIZE")
    first = values.data_ptr() // page
    last = (values.data_ptr() + values.nbytes - 1) // page
    with PAGES.open("rb") as stream:
        stream.seek(8 * first)
        entries = np.frombuffer(stream.read(8 * (last + 1 - first)), np.uint64)
    assert len(entries) == last + 1 - first
    return int(np.count_nonzero(entries >> 62)) * page  # in memory, or swapped out


def test_a_mean_takes_memory_only_for_rows_that_were_read() -> None:
    """A table of 1 GB, and as much for its mean: zeros that nobody wrote take none."""
    weight = torch.nn.Parameter(torch.from_numpy(np.zeros((2**23, 32), np.float32)))
    source = SparseTables([weight], [0])
    optimizer = SparseRows([source], [weight], optimizer="lazy_adam", lr=0.1)
    optimizer.keep_mean(0.9)
    source.look_up(torch.arange(100), None, None, 100).sum().backward()
    optimizer.step()
    optimizer.swap_means(False)
    optimizer.swap_means(True)
    state = optimizer.state[weight]
    assert state["mean"].shape == weight.shape and state["mean"][:100].all()
    for values in (weight, *state.values()):  # mean_at is written whole: four bytes a row
        assert 0 < bytes_taken(values) < 2**26


def test_what_auto_decides() -> None:
    small, large = LARGEST_DENSE, LARGEST_DENSE + 1
    auto = FitSettings(row_l2=0.1, row_lr=0.01)
    decided = {
        (n, l2_on): settled(replace(auto, l2_on=l2_on), n)
        for n in (small, large)
        for l2_on in ("auto", "all", "read", "frequency")
    }
    assert {k: (v.row_optimizer, v.l2_on, v.row_lr) for k, v in decided.items()} == {
        (small, "auto"): ("adam", "all", 0.01),
        (small, "all"): ("adam", "all", 0.01),
        (small, "read"): ("lazy_adam", "read", 0.01),
        (small, "frequency"): ("lazy_adam", "frequency", 0.01),
        (large, "auto"): ("rowwise_adagrad", "read", 0.01 * ADAGRAD_RATE),
        (large, "all"): ("rowwise_adagrad", "all", 0.01 * ADAGRAD_RATE),
        (large, "read"): ("rowwise_adagrad", "read", 0.01 * ADAGRAD_RATE),
        (large, "frequency"): ("rowwise_adagrad", "frequency", 0.01 * ADAGRAD_RATE),
    }
    dense = [key for key, chosen in decided.items() if chosen.has_dense_gradients]
    assert dense == [(small, "auto"), (small, "all"), (large, "all")]
    for optimizer, l2_on in (("adam", "read"), ("adam", "frequency"), ("lazy_adam", "all")):
        with pytest.raises(ValueError, match=f"--l2-on {l2_on} with --optimizer {optimizer}"):
            FitSettings(row_optimizer=optimizer, l2_on=l2_on)


# ---- initial rows and memory -----------------------------------------------------------------


def test_initial_rows_do_not_depend_on_who_makes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    start = InitialRows(3, {"a": (-0.5, 0.5), "b": (-0.5, 0.5)})
    whole, piece, other = torch.empty(1003, 13), torch.empty(77, 5), torch.empty(1003, 13)
    start.fill("a", 13, whole)
    monkeypatch.setattr("seo_rec.embed.initial.AT_ONCE", 100)
    start.fill("a", 13, piece, 234, 6)
    start.fill("a", 13, other)
    assert torch.equal(piece, whole[234:311, 6:11]) and torch.equal(other, whole)
    start.fill("b", 13, other)
    assert abs(np.corrcoef(other.view(-1), whole.view(-1))[0, 1]) < 0.03
    assert whole.min() >= -0.5 and whole.max() <= 0.5
    assert whole.mean().abs() < 0.01 and whole.var() == pytest.approx(1 / 12, rel=0.05)
    InitialRows(4, start.ranges).fill("a", 13, other)
    assert not torch.equal(other, whole)


def test_golden_initial_rows() -> None:
    """Changing them changes every training; then the changelog says so."""
    values = torch.empty(2, 3)
    InitialRows(0, {"t": (-1.0, 1.0)}).fill("t", 3, values, 10)
    torch.testing.assert_close(values, torch.tensor(GOLDEN), rtol=0, atol=1e-6)


GOLDEN = [[-0.7857490, -0.6284993, 0.7945572], [-0.8326524, 0.7176379, 0.5080776]]


def test_tables_that_do_not_fit_are_refused_before_they_are_made(
    tiny_data: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = method_policy("multi-size", tiny_data, 1600)
    sizes = {
        name: training_bytes(policy, FitSettings(row_optimizer=name, average=0.0))
        for name in ("adam", "adagrad", "sgd")
    }
    assert sizes["adagrad"] == 2 * sizes["sgd"] == 2 * 4 * policy.num_params
    assert sizes["adam"] > sizes["adagrad"]
    monkeypatch.setattr("seo_rec.train.memory.available_bytes", lambda device: 5_000)
    with pytest.raises(TooLargeError) as caught:
        require_memory(policy, FitSettings(), Ranks())
    text = str(caught.value)
    assert "5,000 are free" in text and text.count("; ") == 3 and "nothing was allocated" in text
    require_memory(policy, FitSettings(row_optimizer="sgd", average=0.0), Ranks(0, 2))


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory")]
)
def test_no_memory_in_a_step_names_the_bytes_of_the_tables(
    tiny_data: DataSet, error: Exception
) -> None:
    policy = method_policy("multi-size", tiny_data, 1600)
    said = r"1,\d\d\d parameters take [0-9,]+ bytes"
    with pytest.raises(TooLargeError, match=said), memory_said(policy, FitSettings()):
        raise error
    with pytest.raises(RuntimeError, match="other"), memory_said(policy, FitSettings()):
        raise RuntimeError("other")


def test_a_dense_mean_goes_on_from_one_by_rows() -> None:
    """A plan may copy a table to every process that was sharded when the checkpoint was written."""
    model = torch.nn.Linear(3, 5, bias=False)
    weight, decay, step = model.weight, 0.8, 40
    at = torch.tensor([[-1], [0], [7], [40], [39]]).int()
    saved = torch.randn(5, 3)
    mean = WeightAverage(model, decay)
    room = mean.room({"weight", "weight.at"})
    assert room.keys() == {"weight", "weight.at"}
    for name, value in (("weight", saved), ("weight.at", at)):
        target = room[name]
        assert isinstance(target, torch.Tensor)
        target.copy_(value)
    mean.loaded(room, step)
    left = share_left(at.clamp(min=0), step, decay).float()
    expected = torch.where(at < 0, weight, weight + left * (saved - weight))
    found = mean.state["weight"]
    assert isinstance(found, torch.Tensor)
    torch.testing.assert_close(found, expected.detach())


def test_tables_find_their_own_state_wherever_they_lie_in_memory() -> None:
    """Tables one behind the other, the next one wider: its rows are not rows of the first."""
    memory = torch.zeros(4 * 100 + 16 * 10)
    narrow = torch.nn.Parameter(memory[:400].view(100, 4))
    wide = torch.nn.Parameter(memory[400:].view(10, 16))
    source = SparseTables([narrow, wide], [0, 1])
    optimizer = SparseRows([source], [narrow, wide], optimizer="adagrad", lr=0.1)
    ((first, second),) = optimizer.tables
    for table, parameter in ((first, narrow), (second, wide)):
        assert table.first is not None
        assert table.first.data_ptr() == optimizer.state[parameter]["sum"].data_ptr()
        assert table.first.shape == parameter.shape
    with pytest.raises(ValueError, match=r"first is of shape \(100, 4\) for a table of 10 x 16"):
        RowTable(wide.detach(), optimizer.state[narrow]["sum"])


@needs_c
def test_a_forked_process_does_not_wait_for_the_threads_of_its_parent() -> None:
    layout, update = RowLayout([0] * 8, [16]), RowUpdate("sgd", 0.1, 1)
    reads = Reads(torch.arange(8 * 4096) % 1000, None, None, 4096)

    def work() -> None:
        table = RowTable(torch.ones(1000, 16))
        gradient = read_rows([table.weight], layout, reads)
        update_rows([table], layout, [reads], [gradient], update)

    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        work()
        child = multiprocessing.get_context("fork").Process(target=work)
        child.start()
        child.join(PATIENCE)
        status = child.exitcode
        child.kill()
    finally:
        torch.set_num_threads(threads)
    assert status == 0


def test_another_optimizer_takes_the_gradients_back(tiny_data: DataSet) -> None:
    policy = method_policy("multi-size", tiny_data, 1600)
    batch = next(iter(Stream(tiny_data, "train", batch_size=50)))
    made = build_model(policy, tiny_data.num_numeric, ModelSettings(hidden=(8,)), 0)
    assert isinstance(make_optimizers(made, "sgd", 0.1, 0.1)["rows"], SparseRows)
    rows = make_optimizers(made, "adam", 0.1, 0.1)["rows"]
    made(batch)[0].backward()
    assert not isinstance(rows, SparseRows)
    assert all(p.grad is not None for p in made.embedding.ebc.parameters())
    made.embedding.sparse_shards = [SparseTables([torch.zeros(2, 4)], [0])]
    made.embedding.ebc.__class__ = type("Sharded", (type(made.embedding.ebc),), {})
    with pytest.raises(ValueError, match=r"adam at 0\.1 .* the same settings"):
        make_optimizers(made, "adam", 0.1, 0.1)


@pytest.mark.parametrize("search", ["dimgrow", "optembed", "pep"])
@pytest.mark.parametrize("asked", [{"row_optimizer": "lazy_adam"}, {"l2_on": "read"}])
def test_searches_on_dense_gradients_refuse_rows_of_the_batch(
    tiny_data: DataSet, tmp_path: Path, search: str, asked: dict[str, str]
) -> None:
    """Before a folder is made: the option would be ignored, or stop the search later."""
    entry, training = find(search), Training(fit=FitSettings(**asked))
    with pytest.raises(ValueError, match=f"{search} moves all rows of its tables in every step"):
        entry.checked(tiny_data, entry.settings_at(1600, 8, training, {}), training)


def test_a_training_that_cannot_fit_leaves_no_folder(
    tiny_data: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seo_rec.train.memory.available_bytes", lambda device: 1_000)
    policy = method_policy("multi-size", tiny_data, 1600)
    for fit_settings in (FitSettings(), FitSettings(row_optimizer="rowwise_adagrad", average=0.0)):
        with pytest.raises(TooLargeError, match="nothing was allocated") as caught:
            recipes.train(tiny_data, policy, tmp_path / "run", Training(fit=fit_settings))
        assert str(caught.value).count("; ") == 3
    assert not (tmp_path / "run").exists()


def test_what_acts_on_all_floats_of_arrays_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = build_model(BUILDABLE["rows-and-blocks"], 0, ModelSettings(hidden=(4,)), 0)
    with caplog.at_level("WARNING", logger="seo_rec.train.optimizers"):
        make_optimizers(model, "sgd", 0.1, 0.1)
        assert not caplog.messages
        make_optimizers(model, "lazy_adam", 0.1, 0.1, 0.2, "read")
    (message,) = caplog.messages
    assert "L2 0.2 on read rows: for the" in message and "all of them in every step" in message


@needs_c
@pytest.mark.parametrize("layout", ["rows of longer ones", "columns first", "one row"])
def test_a_gradient_need_not_lie_row_after_row(layout: str) -> None:
    """A network that reads dense columns beside the vectors gives a part of its own gradient."""
    update = RowUpdate("adagrad", 0.1, 1)
    bags = 1 if layout == "one row" else B
    rows = torch.cat([torch.randint(0, ROWS[t], (bags,)) for t in TABLE_OF])
    reads, width = Reads(rows, None, None, bags), LAYOUT.width
    gradient = torch.randn(bags, width + 5)[:, 3 : 3 + width]
    if layout == "columns first":
        gradient = torch.randn(width, bags).T
    whole, part = tables(update), tables(update)
    for mine, theirs in zip(part, whole, strict=True):
        mine.weight.copy_(theirs.weight)
    update_rows(whole, LAYOUT, [reads], [gradient.contiguous()], update)
    update_rows(part, LAYOUT, [reads], [gradient], update)
    sums = [[torch.zeros_like(t.weight) for t in whole] for _ in range(2)]
    for into, of in zip(sums, (gradient, gradient.contiguous()), strict=True):
        add_rows(into, LAYOUT, reads, of)
    for mine, theirs, a, b in zip(part, whole, *sums, strict=True):
        assert torch.equal(mine.weight, theirs.weight) and torch.equal(a, b) and a.any()
