"""Several processes over gloo: what they compute together, and what happens when one is lost."""

from __future__ import annotations

import copy
import multiprocessing
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmdet.models import RetinaNet
from mmengine.dataset import pseudo_collate
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from mmengine.registry import DATASETS, MODELS, init_default_scope
from torch import distributed, nn

import mmpvt
from faulty_server import Server, cut, serving
from helpers import Started, relative
from mmpvt.checkpoint.saving import newest_checkpoint
from mmpvt.engine.config import load_config, set_data_root
from mmpvt.engine.hooks.training import NormStatisticsHook
from mmpvt.utils.download import download

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="copies of this process, which CUDA doesn't allow"
)
LOST = "has lost another one, which was killed or has ended with a message of its own"


def step(model: nn.Module, data: dict) -> dict[str, torch.Tensor]:
    """The weights after a step of plain gradient descent."""
    bare = getattr(model, "module", model)
    optimizer = torch.optim.SGD(bare.parameters(), lr=1.0)
    model.train()
    model.train_step(data, OptimWrapper(optimizer))
    return {name: parameter.detach() for name, parameter in bare.named_parameters()}


def step_in_a_group(model: nn.Module, data: list[dict], rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    model = MMDistributedDataParallel(model, device_ids=None)
    torch.save(step(model, data[rank]), folder / f"{rank}.pth")
    distributed.barrier()


def test_two_processes_take_the_mean_of_the_gradients(
    tmp_path: Path, shapes: Path, tiny_config: Path
):
    config = load_config(str(tiny_config))
    set_data_root(config, str(shapes))
    init_default_scope("mmdet")
    dataset = DATASETS.build(config.train_dataloader.dataset)
    data = [pseudo_collate([dataset[i]]) for i in (0, 1)]
    model = MODELS.build(config.model)
    start = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    alone = [step(copy.deepcopy(model), one) for one in copy.deepcopy(data)]
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=step_in_a_group, args=(model, data, rank, tmp_path))
        for rank in (0, 1)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    first, second = (mmpvt.checkpoint.load_checkpoint(tmp_path / f"{i}.pth") for i in (0, 1))
    for name, weights in start.items():
        assert torch.equal(first[name], second[name])
        mean = sum(weights - one[name] for one in alone) / 2
        if mean.norm() > 1e-6:
            assert relative(weights - first[name], mean) < 1e-3, name
    together = torch.cat([(start[name] - first[name]).flatten() for name in start])
    means = [sum(start[name] - one[name] for one in alone) / 2 for name in start]
    mean = torch.cat([one.flatten() for one in means])
    assert relative(together, mean) < 1e-5


def validate_in_a_group(rank: int, folder: Path) -> None:
    store = f"file://{folder}/store"
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    norm = nn.BatchNorm1d(3, momentum=1.0)
    norm(torch.full((2, 3), float(rank + 1)))
    NormStatisticsHook().before_val_epoch(SimpleNamespace(model=nn.Sequential(norm)))
    torch.save(norm.running_mean, folder / f"{rank}.pth")
    distributed.barrier()


def test_two_processes_validate_the_first_ones_model(tmp_path: Path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=validate_in_a_group, args=(i, tmp_path)) for i in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    assert [torch.load(tmp_path / f"{i}.pth").tolist() for i in (0, 1)] == [[1.0] * 3] * 2


