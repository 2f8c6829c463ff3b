"""Laws of ``block_bag``, ``chunk_bag`` and ``robe_bag`` on a CPU, in C and in plain PyTorch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from kernel_laws import BAGS, CASES, F, bags, equals_the_definition, inputs, robe

from seo_kernels import (
    Blocks,
    block_bag,
    chunk_bag,
    chunk_blocks,
    hash_rows,
    native,
    robe_bag,
    robe_blocks,
)
from seo_kernels.block_bag.blocks import COUNT, START, STRIDE, WIDTH

every_case = pytest.mark.parametrize("case", CASES)
every_batch = pytest.mark.parametrize("batch", BAGS)


@every_batch
@every_case
def test_output_and_gradients_are_those_of_the_definition(path, case, batch):
    for weighted in (False, True):
        equals_the_definition(block_bag, CASES[case], BAGS[batch], weighted, torch.float32)


@pytest.mark.parametrize("case", ["chunks-mixed", "robe-odd"])
def test_float64_is_exact_too(case):
    equals_the_definition(block_bag, CASES[case], BAGS["mixed"], True, torch.float64)


@pytest.mark.parametrize("case, weighted", [("chunks-mixed", True), ("robe-odd", False)])
def test_opcheck(path, case, weighted):
    given = inputs(CASES[case], BAGS["mixed"], weighted)
    flat, scales, weights = given.leaves(torch.float32, "cpu")
    blocks, batch = CASES[case].blocks, BAGS["mixed"]
    sizes = (blocks.table, blocks.num_features, blocks.width, blocks.block, blocks.unit)
    arguments = (flat, scales, batch.ids_V, batch.offsets, *sizes, weights, False)
    torch.library.opcheck(torch.ops.seo_kernels.block_bag.default, arguments)


@every_case
def test_the_op_and_the_call_without_the_dispatcher_give_the_same_bits(case):
    given, batch, blocks = (
        inputs(CASES[case], BAGS["mixed"], True),
        BAGS["mixed"],
        CASES[case].blocks,
    )
    sizes = (blocks.table, blocks.num_features, blocks.width, blocks.block, blocks.unit)
    results = []
    for by_op in (False, True):
        leaves = flat, scales, weights = given.leaves(torch.float32, "cpu")
        if by_op:
            arguments = (flat, scales, batch.ids_V, batch.offsets, *sizes, weights, False)
            x = torch.ops.seo_kernels.block_bag(*arguments)
        else:
            x = block_bag(flat, batch.ids_V, batch.offsets, blocks, scales, weights)
        grads = torch.autograd.grad(x.square().sum(), [t for t in leaves if t is not None])
        results.append([x, *grads])
    for found, wanted in zip(*results, strict=True):
        assert torch.equal(found, wanted)


def test_a_list_of_tensors_stands_for_one(path):
    case, batch = CASES["chunks"], BAGS["mixed"]
    flat, scales, weights = inputs(case, batch, True).leaves(torch.float32, "cpu")
    wanted_x = block_bag(flat, batch.ids_V, batch.offsets, case.blocks, scales, weights)
    (wanted,) = torch.autograd.grad(wanted_x.square().sum(), [flat])
    cut = int(case.blocks.table[START].max())  # where the last table begins
    head, tail = flat.detach()[:cut], flat.detach()[cut:]
    parts = [head.clone(), tail.view(1, -1).clone().requires_grad_()]
    x = block_bag(parts, batch.ids_V, batch.offsets, case.blocks, scales, weights)
    x.square().sum().backward()
    assert torch.equal(x, wanted_x)
    assert parts[0].grad is None
    assert torch.equal(parts[1].grad, wanted[cut:].view(1, -1))


@every_batch
@every_case
def test_every_float_of_the_results_is_written(path, case, batch):
    """Memory that PyTorch hands out is NaN here; what is not written stays NaN."""
    given = inputs(CASES[case], BAGS[batch], True)
    leaves = given.leaves(torch.float32, "cpu")
    with torch.random.fork_rng():
        torch.use_deterministic_algorithms(True)
        try:
            flat, scales, weights = leaves
            ids, offsets = BAGS[batch].ids_V, BAGS[batch].offsets
            x = block_bag(flat, ids, offsets, CASES[case].blocks, scales, weights)
            grads = torch.autograd.grad(x.sum(), [t for t in leaves if t is not None])
        finally:
            torch.use_deterministic_algorithms(False)
    for tensor in (x, *grads):
        assert not tensor.isnan().any()


@pytest.mark.skipif(native.missing() is not None, reason=str(native.missing()))
@every_case
def test_bits_do_not_depend_on_the_number_of_threads(case, monkeypatch):
    monkeypatch.setattr(native, "GRAIN", 1)
    batch = BAGS["single-many"]
    results = []
    for threads in (1, 2, 3, 7):
        leaves = inputs(CASES[case], batch, True).leaves(torch.float32, "cpu")
        flat, scales, weights = leaves
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        x = block_bag(flat, batch.ids_V, batch.offsets, CASES[case].blocks, scales, weights)
        grads = torch.autograd.grad(x.square().sum(), [t for t in leaves if t is not None])
        results.append([x, *grads])
    for other in results[1:]:
        for found, wanted in zip(other, results[0], strict=True):
            assert torch.equal(found, wanted)


def test_inputs_may_be_strided_and_offsets_int32(path):
    case, batch = CASES["chunks"], BAGS["mixed"]
    flat, scales, _ = inputs(case, batch, False).leaves(torch.float32, "cpu")
    wide = torch.stack([flat, flat], 1)[:, 0]
    ids = torch.stack([batch.ids_V, batch.ids_V], 1)[:, 0]
    x = block_bag(wide, ids, batch.offsets.int(), case.blocks, scales)
    assert torch.equal(x, block_bag(flat, batch.ids_V, batch.offsets, case.blocks, scales))


# ---- where blocks lie ------------------------------------------------------------------------


def read_floats(blocks: Blocks, size: int, ids: torch.Tensor) -> torch.Tensor:
    """Numbers of the floats that single ids of feature 0 read, (V, E)."""
    flat = torch.arange(size, dtype=torch.float32)
    return robe_bag(flat, ids, torch.arange(ids.numel() + 1), blocks).long()


def test_a_robe_block_is_consecutive_and_ends_inside_the_array(path):
    """Every first float in [0, N - Z] occurs, both ends included, about equally often."""
    N, Z, V = 11, 4, 20_000
    blocks = robe_blocks([[5, 6]], [0], [N], [2 * Z], Z)
    read = read_floats(blocks, N, torch.arange(V)).view(V, 2, Z)
    assert torch.equal(read, read[:, :, :1] + torch.arange(Z))
    counts = read[:, :, 0].flatten().bincount(minlength=N)
    assert counts[N - Z + 1 :].sum() == 0
    expected = 2 * V / (N - Z + 1)
    assert ((counts[: N - Z + 1] - expected).abs() < 6 * expected**0.5).all()


def test_blocks_and_features_are_hashed_independently(path):
    N, V = 1000, 4000
    blocks = robe_blocks([[1, 2], [3, 4]], [0, 0], [N, N], [2, 2], 1)
    flat, ids = torch.arange(N, dtype=torch.float32), torch.arange(V).repeat(2)
    x = robe_bag(flat, ids, torch.arange(2 * V + 1), blocks)
    same = (x[:, :, None] == x[:, None, :]).float().mean(0)
    assert float((same - torch.eye(4)).max()) < 6 * (1 / N / V) ** 0.5 + 1 / N


def test_hashed_net_is_robe_with_blocks_of_one_float(path):
    seeds, N, ids = [8, 9, 10], 50, torch.arange(200)
    read = read_floats(robe_blocks([seeds], [0], [N], [3], 1), N, ids)
    assert torch.equal(read, hash_rows(ids[:, None], torch.tensor(seeds), N))


def test_features_with_parts_of_their_own_read_nothing_else(path):
    case, batch = CASES["robe-parts"], BAGS["single-many"]
    flat = torch.zeros(case.size).requires_grad_()
    x = robe_bag(flat, batch.ids_V, batch.offsets, case.blocks)
    (grad,) = torch.autograd.grad(x[:, 4:10].sum(), flat)  # the second feature's columns
    assert (grad[9:30] > 0).all()
    assert grad[:9].abs().sum() + grad[30:].abs().sum() == 0


def test_equal_seeds_read_one_row_of_equal_tables(path):
    blocks = chunk_blocks([7, 7], [2, 2], [(0, 0, 99), (1, 0, 99)], 1)
    flat = torch.arange(14).repeat(2).float()
    x = chunk_bag(flat, torch.arange(30), torch.arange(31), blocks)
    assert torch.equal(x[:, :2], x[:, 2:])


def test_chunk_bag_is_the_lookup_of_a_search_in_seo_rec(path):
    """Remapping, tables and attention in one op; rows are equal to the bit."""
    from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

    from seo_rec.embed import PolicyEmbedding
    from seo_rec.policy import Feature, Lookup, Policy, Table
    from seo_rec.search.seo import Attention

    batch, C, D, rows = BAGS["edges"], 2, 4, 13
    seeds = [[2**40 + 7 * f + i for i in range(C)] for f in range(F)]
    features = tuple(
        Feature(f"f{f}", tuple(Lookup(f"t{i}", "hash", seeds[f][i]) for i in range(C)))
        for f in range(F)
    )
    policy = Policy(tuple(Table(f"t{i}", rows, D) for i in range(C)), features)
    gate = Attention(F, C, D)
    torch.nn.init.normal_(gate.logits)
    module = PolicyEmbedding(policy, gate=gate, weighted=True)
    flat = torch.cat([bag.weight.flatten() for bag in module.ebc.embedding_bags.values()])
    lookups = [(i, f, seeds[f][i]) for f in range(F) for i in range(C)]
    blocks = chunk_blocks([rows] * C, [D] * C, lookups, F)

    weights = torch.rand(len(batch.ids))
    lengths = torch.tensor(batch.lengths)
    bags = KeyedJaggedTensor([f.name for f in features], batch.ids_V, weights, lengths=lengths)
    wanted = module(bags)
    attention = gate.alpha().flatten() * gate.scale
    found = chunk_bag(flat, batch.ids_V, batch.offsets, blocks, attention, weights)
    torch.testing.assert_close(found, wanted)
    leaves = [gate.logits, *module.ebc.parameters()]
    grads = [torch.autograd.grad(x.square().sum(), leaves) for x in (found, wanted)]
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


# ---- refusals --------------------------------------------------------------------------------


def test_the_builders_name_what_is_wrong():
    with pytest.raises(ValueError, match="feature 0 has 2 seeds; dim 9 in blocks of 4 needs 3"):
        robe_blocks([[1, 2]], [0], [40], [9], 4)
    with pytest.raises(ValueError, match="feature 0 reads 3 floats; a block of 4 needs"):
        robe_blocks([[1]], [0], [3], [4], 4)
    with pytest.raises(ValueError, match="block 1: seed -1 is not in"):
        chunk_blocks([5], [2], [(0, 0, 1), (0, 0, -1)], 1)
    with pytest.raises(ValueError, match=r"block 0: count 2147483649 is not in \[1, 2147483648\]"):
        chunk_blocks([2**31 + 1], [2], [(0, 0, 1)], 1)
    with pytest.raises(ValueError, match="block 0: feature 1 is not in"):
        chunk_blocks([5], [2], [(0, 1, 1)], 1)
    with pytest.raises(ValueError, match="must rise"):
        chunk_blocks([5], [2], [(0, 1, 1), (0, 0, 1)], 2)


def test_the_op_refuses_what_does_not_fit(path):
    case, batch = CASES["chunks"], BAGS["mixed"]
    flat, scales, _ = inputs(case, batch, False).leaves(torch.float32, "cpu")
    ids, offsets = batch.ids_V, batch.offsets
    with pytest.raises(ValueError, match=r"scales_K is .* of shape"):
        block_bag(flat, ids, offsets, case.blocks, scales[:-1])
    with pytest.raises(ValueError, match=r"weights_V is torch\.float64"):
        block_bag(flat, ids, offsets, case.blocks, scales, torch.ones(len(ids)).double())
    with pytest.raises(ValueError, match="int64"):
        block_bag(flat, ids.int(), offsets, case.blocks, scales)
    with pytest.raises(ValueError, match=f"one more than a multiple of {F}"):
        block_bag(flat, ids, offsets[:-1], case.blocks, scales)
    with pytest.raises(ValueError, match="with 2 dimensions"):
        block_bag(flat[:, None], ids, offsets, case.blocks, scales)
    if path == "c":
        with pytest.raises(ValueError, match="offsets is on meta; flat_N is on cpu"):
            block_bag(flat, ids, offsets.to("meta"), case.blocks, scales)


@pytest.mark.skipif(native.missing() is not None, reason=str(native.missing()))
def test_a_block_lies_in_one_tensor_of_a_list():
    case, batch = CASES["chunks"], BAGS["mixed"]
    flat, scales, _ = inputs(case, batch, False).leaves(torch.float32, "cpu")
    cut = int(case.blocks.table[START].max())
    for wrong in (cut - 1, cut + 1):
        with pytest.raises(ValueError, match="from two of their 2 parts"):
            parts = [flat[:wrong], flat[wrong:]]
            block_bag(parts, batch.ids_V, batch.offsets, case.blocks, scales)


@pytest.mark.skipif(native.missing() is not None, reason=str(native.missing()))
def test_c_never_reads_outside_of_its_tensors():
    case, batch = robe([4, 4, 4], 4, [0, 0, 0], [9, 9, 9]), bags([1] * F)
    ids, offsets = batch.ids_V, batch.offsets
    flat = torch.zeros(case.size)
    block_bag(flat, ids, offsets, case.blocks)
    with pytest.raises(ValueError, match="block 0 reads outside of the 8 floats"):
        block_bag(flat[:-1], ids, offsets, case.blocks)
    for row, value in ((COUNT, 7), (COUNT, 0), (COUNT, 2**62), (START, -1), (START, 2**62)):
        check_refused(case.blocks, 2, row, value, flat, ids, offsets)
    for row, value in ((STRIDE, 2), (STRIDE, 2**62), (WIDTH, 5), (WIDTH, 2**62), (0, 3), (0, -1)):
        check_refused(case.blocks, 2, row, value, flat, ids, offsets)
    for bad in ([0, 1, 2, 4], [1, 1, 2, 3], [0, 2, 1, 3]):
        with pytest.raises(ValueError, match="offsets must rise from 0 to at most 3"):
            block_bag(flat, ids, torch.tensor(bad), case.blocks)


def check_refused(blocks, k, row, value, flat, ids, offsets) -> None:
    table = blocks.table.clone()
    table[row, k] = value
    with pytest.raises(ValueError, match=f"block {k} reads outside of"):
        block_bag(flat, ids, offsets, replace(blocks, table=table))


@pytest.mark.parametrize(
    "case, unit",
    [("chunks", 8), ("chunks-mixed", 1), ("chunks-wide", 70), ("chunks-one-feature", 2)]
    + [(name, 1) for name in ("robe", "robe-odd", "robe-parts", "robe-tight", "hashed-net")],
)
def test_every_place_is_a_multiple_of_the_unit(case, unit):
    """What a GPU relies on when it moves several floats at a time."""
    blocks = CASES[case].blocks
    assert blocks.unit == blocks.to("cpu").unit == unit
    *_, starts, strides, widths, columns = blocks.table
    for numbers in (starts, strides, widths, columns, torch.tensor([blocks.width])):
        assert not (numbers % unit).any()
