"""Trans2Seg's head: shapes, gradients, published sizes, what it reads, and that it learns."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from helpers import build_backbone
from mmpvt import UserError
from mmpvt.models import Trans2SegHead
from mmpvt.models.trans2seg import ClassScores, ClassUpdate, PositionMixer, split_heads

CLASSES = 5
DIMS = (8, 16, 24, 32)
SMALL = dict(
    in_channels=[8, 32],
    channels=8,
    num_classes=CLASSES,
    embed_dims=32,
    num_heads=4,
    encoder_depth=2,
    decoder_depth=3,
    grid_size=3,
)


def segmenter(**head) -> nn.Module:
    """A small one, built from a config as a user's would be."""
    torch.manual_seed(0)
    arch = dict(embed_dims=DIMS, depths=(1, 1, 1, 1), num_heads=(1, 2, 3, 4))
    model = MODELS.build(
        ConfigDict(
            type="EncoderDecoder",
            data_preprocessor=dict(type="mmseg.SegDataPreProcessor"),
            backbone=dict(type="mmpvt.PyramidVisionTransformer", arch=arch),
            decode_head=dict(
                type="mmpvt.Trans2SegHead",
                in_index=[0, 3],
                input_transform="multiple_select",
                norm_cfg=dict(type="BN", requires_grad=True),
                loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
                **SMALL | head,
            ),
            train_cfg=dict(),
            test_cfg=dict(mode="whole"),
        )
    )
    model.init_weights()
    return model


