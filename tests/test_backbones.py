"""Backbones against their written formulas, in float64 and row by row.

The references share no code with the product but the modules' weights. What holds for every
backbone alike (rows never mix, gradients, golden logits) is in ``test_model.py``.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchrec.models.dlrm import InteractionArch
from torchrec.modules.crossnet import VectorCrossNet
from torchrec.modules.deepfm import FactorizationMachine

import laws
from cases import BACKBONES as CASES
from cases import METHODS, SCHEMAS
from seo_rec.backbones import (
    BACKBONES,
    INTERACTIONS,
    AutoIntSettings,
    DCNSettings,
    DCNv2Settings,
    DLRMSettings,
    XDeepFMSettings,
    build_backbone,
    having,
    traits_of,
)
from seo_rec.backbones.dcn import VectorCross
from seo_rec.backbones.layers import FeatureVectors, Inputs, PairProducts, pair_sum
from seo_rec.backbones.xdeepfm import CIN
from seo_rec.model import ModelSettings, build_model

Row = list[float]
cases = pytest.mark.parametrize("case", CASES)
names = pytest.mark.parametrize("name", BACKBONES)
dense = pytest.mark.parametrize("num_dense", [0, 1, 3])

# ---- references: one row, Python floats ----------------------------------------------------


def dot(a: Row, b: Row) -> float:
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def affine(linear: nn.Linear, z: Row) -> Row:
    bias = [0.0] * linear.out_features if linear.bias is None else linear.bias.tolist()
    return [dot(w, z) + b for w, b in zip(linear.weight.tolist(), bias, strict=True)]


def network(layers: nn.Sequential | None, z: Row) -> Row:
    """Linear layers and what stands between them; dropout is off."""
    for layer in layers or ():
        if isinstance(layer, nn.Linear):
            z = affine(layer, z)
        elif isinstance(layer, nn.ReLU):
            z = [max(0.0, v) for v in z]
        elif isinstance(layer, nn.Tanh):
            z = [math.tanh(v) for v in z]
    return z


def vectors(module: FeatureVectors, dense: Row, x: Row) -> list[Row]:
    """Every feature's vector, projected if it is narrow, then every dense column's."""
    found = []
    width, start = max(laws.DIMS), 0
    for d, project in zip(laws.DIMS, module.projections, strict=True):
        part, start = x[start : start + d], start + d
        found.append(part if d == width else [dot(w, part) for w in project.weight.tolist()])
    rows = [] if module.dense_ND is None else module.dense_ND.tolist()
    return found + [[value * v for v in row] for value, row in zip(dense, rows, strict=True)]


def pair_dots(v: list[Row]) -> Row:
    return [dot(a, b) for a, b in combinations(v, 2)]


def pooled_pairs(v: list[Row]) -> Row:
    return [math.fsum(a * b for a, b in combinations(column, 2)) for column in zip(*v, strict=True)]


def cross_full(module: nn.Module, z: Row) -> Row:
    x = z
    for kernel, bias in zip(module.kernels, module.bias, strict=True):
        b = bias.flatten().tolist()
        x = [z[i] * (dot(row, x) + b[i]) + x[i] for i, row in enumerate(kernel.tolist())]
    return x


def cross_low_rank(module: nn.Module, z: Row) -> Row:
    x = z
    for W, V, bias in zip(module.W_kernels, module.V_kernels, module.bias, strict=True):
        small = [dot(row, x) for row in V.tolist()]
        b = bias.tolist()
        x = [z[i] * (dot(row, small) + b[i]) + x[i] for i, row in enumerate(W.tolist())]
    return x


def cross_vector(module: VectorCross, z: Row) -> Row:
    x = z
    for weight, bias in zip(module.weights, module.biases, strict=True):
        score = dot(x, weight.tolist())
        x = [z_i * score + b + x_i for z_i, b, x_i in zip(z, bias.tolist(), x, strict=True)]
    return x


def cin(module: CIN, v: list[Row]) -> Row:
    """Equations 6 and 7 of the xDeepFM paper, map by map."""
    before, found = v, []
    for weight in module.weights:
        maps = []
        for row in weight.tolist():
            total = [0.0] * len(v[0])
            for i, x in enumerate(before):
                for j, x0 in enumerate(v):
                    for d in range(len(x0)):
                        total[d] += row[i * len(v) + j] * x[d] * x0[d]
            maps.append(total)
            found.append(math.fsum(total))
        before = maps
    return found


def attention(module: nn.Module, v: list[Row]) -> list[Row]:
    """Equations 5 to 8 of the AutoInt paper, head by head."""
    _, heads, width = module.shape
    projected = [affine(module.queries_keys_values, x) for x in v]
    found = [affine(module.residual, x) for x in v]
    for h in range(heads):
        q, k, value = (
            [p[(s * heads + h) * width : (s * heads + h + 1) * width] for p in projected]
            for s in range(3)
        )
        for m, query in enumerate(q):
            scores = [math.exp(dot(query, key)) for key in k]
            for d in range(width):
                seen = dot(scores, [x[d] for x in value]) / math.fsum(scores)
                found[m][h * width + d] += seen
    return [[max(0.0, x) for x in row] for row in found]


def crossed(module: nn.Module, cross: Row, z: Row) -> float:
    """The parallel form: one linear map of the cross network's and the deep network's outputs."""
    deep = [] if module.deep is None else network(module.deep, z)
    return affine(module.last, cross + deep)[0]


def reference(name: str, m: nn.Module, dense: Row, x: Row) -> float:
    z = dense + x
    beside = getattr(m, "deep", None) if name not in ("nfm", "ipnn") else None
    deep = network(beside, z)[0] if beside else 0.0
    if name in ("mlp", "fnn"):
        return network(m.layers, z)[0]
    if name == "wide-deep":
        return affine(m.wide, x)[0] + deep
    if name == "dcn":
        return crossed(m.layers, cross_vector(m.layers.cross, z), z)
    if name == "dcn-v2":
        net = m.layers[0] if isinstance(m.layers, nn.Sequential) else m.layers.cross
        cross = cross_low_rank(net, z) if hasattr(net, "V_kernels") else cross_full(net, z)
        if isinstance(m.layers, nn.Sequential):
            return network(m.layers[1:], cross)[0]
        return crossed(m.layers, cross, z)
    v = vectors(m.vectors, [] if name == "dlrm" else dense, x)
    if name == "dlrm":
        bottom = network(m.bottom, dense) if dense else []
        return network(m.top, bottom + pair_dots([bottom, *v] if dense else v))[0]
    if name == "deepfm":
        return affine(m.first, z)[0] + sum(pair_dots(v)) + deep
    if name == "nfm":
        return affine(m.first, z)[0] + network(m.deep, pooled_pairs(v))[0]
    if name == "ipnn":
        return network(m.deep, z + pair_dots(v))[0]
    if name == "xdeepfm":
        return affine(m.first, z)[0] + affine(m.last, cin(m.cin, v))[0] + deep
    assert name == "autoint"
    for layer in m.attention:
        v = attention(layer, v)
    return affine(m.last, [number for row in v for number in row])[0] + deep


def perturbed(case: str, num_dense: int) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """The backbone of a case in float64, every weight moved: no bias is zero, no map symmetric."""
    settings = CASES[case]
    module, dense_BN, x_BE = laws.backbone(BACKBONES[settings.backbone], settings, num_dense)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in module.parameters():
            p += 0.2 * torch.rand(p.shape, generator=generator) - 0.1
    return module.double().eval(), dense_BN.double(), x_BE.double()


@dense
@cases
def test_logits_are_the_written_formula(case: str, num_dense: int) -> None:
    module, dense_BN, x_BE = perturbed(case, num_dense)
    wanted = [
        reference(CASES[case].backbone, module, dense, x)
        for dense, x in zip(dense_BN.tolist(), x_BE.tolist(), strict=True)
    ]
    assert module(dense_BN, x_BE).tolist() == pytest.approx(wanted, abs=1e-11)


# ---- blocks --------------------------------------------------------------------------------


def test_pair_sum_by_hand() -> None:
    """(1,2), (3,4), (5,6): 1*3 + 1*5 + 3*5 = 23 and 2*4 + 2*6 + 4*6 = 44."""
    v_BVD = torch.tensor([[[1.0, 2], [3, 4], [5, 6]]])
    assert pair_sum(v_BVD).tolist() == [[23, 44]]
    assert PairProducts(3)(v_BVD).tolist() == [[11, 17, 39]]


def test_pair_sum_is_torchrecs_factorization_machine_of_every_coordinate() -> None:
    """On whole vectors TorchRec's multiplies all numbers with each other, which is not an FM."""
    v_BVD = torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(0)).double()
    machine = FactorizationMachine()
    by_coordinate = machine([v_BVD.mT.reshape(15, 4)]).reshape(5, 3)
    torch.testing.assert_close(pair_sum(v_BVD), by_coordinate)
    assert not torch.allclose(pair_sum(v_BVD).sum(1), machine([v_BVD]).squeeze(1))


