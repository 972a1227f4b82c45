"""``mmpvt convert-checkpoint`` of this checkout: python tools/convert_checkpoint.py --help"""

from mmpvt.cli import run_tool

if __name__ == "__main__":
    run_tool("convert-checkpoint")
