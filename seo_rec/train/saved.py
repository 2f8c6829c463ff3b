"""A checkpoint that was read: its plain values, checked, and what its tensors are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import torch

from seo_rec.train.checkpoint_files import VALUES

R = TypeVar("R")
VALUE_TYPES: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    list[float]: "a list of numbers",
    Mapping[str, Mapping[str, float]]: "numbers by name, by the name of a label",
}


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written or read; the message names it and the way out."""


@dataclass(frozen=True)
class Saved:
    """A complete checkpoint on disk: its plain values, and what its tensors are.

    ``tensors`` holds them where the checkpoint is in memory alone; ``folder`` then says of what it
    was made.
    """

    folder: Path
    values: dict[str, Any]
    sizes: dict[str, tuple[torch.Size, torch.dtype]]
    tensors: Mapping[str, torch.Tensor] | None = None

    @classmethod
    def in_memory(
        cls, folder: Path, values: dict[str, Any], tensors: Mapping[str, torch.Tensor]
    ) -> Saved:
        """A checkpoint that nobody has written, of whole tensors."""
        return cls(folder, values, {n: (t.shape, t.dtype) for n, t in tensors.items()}, tensors)

    def record(self, kind: type[R], name: str) -> R:
        """The values ``name`` as a dataclass ``kind``, whose fields are numbers or lists of them.

        Raises:
            CheckpointError: a field is missing, unknown or of another type.
        """
        hints, values = get_type_hints(kind), self.values.get(name)
        if not isinstance(values, dict) or set(values) != set(hints):
            found = sorted(values) if isinstance(values, dict) else repr(values)
            raise self._misfit(f"{name} is {found}; allowed: {sorted(hints)}")
        for field, hint in hints.items():
            if not _is(hint, values[field]):
                raise self._misfit(
                    f"{field} of {name} is {values[field]!r:.80}; allowed: {VALUE_TYPES[hint]}"
                )
        return kind(**values)

    @contextmanager
    def fitting(self) -> Iterator[None]:
        """Within the block it is put into a run; whatever goes wrong is a CheckpointError."""
        try:
            yield
        except CheckpointError:
            raise
        except Exception as error:  # whatever its plain values say
            raise CheckpointError(
                f"{self.folder}: does not fit this run ({type(error).__name__}: {error}); "
                "remove this folder to resume from the checkpoint before it"
            ) from error

    def _misfit(self, what: str) -> CheckpointError:
        return CheckpointError(
            f"{self.folder}: {VALUES} does not fit this release ({what}); remove this folder to "
            "resume from the checkpoint before it"
        )


def _is(hint: Any, value: Any) -> bool:
    """Whether a value read from JSON is of a type of ``VALUE_TYPES``; true and false are none."""
    if hint == list[float]:
        return isinstance(value, list) and all(_is(float, v) for v in value)
    if hint == Mapping[str, Mapping[str, float]]:
        parts = value.values() if isinstance(value, dict) else [None]
        return all(isinstance(p, dict) and all(_is(float, v) for v in p.values()) for p in parts)
    return type(value) is int or (hint is float and type(value) is float)
