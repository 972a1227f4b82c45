"""The implementations that are compared, each built from the same row of the table of variants.

A peer that isn't installed, or that lacks a variant, says so in a sentence and is skipped.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.published import PublishedPVT
from mmpvt.errors import UserError
from mmpvt.models import PyramidVisionTransformer, PyramidVisionTransformerV2
from mmpvt.models.archs import Variant, find_variant
from mmpvt.models.layers import Block


def mmpvt(name: str, **options: bool) -> nn.Module:
    variant = find_variant(name)
    kind = PyramidVisionTransformer if variant.version == 1 else PyramidVisionTransformerV2
    return kind(variant.arch, drop_path_rate=0.0, **options)


def compiled(name: str) -> nn.Module:
    model = mmpvt(name)
    model.compile(dynamic=False)
    return model


def published(name: str) -> nn.Module:
    weights = mmpvt(name).state_dict()  # first, for the same draws
    variant = find_variant(name)
    model = PublishedPVT(variant.arch, variant.version)
    model.load_state_dict(weights)
    return model


def mmdet(name: str) -> nn.Module:
    from mmdet.models.backbones import pvt as theirs

    variant = find_variant(name)
    arch, version = variant.arch, variant.version
    if arch.linear:
        raise UserError("MMDetection's class has no linear attention")
    kind = theirs.PyramidVisionTransformer if version == 1 else theirs.PyramidVisionTransformerV2
    # it multiplies embed_dims by the number of heads
    return kind(
        embed_dims=arch.embed_dims[0] // arch.num_heads[0],
        num_layers=list(arch.depths),
        num_heads=list(arch.num_heads),
        sr_ratios=list(arch.sr_ratios),
        mlp_ratios=list(arch.mlp_ratios),
        drop_path_rate=0.0,
    )


def transformers(name: str) -> nn.Module:
    try:
        import transformers as theirs
    except ImportError as error:
        raise UserError(f"transformers can't be imported: {error}") from error

    config = _transformers_config(find_variant(name))
    if isinstance(config, theirs.PvtConfig):
        return _OnlyOutput(theirs.PvtModel(config), "last_hidden_state")
    return _OnlyOutput(theirs.PvtV2Backbone(config), "feature_maps")


def _transformers_config(variant: Variant) -> Any:
    import transformers as theirs

    arch = variant.arch
    sizes = dict(
        depths=list(arch.depths),
        hidden_sizes=list(arch.embed_dims),
        num_attention_heads=list(arch.num_heads),
        mlp_ratios=list(arch.mlp_ratios),
        drop_path_rate=0.0,
        num_labels=1000,
    )
    if variant.version == 1:
        return theirs.PvtConfig(sequence_reduction_ratios=list(arch.sr_ratios), **sizes)
    return theirs.PvtV2Config(
        sr_ratios=list(arch.sr_ratios),
        linear_attention=arch.linear,
        out_features=[f"stage{i}" for i in range(1, 5)],
        **sizes,
    )


def timm(name: str) -> nn.Module:
    variant = find_variant(name)
    if variant.version == 1:
        raise UserError("timm has no PVT v1")
    try:
        import timm as theirs
    except (ImportError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"timm can't be imported: {reason}") from error
    return theirs.create_model(variant.full_name, features_only=True)


def resnet50(name: str) -> nn.Module:
    """What detectors have in a PVT's place: RetinaNet with it reaches 36.3 box AP, with PVT-Tiny
    36.7 (PVT v1, table 4)."""
    try:
        from torchvision.models import resnet50
        from torchvision.models._utils import IntermediateLayerGetter
        from torchvision.ops import FrozenBatchNorm2d
    except (ImportError, RuntimeError) as error:
        raise UserError(f"torchvision can't be imported: {str(error).splitlines()[0]}") from error

    layers = {f"layer{i}": f"{i}" for i in range(1, 5)}
    model = IntermediateLayerGetter(resnet50(norm_layer=FrozenBatchNorm2d), layers)
    return _ResNet(model.to(memory_format=torch.channels_last))


def compiled_blocks(name: str) -> nn.Module:
    """Each block by itself: those of a stage share what is compiled."""
    model = mmpvt(name)
    for module in model.modules():
        if isinstance(module, Block):
            module.compile(dynamic=False)
    return model


PEERS: dict[str, Callable[[str], nn.Module]] = {
    "mmpvt": mmpvt,
    "compiled": compiled,
    "compiled_blocks": compiled_blocks,
    "cuda_graph": lambda name: _Graphed(mmpvt(name)),
    "with_cp": partial(mmpvt, with_cp=True),
    "no_mlp_cp": partial(mmpvt, mlp_with_cp=False),
    "nchw_maps": partial(mmpvt, contiguous_maps=True),
    "published": published,
    "mmdet": mmdet,
    "transformers": transformers,
    "timm": timm,
    "resnet50": resnet50,
}


def classifier(peer: str, name: str) -> nn.Module:
    """A peer's ImageNet classifier, from images to logits.

    Raises:
        UserError: it has none, or isn't installed.
    """
    PEERS[peer](name)  # says what is missing
    variant = find_variant(name)
    if peer == "mmpvt":
        from mmpvt.inference.loading import load_model  # imports MMDetection

        return load_model(variant.full_name, "none", "cpu")
    if peer == "timm":
        import timm as theirs

        return theirs.create_model(variant.full_name)
    if peer == "transformers":
        import transformers as theirs

        kinds = (theirs.PvtForImageClassification, theirs.PvtV2ForImageClassification)
        return _OnlyOutput(kinds[variant.version - 1](_transformers_config(variant)), "logits")
    raise UserError(f"{peer} is compared as a backbone only")


class _OnlyOutput(nn.Module):
    """A Hugging Face model that gives a tuple of tensors, as the others do."""

    def __init__(self, model: nn.Module, field: str) -> None:
        super().__init__()
        self.model, self.field = model, field

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        outs = getattr(self.model(x), self.field)
        return (outs,) if isinstance(outs, torch.Tensor) else tuple(outs)


class _ResNet(nn.Module):
    """Torchvision's feature extractor that gives a tuple of channels-last maps."""

    out_channels = (256, 512, 1024, 2048)

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.model(x.contiguous(memory_format=torch.channels_last)).values())


class _Graphed(nn.Module):
    """A model that is recorded as CUDA graphs at the first call, and replayed from then on: its
    kernels start without Python's and PyTorch's work for each."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.graph: torch.cuda.CUDAGraph | None = None  # of the forward pass alone
        self.trains = False  # whether the model replays both passes

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        if not x.is_cuda:
            raise UserError("CUDA graphs are a GPU's")
        if torch.is_grad_enabled():
            return self._with_gradients(x)
        if self.graph is None:
            self.input = x.clone()
            beside = torch.cuda.Stream()
            beside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(beside):  # chooses kernels, which can't be recorded
                self.model(self.input)
            torch.cuda.current_stream().wait_stream(beside)
            torch.clear_autocast_cache()  # weights cast outside the graph would not outlive it
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.outputs = self.model(self.input)
            torch.clear_autocast_cache()
        self.input.copy_(x)
        self.graph.replay()
        return self.outputs

    def _with_gradients(self, x: Tensor) -> tuple[Tensor, ...]:
        if not self.trains:
            casts, dtype = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
            with torch.autocast("cuda", dtype, enabled=casts, cache_enabled=False):
                self.model = torch.cuda.make_graphed_callables(self.model, (x,))
            self.trains = True
        return self.model(x)