def sample(height: int, width: int) -> SegDataSample:
    """A random label map, with some labels to ignore, of an image shown half as large."""
    labels = torch.randint(0, CLASSES, (1, height, width))
    labels[:, : height // 4] = 255
    shown = SegDataSample(gt_sem_seg=PixelData(data=labels))
    shown.set_metainfo(
        dict(
            img_shape=(height, width),
            pad_shape=(height, width),
            ori_shape=(height * 2, width * 2 - 1),
        )
    )
    return shown


def pyramid(height: int, width: int) -> list[Tensor | None]:
    """Random maps, of which the head may read the first and the last."""
    torch.manual_seed(0)
    fine = torch.randn(2, DIMS[0], height // 4, width // 4)
    return [fine, None, None, torch.randn(2, DIMS[3], height // 32, width // 32)]


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(32, 32), (64, 160), (75, 101), (256, 96)])
def test_any_size(size: tuple[int, int], align_corners: bool):
    model = segmenter(align_corners=align_corners).eval()
    height, width = size
    with torch.no_grad():
        images = torch.randn(2, 3, height, width)
        masks = model.decode_head(model.extract_feat(images))
        assert masks.shape == (2, CLASSES, height // 4, width // 4)
        alone = model.decode_head(model.extract_feat(images[1:]))
        torch.testing.assert_close(masks[1:], alone, rtol=1e-4, atol=1e-5)
        shown = model.predict(images[:1], [sample(height, width)])[0]
    assert shown.seg_logits.data.shape == (CLASSES, 2 * height, 2 * width - 1)
    assert shown.pred_sem_seg.data.shape == (1, 2 * height, 2 * width - 1)


@pytest.mark.parametrize("size", [(96, 96), (75, 101)])
def test_every_parameter_is_trained(size: tuple[int, int]):
    drops = dict(drop_rate=0.1, attn_drop_rate=0.1, drop_path_rate=0.1, dropout_ratio=0.1)
    model = segmenter(**drops).train()
    losses = model.loss(torch.randn(2, 3, *size), [sample(*size), sample(*size)])
    losses["decode.loss_ce"].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_published_sizes():
    """PVT v1, section 5.4: 32.1 M parameters; 31.6 GFLOPs, attention's products included."""
    with torch.device("meta"):
        parts = nn.ModuleList([build_backbone("pvt_small"), Trans2SegHead(num_classes=150)]).eval()
        images = torch.empty(1, 3, 512, 512)
    assert sum(p.numel() for p in parts.parameters()) / 1e6 == pytest.approx(32.1, rel=0.03)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        assert parts[1](parts[0](images)).shape == (1, 150, 128, 128)
    assert counter.get_total_flops() / 2e9 == pytest.approx(31.6, rel=0.02)


def test_one_query_a_class():
    head = segmenter().decode_head
    maps = pyramid(64, 96)
    swapped = [1, 0, *range(2, CLASSES)]
    with torch.no_grad():
        before = head(maps)
        head.decoder.class_embed.copy_(head.decoder.class_embed[:, swapped])
        after = head(maps)
    torch.testing.assert_close(after, before[:, swapped], rtol=1e-3, atol=1e-4)
    assert (before[:, 0] - before[:, 1]).std() > 0.1 * before.std()


def test_reads_both_maps():
    head = segmenter().decode_head
    maps = pyramid(64, 96)
    for i in (0, 3):
        maps[i].requires_grad_(True)
    head(maps).square().mean().backward()
    assert all(maps[i].grad.abs().sum() > 0 for i in (0, 3))


def test_class_attention():
    torch.manual_seed(0)
    queries, tokens = torch.randn(2, CLASSES, 32), torch.randn(2, 3, 5, 32)
    score = ClassScores(32, 4)
    update = ClassUpdate(32, 4, 64, drop=0.0, attn_drop=0.0, drop_path=0.0)
    flat = tokens.flatten(1, 2)
    q = split_heads(score.q(score.norm_queries(queries)), 4)
    k = split_heads(score.k(score.norm_tokens(flat)), 4)
    v = split_heads(update.v(update.norm_values(flat)), 4)
    attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    torch.testing.assert_close(update.attend(tokens, score(queries, tokens)), update.proj(attended))


def test_positions():
    """On the training grid the plain formula; on a finer grid, the same change, resized."""
    torch.manual_seed(0)
    mixer = PositionMixer(4, 3, drop=0.0, drop_path=0.0)
    maps = torch.randn(1, 2, CLASSES, 4, 4)
    change = mixer.mlp(mixer.norm(maps.flatten(3))).reshape(maps.shape)
    torch.testing.assert_close(mixer(maps), maps + change)
    finer = maps.repeat_interleave(2, 3).repeat_interleave(2, 4)
    resized = F.interpolate(change[0], scale_factor=2, mode="bilinear")[None]
    torch.testing.assert_close(mixer(finer), finer + resized)


def test_overfits_an_image():
    """Blocks of colour, a class each."""
    torch.manual_seed(0)
    model = segmenter(channels=32, embed_dims=64).train()
    blocks = torch.arange(64) // 24
    labels = (blocks[:, None] + 2 * blocks) % CLASSES
    images = torch.randn(3, CLASSES)[None, :, labels] + 0.3 * torch.randn(1, 3, 64, 64)
    shown = sample(64, 64)
    shown.gt_sem_seg.data[0, 16:] = labels[16:]
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses = []
    for _ in range(80):
        losses.append(model.loss(images, [shown])["decode.loss_ce"])
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0] / 3
    with torch.no_grad():
        predicted = model.encode_decode(images, [shown.metainfo]).argmax(1)[0]
    assert (predicted == labels)[16:].float().mean() > 0.9


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (dict(in_channels=[8, 16, 32]), "in_channels"),
        (dict(in_channels=[0, 32]), "in_channels"),
        (dict(in_index=3), "in_index"),
        (dict(input_transform="resize_concat"), "input_transform"),
        (dict(num_classes=0), "num_classes"),
        (dict(channels=0), "channels"),
        (dict(num_heads=5), "5 heads"),
        (dict(encoder_depth=-1), "encoder_depth"),
        (dict(decoder_depth=0), "decoder_depth"),
        (dict(grid_size=2.5), "grid_size"),
        (dict(mlp_ratio=0), "mlp_ratio"),
        (dict(drop_path_rate=1.0), "drop_path_rate"),
        (dict(attn_drop_rate="0.1"), "attn_drop_rate"),
    ],
)
def test_mistakes(wrong: dict, named: str):
    with pytest.raises(UserError, match=named) as caught:
        Trans2SegHead(**SMALL | wrong)
    assert "\n" not in str(caught.value)