def test_products_are_those_of_torchrecs_dlrm() -> None:
    v_BVD = torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(0))
    theirs = InteractionArch(3)(v_BVD[:, 0], v_BVD[:, 1:])[:, 3:]
    torch.testing.assert_close(PairProducts(4)(v_BVD), theirs)


def test_vector_cross_is_torchrecs() -> None:
    theirs, ours = VectorCrossNet(7, 3), VectorCross(7, 3)
    with torch.no_grad():
        for mine, kernel in zip(ours.weights, theirs.kernels, strict=True):
            mine.copy_(kernel.squeeze(1))
        for mine, bias in zip(ours.biases, theirs.bias, strict=True):
            mine.copy_(bias.uniform_().squeeze(1))
    z_BZ = torch.randn(5, 7)
    torch.testing.assert_close(ours(z_BZ), theirs(z_BZ))


def test_cin_by_hand() -> None:
    """Two vectors of width 1, all weights 1: the first map is (a+b)^2, the second (a+b)^3."""
    module = CIN(2, (1, 1))
    for weight in module.weights:
        nn.init.ones_(weight)
    assert module(torch.tensor([[[2.0], [3.0]]])).tolist() == [[25, 125]]


def test_attention_of_equal_vectors_is_their_value() -> None:
    """Whatever the scores: a weighted mean of one value is that value."""
    module = build_backbone("autoint", 0, (4, 4, 4), (), 0.0, AutoIntSettings(1, 2, 3))
    (layer,) = module.attention
    v_D = torch.randn(4)
    value = (layer.queries_keys_values.weight @ v_D)[12:]
    wanted = torch.relu(value + layer.residual.weight @ v_D)
    torch.testing.assert_close(layer(v_D.expand(1, 3, 4)), wanted.expand(1, 3, 6))


