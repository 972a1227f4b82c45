"""``mmpvt reproduce`` of this checkout: python tools/reproduce.py --help"""

from mmpvt.cli import run_tool

if __name__ == "__main__":
    run_tool("reproduce")
