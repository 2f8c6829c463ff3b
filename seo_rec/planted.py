"""The made-up data of ``seo-rec demo`` and of the TorchX search, and the training that suits them.

Ten of sixteen columns are noise whose ids are as frequent as the others', and the budget has a row
for one id in fifteen: which columns share it decides how good the model is. The training is long
enough for the plain methods, too: they reach their best epoch before the last one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from seo_rec.settings import FitSettings

PLANTED_ROWS = 30_000
PLANTED_WORLD: Mapping[str, Any] = {
    "strong_vocab": 60,
    "rank": 2,
    "weak": 2,
    "weak_vocab": 20,
    "noise": 10,
    "noise_vocab": 400,
}
PLANTED_PARAMS = 4_800
PLANTED_FIT = FitSettings(epochs=12, batch_size=512, row_lr=4e-3, dense_lr=4e-3, row_l2=3e-3)
