"""Batch, learning rate and length follow the number of images."""

from __future__ import annotations

import pytest
from mmengine.config import Config

from mmpvt.engine.config import load_config
from mmpvt.engine.own_data.model import set_num_classes
from mmpvt.engine.own_data.schedule import set_schedule
from mmpvt.errors import ConfigError


def by_epoch(optimizer: str = "AdamW") -> Config:
    return Config(
        dict(
            train_dataloader=dict(
                batch_size=2, dataset=dict(pipeline=[dict(type="Resize", scale=(64, 64))])
            ),
            train_cfg=dict(type="EpochBasedTrainLoop", max_epochs=12, val_interval=1),
            optim_wrapper=dict(optimizer=dict(type=optimizer, lr=0.01)),
            auto_scale_lr=dict(enable=False, base_batch_size=8),
            param_scheduler=[
                dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=500),
                dict(type="MultiStepLR", by_epoch=True, begin=0, end=12, milestones=[8, 11]),
            ],
            default_hooks=dict(checkpoint=dict(type="CheckpointHook", interval=1)),
        )
    )


@pytest.mark.parametrize(
    ("images", "epochs", "length", "warm_up", "milestones"),
    [
        (24, None, 100, 120, [67, 92]),  # of 12 iterations
        (300, None, 20, 300, [13, 18]),  # 3,000 iterations
        (20_000, None, 12, 500, [8, 11]),  # the config's own
        (300, 6, 6, 90, [4, 5]),
    ],
)
def test_epochs(images: int, epochs: int | None, length: int, warm_up: int, milestones: list[int]):
    config = by_epoch()
    set_schedule(config, images, 1, epochs, 1)
    assert config.train_cfg.max_epochs == length
    assert config.param_scheduler[0].end == warm_up
    assert config.param_scheduler[1].milestones == milestones
    assert config.param_scheduler[1].end == length


def test_iterations():
    config = by_epoch()
    config.train_cfg = dict(type="IterBasedTrainLoop", max_iters=40_000, val_interval=4_000)
    config.param_scheduler = [
        dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=1_500),
        dict(type="PolyLR", by_epoch=False, begin=1_500, end=40_000, power=0.9),
    ]
    set_schedule(config, 100, 1, None, 1)
    assert (config.train_cfg.max_iters, config.train_cfg.val_interval) == (3_000, 300)
    warm_up, poly = config.param_scheduler
    assert warm_up.end == poly.begin == 112
    assert poly.end == 3_000


def test_schedules_of_iterations_in_a_training_by_epochs():
    """Their ends are of the config's data, whose epochs have another number of iterations."""
    config = by_epoch()
    config.param_scheduler = [
        config.param_scheduler[0],
        dict(type="PolyLR", by_epoch=False, begin=500, end=88_000),
        dict(type="LinearLR", start_factor=1.0, end_factor=0.1, by_epoch=False, end=88_000),
    ]
    set_schedule(config, 24, 1, None, 1)
    warm_up, poly, fall = config.param_scheduler
    assert (warm_up.end, poly.begin, poly.end, fall.end) == (120, 120, 1_200, 1_200)


def test_a_classifier_takes_fewer_epochs_than_on_imagenet():
    """The cosine begins where the warm-up ends."""
    pytest.importorskip("mmpretrain")
    for images, length, warm_up in ((60, 100, 2), (20_000, 50, 2)):
        config = load_config("pvt_v2_b0_8xb128_in1k")
        set_schedule(config, images, 1, None, 1)
        assert config.train_cfg.max_epochs == length
        linear, cosine = config.param_scheduler
        assert (linear.end, cosine.begin, cosine.end) == (warm_up, warm_up, length)
    config = load_config("pvt_v2_b0_8xb128_in1k")
    set_schedule(config, 60, 1, 1, 1)
    assert [(one.get("begin"), one.end) for one in config.param_scheduler] == [(None, 2), (2, 3)]


@pytest.mark.parametrize(("optimizer", "lr"), [("SGD", 0.0025), ("AdamW", 0.005)])
def test_learning_rate_follows_the_batch(optimizer: str, lr: float):
    config = by_epoch(optimizer)
    cosine = dict(type="CosineAnnealingLR", eta_min=1e-4)
    config.param_scheduler = [*config.param_scheduler, cosine]
    said = set_schedule(config, 300, 1, None, 1)
    assert config.optim_wrapper.optimizer.lr == pytest.approx(lr)
    assert f"learning rate {lr:g}" in "; ".join(said)
    assert config.param_scheduler[2].eta_min == pytest.approx(lr / 100)
    config = by_epoch(optimizer)
    set_schedule(config, 300, 1, None, 4)
    assert config.optim_wrapper.optimizer.lr == 0.01


def test_no_batch_is_larger_than_the_data():
    config = by_epoch()
    config.train_dataloader.batch_size = 16
    set_schedule(config, 5, 1, None, 1)
    assert config.train_dataloader.batch_size == 4


def test_a_batch_that_was_asked_for():
    """Its learning rate is its own, and so is the number of iterations."""
    config = by_epoch("SGD")
    said = set_schedule(config, 5, 1, None, 1, batch=16)
    assert (config.train_dataloader.batch_size, config.optim_wrapper.optimizer.lr) == (16, 0.02)
    assert "of 1 iteration" in "; ".join(said)


def test_weights_of_classes():
    uniform = dict(type="CrossEntropyLoss", class_weight=[1.0] * 80 + [0.1])
    chosen = dict(type="CrossEntropyLoss", class_weight=[0.8, 1.2, 0.9])
    model = dict(
        bbox_head=dict(num_classes=80, loss_cls=uniform),
        decode_head=dict(num_classes=3, loss_decode=chosen),
        rpn_head=dict(num_classes=1),
    )
    config = Config(dict(model=model))
    (note,) = set_num_classes(config, 2)
    assert config.model.bbox_head.loss_cls.class_weight == [1.0, 1.0, 0.1]
    assert "class_weight" not in config.model.decode_head.loss_decode and "removed" in note
    assert config.model.rpn_head.num_classes == 1


def test_a_head_of_one_channel_tells_two_classes_apart():
    config = Config(dict(model=dict(decode_head=dict(type="A", num_classes=2, out_channels=1))))
    with pytest.raises(ConfigError, match="single channel"):
        set_num_classes(config, 3)
