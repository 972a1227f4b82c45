"""``mmpvt serve`` of this checkout: python tools/serve.py --help"""

from mmpvt.cli import run_tool

if __name__ == "__main__":
    run_tool("serve")
