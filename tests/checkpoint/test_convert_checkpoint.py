"""Checkpoints in other projects' layouts: there and back, and into the projects' own models."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from mmdet.models.backbones.pvt import PyramidVisionTransformer as MMDetPVT
from mmdet.models.backbones.pvt import PyramidVisionTransformerV2 as MMDetPVTv2
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

from helpers import ROOT, build_backbone, relative
from mmpvt import UserError
from mmpvt.checkpoint.conversion import upgrade
from mmpvt.checkpoint.convert_checkpoint import convert_checkpoint
from mmpvt.engine.config import load_config
from mmpvt.engine.initial_weights import set_pretrained
from mmpvt.models import PyramidVisionTransformer, PyramidVisionTransformerV2
from mmpvt.utils.constants import LAYOUTS

ARCH = dict(embed_dims=(32, 64, 160, 256), depths=(1, 2, 1, 1))
MMDET = dict(embed_dims=32, num_heads=[1, 2, 5, 8], num_layers=[1, 2, 1, 1])
HUGGING_FACE = dict(hidden_sizes=[32, 64, 160, 256], depths=[1, 2, 1, 1])
IMAGES = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)).double()


def drawn(model: nn.Module) -> nn.Module:
    """With random weights, norms and biases."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model.eval().double()


def classifier(version: int, linear: bool = False) -> dict[str, Tensor]:
    """As the published ones are, small and with random weights, for images of 64 pixels."""
    if version == 2:
        return dict(
            drawn(PyramidVisionTransformerV2(dict(ARCH, linear=linear))).state_dict(),
            **{"head.weight": torch.randn(10, 256).double(), "head.bias": torch.randn(10).double()},
        )
    tensors = dict(drawn(PyramidVisionTransformer(ARCH, pretrain_img_size=64)).state_dict())
    tensors["pos_embed4"] = torch.cat([torch.randn(1, 1, 256).double(), tensors["pos_embed4"]], 1)
    shapes = {"cls_token": (1, 1, 256), "norm.weight": (256,), "norm.bias": (256,)}
    shapes.update({"head.weight": (10, 256), "head.bias": (10,)})
    return dict(tensors, **{name: torch.randn(shape).double() for name, shape in shapes.items()})


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert tensor.dtype == second[name].dtype
        assert torch.equal(tensor, second[name]), name


CLASSIFIERS = {"v1": (1, False), "v2": (2, False), "linear v2": (2, True)}
KEEP_ALL = {("v1", "huggingface"), ("v2", "huggingface"), ("v2", "timm")}
KEEP_ALL |= {("linear v2", "huggingface"), ("linear v2", "timm")}
HAVE_NONE = {("v1", "timm"), ("linear v2", "mmdet")}


@pytest.mark.parametrize("target", LAYOUTS)
@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_there_and_back(kind: str, target: str):
    whole = classifier(*CLASSIFIERS[kind])
    if (kind, target) in HAVE_NONE:
        with pytest.raises(UserError, match="has no"):
            convert_checkpoint(whole, target)
        return
    there = convert_checkpoint(whole, target)
    back = convert_checkpoint(there.tensors, "published")
    if target == "published" or (kind, target) in KEEP_ALL:
        assert not there.dropped
        assert_same(back.tensors, whole)
    else:
        bare = convert_checkpoint(whole, "mmpvt")
        dropped = [what for what in there.dropped if "epsilon" not in what]
        assert dropped == bare.dropped
        assert (dropped == there.dropped) == (target != "mmdet")
        assert set(whole) - set(back.tensors) == {n for n in dropped if "'" not in n}
        assert_same(back.tensors, bare.tensors)
    assert_same(convert_checkpoint(back.tensors, target).tensors, there.tensors)
    assert not there.added


@pytest.mark.parametrize("target", LAYOUTS)
@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_backbone_there_and_back(kind: str, target: str):
    if (kind, target) in HAVE_NONE:
        return
    ours = convert_checkpoint(classifier(*CLASSIFIERS[kind]), "mmpvt").tensors
    there = convert_checkpoint(ours, target)
    assert bool(there.added) == ((kind, target) == ("v1", "huggingface"))
    if target == "mmdet":  # whose code computes with it
        ours = dict(ours, norm_eps=torch.tensor(1e-6, dtype=torch.float64))
    assert_same(convert_checkpoint(there.tensors, "mmpvt").tensors, ours)
    model = PyramidVisionTransformer if kind == "v1" else PyramidVisionTransformerV2
    size = dict(pretrain_img_size=64) if kind == "v1" else {}
    other = model(dict(ARCH, linear=kind == "linear v2"), **size).double()
    other.load_state_dict(there.tensors)
    assert_same(dict(other.state_dict()), ours)


