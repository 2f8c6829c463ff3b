"""The mistakes a user can make: the command line shows their message without a traceback."""

from __future__ import annotations

from seo_rec.policy import PolicyError
from seo_rec.runs import RunError
from seo_rec.schema import DataError
from seo_rec.train import (
    CheckpointError,
    DisagreementError,
    LaunchError,
    OtherRankError,
    Preempted,
    TooLargeError,
)

__all__ = ["USER_ERRORS", "DisagreementError", "OtherRankError", "Preempted"]

USER_ERRORS = (
    DataError,
    PolicyError,
    RunError,
    CheckpointError,
    LaunchError,
    DisagreementError,
    TooLargeError,
    OSError,
    FloatingPointError,
    ValueError,
)
