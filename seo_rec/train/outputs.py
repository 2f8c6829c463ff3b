"""The files that a training writes into its run folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seo_rec.files import finite, write_text
from seo_rec.runs.layout import BEST_FOLDER, BOARD_FOLDER, CHECKPOINTS_FOLDER, METRICS_FILE
from seo_rec.train.checkpoint import Checkpoints
from seo_rec.train.ranks import Ranks


class RunFiles:
    """Files of a run: checkpoints, best weights, metrics.jsonl, TensorBoard events."""

    def __init__(self, out: Path, keep: int, ranks: Ranks) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.ranks = ranks
        background = ranks.world_size > 1
        self.checkpoints = Checkpoints(out / CHECKPOINTS_FOLDER, keep, ranks, background)
        # the newest checkpoint may still name the best weights before the newest
        self.best = Checkpoints(out / BEST_FOLDER, 2, ranks)
        self.events = out / METRICS_FILE
        self.board_folder = out / BOARD_FOLDER
        self._board: Any = None

    def drop_after(self, step: int) -> None:
        """Forget what was written after the checkpoint that the run resumes from."""
        self.checkpoints.drop_after(step)
        self.best.drop_after(step)
        if self.ranks.first and self.events.exists():
            lines = self.events.read_text().splitlines()
            kept = [line for line in lines if _step_of(line) <= step]
            write_text(self.events, "".join(f"{line}\n" for line in kept))

    def log(self, record: Mapping[str, Any]) -> None:
        if not self.ranks.first:
            return
        with self.events.open("a") as stream:
            stream.write(json.dumps(finite(record)) + "\n")
        if self._board is None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(self.board_folder), purge_step=record["step"])
        for key, value in record.items():
            if isinstance(value, float):
                self._board.add_scalar(f"{record['event']}/{key}", value, record["step"])
        self._board.flush()

    def close(self) -> None:
        """Wait for what is being written; a launch may train hundreds of models."""
        self.checkpoints.close()
        if self._board is not None:
            self._board.close()
            self._board = None


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, RecursionError):  # a line cut short by a kill
        return float("inf")
