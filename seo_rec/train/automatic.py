"""Settings that follow the data where nobody says otherwise: the batch, and the L2 of the tables.

The figures behind the rules are in docs/tuning.md. The command line uses them; in Python the
defaults of :class:`~seo_rec.settings.FitSettings` are numbers, which recorded figures are of.
"""

from __future__ import annotations

from seo_rec.settings import HALVES, LARGEST_DENSE, FitSettings

STEPS = 200  # of an epoch, at least
LEAST_BATCH, MOST_BATCH = 256, 2048
L2_ROWS, MOST_L2 = 500, 3e-3


def batch_for(rows: int, processes: int = 1) -> int:
    """The largest power of two that leaves an epoch 200 steps, from 256 to 2,048.

    ``2^floor(log2(rows / 200))`` within these limits. Fewer rows in a batch give a small data set
    more steps before its rows repeat, and large data sets none that they need.

    Args:
        rows: Training rows.
        processes: Of the launch, which share a batch evenly; the batch is rounded up to them.
    """
    wanted = max(1, rows // STEPS)
    batch = min(MOST_BATCH, max(LEAST_BATCH, 1 << (wanted.bit_length() - 1)))
    return -(-batch // processes) * processes


def l2_for(fit: FitSettings, rows: int, floats: int, binary: bool) -> float:
    """The L2 of tables whose every row it can act on in every step, which is what was measured.

    ``min(0.003, 500 / rows)`` for tables of up to :data:`~seo_rec.settings.LARGEST_DENSE` floats
    with the optimizers ``auto`` and ``adam``, for labels of 0 and 1; elsewhere 0. The loss is a
    mean over rows, so that this is one strength of the prior, whatever their number: the sum of
    the losses of all rows has 250 times the squared norm of the tables beside it.

    Args:
        fit: Says the optimizer, the rows that L2 acts on, and the type of the tables.
        rows: Training rows.
        floats: Of the tables.
        binary: Whether the label is 0 or 1.
    """
    usual = fit.row_optimizer in ("auto", "adam") and fit.l2_on in ("auto", "all")
    small = floats <= LARGEST_DENSE and fit.storage not in HALVES
    found = min(MOST_L2, L2_ROWS / max(1, rows))
    return float(f"{found:.2g}") if usual and small and binary else 0.0
