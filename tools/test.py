"""``mmpvt test`` of this checkout: python tools/test.py --help"""

from mmpvt.cli import run_tool

if __name__ == "__main__":
    run_tool("test")
