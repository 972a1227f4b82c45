"""Several processes, on GPUs or without."""

from __future__ import annotations

import os
import re
import secrets
import subprocess
from dataclasses import dataclass, field
from datetime import timedelta

import torch
from mmengine.config import Config
from mmengine.dist import get_rank, get_world_size, is_distributed

from mmpvt.engine.config_parts import iter_dicts
from mmpvt.errors import LaunchError
from mmpvt.utils.constants import RANKS
from mmpvt.utils.processors import usable_processors

SIZES = {"pytorch": "WORLD_SIZE", "mpi": "OMPI_COMM_WORLD_SIZE", "slurm": "SLURM_NTASKS"}
STORE_TIMEOUT = 60.0  # seconds
PORTS = (20_000, 10_000)  # the first that a SLURM job may meet at, and how many there are
LOST = re.compile(r"gloo|NCCL|Connection (closed|reset|refused)|Broken pipe|TCPStore", re.I)


def prepare_launcher(config: Config, launcher: str, trains: bool = True) -> None:
    """Sets what starts the processes; without a GPU, joins them over gloo.

    Args:
        config (Config): changed.
        launcher (str): ``'none'``, ``'pytorch'`` (torchrun), ``'slurm'`` or ``'mpi'``.
        trains (bool): whether the model is trained, not only tested. Default: True.

    Raises:
        LaunchError: this process was not started by that launcher; or the model is to be trained,
            and has SyncBN, which takes GPUs.
    """
    config.launcher = launcher
    check_launcher(launcher)
    if launcher == "none":
        return
    if launcher == "slurm":
        translate_slurm()
        config.launcher = launcher = "pytorch"
    if torch.cuda.is_available():
        return
    norms = [part for part in iter_dicts(config.get("model")) if part.get("type") == "SyncBN"]
    if norms and trains:
        raise LaunchError(
            "the model has SyncBN, which several processes can train with on GPUs only",
            hint="start one process, without a launcher, or change the config's norm_cfg",
        )
    for norm in norms:  # in a test both give the same
        norm["type"] = "BN"
    config.setdefault("env_cfg", {})
    config.env_cfg.dist_cfg = dict(backend="gloo")
    config.setdefault(
        "model_wrapper_cfg",
        dict(
            type="MMDistributedDataParallel",
            broadcast_buffers=False,
            find_unused_parameters=config.get("find_unused_parameters", False),
        ),
    )
    config.model_wrapper_cfg.device_ids = None  # what MMEngine passes otherwise is for GPUs
    if launcher == "pytorch" and not is_distributed():
        # MMEngine's own start asks for a CUDA device first.
        torch.distributed.init_process_group("gloo")


def check_launcher(launcher: str) -> None:
    """Raises a LaunchError if this process was not started by the launcher."""
    if launcher == "none":
        return
    rank, size = RANKS[launcher], SIZES[launcher]
    names = (rank, size, *(("MASTER_PORT",) if launcher == "pytorch" else ()))
    values = {name: os.environ.get(name) for name in names}
    missing = [name for name, value in values.items() if value is None]
    wrong = [f"{name}={value}" for name, value in values.items() if not (value or "").isdecimal()]
    if not wrong and int(os.environ[rank]) >= int(os.environ[size]):
        wrong = [f"{name}={os.environ[name]}" for name in (rank, size)]
    if wrong:
        reason = f"{missing[0]} is not set" if missing else ", ".join(wrong)
        raise LaunchError(
            f"{launcher}: this process was not started by it ({reason})",
            setting="launcher",
            hint="use tools/dist_train.sh or tools/slurm_train.sh, or leave it out",
        )


def translate_slurm() -> None:
    """Sets torchrun's environment variables from SLURM's: ranks, and where the processes meet.

    They meet on the job's first node, at a port of the job's own: two jobs may share a node.
    ``MASTER_ADDR`` and ``MASTER_PORT`` stay where they are set.

    Raises:
        LaunchError: srun didn't start the process, or the first node is not known.
    """
    names = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_JOB_ID")
    missing = [name for name in names if not os.environ.get(name, "").isdecimal()]
    if missing:
        raise LaunchError(
            f"slurm: {', '.join(missing)} isn't set",
            setting="launcher",
            hint="start the processes with srun, as tools/slurm_train.sh does",
        )
    rank, size, local_rank, job = (int(os.environ[name]) for name in names)
    visible = torch.cuda.device_count()  # a single one where SLURM gives each process its own
    os.environ["RANK"], os.environ["WORLD_SIZE"] = str(rank), str(size)
    os.environ["LOCAL_RANK"] = str(local_rank % visible if visible else local_rank)
    first, count = PORTS
    os.environ.setdefault("MASTER_PORT", str(first + job % count))
    if "MASTER_ADDR" in os.environ:
        return
    nodes = os.environ.get("SLURM_JOB_NODELIST") or os.environ.get("SLURM_NODELIST") or ""
    try:
        told = subprocess.run(
            ["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True
        )
        os.environ["MASTER_ADDR"] = told.stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError) as error:
        raise LaunchError(
            f"slurm: scontrol doesn't say which is the first of the nodes {nodes!r}",
            setting="launcher",
            hint="set MASTER_ADDR to its name",
        ) from error


