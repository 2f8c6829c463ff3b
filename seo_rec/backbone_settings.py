"""The names of the backbones, and the settings that some have beside hidden layers and dropout.

Needs no torch. ``INTERACTIONS`` says which backbone has which settings.
"""

from __future__ import annotations

from dataclasses import dataclass

STRUCTURES = ("stacked", "parallel")  # of DCN-v2
BACKBONE_NAMES = (
    "mlp",
    "dcn-v2",
    "dcn",
    "dlrm",
    "wide-deep",
    "deepfm",
    "fnn",
    "ipnn",
    "xdeepfm",
    "autoint",
    "nfm",
)


@dataclass(frozen=True)
class DCNv2Settings:
    """Settings of DCN-v2. Unified Embedding uses 1 or 2 cross layers.

    Args:
        layers: Number of cross layers.
        rank: Rank of the matrix of a cross layer; 0 takes a full matrix.
        structure: The deep network reads the cross network (stacked) or stands beside it
            (parallel).
    """

    layers: int = 2
    rank: int = 0
    structure: str = "stacked"

    def __post_init__(self) -> None:
        if self.layers < 1:
            raise ValueError(f"layers {self.layers}; allowed: 1 or more")
        if self.rank < 0:
            raise ValueError(f"rank {self.rank}; allowed: 1 or more, or 0 for full rank")
        if self.structure not in STRUCTURES:
            raise ValueError(f"structure {self.structure!r}; allowed: {', '.join(STRUCTURES)}")


@dataclass(frozen=True)
class DCNSettings:
    """Settings of DCN; the paper and OptEmbed use 6 layers on Criteo.

    Args:
        layers: Number of cross layers.
    """

    layers: int = 6

    def __post_init__(self) -> None:
        if self.layers < 1:
            raise ValueError(f"layers {self.layers}; allowed: 1 or more")


@dataclass(frozen=True)
class DLRMSettings:
    """Settings of DLRM; the default is the paper's on Criteo.

    MLET's are (512, 256, 128) there and (256, 128) on Avazu.

    Args:
        bottom: Hidden widths of the network of the dense columns, before its last layer.
    """

    bottom: tuple[int, ...] = (512, 256, 64)

    def __post_init__(self) -> None:
        if any(units < 1 for units in self.bottom):
            raise ValueError(f"bottom {self.bottom}; allowed: widths of 1 or more")


@dataclass(frozen=True)
class XDeepFMSettings:
    """Settings of xDeepFM.

    Args:
        maps: Feature maps of each layer of the compressed interaction network (CIN).
    """

    maps: tuple[int, ...] = (100, 100)

    def __post_init__(self) -> None:
        if not self.maps or any(h < 1 for h in self.maps):
            raise ValueError(f"maps {self.maps}; allowed: one or more, of 1 or more")


@dataclass(frozen=True)
class AutoIntSettings:
    """Settings of AutoInt; the defaults are the paper's.

    Args:
        layers: Number of attention layers.
        heads: Number of heads of each layer.
        width: Width of a head.
    """

    layers: int = 3
    heads: int = 2
    width: int = 32

    def __post_init__(self) -> None:
        for name in ("layers", "heads", "width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}; allowed: 1 or more")


Interaction = AutoIntSettings | DCNSettings | DCNv2Settings | DLRMSettings | XDeepFMSettings
INTERACTIONS: dict[str, type[Interaction]] = {
    "dcn-v2": DCNv2Settings,
    "dcn": DCNSettings,
    "dlrm": DLRMSettings,
    "xdeepfm": XDeepFMSettings,
    "autoint": AutoIntSettings,
}