@pytest.fixture
def start_pair(
    tmp_path: Path, shapes: Path, tiny_config: Path, start_tool
) -> Callable[..., list[Started]]:
    """Starts a run of two processes."""
    ranks = ("0", "1")

    def start(
        *options: object,
        config: Path = tiny_config,
        tool: str = "train.py",
        data: Path = shapes,
        variables: Sequence[dict[str, str]] = ({}, {}),
    ) -> list[Started]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        shared = dict(WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        args = ("--data-root", data, "--work-dir", tmp_path / "work", "--seed", 0)
        return [
            start_tool(
                tool,
                *(config, *options, *args, "--launcher", "pytorch"),
                **shared,
                RANK=rank,
                LOCAL_RANK=rank,
                **own,
            )
            for rank, own in zip(ranks, variables, strict=True)
        ]

    return start


@pytest.mark.parametrize("victim", [pytest.param(0, marks=pytest.mark.full), 1])
def test_one_is_killed(victim: int, tmp_path: Path, start_pair, shapes, tiny_config, call_tool):
    pair = start_pair("--cfg-options", "train_cfg.max_epochs=200", "train_cfg.val_interval=200")
    pair[0].wait_for(lambda: (tmp_path / "work" / "epoch_2.pth").exists())
    pair[victim].kill()
    survivor, began = pair[1 - victim], time.monotonic()
    assert survivor.wait(60) not in (0, None)
    assert time.monotonic() - began < 60
    last = survivor.text.rstrip().splitlines()[-1]
    assert f"error: process {1 - victim} of 2 {LOST}" in last
    assert "Traceback" not in survivor.text

    newest = newest_checkpoint(tmp_path / "work")
    epoch = mmpvt.checkpoint.load_checkpoint(newest)["meta"]["epoch"]
    more = ("--resume", "--cfg-options", f"train_cfg.max_epochs={epoch + 1}")
    pair = start_pair(*more)
    assert [process.wait() for process in pair] == [0, 0], pair[0].text
    assert newest_checkpoint(tmp_path / "work").name == f"epoch_{epoch + 1}.pth"
    alone = call_tool(
        "train.py",
        *(tiny_config, "--data-root", shapes, "--work-dir", tmp_path / "work", "--resume"),
        *("--cfg-options", f"train_cfg.max_epochs={epoch + 2}"),
    )
    assert alone.code == 0, alone.err
    assert newest_checkpoint(tmp_path / "work").name == f"epoch_{epoch + 2}.pth"


def test_both_are_stopped(tmp_path: Path, start_pair):
    """Whichever is told first, they stop after the same iteration and the run is saved."""
    pair = start_pair("--cfg-options", "train_cfg.max_epochs=200", "train_cfg.val_interval=200")
    pair[0].wait_for(lambda: "[2][2/2]" in pair[0].text)
    pair[1].signal(15)
    assert [process.wait() for process in pair] == [143, 143]
    assert f"saved in {newest_checkpoint(tmp_path / 'work')}" in pair[0].text.splitlines()[-1]


def test_a_port_of_another_run(tmp_path: Path, shapes: Path, tiny_config: Path, start_tool):
    with socket.socket() as used:
        used.bind(("", 0))
        used.listen()
        process = start_tool(
            "train.py",
            *(tiny_config, "--data-root", shapes, "--work-dir", tmp_path, "--launcher", "pytorch"),
            **dict(WORLD_SIZE="1", RANK="0", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1"),
            MASTER_PORT=str(used.getsockname()[1]),
        )
        assert process.wait(60) == 1
    last = process.text.rstrip().splitlines()[-1]
    assert last.startswith("error: the processes of this run didn't meet: ")
    assert "a MASTER_PORT that no other run has" in last and "Traceback" not in process.text


class WithUnused(RetinaNet):
    """A detector with a layer that its loss has no use for."""

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs)
        self.unused = nn.Linear(3, 3)


@pytest.fixture
def unused(tmp_path: Path, tiny_config: Path) -> Iterator[Path]:
    MODELS.register_module(module=WithUnused)
    path = tmp_path / "unused.py"
    path.write_text(f'_base_ = "{tiny_config}"\nmodel = dict(type="WithUnused")\n')
    yield path
    MODELS.module_dict.pop("WithUnused")


def test_unused_parameters(unused: Path, start_pair):
    for process in start_pair(config=unused):
        assert process.wait(60) != 0
        last = process.text.rstrip().splitlines()[-1]
        assert "find_unused_parameters=True" in last or LOST in last
    pair = start_pair("--cfg-options", "find_unused_parameters=True", config=unused)
    assert [process.wait() for process in pair] == [0, 0], pair[0].text


def test_segmenter(shapes: Path, untrained_segmenter: tuple[Path, Path], start_pair, call_tool):
    """Its SyncBN is for GPUs: without them several processes test it, and only one trains it."""
    config, checkpoint = untrained_segmenter
    pair = start_pair(checkpoint, config=config, tool="test.py")
    assert [process.wait() for process in pair] == [0, 0], pair[0].text
    alone = call_tool("test.py", config, checkpoint, "--data-root", shapes)
    score = re.compile(r"aAcc: \S+ +mIoU: \S+ +mAcc: \S+")
    assert score.search(pair[0].text)[0] == score.search(alone.out)[0]

    for process in start_pair(config=config):
        assert process.wait() == 2, process.text
        last = process.text.rstrip().splitlines()[-1]
        assert last.startswith("error: the model has SyncBN")
        assert "Traceback" not in process.text


@pytest.fixture
def weights(tmp_path: Path, tiny_config: Path) -> Iterator[Server]:
    """A server of a backbone's weights."""
    init_default_scope("mmdet")
    backbone = MODELS.build(load_config(str(tiny_config)).model.backbone)
    torch.save(backbone.state_dict(), tmp_path / "b0.pth")
    with serving({"/b0.pth": (tmp_path / "b0.pth").read_bytes()}) as server:
        yield server


@pytest.mark.parametrize("shared", [False, True], ids=["a folder each", "a shared folder"])
def test_weights_are_downloaded_on_each_machine(
    shared: bool, tmp_path: Path, weights: Server, start_pair
):
    homes = [tmp_path / ("home" if shared else f"home{rank}") for rank in (0, 1)]
    pair = start_pair(
        *("--pretrained", f"{weights.url}/b0.pth", "--cfg-options", "train_cfg.max_epochs=1"),
        variables=[dict(TORCH_HOME=str(home)) for home in homes],
    )
    assert [process.wait(120) for process in pair] == [0, 0], pair[1].text
    assert len(weights.asked) == (1 if shared else 2)
    for home in homes:
        folder = home / "hub" / "checkpoints"
        assert [file.name for file in folder.iterdir()] == ["b0.pth"]
        assert (folder / "b0.pth").read_bytes() == weights.files["/b0.pth"]


@pytest.mark.parametrize("failing", [0, 1])
def test_a_failed_download_ends_all(failing: int, tmp_path: Path, weights: Server, start_pair):
    """One machine has the file, the other can't get it."""
    weights.always = cut
    homes = [tmp_path / f"home{rank}" for rank in (0, 1)]
    cached = homes[1 - failing] / "hub" / "checkpoints" / "b0.pth"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(weights.files["/b0.pth"])
    began = time.monotonic()
    pair = start_pair(
        *("--pretrained", f"{weights.url}/b0.pth"),
        variables=[dict(TORCH_HOME=str(home)) for home in homes],
    )
    assert [process.wait(60) for process in pair] == [2, 2], pair[0].text
    assert time.monotonic() - began < 60
    for process in pair:
        last = process.text.rstrip().splitlines()[-1]
        assert last.startswith(f"error: could not download {weights.url}/b0.pth (connection failed")
        assert "Traceback" not in process.text


def test_machines_download_to_one_file_at_once(weights: Server, tmp_path: Path):
    """Each writes a file of its own until it is complete."""
    weights.rate = 2 * len(weights.files["/b0.pth"])
    target = tmp_path / "to" / "b0.pth"
    context = multiprocessing.get_context("fork")
    arguments = (f"{weights.url}/b0.pth", target)
    processes = [
        context.Process(target=download, args=arguments, kwargs=dict(shared=True)) for _ in range(3)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert target.read_bytes() == weights.files["/b0.pth"]
    assert list(target.parent.iterdir()) == [target]


def test_label_maps_of_one_name(
    shapes: Path, untrained_segmenter: tuple[Path, Path], tmp_path: Path, start_pair, call_tool
):
    """Each process has images called as the other's are; the files are those of one alone."""
    data = shutil.copytree(shapes, tmp_path / "data")
    for folder in (data / "images" / "validation", data / "annotations" / "validation"):
        for number, path in enumerate(sorted(folder.iterdir())):
            (folder / str(number)).mkdir()
            path.rename(folder / str(number) / f"x{path.suffix}")
    config, checkpoint = untrained_segmenter
    alone, both = tmp_path / "alone", tmp_path / "both"
    args = ("--data-root", data, "--work-dir", tmp_path / "work", "--out", alone)
    assert call_tool("test.py", config, checkpoint, *args).code == 0
    pair = start_pair(checkpoint, "--out", both, config=config, tool="test.py", data=data)
    assert [process.wait() for process in pair] == [0, 0], pair[0].text
    assert not any("no label map of" in process.text for process in pair)
    found = [{path.name: path.read_bytes() for path in out.glob("*.png")} for out in (alone, both)]
    assert found[0] == found[1] and set(found[0]) == {"x.png", "x_2.png", "x_3.png", "x_4.png"}
