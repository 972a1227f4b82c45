"""``mmpvt export`` of this checkout: python tools/export.py --help"""

from mmpvt.cli import run_tool

if __name__ == "__main__":
    run_tool("export")
