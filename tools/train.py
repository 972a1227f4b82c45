"""``mmpvt train`` of this checkout: python tools/train.py --help"""

from mmpvt.cli import run_tool

if __name__ == "__main__":
    run_tool("train")
