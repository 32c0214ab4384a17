import dataclasses

import pytest
import torch

from augmint.data.pool import Pool
from augmint.diffusion.networks import NetworkConfig
from augmint.errors import AugmintError
from augmint.fit import drawer, resolve_device
from augmint.methods import NetworkSpec


def test_a_device_that_is_not_there_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch):
    def missing(*_: object, **__: object) -> None:
        raise NotImplementedError("Could not run it on 'MPS'. Maybe\nCPU: registered at x.cpp\nend")

    monkeypatch.setattr(torch, "zeros", missing)
    with pytest.raises(AugmintError) as caught:
        resolve_device("mps")
    assert str(caught.value) == (
        "device 'mps' cannot be used (Could not run it on 'MPS'); try --device cpu, see "
        "`augmint doctor`"
    )


def test_the_processor_is_always_there():
    assert resolve_device("cpu") == torch.device("cpu")
    with pytest.raises(AugmintError, match="'warp' cannot be used") as caught:
        resolve_device("warp")
    assert len(str(caught.value).splitlines()) == 1


def pools():
    """Four labelled samples of brightness 0 and four of brightness 1 that nobody labelled."""
    names = tuple("abcd")
    masks = torch.ones(4, 8, 8, dtype=torch.uint8)
    labelled = Pool(
        torch.zeros(4, 1, 8, 8).half(), masks, torch.zeros(4), (frozenset(),) * 4, names, names
    )
    bare = dataclasses.replace(
        labelled, images=torch.ones(4, 1, 8, 8).half(), masks=torch.full_like(masks, 255)
    )
    return labelled, bare


def told(spec):
    labelled, bare = pools()
    return drawer(spec, labelled, bare)(torch.Generator().manual_seed(0), 40)


@pytest.mark.parametrize("keeps", [False, True])
def test_a_method_is_told_which_samples_nobody_labelled(keeps: bool):
    def example(samples, generator):
        assert samples.labelled is not None
        assert torch.equal(samples.labelled, (samples.images == 0).flatten(1).all(1))
        # No mask of 255 reaches a method.
        assert torch.equal(samples.masks.flatten(1).any(1), samples.labelled)
        return samples.images, torch.ones(40, 2, 8, 8)

    config = NetworkConfig(dims=2, channels=1, condition_channels=2, size="tiny", stem=1)
    images, condition = told(NetworkSpec(config, example, keeps_unlabelled=keeps))
    assert condition is not None
    bare = (images == 1).flatten(1).all(1)
    assert 10 < int(bare.sum()) < 30
    assert (condition[~bare] == 1).all()
    # Without a word of the method, an unlabelled image is shown without any condition.
    assert (condition[bare] == int(keeps)).all()
