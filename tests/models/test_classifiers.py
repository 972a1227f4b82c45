"""ImageNet classifiers against the published implementation and others of today."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS, DefaultScope

from helpers import ROOT, golden_image, golden_weight, randomised, relative
from mmpvt.checkpoint import fit_to_model
from mmpvt.engine.config import read_config
from mmpvt.errors import ConfigError
from mmpvt.models import PyramidVisionTransformer

pytest.importorskip("mmpretrain")

GOLDEN = (
    "pvt_tiny_cls_224x224",
    "pvt_v2_b0_cls_224x224",
    "pvt_v2_b1_cls_160x224",
    "pvt_v2_b2_li_cls_224x224",
)


def build_classifier(name: str, **backbone):
    """The classifier of a published config, in float64."""
    settings = read_config(str(ROOT / "configs" / f"{name}_8xb128_in1k.py")).model
    settings.backbone.update(backbone)
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        return MODELS.build(settings).eval().double()


def load(model, tensors: dict) -> None:
    """Fills all of a classifier; anything missing is an error."""
    model.load_state_dict(fit_to_model(tensors, model), strict=True)


@pytest.mark.parametrize("case", GOLDEN)
def test_golden_logits(case: str, reference: Path, published_weights):
    name, size = case.split("_cls_")
    model = build_classifier(name)
    load(model, published_weights(name))
    logits = np.load(reference / "golden" / f"{case}.npz")["logits"]
    images = torch.from_numpy(golden_image(*map(int, size.split("x"))))
    for dtype, tolerance in ((torch.float64, 1e-5), (torch.float32, 1e-4)):
        with torch.no_grad():
            assert relative(model.to(dtype)(images.to(dtype)), logits) < tolerance


def test_other_size_than_pretrained(published_weights):
    """Position embeddings are resized as the images ask for it, or when the weights are loaded."""
    weights = published_weights("pvt_tiny")
    models = [build_classifier("pvt_tiny"), build_classifier("pvt_tiny", pretrain_img_size=96)]
    for model in models:
        load(model, weights)
    assert models[1].backbone.pos_embed4.shape[1] == 10
    images = torch.from_numpy(golden_image(96, 96))
    with torch.no_grad():
        ours, theirs = (model(images) for model in models)
        assert relative(ours, theirs) < 1e-12
        assert torch.isfinite(models[0](images[..., :70])).all()


@pytest.mark.parametrize("name", ["pvt_v2_b0", "pvt_v2_b2_li"])
def test_timm_names(name: str, reference: Path):
    shapes = json.loads((reference / "timm_state_dicts.json").read_text())[name]
    theirs = {key: torch.from_numpy(golden_weight(key, shape)) for key, shape in shapes.items()}
    model = build_classifier(name)
    load(model, theirs)
    assert torch.equal(model.head.fc.weight, theirs["head.weight"])


@pytest.mark.parametrize("linear", [False, True])
def test_transformers_v2(linear: bool):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = dict(depths=[1, 2, 1, 1], hidden_sizes=[32, 64, 160, 256])
    config = transformers.PvtV2Config(linear_attention=linear, num_labels=1000, **sizes)
    theirs = randomised(transformers.PvtV2ForImageClassification(config))
    arch = dict(embed_dims=(32, 64, 160, 256), depths=(1, 2, 1, 1), linear=linear)
    compare(theirs, build_classifier("pvt_v2_b0", arch=arch), (64, 96), (224, 224))


def test_transformers_v1():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.PvtConfig(depths=[1, 2, 1, 1], num_labels=1000)
    theirs = randomised(transformers.PvtForImageClassification(config))
    compare(theirs, build_classifier("pvt_tiny", arch=dict(depths=(1, 2, 1, 1))), (224, 224))


@pytest.mark.parametrize("name", ["pvt_v2_b0", "pvt_v2_b2_li"])
def test_timm(name: str):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    theirs = randomised(timm.create_model(name))
    compare(theirs, build_classifier(name), (224, 224), (160, 192))


def compare(theirs: torch.nn.Module, ours: torch.nn.Module, *sizes: tuple[int, int]) -> None:
    """The logits of the other implementation's weights."""
    load(ours, theirs.state_dict())
    for size in sizes:
        images = torch.randn(1, 3, *size, dtype=torch.float64)
        with torch.no_grad():
            logits = theirs(images)
            assert relative(ours(images), getattr(logits, "logits", logits)) < 1e-10


def test_class_token_needs_the_last_stage():
    for kwargs in (dict(out_indices=(2,)), dict(arch=dict(sr_ratios=(8, 4, 2, 2)))):
        with pytest.raises(ConfigError, match="with_cls_token"):
            PyramidVisionTransformer(with_cls_token=True, **kwargs)


def test_dense_prediction_takes_a_classifier_without_its_class_token(published_weights):
    classifier = build_classifier("pvt_tiny")
    load(classifier, published_weights("pvt_tiny"))
    dense = PyramidVisionTransformer("tiny").double()
    dense.load_state_dict(fit_to_model(classifier.state_dict(), dense))
    assert torch.equal(dense.pos_embed4, classifier.backbone.pos_embed4[:, 1:])
