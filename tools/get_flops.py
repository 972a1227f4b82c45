"""``mmpvt get-flops`` of this checkout: python tools/get_flops.py --help"""

from mmpvt.cli import run_tool

if __name__ == "__main__":
    run_tool("get-flops")
