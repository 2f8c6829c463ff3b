"""The plan: where every table goes and what that is expected to cost (``docs/plan-format.md``)."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

from seo_rec.files import write_json
from seo_rec.plan.placement import Placement, PlanError, Shard, check_placements
from seo_rec.plan.versions import VERSION, upgraded
from seo_rec.policy import Policy, PolicyError
from seo_rec.policy.strict_json import parse_document

FORMAT = "seo-rec-plan"
MAX_FILE_BYTES = 2**28


@dataclass(frozen=True)
class RankLoad:
    """One rank's share: tables with a piece there, bytes, rows read per sample, milliseconds.

    ``host_memory_bytes`` are in main memory (or, under ``key_value``, on SSD): tables of which the
    device holds a cache.
    """

    tables: int
    memory_bytes: int
    lookups_per_sample: float
    ms: float
    host_memory_bytes: int


@dataclass(frozen=True)
class Estimate:
    """What a placement of the tables costs.

    Args:
        ranks: one entry per rank, in order.
        imbalance: the largest ``ms`` of a rank over the mean of all.
        step_ms: the embedding part of a training step. Ranks wait for each other after every
            phase, so it is the sum over phases of the slowest rank.
        phases_ms: the slowest rank of every phase, by name, with the fixed costs of exchanges
            (which are no rank's load: ``ranks`` and ``imbalance`` leave them out).
    """

    ranks: tuple[RankLoad, ...]
    imbalance: float
    step_ms: float
    phases_ms: dict[str, float]


@dataclass(frozen=True)
class Plan:
    """Placements of a policy's tables on the ranks of a topology.

    Args:
        topology: name of the topology.
        device: ``cpu`` or ``cuda``.
        world_size: ranks.
        local_size: ranks of one machine.
        batch_size: rows of one rank's batch that the estimates assume.
        row_optimizer: optimizer of the tables that the plan is valid for.
        placements: one per table, in the policy's order.
        estimate: what they cost.
        default: the same for the plan of TorchRec's own planner, None where there is none.
        notes: what was decided and why, for people; among them why ``default`` is None.

    Raises:
        PlanError: numbers that cannot belong to one plan.
    """

    topology: str
    device: str
    world_size: int
    local_size: int
    batch_size: int
    row_optimizer: str
    placements: tuple[Placement, ...]
    estimate: Estimate
    default: Estimate | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.device not in ("cpu", "cuda"):
            raise PlanError(f"the plan is for device {self.device!r}; allowed: cpu, cuda")
        if self.local_size < 1 or self.world_size < 1 or self.world_size % self.local_size:
            raise PlanError(
                f"the plan has {self.world_size} ranks in machines of {self.local_size}; "
                "allowed: whole machines of 1 or more ranks"
            )
        for estimate in (self.estimate, self.default):
            if estimate is not None and len(estimate.ranks) != self.world_size:
                raise PlanError(
                    f"the plan estimates {len(estimate.ranks)} ranks and has {self.world_size}"
                )

    @property
    def imbalance(self) -> float:
        return self.estimate.imbalance

    @property
    def step_ms(self) -> float:
        return self.estimate.step_ms

    def check(self, policy: Policy) -> None:
        """PlanError unless the plan has every table of ``policy`` once, its shards tiling it."""
        check_placements(policy, self.placements, self.world_size)

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT, "version": VERSION, **asdict(self)}

    def save(self, path: Path | str) -> None:
        """Write the plan; equal plans give equal bytes."""
        write_json(path, self.to_json())

    @classmethod
    def load(cls, path: Path | str) -> Plan:
        """Read a plan file. PlanError says what is wrong with it and where."""
        path = Path(path)
        if not path.is_file():
            raise PlanError(f"{path}: no such plan file; `seo-rec plan` writes one")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise PlanError(f"{path}: {path.stat().st_size} bytes; allowed: {MAX_FILE_BYTES}")
        try:
            document = parse_document(path.read_bytes(), str(path))
        except PolicyError as error:
            raise PlanError(str(error)) from error
        return cls.from_json(document, where=str(path))

    @classmethod
    def from_json(cls, document: Any, where: str = "plan") -> Plan:
        """Build a plan from its JSON form; unknown keys and versions are refused."""
        document = upgraded(document, where)
        allowed = {"format", "version", *(f.name for f in fields(cls))}
        if not isinstance(document, dict) or set(document) != allowed:
            raise _keys(document, allowed, where)
        found = document["format"], document["version"]
        if found != (FORMAT, VERSION) or isinstance(found[1], bool):
            raise PlanError(
                f"{where}: format {found[0]!r} version {found[1]!r}; this release reads "
                f"{FORMAT!r} versions 1 and {VERSION}"
            )
        values = {k: v for k, v in document.items() if k not in ("format", "version")}
        try:
            return _read(cls, values, where)  # type: ignore[no-any-return]
        except PlanError as error:
            text = str(error)
            raise PlanError(text if text.startswith(where) else f"{where}: {text}") from error


def _keys(value: Any, allowed: set[str], where: str) -> PlanError:
    if not isinstance(value, dict):
        return PlanError(f"{where}: must be an object, got {type(value).__name__}")
    return PlanError(
        f"{where}: unknown keys {sorted(set(value) - allowed)}, "
        f"missing keys {sorted(allowed - set(value))}; allowed: {sorted(allowed)}"
    )


_RECORDS = (Plan, Placement, Shard, Estimate, RankLoad)


def _read(kind: Any, value: Any, where: str) -> Any:
    """``value`` as a ``kind``: one of our records, a tuple, a mapping, a number or a string."""
    if kind in _RECORDS:
        hints = get_type_hints(kind)
        if not isinstance(value, dict) or set(value) != set(hints):
            raise _keys(value, set(hints), where)
        return kind(**{k: _read(hint, value[k], f"{where}: {k}") for k, hint in hints.items()})
    arguments = get_args(kind)
    if type(None) in arguments:
        return None if value is None else _read(arguments[0], value, where)
    if arguments and arguments[-1] is Ellipsis:
        if not isinstance(value, list):
            raise PlanError(f"{where}: must be a list, got {type(value).__name__}")
        return tuple(_read(arguments[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if arguments:
        if not isinstance(value, dict):
            raise PlanError(f"{where}: must be an object, got {type(value).__name__}")
        return {k: _read(arguments[1], v, f"{where}[{k!r}]") for k, v in value.items()}
    return _plain(kind, value, where)


def _plain(kind: Any, value: Any, where: str) -> Any:
    accepted: tuple[type[Any], ...] = (int, float) if kind is float else (kind,)
    if not isinstance(value, accepted) or isinstance(value, bool):
        raise PlanError(f"{where}: must be a {kind.__name__}, got {value!r}")
    if isinstance(value, str):
        return value
    assert isinstance(value, int | float)
    if not math.isfinite(value) or not 0 <= value < 2**63:
        raise PlanError(f"{where}: {value!r}; allowed: 0 or more, below 2^63")
    return kind(value)