@pytest.mark.parametrize("name", ["pvt_v2_b0", "pvt_v2_b2_li"])
def test_timm_names_and_shapes(name: str, reference: Path, official_shapes: dict):
    published = {key: torch.zeros(shape) for key, shape in official_shapes[name].items()}
    expected = json.loads((reference / "timm_state_dicts.json").read_text())[name]
    tensors = convert_checkpoint(published, "timm").tensors
    assert {key: list(tensor.shape) for key, tensor in tensors.items()} == expected


def with_published_eps(model: nn.Module) -> nn.Module:
    """Other projects' norms of patch embedding and attention have another epsilon."""
    for name, module in model.named_modules():
        inner = re.search(r"embedding|attention|attn\.norm|^layers\.\d\.0\.norm", name)
        if isinstance(module, nn.LayerNorm) and inner:
            module.eps = 1e-5
    return model.eval().double()


def assert_same_maps(ours: nn.Module, theirs: tuple[Tensor, ...]) -> None:
    with torch.no_grad():
        for mine, other in zip(ours(IMAGES), theirs, strict=False):
            assert relative(mine, other) < 1e-10


@pytest.mark.parametrize("version", [1, 2])
def test_mmdet_model(version: int):
    if version == 1:
        ours = drawn(PyramidVisionTransformer(ARCH, pretrain_img_size=64))
        theirs = MMDetPVT(pretrain_img_size=64, **MMDET)
    else:
        ours, theirs = drawn(PyramidVisionTransformerV2(ARCH)), MMDetPVTv2(**MMDET)
    theirs.load_state_dict(convert_checkpoint(ours.state_dict(), "mmdet").tensors, strict=True)
    with torch.no_grad():
        assert_same_maps(ours, with_published_eps(theirs)(IMAGES))


@pytest.mark.parametrize("linear", [False, True])
def test_transformers_v2_model(linear: bool):
    transformers = pytest.importorskip("transformers")
    config = transformers.PvtV2Config(
        **HUGGING_FACE, linear_attention=linear, out_features=[f"stage{i}" for i in range(1, 5)]
    )
    ours = drawn(PyramidVisionTransformerV2(dict(ARCH, linear=linear)))
    theirs = transformers.PvtV2Backbone(config)
    theirs.load_state_dict(
        convert_checkpoint(ours.state_dict(), "huggingface").tensors, strict=True
    )
    with torch.no_grad():
        assert_same_maps(ours, with_published_eps(theirs)(IMAGES).feature_maps)

    whole = classifier(2, linear)
    theirs = transformers.PvtV2ForImageClassification(
        transformers.PvtV2Config(**HUGGING_FACE, linear_attention=linear, num_labels=10)
    )
    theirs.load_state_dict(convert_checkpoint(whole, "huggingface").tensors, strict=True)
    with torch.no_grad():
        logits = with_published_eps(theirs)(IMAGES).logits
        last = ours(IMAGES)[-1].mean((2, 3))  # with the classifier's weights
    assert relative(logits, last @ whole["head.weight"].mT + whole["head.bias"]) < 1e-10


def test_transformers_v1_model():
    """Its fourth stage carries the class token, which dense prediction has none of."""
    transformers = pytest.importorskip("transformers")
    config = transformers.PvtConfig(**HUGGING_FACE, image_size=64, num_labels=10)
    whole = classifier(1)
    ours = PyramidVisionTransformer(ARCH, pretrain_img_size=64).eval().double()
    ours.load_state_dict(whole)
    bare = {k: v for k, v in whole.items() if not re.match("cls_token|norm|head", k)}
    theirs = transformers.PvtForImageClassification(config)
    for kind, tensors in ((theirs, whole), (theirs.pvt, bare)):
        kind.load_state_dict(convert_checkpoint(tensors, "huggingface").tensors, strict=True)
        with torch.no_grad():
            states = with_published_eps(kind)(IMAGES, output_hidden_states=True).hidden_states
            last = {state.shape[2]: state for state in states}  # of each stage, by its channels
            maps = [last[m.shape[1]].mT.reshape(m.shape) for m in ours(IMAGES)[:3]]
        assert_same_maps(ours, maps)


