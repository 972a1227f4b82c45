"""Which devices a model may be put on."""

from __future__ import annotations

import pytest
import torch

from mmpvt.errors import LaunchError
from mmpvt.inference.predictor import choose_device


@pytest.mark.parametrize("name", ["mps", "xpu", "meta"])
def test_a_device_that_is_not_here(name: str):
    here = {"mps": torch.backends.mps.is_available, "xpu": torch.xpu.is_available}
    if name in here and here[name]():
        pytest.skip("it is here")
    with pytest.raises(LaunchError, match=f"no device '{name}': this machine has none"):
        choose_device(name)


def test_no_device_of_pytorchs_is_refused(monkeypatch: pytest.MonkeyPatch):
    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *size, device: zeros(*size))
    assert choose_device("mps") == torch.device("mps")
    with pytest.raises(LaunchError, match="no device 'tpu': take cpu"):
        choose_device("tpu")
