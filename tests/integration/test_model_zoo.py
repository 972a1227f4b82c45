"""The tool that writes the model zoo's pages, on a checkout of one config."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from helpers import ROOT


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with one published config and one of the project's own."""
    shutil.copytree(ROOT / "configs" / "_base_", tmp_path / "configs" / "_base_")
    for name in ("fpn_pvt_t_ade20k_40k", "fpn_pvt_v2_b0_shapes"):
        shutil.copy(ROOT / "configs" / f"{name}.py", tmp_path / "configs")
    write_records(tmp_path, "fpn_pvt_t_ade20k_40k")
    return tmp_path


def write_records(root: Path, *names: str) -> None:
    """Keeps the published results of these configs only."""
    records = json.loads((ROOT / "docs" / "published_results.json").read_text())
    kept = [record for record in records if record["config"] in names]
    (root / "docs").mkdir(exist_ok=True)
    (root / "docs" / "published_results.json").write_text(json.dumps(kept))


def test_pages(checkout: Path, call_tool):
    ended = call_tool("make_model_zoo.py", "--root", checkout)
    assert ended.code == 0, ended.err
    page = (checkout / "docs" / "model_zoo.md").read_text()
    row = "| [{0}](../configs/{0}.py) | 35.7 | 36.6 | 16.98 (17.0) | 33.2 (33.2) |"
    assert row.format("fpn_pvt_t_ade20k_40k") in page
    assert "| [fpn_pvt_v2_b0_shapes](../configs/fpn_pvt_v2_b0_shapes.py) | A small " in page
    index = yaml.safe_load((checkout / "model-index.yml").read_text())
    assert [collection["Name"] for collection in index["Collections"]] == ["PVT", "PVT v2"]
    (model,) = index["Models"]
    assert model["Name"] == "fpn_pvt_t_ade20k_40k" and model["In Collection"] == "PVT"
    assert (checkout / model["Config"]).is_file()
    assert model["Metadata"]["Iterations"] == 40_000
    (result,) = model["Results"]
    assert result["Task"] == "Semantic Segmentation" and result["Metrics"] == {"mIoU": 35.7}


def test_results_of_no_config(checkout: Path, call_tool):
    write_records(checkout, "fpn_pvt_t_ade20k_40k", "fpn_pvt_s_ade20k_40k")
    ended = call_tool("make_model_zoo.py", "--root", checkout)
    assert "['fpn_pvt_s_ade20k_40k']" in ended.one_sentence()
    assert not (checkout / "model-index.yml").exists()