@pytest.mark.parametrize("name", ["dlrm", "deepfm", "ipnn", "xdeepfm", "autoint", "nfm"])
def test_only_narrow_features_are_projected_and_each_projection_is_counted(name: str) -> None:
    """d x D floats for each feature of width d < D, D for each dense column but in DLRM."""
    for dims, projected in (((4, 4, 4), 0), ((3, 1, 4), 3 * 4 + 1 * 4)):
        for num_dense in (0, 2):
            own = build_backbone(name, num_dense, dims, (8,), 0.0).vectors
            columns = 0 if name == "dlrm" else num_dense * 4
            assert sum(p.numel() for p in own.parameters()) == projected + columns


# ---- what every backbone does --------------------------------------------------------------


@names
def test_other_widths_are_refused(name: str) -> None:
    module = build_backbone(name, 2, (3, 1, 4), (8,), 0.0)
    says = r"built for 2 dense columns and features of widths \(3, 1, 4\), together 8; build it"
    for dense_BN, x_BE in (
        (torch.zeros(5, 2), torch.zeros(5, 9)),
        (torch.zeros(5, 0), torch.zeros(5, 8)),
        (torch.zeros(5, 3), torch.zeros(5, 7)),
    ):
        with pytest.raises(ValueError, match=says):
            module(dense_BN, x_BE)
    for num_dense, dims in ((-1, (4,)), (0, ()), (1, (4, 0))):
        with pytest.raises(ValueError, match="allowed: 0 or more columns, one feature or more"):
            Inputs(num_dense, dims)
        with pytest.raises(ValueError):
            build_backbone(name, num_dense, dims, (8,), 0.0)


