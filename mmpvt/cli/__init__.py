"""The command lines, a module each: ``mmpvt NAME`` and ``tools/NAME.py`` run the same.

A command's module has ``add_arguments(parser)`` and ``run(args)``, which returns the exit code. Its
first paragraph is what ``--help`` says. What it runs is imported by ``run``, as PyTorch and
MMDetection take seconds.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
import sys
from collections.abc import Collection, MutableMapping, Sequence
from types import ModuleType

from mmpvt.engine.cli import USER_ERROR
from mmpvt.utils.constants import RANKS
from mmpvt.utils.processors import affine_processors, usable_processors
from mmpvt.utils.text import flush_output, printable
from mmpvt.version import __version__

COMMANDS = (
    "train",
    "test",
    "predict",
    "export",
    "run-onnx",
    "app",
    "serve",
    "swap",
    "report",
    "reproduce",
    "check-data",
    "convert-dataset",
    "convert-checkpoint",
    "get",
    "make-shapes",
    "get-flops",
    "list",
    "env",
    "completion",
)
PIPE_CLOSED = 141  # what a shell gives for a command that SIGPIPE ended
SPINS = "10000"  # a fifth of a millisecond; GNU OpenMP's own 300,000 are six
ALIASES = {"data": "check-data", "swap-backbone": "swap"}
MODULES = {"swap": "swap_backbone", "list": "list_configs"}  # where they aren't named alike


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the ``mmpvt`` command.

    Args:
        arguments (Sequence[str] | None): of the command line. Default: this process's.

    Returns:
        int: the exit code: 2 for a mistake of the user's.
    """
    if "torch" not in sys.modules:  # which has read the variables
        share_processors(os.environ)
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given:
        return _refuse("no command is given: mmpvt --help lists them")
    if sentence := _empty_argument(given):
        return _refuse(sentence)
    if not given[0].startswith("-"):
        name = given[0].replace("_", "-")
        given[0] = ALIASES.get(name, name)
        if given[0] not in COMMANDS:
            near = difflib.get_close_matches(given[0], [*COMMANDS, *ALIASES], n=2, cutoff=0.5)
            hint = f"did you mean {' or '.join(near)}?" if near else "mmpvt --help lists them"
            return _refuse(f"there is no command {name}: {hint}")
        if given[0] == "run-onnx":
            return _module("run-onnx").run_script(given[1:])
    args = build_parser(given[:1]).parse_args(given)
    return _run(_module(vars(args).pop("command")), args)


def build_parser(commands: Collection[str] = COMMANDS) -> argparse.ArgumentParser:
    """The parser of the ``mmpvt`` command.

    Args:
        commands (Collection[str]): those whose options are in it; of the others, the names are.
            Default: all.
    """
    parser = argparse.ArgumentParser(
        prog="mmpvt",
        description="Pyramid Vision Transformers under any MMDetection or MMSegmentation model.",
        epilog="mmpvt COMMAND --help lists a command's options.",
    )
    parser.add_argument("--version", action="version", version=f"mmpvt {__version__}")
    added = parser.add_subparsers(
        dest="command", metavar="COMMAND", required=True, title="commands"
    )
    for name in COMMANDS:
        command = _module(name)
        its = added.add_parser(name, help=_summary(command), description=_summary(command))
        if name in commands:
            command.add_arguments(its)
    return parser


def run_tool(name: str) -> None:
    """Runs a command as a script in ``tools`` does, and ends the process.

    Args:
        name (str): of the command.
    """
    if "torch" not in sys.modules:  # which has read the variables
        share_processors(os.environ)
    if sentence := _empty_argument(sys.argv[1:]):
        sys.exit(_refuse(sentence))
    command = _module(name)
    parser = argparse.ArgumentParser(description=_summary(command))
    command.add_arguments(parser)
    sys.exit(_run(command, parser.parse_args()))


def share_processors(variables: MutableMapping[str, str]) -> None:
    """Has PyTorch start no more threads than a container's CPU limit allows, and its idle ones soon
    leave their cores to others (docs/performance.md).

    Args:
        variables (MutableMapping): a process's environment, before it imports PyTorch; what is set
            there stays. Processes that a launcher started share the limit, and keep their threads.
    """
    if "OMP_WAIT_POLICY" not in variables:
        variables.setdefault("GOMP_SPINCOUNT", SPINS)
    usable = usable_processors()
    if usable < affine_processors() and variables.keys().isdisjoint(RANKS.values()):
        variables.setdefault("OMP_NUM_THREADS", str(usable))


def _module(command: str) -> ModuleType:
    name = MODULES.get(command, command.replace("-", "_"))
    return importlib.import_module(f"mmpvt.cli.{name}")


def _run(command: ModuleType, args: argparse.Namespace) -> int:
    try:
        code = command.run(args) or 0
    except BrokenPipeError:
        if flush_output("\n"):  # it was another pipe
            raise
        return PIPE_CLOSED
    return code if flush_output() else PIPE_CLOSED


def _summary(command: ModuleType) -> str:
    return (command.__doc__ or "").split("\n\n")[0]


def _empty_argument(given: Sequence[str]) -> str | None:
    """What is wrong with an argument that is empty: as a path it would be the current folder, and
    as an option's value none."""
    for place, argument in enumerate(given):
        if not argument or (argument.startswith("--") and argument.endswith("=")):
            where = argument or (f"after {given[place - 1]}" if place else "the first")
            return f"an argument is empty ({where}): is a variable of the shell not set?"
    return None


def _refuse(sentence: str) -> int:
    print(printable(f"error: {sentence}"), file=sys.stderr)
    return USER_ERROR
