"""``mmpvt app`` of this checkout: python tools/app.py --help"""

from mmpvt.cli import run_tool

if __name__ == "__main__":
    run_tool("app")