@dataclass(frozen=True)
class Share:
    """A process' part of a run that needs no process group: no process waits for another.

    Attributes:
        index: the process, from 0.
        count: processes of the run.
        local_index: the process among those of its machine.
        threads: processors that are its own.
        job: the run's name; a restart's is the same.
        attempt: what a restart has another of.
    """

    index: int = 0
    count: int = 1
    local_index: int = 0
    threads: int = field(default_factory=usable_processors)
    job: str = ""
    attempt: str = ""

    def device(self) -> str | None:
        """This process' GPU: its own, unless there are fewer than processes; None without one."""
        visible = torch.cuda.device_count()  # a single one where SLURM gives each process its own
        return f"cuda:{self.local_index % visible}" if visible else None

    def use_threads(self) -> None:
        """Has PyTorch take this process' processors, unless ``OMP_NUM_THREADS`` says how many.

        A 1 is torchrun's, which sets it where nobody did.
        """
        asked = os.environ.get("OMP_NUM_THREADS", "")
        if self.count > 1 and (not asked or (asked == "1" and self.job.startswith("torchrun"))):
            torch.set_num_threads(self.threads)


def share_of(launcher: str) -> Share:
    """This process' share, by the environment variables of what started it.

    Args:
        launcher (str): ``'none'``, ``'pytorch'`` (torchrun) or ``'slurm'``.

    Raises:
        LaunchError: this process was not started by that launcher.
    """
    if launcher == "none":
        return Share()
    read = _slurm_share if launcher == "slurm" else _torchrun_share
    starter = "srun" if launcher == "slurm" else "torchrun"
    try:
        return read()
    except KeyError as error:
        reason = f"{error.args[0]} is not set"
    except (ValueError, RuntimeError) as error:  # not an int; the store can't be reached
        reason = str(error).splitlines()[0]
    raise LaunchError(
        f"{launcher}: this process was not started by {starter} ({reason})",
        setting="launcher",
        hint=f"start the command with {starter}, or leave the launcher out",
    )


def _slurm_share() -> Share:
    names = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")
    index, count, local_index = (int(os.environ[name]) for name in names)
    return Share(
        index,
        count,
        local_index,
        int(os.environ.get("SLURM_CPUS_PER_TASK") or 1),  # SLURM's default
        # a batch script itself, of one process, has no step
        f"slurm {os.environ['SLURM_JOB_ID']} {os.environ['SLURM_STEP_ID']}",
        os.environ.get("SLURM_RESTART_COUNT", "0"),
    )


def _torchrun_share() -> Share:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # Windows may lack it

    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "TORCHELASTIC_RESTART_COUNT")
    index, count, local_index, local_count, restarts = (int(os.environ[name]) for name in names)
    if os.environ["TORCHELASTIC_USE_AGENT_STORE"] != "True":
        raise ValueError("TORCHELASTIC_USE_AGENT_STORE is not True")
    # TORCHELASTIC_RUN_ID is "none" unless somebody names the run. The store is the agent's, which
    # outlives the processes: the first that comes names the run there, and none waits.
    store = TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=False,
        timeout=timedelta(seconds=STORE_TIMEOUT),
    )
    job = store.compare_set("mmpvt/run", "", secrets.token_hex(8)).decode()
    threads = max(1, usable_processors() // local_count)
    # the count of restarts stays where machines come and go
    return Share(index, count, local_index, threads, f"torchrun {job}", f"{restarts} of {count}")


def failure_of(error: RuntimeError) -> LaunchError | None:
    """What went wrong between the processes of a run, from PyTorch's error; None for another."""
    said = str(error)
    if not is_distributed():
        if not isinstance(error, getattr(torch.distributed, "DistError", ())):
            return None
        reason = (said or type(error).__name__).splitlines()[0].rstrip(". ")
        return LaunchError(
            f"the processes of this run didn't meet: {reason}",
            hint="start all of them, with a MASTER_ADDR that each reaches and a MASTER_PORT that "
            "no other run has",
        )
    if "Expected to have finished reduction in the prior iteration" in said:
        return LaunchError(
            "some of the model's parameters took no part in the loss, and the processes would "
            "wait for their gradients",
            instead=("cfg_options", "find_unused_parameters=True"),
        )
    if LOST.search(said):
        return LaunchError(
            f"process {get_rank()} of {get_world_size()} has lost another one, which was killed "
            "or has ended with a message of its own",
            hint="resume from the last checkpoint, on as many processes as you like",
        )
    return None


def is_first_process() -> bool:
    """Whether this is the process of rank 0, before the processes are joined."""
    return next((os.environ[name] for name in RANKS.values() if name in os.environ), "0") == "0"


def process_count(launcher: str) -> int:
    """How many processes a launcher has started, before they are joined.

    Raises:
        LaunchError: this process was not started by it.
    """
    check_launcher(launcher)
    return 1 if launcher == "none" else int(os.environ[SIZES[launcher]])
