"""``mmpvt report`` of this checkout: python tools/report.py --help"""

from mmpvt.cli import run_tool

if __name__ == "__main__":
    run_tool("report")
