"""A reader of packages that is written from the pages of the formats alone; no code of the product.

It is slow and short. ``docs/package-format.md`` and ``docs/policy-format.md`` say what it does.
Letters: R rows, N dense columns, D a width.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from spec import cross_id, digest, reference_hash, reference_mix

MISSING, PRUNED = 2**62 - 1, 2**62 - 2
TYPES = {
    "F32": "<f4",
    "F16": "<f2",
    "U16": "<u2",
    "U8": "u1",
    "I64": "<i8",
    "I32": "<i4",
    "U32": "<u4",
}


def tensors_of(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file."""
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    found = {}
    for name, entry in json.loads(content[8:start]).items():
        if name != "__metadata__":
            first, end = entry["data_offsets"]
            numbers = np.frombuffer(content[start + first : start + end], TYPES[entry["dtype"]])
            found[name] = numbers.reshape(entry["shape"])
    return found


class Package:
    """The files of a folder, whose sizes and checksums fit."""

    def __init__(self, folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        assert manifest["format"] == "seo-rec-package" and manifest["version"] in (1, 2)
        assert {p.name for p in folder.iterdir()} == {"manifest.json", *manifest["files"]}
        for name, entry in manifest["files"].items():
            content = (folder / name).read_bytes()
            assert len(content) == entry["bytes"]
            assert hashlib.sha256(content).hexdigest() == entry["sha256"]
        self.model = manifest["model"]
        self.policy = json.loads((folder / "policy.json").read_text())
        self.preparation = json.loads((folder / "preparation.json").read_text())
        self.backbone = json.loads((folder / "backbone.json").read_text())
        self.stored = tensors_of(folder / "embeddings.safetensors")
        self.weights = tensors_of(folder / "backbone.safetensors")
        self.golden = tensors_of(folder / "golden.safetensors")
        pruned = folder / "preparation.safetensors"
        self.kept = tensors_of(pruned) if pruned.exists() else {}
        self.bytes = sum(x.nbytes for x in self.stored.values())
        assert self.bytes == manifest["num_bytes"]
        self._divide()

    def _divide(self) -> None:
        """Where each table begins among the rows of its kind; vocabularies and codes by name."""
        self.first, ends = {}, {}
        for table in self.policy["tables"]:
            key = f"rows.{table['dtype']}.{table['dim']}"
            self.first[table["name"]] = key, ends.get(key, 0), table
            ends[key] = ends.get(key, 0) + table["num_rows"]
        self.arrays = {a["name"]: (i, a) for i, a in enumerate(self.policy["arrays"])}
        self.vocabularies, self.codes = {}, {}
        self.bits = {f["name"]: f.get("id_bits", 64) for f in self.policy["features"]}
        ends = {"ids": 0, "digests": 0}
        for name, bits in self.bits.items():
            if (size := self.policy["vocabularies"].get(name)) is not None:
                tensor = {64: "ids", 32: "digests"}[bits]
                numbers = self.stored.get(tensor, np.empty(0))
                self.vocabularies[name] = numbers[ends[tensor] :][:size]
                ends[tensor] += size
        at = 0
        for name in sorted(self.policy["codes"]):
            self.codes[name] = self.stored["codes"][at : at + self.policy["codes"][name]]
            at += self.policy["codes"][name]

    # ---- rows ----

    def row(self, feature: str, lookup: dict[str, Any], id_: int, num_rows: int) -> int:
        """The row that an id reads."""
        address, modulus = lookup["address"], lookup.get("modulus", 0)
        if address == "hash":
            return reference_hash(id_, lookup["seed"], num_rows)
        if address == "codes" and modulus:
            return int(self.codes[lookup["codes"]][reference_hash(id_, lookup["seed"], modulus)])
        if self.bits[feature] == 32:
            id_ = digest(id_)
        known = self.vocabularies[feature].tolist()
        rank = bisect.bisect_left(known, id_)
        index = 1 + rank if known[rank : rank + 1] == [id_] else 0
        if address == "id":
            unknown = lookup["unknown_rows"]
            if index:
                return index + unknown - 1
            return reference_hash(id_, lookup["seed"], unknown)
        if address == "remainder":
            return index % modulus
        if address == "quotient":
            return index // modulus % num_rows
        return int(self.codes[lookup["codes"]][index])

    def vector(self, feature: str, lookup: dict[str, Any], id_: int) -> np.ndarray:
        """The vector that a lookup gives an id, float32 (D,)."""
        if lookup["address"] == "blocks":
            number, array = self.arrays[lookup["table"]]
            block, width = lookup["block"], lookup["width"]
            floats = self.stored[f"array.{number}"]
            floats = floats_of(floats.tobytes(), array["size"], array["dtype"])
            places = []
            for j in range(-(-width // block)):
                seed = reference_mix(lookup["seed"] ^ j) & (2**63 - 1)
                start = reference_hash(id_, seed, array["size"] - block + 1)
                places += range(start, start + block)
            return floats[places[:width]]
        key, first, table = self.first[lookup["table"]]
        row = first + self.row(feature, lookup, id_, table["num_rows"])
        return floats_of(self.stored[key][row].tobytes(), table["dim"], table["dtype"])

    def embedding(self, number: int, bags: dict[str, list[int]]) -> np.ndarray:
        """The part of a feature in the model's input for one row, float32 (D,)."""
        feature = self.policy["features"][number]
        name, columns = feature["name"], feature["columns"]
        ids = bags[columns[0]]
        if len(columns) > 1:
            ids = [cross_id(parts) for parts in itertools.product(*(bags[c] for c in columns))]
        widths = [
            k["width"] if k["address"] == "blocks" else self.first[k["table"]][2]["dim"]
            for k in feature["lookups"]
        ]
        total = np.zeros(sum(widths) if feature["combine"] == "concat" else widths[0], np.float32)
        for id_ in ids:
            vectors = [self.vector(name, k, id_) for k in feature["lookups"]]
            if feature["combine"] == "concat":
                total = total + np.concatenate(vectors)
            elif feature["combine"] == "mul":
                total = total + np.prod(vectors, axis=0)
            else:
                factors = np.ones(len(vectors), np.float32)
                if feature["combine"] == "weighted_sum":
                    factors = self.vector(name, feature["weights"], id_)
                total = total + sum(p * v for p, v in zip(factors, vectors, strict=True))
        if feature["project"] is not None:
            total = self.stored[f"project.{number}"] @ total
        return total

    # ---- scores ----

    def rows(self) -> tuple[np.ndarray, list[dict[str, list[int]]]]:
        """The golden rows: dense (R, N), and the bags of each row."""
        dense = self.golden["dense"]
        bags: list[dict[str, list[int]]] = [{} for _ in dense]
        named = [c["name"] for c in self.preparation["columns"] if c["kind"] != "numeric"]
        for i, name in enumerate(named):
            ids = iter(self.golden[f"ids.{i}"].tolist())
            for row, length in zip(bags, self.golden[f"lengths.{i}"].tolist(), strict=True):
                row[name] = list(itertools.islice(ids, length))
        return dense, bags

    def scores(self) -> np.ndarray:
        """The scores of the golden rows."""
        dense, bags = self.rows()
        numbers = range(len(self.policy["features"]))
        x = np.stack([np.concatenate([self.embedding(i, row) for i in numbers]) for row in bags])
        assert dense.shape[1] == self.backbone["num_dense"]
        assert x.shape[1] == self.backbone["width"]
        values = {**self.weights, "dense": dense, "embeddings": x}
        for step in self.backbone["steps"]:
            values[step["out"]] = result(step, [values[name] for name in step["in"]])
        logits = values[self.backbone["output"]].astype(np.float64)
        if self.model.get("task") == "regression":
            return logits
        if "labels" in self.model:
            assert logits.shape == (len(dense), len(self.model["labels"]))
        return 1 / (1 + np.exp(-logits))

    def examples(self) -> tuple[np.ndarray, list[dict[str, list[int]]]]:
        """The example cells as numbers and bags of ids."""
        columns, cells = self.preparation["columns"], self.preparation["examples"]
        count = len(next(iter(cells.values())))
        dense, bags = [], []
        for r in range(count):
            numbers, row = [], {}
            for c in columns:
                cell = cells[c["name"]][r]
                if c["kind"] == "numeric":
                    numbers.append(number_of(c, cell))
                    if c.get("indicator"):
                        numbers.append(float(cell is None))
                else:
                    row[c["name"]] = self.ids_of(c, cell)
            dense.append(numbers)
            bags.append(row)
        return np.array(dense, np.float64).reshape(count, -1).astype(np.float32), bags

    def ids_of(self, column: dict[str, Any], cell: str | None) -> list[int]:
        """The ids of a raw cell."""
        if column["kind"] == "multivalent":
            parts = [p for p in (cell or "").split(column["separator"]) if p]
            ids = [id_of(one_form(p, column["rule"])) for p in parts]
        elif not cell:
            ids = [MISSING] if column["missing"] == "token" else []
        elif column["rule"] in ("token", "value"):
            ids = [id_of(one_form(cell, column["rule"]))]
        elif column["rule"] == "quantiles":
            ids = [sum(bound <= float(cell) for bound in column["bounds"])]
        elif column["rule"] == "hour_of_day":
            ids = [int(float(cell)) % 100]
        else:
            x = int(float(cell))
            ids = [id_of(str(x if x <= 2 else math.floor(math.log(x) ** 2)))]
        if column["kept"] is not None:
            kept = set(self.kept[column["kept"]].tolist())
            ids = [i if i in kept else PRUNED for i in ids]
        return ids


def floats_of(content: bytes, size: int, dtype: str) -> np.ndarray:
    """The floats that a stored row stands for, float32 (size,)."""
    if dtype == "float32":
        return np.frombuffer(content, "<f4")
    if dtype == "float16":
        return np.frombuffer(content, "<f2").astype(np.float32)
    if dtype == "bfloat16":
        upper = np.frombuffer(content, "<u2").astype(np.uint32) << 16
        return upper.view(np.float32)
    scale, offset = np.frombuffer(content[-4:], "<f2").astype(np.float64)
    numbers = list(content[:-4])
    if dtype == "int4":
        numbers = [n for byte in numbers for n in (byte & 15, byte >> 4)][:size]
    return (offset + scale * np.array(numbers, np.float64)).astype(np.float32)


def id_of(text: str) -> int:
    """The id of a text."""
    if text.isascii() and text.isdigit() and len(text) <= 18 and str(int(text)) == text:
        return int(text)
    h = 0xCBF29CE484222325
    for byte in text.encode():
        h = (h ^ byte) * 0x100000001B3 % 2**64
    return 2**62 + h % 2**62


def one_form(text: str, rule: str) -> str:
    """What ``docs/tables.md`` says of the values of whole numbers, truths, days and times."""
    if rule != "value":
        return text
    if whole := re.fullmatch(r"(-?)(0|[1-9][0-9]*)(\.0+)?", text):
        sign, digits, _ = whole.groups()
        return digits if digits == "0" else sign + digits
    if text in ("True", "true", "TRUE", "False", "false", "FALSE"):
        return str(int(text.lower() == "true"))
    form = r"(\d{4}-\d\d-\d\d)(?:[ T](\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|\+00:00)?)?"
    if time := re.fullmatch(form, text):
        day, clock, fraction, zone = time.groups()
        fraction = (fraction or "").rstrip("0")
        if not zone and not fraction and clock in (None, "00:00:00"):
            return day
        return f"{day} {clock}{'.' if fraction else ''}{fraction}{'Z' if zone else ''}"
    return text


def number_of(column: dict[str, Any], cell: str | None) -> float:
    """The number that a raw cell of a numeric column becomes."""
    if cell is None:
        return 0.0
    x = float(cell)
    if column["rule"] == "log":
        return math.copysign(math.log1p(abs(x)), x)
    if column["rule"] == "standard":
        return (x - column["mean"]) / column["scale"]
    if column["rule"] == "shifted_log":
        return math.log(max(x + column["shift"], 1))
    return x


def result(step: dict[str, Any], x: list[np.ndarray]) -> np.ndarray:
    """The result of a step of the backbone."""
    op, axis = step["op"], step.get("axis")
    plain = {
        "matmul": np.matmul, "add": np.add, "subtract": np.subtract, "multiply": np.multiply,
        "square": np.square, "tanh": np.tanh,
    }  # fmt: skip
    if op in plain:
        return plain[op](*x)
    if op == "linear":
        y = x[0] @ x[1].T
        return y + x[2] if len(x) > 2 else y
    if op == "scale":
        return x[0] * np.float32(step["by"])
    if op == "relu":
        return np.maximum(x[0], 0)
    if op == "sigmoid":
        return 1 / (1 + np.exp(-x[0]))
    if op == "softmax":
        return softmax(x[0], axis)
    if op == "sum":
        return x[0].sum(axis)
    if op == "concatenate":
        return np.concatenate(x, axis)
    if op == "stack":
        return np.stack(x, axis)
    if op == "part":
        return np.moveaxis(
            np.moveaxis(x[0], axis, 0)[step["start"] : step["start"] + step["size"]], 0, axis
        )
    if op == "take":
        return np.take(x[0], x[1], axis)
    if op == "squeeze":
        return np.squeeze(x[0], axis)
    if op == "expand":
        return np.expand_dims(x[0], axis)
    if op == "transpose":
        return x[0].transpose(step["order"])
    if op == "reshape":
        return x[0].reshape(step["shape"])
    assert op == "attention"
    q, k, v = x
    weights = softmax(np.float32(step["scale"]) * (q @ np.swapaxes(k, -1, -2)), -1)
    return weights @ v


def softmax(x: np.ndarray, axis: int) -> np.ndarray:
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)
