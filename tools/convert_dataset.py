"""``mmpvt convert-dataset`` of this checkout: python tools/convert_dataset.py --help"""

from mmpvt.cli import run_tool

if __name__ == "__main__":
    run_tool("convert-dataset")