@names
def test_one_feature_alone(name: str) -> None:
    """It works, or the message says that there is nothing to interact."""
    if name in ("dlrm", "deepfm", "ipnn", "nfm"):
        with pytest.raises(ValueError, match=r"no pair to interact; .* use backbone mlp"):
            build_backbone(name, 0, (4,), (8,), 0.0)
        module, num_dense = build_backbone(name, 1, (4,), (8,), 0.0), 1
    else:
        module, num_dense = build_backbone(name, 0, (4,), (8,), 0.0), 0
    assert module(torch.ones(3, num_dense), torch.ones(3, 4)).shape == (3,)


@names
@dense
def test_an_empty_batch_has_no_logits(name: str, num_dense: int) -> None:
    module = build_backbone(name, num_dense, (3, 1, 4), (8,), 0.0)
    logits_B = module(torch.zeros(0, num_dense), torch.zeros(0, 8))
    assert logits_B.shape == (0,)
    logits_B.sum().backward()


@names
def test_dropout_is_for_training_only(name: str) -> None:
    torch.manual_seed(0)
    module = build_backbone(name, 1, (4, 4), (64,), 0.5)
    dense_BN, x_BE = torch.ones(6, 1), torch.randn(6, 8)
    assert not torch.equal(module(dense_BN, x_BE), module(dense_BN, x_BE))
    module.eval()
    assert torch.equal(module(dense_BN, x_BE), module(dense_BN, x_BE))


@names
def test_initial_weights_depend_on_seed_and_shape_only(name: str) -> None:
    """Not on the tables, their number or their sizes, nor on the global generator."""
    settings = ModelSettings(name, hidden=(8,))
    found = []
    for method, params in (("monolithic", 1000), ("separate", 4000), ("multi-size-4", 4000)):
        torch.manual_seed(params)
        policy = METHODS[method].make(SCHEMAS["three"], params, 0)
        found.append(build_model(policy, 2, settings, 0).backbone.state_dict())
    other = build_model(policy, 2, settings, 1).backbone.state_dict()
    for key, w in found[0].items():
        assert torch.equal(w, found[1][key]) and torch.equal(w, found[2][key]), key
    assert any(not torch.equal(w, other[key]) for key, w in found[0].items())


@names
def test_steps_on_one_batch_lower_the_loss(name: str) -> None:
    torch.manual_seed(0)
    module = build_backbone(name, 1, (4, 2, 4), (16,), 0.0)
    dense_BN, x_BE = torch.randn(32, 1), torch.randn(32, 10)
    labels_B = torch.rand(32).round()
    optimizer = torch.optim.Adam(module.parameters(), 0.02)
    losses = []
    for _ in range(80):
        optimizer.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(module(dense_BN, x_BE), labels_B)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.4 * losses[0]


