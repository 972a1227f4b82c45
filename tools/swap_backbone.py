"""``mmpvt swap`` of this checkout: python tools/swap_backbone.py --help"""

from mmpvt.cli import run_tool

if __name__ == "__main__":
    run_tool("swap")
