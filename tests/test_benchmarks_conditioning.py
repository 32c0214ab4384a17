"""What benchmarks/conditioning.py measures, and the networks that it compares."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from augmint.diffusion import networks
from augmint.imaging.working import WorkingGrid
from augmint.methods import DatasetFacts

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])


@pytest.fixture
def bench():
    facts = DatasetFacts(
        channels=1, labels={"background": 0, "LV": 1}, annotated=("LV",),
        grid=WorkingGrid(2, (32, 32), (32, 32), longest=32),
    )  # fmt: skip
    return SimpleNamespace(preset="tiny", prepared=SimpleNamespace(facts=facts))


def gains(network, area):
    """How one SPADE block scales the inside of a square of one class."""
    from monai.networks.blocks.spade_norm import SPADE

    block = next(m for m in network.modules() if isinstance(m, SPADE))
    channels = next(p for n, p in block.mlp_shared.named_parameters() if "weight" in n).shape[1]
    given = torch.zeros(1, channels, 32, 32)
    given[:, :, 16 - area : 16 + area, 16 - area : 16 + area] = 1
    with torch.no_grad():
        return block.mlp_gamma(block.mlp_shared(given))[0, :, 16, 16]


def test_as_shipped_a_class_is_scaled_by_its_area_and_mended_it_is_not(bench):
    from conditioning import build

    shipped, mended = build("monai_spade", bench), build("spade_unzeroed", bench)
    assert not torch.allclose(gains(shipped, 4), gains(shipped, 12), atol=1e-2)
    assert torch.allclose(gains(mended, 4), gains(mended, 12), atol=1e-5)
    assert gains(mended, 4).abs().max() > 0
    assert gains(build("spade", bench), 4).abs().max() == 0


def test_spades_differ_in_nothing_else(bench):
    from conditioning import build

    before = networks.mend_spade
    found = {n: build(n, bench) for n in ("spade", "monai_spade", "spade_unzeroed")}
    assert networks.mend_spade is before
    one, *others = (n.state_dict() for n in found.values())
    for other in others:
        assert one.keys() == other.keys()
        free = [k for k in one if "mlp_gamma" not in k and "mlp_beta" not in k]
        assert all(torch.equal(one[k], other[k]) for k in free)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_texture_is_as_alike_as_its_noise(share):
    from conditioning import neighbours

    generator = torch.Generator().manual_seed(0)
    common, own = (torch.randn(64, 64, n, generator=generator) for n in (1, 6))
    image = share**0.5 * common + (1 - share) ** 0.5 * own
    found = neighbours(image, torch.ones(64, 64, 6, dtype=torch.bool))["texture"]
    assert len(found) == 5
    assert sum(found) / 5 == pytest.approx(share, abs=0.05)


def test_an_edge_of_a_class_is_no_texture_and_levels_are_steps():
    from conditioning import neighbours, residual

    inside = torch.zeros(32, 32, 3, dtype=torch.bool)
    inside[8:24, 8:24] = True
    image = torch.where(inside, torch.tensor([0.1, 0.3, 0.0]), -1.0)
    assert residual(image, inside).abs().max() < 1e-5
    found = neighbours(image, inside)
    assert found["step"] == pytest.approx([0.2, 0.3])
    assert neighbours(image, inside & (torch.arange(3) == 1))["step"] == []


def test_differences_are_paired_by_patient():
    from conditioning import difference

    def rows(*values):
        return [
            {"case": f"{p}{k}", "patient": p, "dice": {"LV": v}}
            for k, (p, v) in enumerate(values)
        ]  # fmt: skip

    mine = rows(("a", 0.9), ("a", 0.7), ("b", 0.5), ("c", 0.1))
    found = difference(mine, rows(("a", 0.9), ("b", 0.4)), "LV")
    assert found["patients"] == 2
    assert found["difference"] == pytest.approx(0.0)
    assert found["interval"] == [-0.1, 0.1]
    assert difference(mine, rows(("d", 1.0)), "LV")["difference"] is None


def test_the_base_has_more_of_the_labels():
    from conditioning import heights

    mask = torch.zeros(16, 16, 7, dtype=torch.long)
    for z in range(1, 6):
        mask[: 2 * z, :8, z] = 1
    assert heights(mask) == {"basal": 5, "mid": 3, "apical": 1}
    assert heights(mask.flip(-1)) == {"basal": 1, "mid": 3, "apical": 5}
