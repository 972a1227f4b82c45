"""Which process this is, by what launchers tell it."""

from __future__ import annotations

import pytest

from mmpvt.engine.launch import check_launcher, is_first_process, process_count
from mmpvt.errors import LaunchError
from mmpvt.utils.constants import RANKS


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """By torchrun, as one of two processes, in the second task of a SLURM job of eight."""
    for name in RANKS.values():
        monkeypatch.delenv(name, raising=False)
    told = dict(RANK=0, WORLD_SIZE=2, MASTER_PORT=29500, SLURM_PROCID=1, SLURM_NTASKS=8)
    for name, number in told.items():
        monkeypatch.setenv(name, str(number))
    return monkeypatch


def test_a_launcher_within_another(started: pytest.MonkeyPatch):
    assert is_first_process()
    assert process_count("pytorch") == 2
    assert process_count("none") == 1
    started.setenv("RANK", "1")
    started.setenv("SLURM_PROCID", "0")
    assert not is_first_process()
    started.delenv("RANK")
    assert is_first_process()
    assert process_count("slurm") == 8


@pytest.mark.parametrize(
    ("name", "value"), [("WORLD_SIZE", "0"), ("RANK", "2"), ("MASTER_PORT", "abc")]
)
def test_variables_that_no_launcher_sets(name: str, value: str, started: pytest.MonkeyPatch):
    started.setenv(name, value)
    with pytest.raises(LaunchError, match=rf"was not started by it \(.*{name}={value}"):
        check_launcher("pytorch")
    started.delenv(name)
    with pytest.raises(LaunchError, match=f"{name} is not set"):
        process_count("pytorch")
