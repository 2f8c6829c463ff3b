"""Tables of 16 bits: rounding that is right on average, the same in C and wherever a row lies."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from seo_kernels import native
from seo_kernels.row_bag import (
    ROW_OPTIMIZERS,
    Reads,
    RowLayout,
    RowTable,
    RowUpdate,
    mean_share,
    read_rows,
    reference,
    swap_means,
    update_rows,
)
from seo_kernels.row_bag.rounding import HALVES, philox, random_halves, round_randomly

needs_c = pytest.mark.skipif(native.missing() is not None, reason=str(native.missing()))
of_16_bits = pytest.mark.parametrize("dtype", HALVES)
NUMBERS = torch.arange(2**16)


def patterns(dtype: torch.dtype) -> torch.Tensor:
    """Every number of 16 bits."""
    return NUMBERS.to(torch.uint16).view(dtype)


def spread(count: int) -> torch.Tensor:
    """Float32 numbers of all sizes and both signs, some of them special."""
    rng = torch.Generator().manual_seed(0)
    powers = torch.randint(-30, 17, (count,), generator=rng).double()
    made = ((1 + torch.rand(count, generator=rng)).double() * 2**powers).float()
    made[::2] *= -1
    special = [0.0, -0.0, 1e-40, 65504.0, 65519.9, 65520.0, 7e4, 3.4e38, -3.4e38, 2.0**-24, 1e-9]
    made[: len(special)] = torch.tensor(special)
    made[11:14] = torch.tensor([float("inf"), -float("inf"), float("nan")])
    return made


# ---- random numbers ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "counter, key, expected",
    [
        ((0, 0, 0, 0), 0, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((2**32 - 1,) * 4, 2**64 - 1, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            0x299F31D0_A4093822,
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_the_known_answers_of_philox(counter: tuple[int, ...], key: int, expected: str) -> None:
    """The test vectors that its authors published with Random123."""
    words = philox(tuple(torch.tensor([word]) for word in counter), key)  # type: ignore[arg-type]
    assert " ".join(f"{int(word):08x}" for word in words) == expected


def test_random_numbers_go_by_the_place_in_the_whole_table() -> None:
    rows = torch.tensor([0, 3, 2**31 - 2])
    whole = random_halves(9, 5, rows, 0, 37)
    assert whole.shape == (3, 37) and whole.min() >= 0 and whole.max() < 2**16
    for first, dim in ((0, 4), (5, 3), (8, 8), (12, 25), (36, 1)):
        assert torch.equal(random_halves(9, 5, rows, first, dim), whole[:, first : first + dim])
    others = [(8, 5, rows), (9, 6, rows), (9, 5 + 2**32, rows), (9, 5, rows + 1)]
    for key, step, its_rows in others:
        assert (random_halves(key, step, its_rows, 0, 37) == whole).float().mean() < 0.05


def test_random_numbers_are_uniform_and_not_correlated() -> None:
    rows = torch.arange(4000)
    drawn = torch.stack([random_halves(1, step, rows, 0, 16) for step in (1, 2)]).double()
    count = drawn.numel()
    assert abs(drawn.mean() / 2**16 - 0.5) < 5 / np.sqrt(12 * count)
    for bit in range(16):
        share = (drawn.long() >> bit & 1).double().mean()
        assert abs(share - 0.5) < 5 * 0.5 / np.sqrt(count)
    neighbours = [
        (drawn[0], drawn[1]),
        (drawn[:, 1:], drawn[:, :-1]),
        (drawn[..., 1:], drawn[..., :-1]),
    ]
    for a, b in neighbours:
        correlation = np.corrcoef(a.flatten(), b.flatten())[0, 1]
        assert abs(correlation) < 5 / np.sqrt(a.numel())


# ---- rounding ----------------------------------------------------------------------------------


def exactly_around(values: torch.Tensor, dtype: torch.dtype) -> tuple[np.ndarray, np.ndarray]:
    """The 16-bit numbers at or below, and at or above, each value; found by sorting all of them."""
    grid = patterns(dtype).double()
    grid = grid[torch.isfinite(grid)].unique()
    at = torch.searchsorted(grid, values.double())
    above = grid[at.clamp(max=len(grid) - 1)]
    below = torch.where(above == values.double(), above, grid[(at - 1).clamp(min=0)])
    return below.numpy(), above.numpy()


@of_16_bits
def test_the_mean_over_all_random_numbers_is_the_value(dtype: torch.dtype) -> None:
    """Exactly, for each of the 2^16 random numbers comes once; and no other number comes out."""
    for value in spread(60)[14:]:
        values = value.expand(2**16).contiguous()
        if value.abs() > torch.finfo(dtype).max:
            continue
        found = round_randomly(values, NUMBERS, dtype).double().numpy()
        below, above = exactly_around(value[None], dtype)
        assert set(found) <= {below[0], above[0]}
        smallest = torch.finfo(dtype).smallest_normal
        bound = 0.0 if abs(value) >= smallest else (above[0] - below[0]) / 2**16
        assert abs(found.mean() - value.double()) <= bound


@of_16_bits
def test_what_has_16_bits_stays(dtype: torch.dtype) -> None:
    numbers = patterns(dtype)
    for random in (0, 1, 12345, 2**16 - 1):
        found = round_randomly(numbers.float(), torch.full_like(NUMBERS, random), dtype)
        number = ~torch.isnan(numbers.float())
        assert torch.equal(found.view(torch.int16)[number], numbers.view(torch.int16)[number])
        assert torch.isnan(found.float()[~number]).all()


@of_16_bits
def test_the_mean_of_draws_is_the_value_within_its_error(dtype: torch.dtype) -> None:
    values = torch.tensor([0.01234567, -0.7, 3.14159, -1e-3, 0.333, 1.0, -0.0078, 250.1])
    draws, rows = 40, torch.arange(1000)
    found = torch.stack(
        [
            round_randomly(values.repeat(1000, 1), random_halves(7, step, rows, 0, 8), dtype)
            for step in range(draws)
        ]
    ).double()
    error = found.flatten(0, 1).std(0) / np.sqrt(draws * 1000)
    assert ((found.mean((0, 1)) - values.double()).abs() <= 5 * error).all()
    assert (error[values != 1.0] > 0).all(), "1 has 16 bits, the others have not"


@of_16_bits
def test_updates_of_less_than_half_a_unit_move_weights_on_average(dtype: torch.dtype) -> None:
    """To the nearest they are lost, every one of them."""
    rows, tiny, steps = 4096, 2.0**-13, 64
    table = RowTable(torch.ones(rows, 8, dtype=dtype), key=3)
    gradient, reads = torch.ones(rows, 8), Reads(torch.arange(rows), None, None, rows)
    nearest = table.weight.clone()
    for step in range(1, steps + 1):
        update_rows([table], RowLayout([0], [8]), [reads], [gradient], RowUpdate("sgd", tiny, step))
        nearest = (nearest.float() - tiny).to(dtype)
    assert (nearest == 1).all()
    moved = 1 - table.weight.double()
    error = moved.std() / np.sqrt(moved.numel())
    assert abs(moved.mean() - steps * tiny) < 5 * error < 0.1 * steps * tiny


# ---- C and the reference -----------------------------------------------------------------------


def table_of(weight: torch.Tensor, optimizer: str, **other: object) -> RowTable:
    """A table with what the optimizer keeps, all of it at its start."""
    floats, counts = torch.zeros(weight.shape), torch.zeros(len(weight), 1).int()
    first = None if optimizer == "sgd" else floats.clone()
    if optimizer == "rowwise_adagrad":
        first = floats[:, :1].clone()
    adam = optimizer == "lazy_adam"
    state = (first, floats.clone() if adam else None, counts if adam else None)
    return RowTable(weight.clone(), *state, **other)  # type: ignore[arg-type]


@needs_c
@of_16_bits
def test_c_reads_what_float32_tables_would_give(dtype: torch.dtype) -> None:
    """Every number of 16 bits, and bags of none to three rows of several widths."""
    all_numbers = patterns(dtype).view(-1, 16)
    one_each = Reads(torch.arange(len(all_numbers)), None, None, len(all_numbers))
    found = read_rows([all_numbers], RowLayout([0], [16]), one_each)
    assert torch.equal(found.nan_to_num(), all_numbers.float().nan_to_num())
    assert torch.equal(torch.isnan(found), torch.isnan(all_numbers.float()))
    rng = torch.Generator().manual_seed(1)
    dims = [1, 3, 8, 16, 33]
    layout = RowLayout([0, 1, 2, 3, 4, 1], dims)
    tables = [torch.randn(50, d, generator=rng).to(dtype) for d in dims]
    lengths = torch.randint(0, 4, (6 * 20,), generator=rng)
    offsets = torch.cat([torch.zeros(1).long(), lengths.cumsum(0)])
    rows = torch.randint(0, 50, (int(lengths.sum()),), generator=rng)
    weights = torch.rand(len(rows), generator=rng)
    for factors in (None, weights):
        reads = Reads(rows, offsets, factors, 20)
        found = read_rows(tables, layout, reads)
        assert found.dtype == torch.float32
        wide = read_rows([t.float() for t in tables], layout, reads)
        if factors is None:
            assert torch.equal(found, wide)
        else:  # a product may be rounded before it is added, or not
            size = read_rows([t.float().abs() for t in tables], layout, reads)
            assert bool(((found - wide).abs() <= 2**-22 * size).all())
        torch.testing.assert_close(found, reference.read_rows(tables, layout, reads))


@needs_c
@of_16_bits
@pytest.mark.parametrize("dim", [1, 3, 8, 16, 33])
@pytest.mark.parametrize("first_column", [0, 5, 8])
def test_c_rounds_as_the_reference_to_the_bit(
    dtype: torch.dtype, dim: int, first_column: int
) -> None:
    """Where the update itself is exact: one read of a row, a rate that is a power of two."""
    rows = -(-600 // dim)
    values = spread(rows * dim).view(rows, dim)
    place = {"key": 2**63 + 11, "first_row": 2**31 - 700, "first_column": first_column}
    reads = Reads(torch.randperm(rows), None, None, rows)
    gradient = spread(rows * dim).flip(0).view(rows, dim).nan_to_num(1.0, 2.0, 3.0)
    for step in (1, 2**32 + 5):
        made = [table_of(values.to(dtype), "sgd", **place) for _ in range(2)]
        update = RowUpdate("sgd", 2.0**-3, step)
        update_rows(made[:1], RowLayout([0], [dim]), [reads], [gradient], update)
        reference.update_rows(made[1:], RowLayout([0], [dim]), [reads], [gradient], update)
        ours, theirs = (t.weight.view(torch.int16) for t in made)
        assert torch.equal(ours, theirs)
        assert not torch.equal(ours, values.to(dtype).view(torch.int16))


@needs_c
@of_16_bits
@pytest.mark.parametrize("l2_on", ["none", "frequency"])
@pytest.mark.parametrize("optimizer", ROW_OPTIMIZERS)
def test_every_optimizer_in_c_is_the_reference(
    dtype: torch.dtype, optimizer: str, l2_on: str
) -> None:
    """But where float32 sums differ in the last bit and the random number lies between.

    An update does so with a probability of about 2^-13 for float16, and a difference stays.
    """
    update = RowUpdate(optimizer, 0.05, 0, l2=0.1, l2_on=l2_on, decay=0.6)
    rng = torch.Generator().manual_seed(2)
    start = torch.randn(40, 12, generator=rng).to(dtype)
    made = []
    for _ in range(2):
        table = table_of(start, optimizer, key=77)
        counts = torch.zeros(40, 1).int()
        reads = counts.clone() if l2_on == "frequency" else None
        made.append(
            replace(table, reads=reads, mean=torch.zeros(40, 12).to(dtype), mean_at=counts - 1)
        )
    for step in range(1, 9):
        reads = Reads(torch.randint(0, 40, (60,), generator=rng), None, None, 60)
        gradient = torch.randn(60, 12, generator=rng)
        at = replace(update, step=step)
        update_rows(made[:1], RowLayout([0], [12]), [reads], [gradient], at)
        reference.update_rows(made[1:], RowLayout([0], [12]), [reads], [gradient], at)
    ours, theirs = made
    assert (ours.weight == theirs.weight).double().mean() > 0.97
    spacing = 2.0**-7 if dtype == torch.bfloat16 else 2.0**-10
    torch.testing.assert_close(
        ours.weight.float(), theirs.weight.float(), rtol=2 * spacing, atol=1e-4
    )
    assert ours.mean is not None and theirs.mean is not None
    torch.testing.assert_close(ours.mean.float(), theirs.mean.float(), rtol=2 * spacing, atol=1e-4)
    assert (ours.mean == theirs.mean).double().mean() > 0.95
    assert torch.equal(ours.mean_at, theirs.mean_at)  # type: ignore[arg-type]


@needs_c
@of_16_bits
def test_threads_give_the_same_bits(dtype: torch.dtype) -> None:
    rows, threads = 60_000, torch.get_num_threads()
    layout, update = RowLayout([0] * 8, [16]), RowUpdate("rowwise_adagrad", 0.1, 1)
    ids = torch.randint(0, rows, (8 * 4096,), generator=torch.Generator().manual_seed(0))
    ids[::3] = 5  # a hot row
    gradient = torch.randn(4096, 128, generator=torch.Generator().manual_seed(1))
    found = []
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            table = table_of(torch.ones(rows, 16).to(dtype), "rowwise_adagrad", key=5)
            reads = Reads(ids, None, None, 4096)
            update_rows([table], layout, [reads], [gradient], update)
            found.append((table.weight, table.first, read_rows([table.weight], layout, reads)))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))
    untouched = torch.ones(rows).bool()
    untouched[ids] = False
    assert (found[0][0][untouched] == 1).all() and (found[0][0][ids] != 1).any()


@of_16_bits
def test_parts_of_a_table_are_updated_as_the_whole(dtype: torch.dtype) -> None:
    """Cut by rows, and by columns that begin within a block of random numbers."""
    rng = torch.Generator().manual_seed(4)
    start, gradient = torch.randn(20, 20, generator=rng), torch.randn(20, 20, generator=rng)
    reads, update = Reads(torch.arange(20), None, None, 20), RowUpdate("adagrad", 0.1, 3)
    whole = table_of(start.to(dtype), "adagrad", key=1)
    update_rows([whole], RowLayout([0], [20]), [reads], [gradient], update)
    for rows, columns in ((slice(0, 7), slice(0, 20)), (slice(7, 20), slice(12, 20))):
        place = {"key": 1, "first_row": rows.start, "first_column": columns.start}
        part = table_of(start[rows, columns].to(dtype), "adagrad", **place)
        count, width = part.weight.shape
        its_reads = Reads(torch.arange(count), None, None, count)
        its_gradient = gradient[rows, columns].contiguous()
        update_rows([part], RowLayout([0], [width]), [its_reads], [its_gradient], update)
        assert torch.equal(part.weight, whole.weight[rows, columns])


# ---- the running mean --------------------------------------------------------------------------


def averaged(dtype: torch.dtype, key: int, rows: int) -> tuple[RowTable, torch.Tensor]:
    """A table after 29 steps that move the first rows alike, and the exact mean of such a row."""
    start, decay = torch.full((rows, 6), 1.0).to(dtype), 0.9
    table = replace(
        table_of(start, "sgd", key=key),
        mean=torch.full((rows, 6), 99.0).to(dtype),
        mean_at=torch.full((rows, 1), -1).int(),
    )
    expected, read = start[0].double(), torch.arange(rows - 5)
    for step in range(1, 30):
        if step % 3:  # in every third step the rows are not read
            size = (2.0**-7, -(2.0**-6))[step % 2]  # weights that 16 bits hold: no rounding
            reads = [Reads(read, None, None, len(read))]
            update = RowUpdate("sgd", 1.0, step, decay=decay)
            gradient = torch.full((len(read), 6), size)
            update_rows([table], RowLayout([0], [6]), reads, [gradient], update)
        expected.lerp_(table.weight[0].double(), mean_share(step, decay))
    return table, expected


@of_16_bits
def test_the_mean_of_every_step_is_right_on_average(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounded to the nearest, it would be another number, the same in all rows."""
    monkeypatch.setattr(reference, "SWAPPED_AT_ONCE", 300)
    rows = 4000
    table, expected = averaged(dtype, 2, rows)
    weights = table.weight.clone()
    swap_means(table, RowUpdate("sgd", 1.0, 29, decay=0.9), back=False)
    found = table.weight[: rows - 5].double()
    assert (found != found[0]).any()
    error = found.std() / (6 * rows) ** 0.5
    assert abs(float((found - expected).mean())) < 4 * float(error)
    spacing = 2.0**-7 if dtype == torch.bfloat16 else 2.0**-10
    assert (found - expected).abs().max() < 4 * spacing
    assert torch.equal(table.weight[rows - 5 :], weights[rows - 5 :])  # never read
    assert torch.equal(table.mean[: rows - 5], weights[: rows - 5])  # type: ignore[index]
    means = table.weight.clone()
    swap_means(table, RowUpdate("sgd", 1.0, 29, decay=0.9), back=True)
    assert torch.equal(table.weight, weights)
    assert torch.equal(table.mean[: rows - 5], means[: rows - 5])  # type: ignore[index]


