"""``mmpvt check-data`` of this checkout: python tools/check_data.py --help"""

from mmpvt.cli import run_tool

if __name__ == "__main__":
    run_tool("check-data")
