"""Laws of the metrics, each against a definition written out or another library."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from seo_rec.metrics import auc_gain, binary_metrics

NAMES = ("auc", "log_loss", "normalized_entropy", "calibration")


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def counted_auc(logits: np.ndarray, labels: np.ndarray) -> float:
    """The fraction of (positive, negative) pairs in order; ties count one half."""
    positive, negative = logits[labels == 1, None], logits[None, labels == 0]
    return float(((positive > negative) + 0.5 * (positive == negative)).mean())


def simulated(rows: int, noise: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits, logits spoilt by noise, and labels drawn from the first."""
    rng = np.random.default_rng(seed)
    z = rng.normal(-1, 1.5, rows)
    labels = (rng.random(rows) < 1 / (1 + np.exp(-z))).astype(np.float64)
    return z, z + rng.normal(0, noise, rows), labels


# Few distinct scores, so that ties are common.
few = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=60)


@given(few.filter(lambda rows: len({y for _, y in rows}) == 2))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_auc_counts_pairs(rows):
    z, y = (np.array(column, dtype=np.float32) for column in zip(*rows, strict=True))
    assert binary_metrics(z, y).auc == pytest.approx(counted_auc(z, y), abs=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_log_loss_is_that_of_sklearn(dtype):
    z, _, y = simulated(1000, 1.0, 0)
    z, y = z.astype(dtype), y.astype(dtype)
    p = 1 / (1 + np.exp(-z.astype(np.float64)))
    wanted = sklearn_metrics.log_loss(y, p)
    found = binary_metrics(z, y)
    assert found.log_loss == pytest.approx(wanted, abs=1e-12)
    rate = y.mean(dtype=np.float64)
    entropy = sklearn_metrics.log_loss(y, np.full(1000, rate))
    assert found.normalized_entropy == pytest.approx(wanted / entropy, abs=1e-12)
    assert found.calibration == pytest.approx(p.mean() / rate, abs=1e-12)
    assert found.num_rows == 1000


@pytest.mark.parametrize("positives", [1, 25, 99])
def test_the_base_rate_has_normalized_entropy_and_calibration_one(positives):
    labels = np.repeat([1.0, 0.0], [positives, 100 - positives])
    found = binary_metrics(np.full(100, logit(positives / 100)), labels)
    assert found.normalized_entropy == pytest.approx(1, abs=1e-12)
    assert found.calibration == pytest.approx(1, abs=1e-12)
    assert found.auc == 0.5


def test_calibration_is_one_where_scores_are_frequencies():
    """Of 100 rows scored 0.2, 20 are positive; of 50 rows scored 0.9, 45 are."""
    z = np.repeat([logit(0.2), logit(0.9)], [100, 50])
    y = np.repeat([1.0, 0.0, 1.0, 0.0], [20, 80, 45, 5])
    assert binary_metrics(z, y).calibration == pytest.approx(1, abs=1e-12)
    assert binary_metrics(z + 1, y).calibration > 1.1
    assert binary_metrics(z - 1, y).calibration < 0.9


def test_auc_does_not_see_a_monotone_change_and_the_others_do():
    z, _, y = simulated(500, 1.0, 1)
    plain, scaled = binary_metrics(z, y), binary_metrics(3 * z + 1, y)
    assert plain.auc == scaled.auc
    assert binary_metrics(-z, y).auc == pytest.approx(1 - plain.auc, abs=1e-12)
    assert scaled.log_loss > plain.log_loss
    assert scaled.calibration != plain.calibration


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_one_class_leaves_only_the_log_loss(label):
    found = binary_metrics(np.array([0.0, 0.0]), np.full(2, label))
    assert found.log_loss == pytest.approx(math.log(2))
    assert found.num_rows == 2
    undefined = (found.auc, found.normalized_entropy, found.calibration)
    assert all(math.isnan(x) for x in undefined)


def test_no_rows():
    found = binary_metrics(np.empty(0), np.empty(0))
    assert found.num_rows == 0
    assert all(math.isnan(getattr(found, name)) for name in NAMES)


@pytest.mark.filterwarnings("error")
def test_huge_logits_do_not_overflow():
    y = np.array([1.0, 0.0, 1.0, 0.0])
    right = binary_metrics(np.array([1e4, -1e4, 1e30, -1e30]), y)
    assert (right.auc, right.log_loss, right.calibration) == (1.0, 0.0, 1.0)
    wrong = binary_metrics(np.array([-1e4, 1e4, -1e4, 1e4], dtype=np.float32), y)
    assert (wrong.auc, wrong.log_loss, wrong.calibration) == (0.0, 1e4, 1.0)


def test_a_gain_over_itself_is_nothing():
    z, _, y = simulated(400, 1.0, 2)
    assert auc_gain(z, z, y) == (0.0, 0.0)
    assert auc_gain(2 * z, z, y) == (0.0, 0.0)


def test_gain_is_the_difference_and_changes_sign():
    z, worse, y = simulated(2000, 1.0, 3)
    gain, error = auc_gain(z, worse, y)
    assert gain == pytest.approx(counted_auc(z, y) - counted_auc(worse, y), abs=1e-12)
    assert gain > 2 * error > 0
    assert auc_gain(worse, z, y) == pytest.approx((-gain, error))


def test_the_gain_of_trainings_is_their_mean():
    z, worse, y = simulated(2000, 1.0, 3)
    one, other = auc_gain(z, worse, y), auc_gain(worse, z, y)
    pooled, error = auc_gain(np.stack([z, worse]), np.stack([worse, z]), y)
    assert (pooled, error) == pytest.approx((0.0, 0.0), abs=1e-12)
    assert auc_gain(np.stack([z, z]), np.stack([worse, worse]), y) == pytest.approx(one)
    zero, _ = auc_gain(np.stack([z, z]), np.stack([worse, z]), y)
    assert zero == pytest.approx(one[0] / 2) and one[0] == pytest.approx(-other[0])


def test_the_standard_error_is_that_of_the_bootstrap():
    """Within 40 %: the jackknife over 20 blocks itself varies by about a sixth."""
    z, worse, y = simulated(3000, 0.8, 4)
    _, error = auc_gain(z, worse, y)
    rng = np.random.default_rng(0)
    gains = []
    for _ in range(100):
        i = rng.integers(0, y.size, y.size)
        gains.append(
            sklearn_metrics.roc_auc_score(y[i], z[i])
            - sklearn_metrics.roc_auc_score(y[i], worse[i])
        )
    assert 0.6 < error / np.std(gains) < 1.4


def test_the_standard_error_covers_repeated_draws():
    """Over fresh draws of equal scores, the gain is mostly within two standard errors of zero."""
    inside = 0
    for seed in range(20):
        rng = np.random.default_rng([seed, 1])
        z, _, y = simulated(600, 0.0, seed)
        a, b = z + rng.normal(0, 0.5, (2, 600))
        gain, error = auc_gain(a, b, y)
        inside += abs(gain) <= 2 * error
    assert 16 <= inside <= 20


@pytest.mark.parametrize("blocks", [2, 3, 20])
def test_the_standard_error_is_that_of_the_jackknife(blocks):
    """``sqrt((b - 1) / b * sum_i (g_i - mean g)^2)``, g_i the gain without the i-th block of rows.

    Both scores lose the same rows: what they have in common cancels.
    """
    z, worse, y = simulated(400, 0.8, 5)
    gain, error = auc_gain(z, worse, y, blocks)
    gains = []
    for i in range(blocks):
        left = [row for row in range(400) if row % blocks != i]
        gains.append(counted_auc(z[left], y[left]) - counted_auc(worse[left], y[left]))
    mean = sum(gains) / blocks
    squares = sum((g - mean) ** 2 for g in gains)
    assert error == pytest.approx(math.sqrt((blocks - 1) / blocks * squares), rel=1e-9)
    assert gain == pytest.approx(counted_auc(z, y) - counted_auc(worse, y), abs=1e-12)


def test_weights_and_ties_count_in_every_block():
    z, worse, y = (x.round(1) for x in simulated(300, 0.8, 6))
    w = np.random.default_rng(6).uniform(0, 2, 300) * (np.arange(300) % 7 > 0)

    def counted(scores: np.ndarray, rows: np.ndarray) -> float:
        s, weight, positive = scores[rows], w[rows], y[rows] == 1
        higher = s[positive, None] - s[~positive]
        pairs = weight[positive, None] * weight[~positive]
        return float((((higher > 0) + 0.5 * (higher == 0)) * pairs).sum() / pairs.sum())

    gain, error = auc_gain(z, worse, y, 4, w)
    gains = [
        counted(z, rows) - counted(worse, rows)
        for rows in (np.arange(300) % 4 != block for block in range(4))
    ]
    every = np.arange(300) >= 0
    assert gain == pytest.approx(counted(z, every) - counted(worse, every), abs=1e-12)
    assert error == pytest.approx(math.sqrt(3) * np.std(gains), rel=1e-9)


@pytest.mark.filterwarnings("error")
def test_a_gain_of_too_few_labels_has_no_error() -> None:
    """With the block of the only positive left out there is no AUC; no library warns of it."""
    z, worse, y = simulated(200, 2.0, 5)
    y[:] = 0
    y[7] = 1
    gain, error = auc_gain(z, worse, y)
    assert gain == pytest.approx(counted_auc(z, y) - counted_auc(worse, y))
    assert math.isnan(error)
    y[27] = 1  # of the same one of 20 blocks
    assert math.isnan(auc_gain(z, worse, y)[1])
    y[28] = 1
    assert auc_gain(z, worse, y)[1] > 0
