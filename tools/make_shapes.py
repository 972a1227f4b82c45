"""``mmpvt make-shapes`` of this checkout: python tools/make_shapes.py --help"""

from mmpvt.cli import run_tool

if __name__ == "__main__":
    run_tool("make-shapes")
