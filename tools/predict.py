"""``mmpvt predict`` of this checkout: python tools/predict.py --help"""

from mmpvt.cli import run_tool

if __name__ == "__main__":
    run_tool("predict")
