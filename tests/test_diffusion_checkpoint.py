import hashlib
import json

import pytest
import torch

from augmint.diffusion.checkpoint import load_network, save_network
from augmint.diffusion.networks import NetworkConfig, build_network
from augmint.errors import AugmintError
from augmint.weights import (
    optimizer_tensors,
    read_folder,
    restore_optimizer,
    sha256,
    write_folder,
)

TINY = NetworkConfig(2, condition_channels=2, size="tiny")


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    network = build_network(TINY)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return network


def test_a_network_returns_with_its_weights_and_config(tmp_path, network):
    digest = save_network(tmp_path / "net", network)
    again, same = load_network(tmp_path / "net")
    assert again.config == TINY
    assert digest == same == sha256(tmp_path / "net" / "network.safetensors")
    for (name, a), b in zip(network.state_dict().items(), again.state_dict().values()):
        assert torch.equal(a, b), name
    assert not again.training


def test_equal_weights_have_equal_hashes_and_others_not(tmp_path, network):
    assert save_network(tmp_path / "a", network) == save_network(tmp_path / "b", network)
    other = build_network(TINY)
    assert save_network(tmp_path / "c", other) != sha256(tmp_path / "a" / "network.safetensors")


def test_sha256_is_that_of_the_file(tmp_path):
    (tmp_path / "x").write_bytes(b"abc" * 10)
    assert sha256(tmp_path / "x") == hashlib.sha256(b"abc" * 10).hexdigest()


def test_a_checkpoint_holds_safetensors_and_json_alone(tmp_path, network):
    save_network(tmp_path / "net", network)
    assert {p.name for p in tmp_path.rglob("*") if p.is_file()} == {
        "network.safetensors",
        "config.json",
    }


@pytest.mark.parametrize(
    "damage",
    [
        lambda f: (f / "config.json").unlink(),
        lambda f: (f / "config.json").write_text("{"),
        lambda f: (f / "network.safetensors").write_bytes(b"short"),
        lambda f: (f / "config.json").write_text(json.dumps({**TINY.to_json(), "stem": 1})),
        lambda f: (f / "config.json").write_text(json.dumps({**TINY.to_json(), "size": "huge"})),
        lambda f: (f / "config.json").write_text(json.dumps({**TINY.to_json(), "colour": 1})),
    ],
)
def test_a_damaged_checkpoint_is_one_clear_error(tmp_path, network, damage):
    save_network(tmp_path / "net", network)
    damage(tmp_path / "net")
    with pytest.raises(AugmintError, match=r"(?s)checkpoint .*net.*fit again"):
        load_network(tmp_path / "net")


def test_a_kill_between_the_renames_loses_nothing(tmp_path):
    folder = tmp_path / "state"
    write_folder(folder, {"w": {"x": torch.ones(2)}}, {"step": 3})
    folder.rename(tmp_path / "state.old")
    tensors, facts = read_folder(folder, "w")
    assert facts == {"step": 3}
    assert torch.equal(tensors["w"]["x"], torch.ones(2))


def test_a_kill_while_writing_leaves_the_old_folder(tmp_path, monkeypatch):
    folder = tmp_path / "state"
    write_folder(folder, {"w": {"x": torch.ones(2)}}, {"step": 3})

    def full(*args):
        raise OSError("killed")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match="killed"):
        write_folder(folder, {"w": {"x": torch.zeros(2)}}, {"step": 4})
    monkeypatch.undo()
    tensors, facts = read_folder(folder, "w")
    assert facts == {"step": 3}
    assert float(tensors["w"]["x"].sum()) == 2
    write_folder(folder, {"w": {"x": torch.zeros(2)}}, {"step": 4})
    assert read_folder(folder, "w")[1] == {"step": 4}
    assert [p.name for p in tmp_path.iterdir()] == ["state"]


def test_an_optimizer_goes_on_as_if_never_stored():
    def fresh():
        torch.manual_seed(1)
        layer = torch.nn.Linear(3, 2)
        return layer, torch.optim.AdamW(layer.parameters(), lr=0.1)

    def step(layer, optimizer, k):
        generator = torch.Generator().manual_seed(k)
        optimizer.zero_grad()
        layer(torch.randn(4, 3, generator=generator)).square().sum().backward()
        optimizer.step()

    whole, optimizer = fresh()
    for k in range(6):
        step(whole, optimizer, k)
    parts, before = fresh()
    for k in range(3):
        step(parts, before, k)
    after = torch.optim.AdamW(parts.parameters(), lr=0.1)
    restore_optimizer(after, {k: v.clone() for k, v in optimizer_tensors(before).items()})
    for k in range(3, 6):
        step(parts, after, k)
    assert torch.equal(whole.weight, parts.weight)
