"""Laws of backbones and of the whole model.

``python tests/test_model.py --write`` regenerates ``tests/golden/backbones.json``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

import laws
from cases import BACKBONES as CASES
from cases import BAGS, BUILDABLE, METHODS, SCHEMAS, batch
from seo_rec.backbone_settings import BACKBONE_NAMES
from seo_rec.backbones import BACKBONES, traits_of
from seo_rec.batch import Batch
from seo_rec.data.dataset import DataSet
from seo_rec.data.stream import Stream
from seo_rec.methods import multi_size
from seo_rec.model import ModelSettings, RecModel, build_model
from seo_rec.settings import ROW_OPTIMIZER_NAMES
from seo_rec.train import ROW_OPTIMIZERS, evaluate

GOLDEN = Path(__file__).parent / "golden" / "backbones.json"
cases = pytest.mark.parametrize("case", CASES)
dense = pytest.mark.parametrize("num_dense", [0, 1, 3])


def logits(case: str, num_dense: int) -> list[float]:
    """Logits of the backbone in evaluation mode, from fixed weights and inputs."""
    settings = CASES[case]
    module, dense_BN, x_BE = laws.backbone(BACKBONES[settings.backbone], settings, num_dense)
    return [float(z) for z in module.eval()(dense_BN, x_BE).detach()]


@dense
@cases
def test_rows_never_mix(case, num_dense):
    laws.rows_never_mix(BACKBONES[CASES[case].backbone], CASES[case], num_dense)


@dense
@cases
def test_every_parameter_gets_gradient(case, num_dense):
    laws.every_parameter_gets_gradient(BACKBONES[CASES[case].backbone], CASES[case], num_dense)


@dense
@cases
def test_golden_logits(case, num_dense):
    golden = json.loads(GOLDEN.read_text())[f"{case}-{num_dense}"]
    assert logits(case, num_dense) == pytest.approx(golden, abs=1e-6)


@dense
@cases
def test_the_readers_alone_read_the_embeddings(case, num_dense):
    """With their columns at zero no embedding moves a logit; every trait is one of its kinds."""
    traits = traits_of(CASES[case].backbone)
    assert traits.columns_removable in ("exactly", "initially", "no")
    module, dense_BN, x_BE = laws.backbone(BACKBONES[CASES[case].backbone], CASES[case], num_dense)
    readers = [module.eval().get_submodule(name) for name in traits.readers]
    if not readers:
        return
    none = torch.zeros_like(x_BE)
    assert not torch.allclose(module(dense_BN, x_BE), module(dense_BN, none))
    with torch.no_grad():
        for layer in readers:
            assert isinstance(layer, torch.nn.Linear)
            layer.weight[:, -x_BE.shape[1] :] = 0.0  # after the dense columns
    assert torch.equal(module(dense_BN, x_BE), module(dense_BN, none))


def test_every_backbone_has_a_case():
    assert {s.backbone for s in CASES.values()} == set(BACKBONES)


def test_mlp_is_the_written_formula():
    """``W3 relu(W2 relu(W1 [dense, x] + b1) + b2) + b3``, in float64."""
    module, dense_BN, x_BE = laws.backbone(BACKBONES["mlp"], CASES["mlp"], 3)
    x = torch.cat([dense_BN, x_BE], 1).double()
    linear = [m.double() for m in module.layers if isinstance(m, torch.nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linear] == [(11, 16), (16, 8), (8, 1)]
    for m in linear[:-1]:
        x = (x @ m.weight.T + m.bias).clamp(min=0)
    wanted = (x @ linear[-1].weight.T + linear[-1].bias).squeeze(1)
    torch.testing.assert_close(module.float()(dense_BN, x_BE).double(), wanted, rtol=0, atol=1e-6)


def test_dropout_only_in_training():
    module, dense_BN, x_BE = laws.backbone(BACKBONES["mlp"], CASES["mlp-dropout"], 1)
    torch.manual_seed(0)
    assert not torch.equal(module(dense_BN, x_BE), module(dense_BN, x_BE))
    module.eval()
    assert torch.equal(module(dense_BN, x_BE), module(dense_BN, x_BE))


# ---- the whole model -----------------------------------------------------------------------

SETTINGS = ModelSettings(hidden=(8,))


def state(policy: str = "mixed-dims", seed: int = 0, num_dense: int = 2) -> dict[str, torch.Tensor]:
    return build_model(BUILDABLE[policy], num_dense, SETTINGS, seed).state_dict()


@pytest.mark.parametrize("policy", BUILDABLE)
def test_same_seed_same_weights(policy):
    torch.manual_seed(99)
    first = state(policy)
    torch.manual_seed(5)
    again, other = state(policy), state(policy, seed=1)
    assert first.keys() == again.keys()
    for name, w in first.items():
        assert torch.equal(w, again[name]), name
        assert not torch.equal(w, other[name]), name


def test_building_does_not_touch_the_global_generator():
    torch.manual_seed(7)
    wanted = torch.rand(3)
    torch.manual_seed(7)
    state()
    assert torch.equal(torch.rand(3), wanted)


def test_methods_of_equal_width_start_from_one_backbone():
    """Whatever their tables: a comparison at one seed compares the tables."""
    backbones = []
    for method in ("separate", "monolithic", "multi-size-2", "multi-size-4", "collisionless"):
        for params in (1000, 4000):
            policy = METHODS[method].make(SCHEMAS["three"], params, 0)
            model = build_model(policy, 2, SETTINGS, 0)
            backbones.append(torch.cat([p.flatten() for p in model.backbone.parameters()]))
    assert all(torch.equal(b, backbones[0]) for b in backbones)


@pytest.mark.parametrize("num_dense", [0, 2])
@pytest.mark.parametrize("bags", BAGS)
def test_loss_is_the_mean_cross_entropy(bags, num_dense):
    model = build_model(BUILDABLE["mixed-dims"], num_dense, SETTINGS, 0)
    dense_BN = torch.linspace(-1, 1, 9)[:, None].expand(9, num_dense)
    labels_B = torch.tensor([0.0, 1, 1, 0, 0, 0, 1, 0, 1])
    loss, logits_B = model(Batch(dense_BN, batch(("user", "item"), BAGS[bags]), labels_B))
    assert logits_B.shape == (9,)
    p = torch.sigmoid(logits_B.detach().double())
    wanted = -torch.where(labels_B == 1, p.log(), (1 - p).log()).mean()
    assert float(loss.detach()) == pytest.approx(float(wanted), abs=1e-6)
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_steps_on_one_batch_lower_the_loss():
    model: RecModel = build_model(BUILDABLE["seo-exact"], 0, SETTINGS, 0)
    names = tuple(f.name for f in model.embedding.policy.features)
    labels_B = torch.tensor([0.0, 1, 1, 0, 0, 0, 1, 0, 1])
    rows = Batch(torch.empty(9, 0), batch(names, BAGS["bags"]), labels_B)
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss, _ = model(rows)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"backbone": "none"}, "backbone 'none'; allowed: .*mlp"),
        ({"dropout": 1.0}, "dropout 1.0; allowed: 0 <= dropout < 1"),
        ({"dropout": -0.1}, "dropout"),
        ({"hidden": (8, 0)}, r"hidden \(8, 0\); allowed: widths of 1 or more"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ModelSettings(**settings)


def test_training_goes_on_after_an_evaluation_of_the_same_batch_size(tiny_data: DataSet):
    """Tensors that the embedding keeps from an evaluation must be usable for gradients."""
    policy = multi_size(tiny_data.schema, 640, 16)
    model = build_model(policy, tiny_data.num_numeric, ModelSettings(), 0)
    val = Stream(tiny_data, "val", batch_size=50)
    evaluate(model, val)
    loss, _ = model(next(iter(val)))
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_the_names_of_settings_are_what_can_be_built() -> None:
    """The names are listed where no torch is imported; what they name is elsewhere."""
    assert tuple(BACKBONES) == BACKBONE_NAMES
    assert ("auto", *ROW_OPTIMIZERS) == ROW_OPTIMIZER_NAMES


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit("usage: python tests/test_model.py --write")
    golden = {f"{case}-{n}": logits(case, n) for case in CASES for n in (0, 1, 3)}
    GOLDEN.write_text(json.dumps(golden, indent=1, sort_keys=True) + "\n")
    print(f"wrote {GOLDEN.name}")
