"""``mmpvt get`` of this checkout: python tools/get.py --help"""

from mmpvt.cli import run_tool

if __name__ == "__main__":
    run_tool("get")