# ---- settings ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make, says",
    [
        (lambda: DCNSettings(0), "layers 0; allowed: 1 or more"),
        (lambda: DCNv2Settings(0), "layers 0; allowed: 1 or more"),
        (lambda: DCNv2Settings(rank=-1), "rank -1; allowed: 1 or more, or 0"),
        (lambda: DCNv2Settings(structure="odd"), "structure 'odd'; allowed: stacked, parallel"),
        (lambda: DLRMSettings((8, 0)), r"bottom \(8, 0\); allowed: widths of 1 or more"),
        (lambda: XDeepFMSettings(()), r"maps \(\); allowed: one or more"),
        (lambda: AutoIntSettings(heads=0), "heads 0; allowed: 1 or more"),
        (
            lambda: build_backbone("dlrm", 0, (4, 4), (8,), 0.0, DLRMSettings((8,))),
            r"bottom \(8,\) and no dense columns",
        ),
        (
            lambda: ModelSettings("mlp", interaction=DCNSettings()),
            "of backbone mlp; allowed: None, it has no settings",
        ),
        (
            lambda: ModelSettings("dcn-v2", interaction=DCNSettings()),
            r"interaction DCNSettings\(layers=6\) of backbone dcn-v2; allowed: DCNv2Settings",
        ),
    ],
)
def test_settings_that_are_not_allowed(make: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()


@cases
def test_settings_survive_json(case: str) -> None:
    text = json.dumps(CASES[case].as_json())
    assert ModelSettings.from_json(json.loads(text)) == CASES[case]


@names
def test_defaults_are_written_out(name: str) -> None:
    """A run says with which settings it ran, also where nobody gave any."""
    wanted = INTERACTIONS[name]() if name in INTERACTIONS else None
    settings = ModelSettings(name)
    assert settings.interaction == wanted
    assert settings.as_json().get("interaction") == (None if wanted is None else asdict(wanted))
    assert replace(settings, dropout=0.5).interaction == wanted


def test_runs_from_before_other_backbones_are_the_same_runs() -> None:
    """Their ``run.json`` is read, and what is asked now is written as it was then."""
    old = {"backbone": "mlp", "hidden": [8], "dropout": 0.25, "init_scale": 0.01}
    settings = ModelSettings.from_json(old)
    assert settings == ModelSettings("mlp", (8,), 0.25, 0.01)
    assert json.loads(json.dumps(settings.as_json())) == old
    assert ModelSettings.from_json({"hidden": [8]}) == ModelSettings(hidden=(8,))


# ---- traits --------------------------------------------------------------------------------


@dense
@pytest.mark.parametrize("name", having(lambda traits: bool(traits.readers)))
def test_a_linear_map_in_front_folds_into_the_readers(name: str, num_dense: int) -> None:
    """``reader(A x) = (reader A)(x)``: the logits are those without the map, so no reader lacks."""
    torch.manual_seed(0)
    narrow, wide = (3, 1), (7,)
    folded = build_backbone(name, num_dense, narrow, (6, 5), 0.0).double().eval()
    mapped = build_backbone(name, num_dense, wide, (6, 5), 0.0).double().eval()
    A_HE, x_BE = torch.randn(7, 4).double(), torch.randn(9, 4).double()
    weights = {key: value.clone() for key, value in mapped.state_dict().items()}
    for reader in traits_of(name).readers:
        assert isinstance(mapped.get_submodule(reader), nn.Linear)
        numeric, of_x = weights[f"{reader}.weight"].tensor_split([-7], dim=1)
        weights[f"{reader}.weight"] = torch.cat([numeric, of_x @ A_HE], dim=1)
    folded.load_state_dict(weights)
    dense_BN = torch.randn(9, num_dense).double()
    torch.testing.assert_close(folded(dense_BN, x_BE), mapped(dense_BN, x_BE @ A_HE.T))


@names
def test_only_what_pairs_features_sees_where_one_ends(name: str) -> None:
    """The others cannot tell two features from one that is as wide as both."""
    x_BE = torch.randn(9, 8, generator=torch.Generator().manual_seed(0))
    found = []
    for dims in ((4, 4), (8,)):
        torch.manual_seed(0)
        backbone = build_backbone(name, 2, dims, (6,), 0.0).eval()
        found.append(backbone(torch.ones(9, 2), x_BE))
    assert torch.equal(*found) != traits_of(name).pairs_features


def test_every_backbone_has_its_page() -> None:
    page = (Path(__file__).parent.parent / "docs" / "backbones.md").read_text()
    assert [n for n in BACKBONES if f"| `{n}` |" not in page] == []
    for kind in INTERACTIONS.values():
        for field in asdict(kind()):
            assert f"`{field}`" in page, field