@needs_c
@of_16_bits
@pytest.mark.parametrize("dim", [3, 16, 300])
def test_c_exchanges_means_as_the_reference_to_the_bit(dtype: torch.dtype, dim: int) -> None:
    """Where the mean before it is rounded is exact: small whole numbers, halved a few times."""
    rng = torch.Generator().manual_seed(8)
    made = []
    for _ in range(2):
        rng.manual_seed(8)
        weight = torch.randint(-90, 90, (40, dim), generator=rng).to(dtype)
        mean = torch.randint(-90, 90, (40, dim), generator=rng).to(dtype)
        at = torch.randint(19, 24, (40, 1), generator=rng).int()
        at[at == 19] = -1
        table = table_of(weight, "sgd", key=2**63 + 5, first_row=9, first_column=3)
        made.append(replace(table, mean=mean, mean_at=at))
    start = made[0].weight.clone()
    update = RowUpdate("sgd", 1.0, 23, decay=0.5)
    swap_means(made[0], update, back=False)
    reference.swap_means(made[1], update, back=False)
    assert torch.equal(made[0].weight, made[1].weight) and torch.equal(made[0].mean, made[1].mean)  # type: ignore[arg-type]
    assert (made[0].weight != made[0].weight.float().round().to(dtype)).any()
    assert not torch.equal(made[0].weight, start)


def test_a_mean_of_another_type_is_refused() -> None:
    weight = torch.zeros(2, 4, dtype=torch.float16)
    with pytest.raises(ValueError, match=r"mean is torch.float32 for a table of torch.float16"):
        replace(table_of(weight, "sgd"), mean=torch.zeros(2, 4))
