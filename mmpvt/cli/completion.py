"""Prints a script that completes mmpvt's commands, options and configs in a shell.

mmpvt completion bash > ~/.local/share/bash-completion/completions/mmpvt

The script is shtab's, which makes it of the argparse parsers: unlike argcomplete's, it starts no
Python at a press of the tab key.
"""

from __future__ import annotations

import argparse

from mmpvt.engine.cli import user_errors
from mmpvt.engine.zoo import read_zoo
from mmpvt.errors import UserError

BASH = '_mmpvt_configs() { compgen -W "%s" -- "$1"; compgen -f -- "$1"; }'
ZSH = "_mmpvt_configs() { _alternative 'configs:config:(%s)' 'files:file:_files' }"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh"))


def run(args: argparse.Namespace) -> None:
    with user_errors():
        try:
            import shtab
        except ModuleNotFoundError as error:
            raise UserError("completion needs shtab: pip install 'mmpvt[completion]'") from error
        from mmpvt.cli import build_parser

        names = " ".join(entry.name for entry in read_zoo())
        configs = dict(
            **dict.fromkeys(("bash", "zsh"), "_mmpvt_configs"),
            preamble=dict(bash=BASH % names, zsh=ZSH % names),
        )
        parser = build_parser()
        (choices,) = (a.choices for a in parser._actions if isinstance(a.choices, dict))
        for command in choices.values():
            for action in command._actions:
                if action.dest in ("config", "base"):
                    action.complete = configs  # where shtab looks
                elif action.nargs != 0 and not action.choices and action.type is not int:
                    action.complete = shtab.FILE
        print(shtab.complete(parser, shell=args.shell))
