"""The machines a plan is made for: presets with their makers' figures, or a file.

Bandwidths are bytes per second in one direction and for one device, as the makers state them:
peaks, which no program reaches. The ratios decide where tables go; the times are best cases.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, fields, replace
from pathlib import Path

from seo_rec.plan.placement import PlanError

FORMAT = "seo-rec-topology"
VERSION = 3  # of 2, nothing was known of the host; of 1, exchange_ms was something else
MAX_DEVICES = 65_536
MAX_FILE_BYTES = 2**20
DEVICES = ("cpu", "cuda")


@dataclass(frozen=True)
class Topology:
    """``nodes`` machines of ``local_size`` equal devices.

    Args:
        name: for people.
        device: ``cpu`` (a rank is a process, gloo) or ``cuda`` (a rank is a GPU, NCCL).
        local_size: devices of one machine.
        nodes: machines.
        memory_bytes: of one device (``cpu``: of one process).
        lookup_bandwidth: of one device's memory when rows are read at random, bytes/s.
        stream_bandwidth: of one device's memory when tables are read in order, bytes/s.
        intra_bandwidth: from one device to the others of its machine, bytes/s.
        inter_bandwidth: from one device to other machines, bytes/s.
        exchange_ms: what a collective takes that sends next to nothing, milliseconds.
        host_memory_bytes: a device's share of its machine's main memory, in which tables may lie
            that do not fit into the device (``cuda`` only; 0: unknown, so none may).
        host_bandwidth: from that memory to the device, one direction, bytes/s.

    Raises:
        PlanError: a number is out of range; the message names the field.
    """

    name: str
    device: str
    local_size: int
    nodes: int
    memory_bytes: int
    lookup_bandwidth: float
    stream_bandwidth: float
    intra_bandwidth: float
    inter_bandwidth: float
    exchange_ms: float
    host_memory_bytes: int = 0
    host_bandwidth: float = 0.0

    def __post_init__(self) -> None:
        where = f"topology {self.name!r}"
        if self.device not in DEVICES:
            raise PlanError(f"{where}: device {self.device!r}; allowed: {', '.join(DEVICES)}")
        for field, most in (("local_size", MAX_DEVICES), ("nodes", MAX_DEVICES)):
            if not 1 <= getattr(self, field) <= most:
                raise PlanError(f"{where}: {field} {getattr(self, field)}; allowed: 1 to {most}")
        if self.world_size > MAX_DEVICES:
            raise PlanError(f"{where}: {self.world_size} devices; allowed: 1 to {MAX_DEVICES}")
        for field in ("memory_bytes", *BANDWIDTHS):
            if not 0 < getattr(self, field) < 2**60:
                raise PlanError(f"{where}: {field} {getattr(self, field)}; allowed: above 0")
        if not 0 <= self.exchange_ms < 1e6:
            raise PlanError(f"{where}: exchange_ms {self.exchange_ms}; allowed: 0 or more")
        for field in HOST:
            if not 0 <= getattr(self, field) < 2**60:
                raise PlanError(f"{where}: {field} {getattr(self, field)}; allowed: 0 or more")
        if self.host_memory_bytes and not self.host_bandwidth:
            raise PlanError(f"{where}: host_memory_bytes without host_bandwidth; give both or none")

    @property
    def world_size(self) -> int:
        return self.local_size * self.nodes

    @property
    def all_reduce(self) -> float:
        """Seconds per byte of an all-reduce in a ring; all devices of a machine use the network."""
        link = self.intra_bandwidth
        if self.nodes > 1:
            link = min(link, self.local_size * self.inter_bandwidth)
        return 2 * (self.world_size - 1) / self.world_size / link


BANDWIDTHS = ("lookup_bandwidth", "stream_bandwidth", "intra_bandwidth", "inter_bandwidth")
HOST = ("host_memory_bytes", "host_bandwidth")
_GB = 10**9
_CUDA_EXCHANGE_MS = 0.05  # a collective and its launches; an assumption, not a measurement


def _gpu(
    gigabytes: int, memory: float, link: float, network: float, host: int, bus: float
) -> Topology:
    """A GPU of so many GB; memory, link (one direction), network and bus in GB/s."""
    return Topology(
        name="",
        device="cuda",
        local_size=1,
        nodes=1,
        memory_bytes=gigabytes * _GB,
        lookup_bandwidth=memory * _GB,
        stream_bandwidth=memory * _GB,
        intra_bandwidth=link * _GB,
        inter_bandwidth=network * _GB,
        exchange_ms=_CUDA_EXCHANGE_MS,
        host_memory_bytes=host * _GB,
        host_bandwidth=bus * _GB,
    )


# Memory and NVLink (half of the stated two-way figure) from NVIDIA's data sheets of the GPUs;
# network from the DGX data sheets: one port per GPU of 100 (V100), 200 (A100) or 400 Gbit/s.
# Main memory: an eighth of a DGX of that GPU; the bus is PCIe 3.0, 4.0 or 5.0 x16, one direction.
# L4: PCIe 4.0 x16 between the GPUs of a machine, TorchRec's own figure for the network, and the
# memory of a machine with eight of them.
PRESETS = {
    "V100-32GB": _gpu(32, 900, 150, 12.5, 64, 16),
    "A100-40GB": _gpu(40, 1_555, 300, 25, 128, 32),
    "A100-80GB": _gpu(80, 2_039, 300, 25, 256, 32),
    "H100-80GB": _gpu(80, 3_350, 450, 50, 256, 64),
    "H200-141GB": _gpu(141, 4_800, 450, 50, 256, 64),
    "B200-180GB": _gpu(180, 8_000, 900, 50, 256, 64),
    "L4-24GB": _gpu(24, 300, 32, 12.5, 48, 32),
    # One process with one thread on a shared x86 server, gloo: fitted to the phases of 30 runs on
    # one and two ranks there, whose tables of 6.7 MB lie in the processor's caches
    # (docs/measured/scaling.md). A file says more about your machine.
    "cpu": Topology("", "cpu", 1, 1, 16 * _GB, 20e9, 16e9, 1e9, 1e9, 3.0),
}
_SPELLED = re.compile(r"(?:(\d{1,9})x)?([A-Za-z][\w.-]*)")


def read_topology(text: str, nodes: int = 1) -> Topology:
    """``8xH100-80GB``, ``2xcpu`` or the path of a topology file, on ``nodes`` machines.

    Raises:
        PlanError: neither a preset nor a file, a file that does not hold a topology, or a number
            of machines below 1.
    """
    if text.endswith(".json") or "/" in text:
        topology = _load(Path(text))
    else:
        found = _SPELLED.fullmatch(text)
        if found is None or found[2] not in PRESETS:
            raise PlanError(
                f"topology {text!r} is not known; allowed: NxNAME with NAME one of "
                f"{', '.join(PRESETS)}, or a .json file (docs/plan-format.md)"
            )
        topology = replace(PRESETS[found[2]], name=text, local_size=int(found[1] or 1))
    name = topology.name if nodes == 1 else f"{nodes} x {topology.name}"
    return replace(topology, nodes=nodes, name=name)


def _load(path: Path) -> Topology:
    if not path.is_file():
        raise PlanError(f"{path}: no such topology file; presets: {', '.join(PRESETS)}")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise PlanError(f"{path}: {path.stat().st_size} bytes; allowed: {MAX_FILE_BYTES}")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise PlanError(f"{path}: not valid JSON ({error})") from error
    kinds = {f.name: f.type for f in fields(Topology) if f.name != "nodes"}
    if (
        isinstance(document, dict)
        and document.get("version") == 2
        and not set(HOST) & set(document)
    ):
        document |= {"version": VERSION, **dict.fromkeys(HOST, 0)}
    allowed = {"format", "version", *kinds}
    if not isinstance(document, dict) or set(document) != allowed:
        got = sorted(document) if isinstance(document, dict) else type(document).__name__
        raise PlanError(f"{path}: got {got}; a topology has exactly the keys {sorted(allowed)}")
    if document.pop("format") != FORMAT or document.pop("version") != VERSION:
        raise PlanError(f"{path}: not a {FORMAT!r} file of version {VERSION}")
    for key, kind in kinds.items():
        accepted = {"str": (str,), "int": (int,), "float": (int, float)}[str(kind)]
        if not isinstance(document[key], accepted) or isinstance(document[key], bool):
            raise PlanError(f"{path}: {key} must be a {kind}, got {document[key]!r}")
    return Topology(nodes=1, **document)
