"""What a package holds: names of its files and tensors, and where a table lies in them."""

from __future__ import annotations

from dataclasses import dataclass

from seo_rec.policy import Policy, row_bytes
from seo_rec.policy.dtypes import BITS
from seo_rec.policy.entries import FULL_BITS, SHORT_BITS

FORMAT = "seo-rec-package"
VERSION = 2

MANIFEST_FILE = "manifest.json"
POLICY_FILE = "policy.json"
PREPARATION_FILE = "preparation.json"
BACKBONE_FILE = "backbone.json"
EMBEDDINGS_FILE = "embeddings.safetensors"
BACKBONE_WEIGHTS_FILE = "backbone.safetensors"
KEPT_FILE = "preparation.safetensors"  # where a vocabulary was pruned
GOLDEN_FILE = "golden.safetensors"
ONNX_FILE = "model.onnx"
AOTI_FILE = "model.pt2"  # machine code

REQUIRED = (
    POLICY_FILE,
    PREPARATION_FILE,
    BACKBONE_FILE,
    EMBEDDINGS_FILE,
    BACKBONE_WEIGHTS_FILE,
    GOLDEN_FILE,
)
OPTIONAL = (KEPT_FILE, ONNX_FILE, AOTI_FILE)
ALL_FILES = (MANIFEST_FILE, *REQUIRED, *OPTIONAL)

IDS, DIGESTS, CODES = "ids", "digests", "codes"  # tensors of all vocabularies and of all codes
# by the bits of ids in a vocabulary: the tensor that holds them, and NumPy's name of its type
IDS_OF = {FULL_BITS: (IDS, "<i8"), SHORT_BITS: (DIGESTS, "<u4")}
EXAMPLES = 8  # rows whose raw cells are kept beside their ids
GOLDEN_TOLERANCE = 1e-5  # of a score


class PackageError(ValueError):
    """A package or a delta that cannot be used; the message says which file and why."""


@dataclass(frozen=True)
class Place:
    """Where the rows of a table are.

    Args:
        tensor: Name of the tensor, which tables of one type and width share.
        first: Number of the table's first row in it.
        rows: How many rows it has.
        dim: Floats of a row.
        dtype: How they are stored.
    """

    tensor: str
    first: int
    rows: int
    dim: int
    dtype: str


def table_places(policy: Policy) -> dict[str, Place]:
    """Where every table is, by name: tables of one type and width follow each other."""
    ends: dict[str, int] = {}
    places = {}
    for t in policy.tables:
        tensor = f"rows.{t.dtype}.{t.dim}"
        first = ends.get(tensor, 0)
        places[t.name] = Place(tensor, first, t.num_rows, t.dim, t.dtype)
        ends[tensor] = first + t.num_rows
    return places


def stored_shape(rows: int, dim: int, dtype: str) -> tuple[str, tuple[int, int]]:
    """NumPy's name of the type, and the shape, of stored rows; int8 and int4 rows are bytes."""
    if dtype in BITS:
        return "u1", (rows, row_bytes(dim, dtype))
    return {"float32": "<f4", "float16": "<f2", "bfloat16": "<u2"}[dtype], (rows, dim)


def embedding_shapes(policy: Policy) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The type and shape of every tensor of ``embeddings.safetensors``, by name."""
    found: dict[str, tuple[str, tuple[int, ...]]] = {}
    for place in table_places(policy).values():
        found[place.tensor] = stored_shape(place.first + place.rows, place.dim, place.dtype)
    for i, a in enumerate(policy.arrays):
        kind, shape = stored_shape(1, a.size, a.dtype)
        found[f"array.{i}"] = kind, shape[1:]
    for i, f in enumerate(policy.features):
        if f.project is not None:
            found[f"project.{i}"] = "<f4", (f.project, policy.combined_width(f))
    for bits, (tensor, kind) in IDS_OF.items():
        if names := vocabulary_order(policy, bits):
            found[tensor] = kind, (sum(len(policy.vocabularies[n]) for n in names),)
    if policy.codes:
        found[CODES] = "<i4", (sum(len(codes) for codes in policy.codes.values()),)
    return found


def vocabulary_order(policy: Policy, id_bits: int) -> list[str]:
    """Features whose vocabularies follow each other in a tensor: in the policy's order."""
    return [
        f.name for f in policy.features if f.name in policy.vocabularies and f.id_bits == id_bits
    ]


def version_of(policy: Policy) -> int:
    """The version of a package that holds the policy: 2 where vocabularies have digests, else 1."""
    return VERSION if any(f.id_bits != FULL_BITS for f in policy.features) else VERSION - 1


def code_order(policy: Policy) -> list[str]:
    """Names of codes that follow each other in the tensor of codes: in sorted order."""
    return sorted(policy.codes)