def detector(name: str, **backbone) -> nn.Module:
    config = load_config(str(ROOT / "configs" / f"{name}.py"))
    set_pretrained(config, "none")
    config.model.backbone.update(**backbone)
    with DefaultScope.overwrite_default_scope(config.default_scope):
        return MODELS.build(config.model).eval()


def test_detector_into_mmdet():
    """Its backbone becomes MMDetection's own, and the rest stays."""
    ours = detector("retinanet_pvt_v2_b0_fpn_shapes")
    config = load_config(str(ROOT / "configs" / "retinanet_pvt_v2_b0_fpn_shapes.py"))
    config.model.backbone = dict(type="mmdet.PyramidVisionTransformerV2", embed_dims=32)
    config.model.backbone.update(num_layers=[2, 2, 2, 2])
    with DefaultScope.overwrite_default_scope("mmdet"):
        theirs = MODELS.build(config.model)
    file = dict(state_dict=ours.state_dict(), meta=dict(dataset_meta=dict(classes=("a",))))
    done = convert_checkpoint(file, "mmdet")
    theirs.load_state_dict(done.tensors, strict=True)
    assert done.meta == file["meta"]
    with_published_eps(theirs.backbone)
    ours = ours.double()
    with torch.no_grad():
        for a, b in zip(ours._forward(IMAGES), theirs.double()._forward(IMAGES), strict=True):
            assert all(relative(x, y) < 1e-8 for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("target", LAYOUTS)
def test_detector_there_and_back(target: str):
    state = dict(detector("detr_pvt_v2_b0_shapes", out_indices=(0, 1, 2)).state_dict())
    done = convert_checkpoint({"state_dict": state}, target)
    assert ("bbox_head.input_proj.weight" in done.tensors) == (target == "published")
    file = dict(state_dict=dict(done.tensors))
    if target == "published":
        upgrade(file)
    alone = convert_checkpoint({"state_dict": state}, target, backbone_only=True)
    outside = sum(not name.startswith("backbone.") for name in state)
    assert alone.dropped[-1] == f"{outside} tensors outside the backbone"
    if target == "mmdet":
        state["backbone.norm_eps"] = torch.tensor(1e-6, dtype=torch.float64)
    assert_same(convert_checkpoint(file, "mmpvt").tensors, state)
    own = {k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.")}
    assert_same(convert_checkpoint(alone.tensors, "mmpvt").tensors, own)


def test_nothing_shares_memory():
    done = convert_checkpoint(classifier(2), "huggingface")
    addresses = {tensor.data_ptr() for tensor in done.tensors.values()}
    assert len(addresses) == len(done.tensors)
    assert all(tensor.is_contiguous() for tensor in done.tensors.values())


def spoiled(kind: str) -> dict[str, Tensor]:
    tensors = classifier(2)
    if kind == "missing":
        del tensors["block2.1.mlp.fc1.bias"]
    elif kind == "unknown":
        tensors["block1.0.attn.relative_position"] = torch.ones(1)
    elif kind == "far blocks":
        tensors["block1.999999.norm1.weight"] = torch.ones(1)
        tensors["block" + "9" * 5000 + ".0.norm1.weight"] = torch.ones(1)
    elif kind == "scalars":
        tensors = {
            name: torch.ones(())
            for name in convert_checkpoint(classifier(2), "huggingface").tensors
        }
    elif kind == "another network":
        tensors = {"conv1.weight": torch.ones(1), "layer1.0.conv1.weight": torch.ones(1)}
    return tensors


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("missing", r"no whole PVT: 1 missing: block2\.1\.mlp\.fc1\.bias"),
        ("unknown", r"no whole PVT: 1 unexpected: block1\.0\.attn\.relative_position"),
        ("far blocks", r"no whole PVT: 2 unexpected: block1\.999999"),
        ("scalars", "of shapes that no PVT has"),
        ("another network", r"no PVT of a known layout: its first tensors are conv1\.weight"),
    ],
)
def test_what_is_no_pvt(kind: str, sentence: str):
    with pytest.raises(UserError, match=sentence):
        convert_checkpoint(spoiled(kind), "timm")


@pytest.mark.parametrize("name", ["pvt_small", "pvt_v2_b5"])
def test_says_what_it_is(name: str, official_shapes: dict):
    published = {key: torch.zeros(shape) for key, shape in official_shapes[name].items()}
    depths = " ".join(map(str, build_backbone(name).arch.depths))
    version = "v2" if "v2" in name else "v1"
    said = convert_checkpoint(published, "published").kind
    assert said == f"PVT {version} with depths {depths} and channels 64 128 320 512, a classifier"
