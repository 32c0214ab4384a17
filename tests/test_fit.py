import pytest
import torch

from augmint.errors import AugmintError
from augmint.fit import resolve_device


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
