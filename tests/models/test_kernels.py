"""oneDNN's way of running the products gives what PyTorch's gives, and never holds all scores."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from helpers import relative
from mmpvt.models import PyramidVisionTransformer, PyramidVisionTransformerV2, kernels, layers
from mmpvt.models.layers import ConvFeedForward, FeedForward
from small_models import ARCH

CLOSE = 1e-5
AMX = "PyTorch's attention and linear layers"


@pytest.fixture(params=[("oneDNN", 1), ("oneDNN", 2), ("AMX", 2)], ids=lambda p: f"{p[0]}-{p[1]}")
def small_chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch):
    """Chunks of a few tokens, so that small tensors are divided as large ones are; of each column
    of the table, on one thread and on two."""
    column, threads = request.param
    monkeypatch.setattr(kernels, "USE_ONEDNN", column == "oneDNN")
    monkeypatch.setattr(kernels, "CHUNK_BYTES", 4000)
    monkeypatch.setattr(kernels, "WHOLE_BYTES", 4000)
    monkeypatch.setattr(kernels, "SMALL_BYTES", 0)
    monkeypatch.setattr(kernels, "MIN_ROWS", 1)
    monkeypatch.setattr(kernels, "ONEDNN_NUMBERS", 0)
    monkeypatch.setattr(kernels, "CONV_NUMBERS", 0)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch):
    """Runs a function with PyTorch's own kernels."""

    def run(function, *args):
        with monkeypatch.context() as patch:
            patch.setattr(kernels, "product_for", lambda x: None)
            patch.setattr(layers, "product_for", lambda x: None)
            patch.setattr(kernels, "uses_onednn", lambda x: False)
            return function(*args)

    return run


def with_gradients(function, *inputs: torch.Tensor) -> list[torch.Tensor]:
    """What a function gives, and the gradients of its inputs (and parameters, of a module)."""
    wanted = [*inputs, *(function.parameters() if isinstance(function, torch.nn.Module) else ())]
    out = function(*inputs)
    weight = torch.sin(torch.arange(out.numel()).double()).view(out.shape).to(out.dtype)
    return [out, *torch.autograd.grad(out, wanted, weight)]


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape).requires_grad_()


def assert_equal(function, *inputs: torch.Tensor, plain) -> None:
    theirs = plain(with_gradients, function, *inputs)
    for mine, other in zip(with_gradients(function, *inputs), theirs, strict=True):
        assert mine.shape == other.shape
        assert relative(mine, other) < CLOSE


@pytest.mark.parametrize("shape", [(3, 5, 16), (7, 16), (16,), (1, 1, 1, 16)])
def test_linear(shape: tuple[int, ...], plain):
    torch.manual_seed(0)
    assert_equal(kernels.Linear(16, 24), random(*shape), plain=plain)
    strided = torch.randn(*shape[:-1], 32)[..., ::2].requires_grad_()
    assert_equal(kernels.Linear(16, 24), strided, plain=plain)


@pytest.mark.parametrize("size", [(8, 12), (10, 13)], ids=["whole patches", "a remainder"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_patches_of_a_small_map(dtype: torch.dtype, size: tuple[int, int]):
    torch.manual_seed(0)
    layer = kernels.PatchConv(16, 24, 4).to(dtype)
    maps = torch.randn(2, *size, 16, dtype=dtype).permute(0, 3, 1, 2).requires_grad_()
    assert maps.numel() < layer.weight.numel()
    with Largest() as operators:
        found = with_gradients(layer, maps)
    assert not any("conv" in name for name in operators.names)
    plain = torch.nn.Conv2d(16, 24, 4, stride=4)  # in float32: see test_patches_in_bfloat16
    plain.load_state_dict(layer.state_dict())
    exact = maps.detach().float().requires_grad_()
    for mine, other in zip(found, with_gradients(plain, exact), strict=True):
        assert mine.shape == other.shape
        assert relative(mine.float(), other) < (CLOSE if dtype == torch.float32 else 2e-2)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize(("channels", "side"), [(3, 4), (16, 4), (24, 4), (8, 8), (32, 8), (64, 2)])
def test_patches_in_bfloat16(channels: int, side: int, autocast: bool):
    """Of few channels, too, of which a processor with AMX makes a wrong convolution."""
    torch.manual_seed(0)
    layer, maps = kernels.PatchConv(channels, 64, side), random(2, channels, 128, 128)
    assert maps.numel() >= layer.weight.numel()
    expected = F.conv2d(maps, layer.weight, layer.bias, side)
    (gradient,) = torch.autograd.grad(expected.square().sum(), maps)
    mine = maps.detach().to(torch.float32 if autocast else torch.bfloat16).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = (layer if autocast else layer.bfloat16())(mine)
    (of_mine,) = torch.autograd.grad(found.square().sum(), mine)
    assert relative(found.float(), expected) < 1e-2
    assert relative(of_mine.float(), gradient) < 1e-2


@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("heads", [1, 3])
def test_attention(heads: int, images: int, small_chunks, plain):
    torch.manual_seed(0)
    q, k, v = (random(images, heads, length, 8) for length in (101, 13, 13))
    assert_equal(kernels.attention, q, k, v, plain=plain)
    expected = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
    found = kernels.attention(q, k, v)
    assert relative(found, expected) < CLOSE
    in_chunks = "_Attention" in type(found.grad_fn.next_functions[0][0]).__name__
    assert in_chunks == (kernels.USE_ONEDNN or heads * images < torch.get_num_threads())
    found[0].mul_(2)  # in place, as a hook may
    assert relative(found[0], 2 * expected[0]) < CLOSE
    alone = kernels.attention(q.detach(), k.detach(), v)
    assert relative(*(torch.autograd.grad(out.sum(), v)[0] for out in (alone, expected))) < CLOSE


def test_attention_in_bfloat16(small_chunks, monkeypatch: pytest.MonkeyPatch):
    """In chunks, whose sums lose nothing: as near to float32's results as one rounding allows."""
    torch.manual_seed(0)
    inputs = [torch.randn(2, 3, n, 8).requires_grad_() for n in (3001, 130, 130)]
    expected = with_gradients(kernels.attention, *inputs)
    if kernels.USE_ONEDNN:
        monkeypatch.delattr(F, "scaled_dot_product_attention")
    halves = [x.detach().bfloat16().requires_grad_() for x in inputs]
    for mine, other in zip(with_gradients(kernels.attention, *halves), expected, strict=True):
        assert mine.dtype == torch.bfloat16 and mine.shape == other.shape
        assert relative(mine.float(), other) < 0.01


def test_attention_drops_the_same_weights_again(small_chunks):
    """In the backward pass: the output is linear in the values, under one choice of weights."""
    torch.manual_seed(0)
    q, k, v = random(1, 2, 101, 8), random(1, 2, 13, 8), random(1, 2, 13, 8)
    out = kernels.attention(q, k, v, drop=0.5)
    (gradient,) = torch.autograd.grad(out.sum(), v)
    torch.testing.assert_close((gradient * v).sum(), out.sum())
    assert relative(out, kernels.attention(q, k, v)) > 0.1


@pytest.mark.parametrize("height", [1, 2, 3, 4, 11])
@pytest.mark.parametrize("kind", [FeedForward, ConvFeedForward])
def test_feed_forward(kind: type[FeedForward], height: int, small_chunks, plain):
    torch.manual_seed(0)
    assert_equal(kind(8, 32), random(2, height, 7, 8), plain=plain)


@pytest.mark.parametrize("kind", [FeedForward, ConvFeedForward])
def test_sums_are_the_same_each_time(kind: type[FeedForward], small_chunks):
    torch.manual_seed(0)
    mlp, x = kind(8, 32), random(2, 23, 7, 8)
    first = with_gradients(mlp, x)
    for _ in range(5):
        assert all(map(torch.equal, first, with_gradients(mlp, x)))


@pytest.mark.parametrize("kind", [FeedForward, ConvFeedForward])
def test_a_frozen_feed_forward(kind: type[FeedForward], small_chunks, plain):
    torch.manual_seed(0)
    mlp, x = kind(8, 32), random(2, 11, 7, 8)
    mlp.requires_grad_(False)
    (alone,) = torch.autograd.grad(mlp(x).sum(), x)
    assert relative(alone, plain(torch.autograd.grad, plain(mlp, x).sum(), x)[0]) < CLOSE
    mlp.fc2.bias.requires_grad_()  # and nothing else
    (bias,) = torch.autograd.grad(mlp(x.detach()).sum(), mlp.fc2.bias)
    torch.testing.assert_close(bias, torch.full((8,), 2 * 11 * 7.0))


@pytest.mark.parametrize("autocast", [False, True])
def test_hooks_see_whole_gradients_and_maps(autocast: bool, small_chunks):
    mlp, x = FeedForward(8, 32), torch.randn(2, 11, 7, 8)
    gradients, shapes = [], []
    handle = mlp.fc1.weight.register_hook(gradients.append)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        mlp(x).sum().backward()
    assert len(gradients) == 1 and torch.equal(gradients[0], mlp.fc1.weight.grad)
    handle.remove()
    for layer in (mlp.fc1, mlp.fc2):
        layer.register_forward_hook(
            lambda _, args, out: shapes.append((*args[0].shape, *out.shape))
        )
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        mlp(x)
    assert shapes == [(2, 11, 7, 8, 2, 11, 7, 32), (2, 11, 7, 32, 2, 11, 7, 8)]


@pytest.mark.parametrize("name", ["fc1", "fc2"])
def test_every_kind_of_hook_runs_once(name: str, small_chunks):
    mlp, x, seen = FeedForward(8, 32, with_cp=False), torch.randn(2, 11, 7, 8), []
    layer, everywhere = getattr(mlp, name), torch.nn.modules.module
    for register in (
        layer.register_full_backward_pre_hook,
        layer.register_full_backward_hook,
        everywhere.register_module_forward_pre_hook,
        everywhere.register_module_forward_hook,
        everywhere.register_module_full_backward_pre_hook,
        everywhere.register_module_full_backward_hook,
    ):
        handle = register(lambda module, *_: seen.append(module))
        mlp(x.requires_grad_()).sum().backward()
        handle.remove()
        assert seen.count(layer) == 1
        seen.clear()


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("kind", [FeedForward, ConvFeedForward])
def test_hidden_channels_are_overwritten(
    kind: type[FeedForward], autocast: bool, monkeypatch: pytest.MonkeyPatch
):
    """Where nothing is recorded and nothing else may have them: neither hook nor adapter."""
    monkeypatch.setattr(kernels, "CHUNK_BYTES", 0)
    monkeypatch.setattr(kernels, "USE_ONEDNN", False)  # the whole map at once
    torch.manual_seed(0)
    mlp, x = kind(8, 32), torch.randn(2, 11, 7, 8)
    last = mlp.fc1 if kind is FeedForward else mlp.dwconv
    names, kept = [], []

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            names.append(function.name())
            return function(*args, **(kwargs or {}))

    def run() -> torch.Tensor:
        names.clear()
        kept.clear()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast), Recorder():
            return mlp(x)

    def keep(module: torch.nn.Module, _, out: torch.Tensor) -> None:
        if module is last:
            kept.append((out, out.clone()))

    expected = run()
    assert "aten::gelu" in names and "aten::gelu_" not in names
    with torch.no_grad():
        assert torch.equal(run(), expected)
        assert "aten::gelu_" in names and "aten::gelu" not in names
        everywhere = torch.nn.modules.module.register_module_forward_hook
        for register in (last.register_forward_hook, everywhere):
            handle = register(keep)
            assert torch.equal(run(), expected)
            handle.remove()
            ((out, before),) = kept
            assert torch.equal(out, before)
        mlp.fc1 = torch.nn.Sequential(mlp.fc1)
        assert torch.equal(run(), expected) and "aten::gelu_" not in names


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("name", ["fc1", "fc2"])
def test_a_layer_in_place_of_another_is_used(name: str, autocast: bool, small_chunks):
    """As adapters are, which keep the layer's weight as theirs; with all tokens at once, as they
    may draw random numbers."""
    seen = []

    class Doubled(torch.nn.Module):
        def __init__(self, layer: torch.nn.Linear) -> None:
            super().__init__()
            self.layer, self.weight, self.bias = layer, layer.weight, layer.bias

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x.shape[:-1])
            return 2 * self.layer(x)

    torch.manual_seed(0)
    mlp, x = FeedForward(8, 32), random(2, 11, 7, 8)
    expected = 2 * mlp(x) if name == "fc2" else mlp.fc2(F.gelu(2 * mlp.fc1(x)))
    setattr(mlp, name, Doubled(getattr(mlp, name)))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        assert relative(mlp(x).float(), expected) < (0.02 if autocast else CLOSE)
    assert seen == [x.shape[:-1]]


def stored_bytes(function, *inputs: torch.Tensor) -> int:
    """How much is kept for the backward pass, whatever activation checkpointing keeps aside."""
    sizes = {}

    def pack(x: torch.Tensor) -> torch.Tensor:
        sizes[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        function(*inputs)
    return sum(sizes.values())


@pytest.mark.parametrize("use_onednn", [False, True])
@pytest.mark.parametrize("kind", [FeedForward, ConvFeedForward])
def test_checkpointing_in_the_feed_forward(
    kind: type[FeedForward], use_onednn: bool, small_chunks, monkeypatch: pytest.MonkeyPatch
):
    """It changes what is stored, and nothing else."""
    monkeypatch.setattr(kernels, "USE_ONEDNN", use_onednn)
    monkeypatch.setattr(kernels, "WHOLE_BYTES", 1 << 20)  # not divided, but for oneDNN
    torch.manual_seed(0)
    mlp, x = kind(8, 32), random(2, 11, 7, 8)
    assert mlp.with_cp
    results, stored = with_gradients(mlp, x), stored_bytes(mlp, x)
    mlp.with_cp = False
    for mine, other in zip(results, with_gradients(mlp, x), strict=True):
        assert relative(mine, other) < CLOSE
    hidden = 2 * 11 * 7 * 32 * 4  # bytes
    assert stored_bytes(mlp, x) - stored > (1.9 if use_onednn else 0.9) * hidden


@pytest.mark.parametrize("drop", [0.0, 0.5])
@pytest.mark.parametrize("kind", [FeedForward, ConvFeedForward])
def test_feed_forward_in_autocast(kind: type[FeedForward], drop: float, small_chunks):
    """What is computed again in the backward pass has autocast's data type, and its gradients the
    parameters'; with dropout, the same channels are dropped."""
    torch.manual_seed(0)
    mlp, x = kind(8, 32, drop), random(2, 11, 7, 8)

    def run(autocast: bool) -> list[torch.Tensor]:
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return with_gradients(mlp, x)

    expected = run(False)
    for mlp.with_cp in (False, True):
        out, *gradients = run(True)
        assert out.dtype == torch.bfloat16 and {g.dtype for g in gradients} == {torch.float32}
        for mine, other in zip([out, *gradients], expected, strict=True):
            assert relative(mine.float(), other) < 0.04  # the given gradient is rounded, too
    mlp.requires_grad_(False)  # of a frozen stage, before one that isn't
    (alone,) = torch.autograd.grad(mlp(x).sum(), x)
    assert alone.shape == x.shape


def test_backbones_choose_checkpointing_in_the_feed_forward():
    for backbone in (PyramidVisionTransformer, PyramidVisionTransformerV2):
        assert backbone().block2[0].mlp.with_cp
        assert not backbone(mlp_with_cp=False).block2[0].mlp.with_cp


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_linear_layers_are_quantised_as_docs_deploy_says():
    model = PyramidVisionTransformerV2(arch=ARCH).eval()
    for layer in model.modules():
        if type(layer) is kernels.Linear:
            layer.__class__ = torch.nn.Linear
    quantised = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear})
    assert not any(isinstance(layer, torch.nn.Linear) for layer in quantised.modules())
    image = torch.randn(1, 3, 64, 96)
    for found, wanted in zip(quantised(image), model(image), strict=True):
        assert relative(found, wanted) < 0.05


def test_which_code_runs(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kernels, "USE_ONEDNN", True)
    x = torch.rand(4)
    assert kernels.uses_onednn(x)
    assert kernels.describe(torch.float32) == "oneDNN's convolutions"
    assert kernels.describe(torch.bfloat16) == "oneDNN's linear layers"
    assert kernels.describe(torch.float64) == "PyTorch's attention"
    assert kernels.describe(torch.float32, "meta") == "PyTorch's attention"
    assert not kernels.uses_onednn(x.double())
    assert not kernels.uses_onednn(x.to("meta"))
    with torch.autocast("cpu", torch.bfloat16):
        assert not kernels.uses_onednn(x)
    with torch.backends.mkldnn.flags(enabled=False):
        assert not kernels.uses_onednn(x)
    monkeypatch.setattr(kernels, "USE_ONEDNN", False)
    assert not kernels.uses_onednn(x)
    assert kernels.describe(torch.float32) == kernels.describe(torch.bfloat16) == AMX
    assert kernels.describe(torch.float64) == "PyTorch's attention"


@pytest.mark.parametrize("with_cp", [False, True])
@pytest.mark.parametrize("mlp_with_cp", [False, True])
@pytest.mark.parametrize("backbone", [PyramidVisionTransformer, PyramidVisionTransformerV2])
def test_backbone(backbone, with_cp: bool, mlp_with_cp: bool, small_chunks, plain):
    torch.manual_seed(0)
    arch = dict(embed_dims=(8, 16, 20, 32), depths=(1, 1, 1, 1), mlp_ratios=(2, 2, 2, 2))
    model = backbone(arch, with_cp=with_cp, mlp_with_cp=mlp_with_cp, drop_path_rate=0.0)

    class Flat(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([out.flatten() for out in self.model(x)])

    assert_equal(Flat(), random(2, 3, 75, 101), plain=plain)


class Largest(TorchDispatchMode):
    """Which operators ran, and the most numbers that one of them gave."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        self.names.add(function.overloadpacket.__name__)
        tensors = out if isinstance(out, tuple | list) else (out,)
        sizes = [x.numel() for x in tensors if isinstance(x, torch.Tensor)]
        self.numel = max([self.numel, *sizes])
        return out


@pytest.mark.parametrize("use_onednn", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_scores_are_never_held_at_once(
    dtype: torch.dtype, use_onednn: bool, monkeypatch: pytest.MonkeyPatch
):
    """Forward or backward, in chunks or in PyTorch's fused kernel."""
    monkeypatch.setattr(kernels, "USE_ONEDNN", use_onednn)
    monkeypatch.setattr(kernels, "CHUNK_BYTES", 64 << 10)
    heads = max(2, torch.get_num_threads())  # of fewer, the backward pass is in chunks
    q, k, v = (torch.randn(1, heads, n, 16, dtype=dtype).requires_grad_() for n in (4096, 128, 128))
    with Largest() as largest:
        kernels.attention(q, k, v).sum().backward()
    assert largest.numel <= heads * 4096 * 16, largest.names  # the output, not the scores
    fused = any("flash_attention" in name for name in largest.names)
    assert fused == (dtype == torch.float64 or not use_onednn), largest.names
    chunks = "_softmax" in largest.names
    assert chunks == (dtype == torch.bfloat16 or (dtype == torch.float32 and use_onednn))


def test_exported_patches_are_of_any_number():
    layer = kernels.PatchConv(16, 24, 4)
    maps = torch.randn(2, 16, 8, 8)
    assert maps.numel() < layer.weight.numel()
    program = torch.export.export(layer, (maps,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    many = torch.randn(64, 16, 8, 8)
    assert many.numel() > layer.weight.numel()
    assert torch.equal(program.module()(many), layer(many))


@pytest.mark.skipif(torch.__version__ < (2, 6), reason="mmpvt exports from PyTorch 2.6 on")
def test_exported_patches_in_bfloat16_are_of_any_size():
    layer = kernels.PatchConv(16, 24, 4).bfloat16()
    maps, larger = (torch.randn(1, 16, *size).bfloat16() for size in ((32, 40), (63, 49)))
    sizes = {axis: torch.export.Dim(f"size{axis}", min=8) for axis in (2, 3)}
    program = torch.export.export(layer, (maps,), dynamic_shapes=(sizes,))
    assert relative(program.module()(larger).float(), layer(larger).float()) < 1e-2


def test_exported_graphs_hold_pytorchs_operators():
    """Linear layers and attention, whatever machine exports them."""
    model = PyramidVisionTransformerV2("b0").eval()
    names = {
        node.kind()
        for node in torch.jit.trace(model, torch.rand(1, 3, 64, 64)).inlined_graph.nodes()
    }
    assert {"aten::linear", "aten::scaled_dot_product_attention"} <= names


@pytest.mark.parametrize("version", [PyramidVisionTransformer, PyramidVisionTransformerV2])
@pytest.mark.parametrize("casts", [False, True], ids=["float32", "bfloat16"])
def test_compiled_as_one_graph(casts: bool, version):
    """With fullgraph, the compiler raises where it would go back to Python."""
    torch.manual_seed(0)
    model = version(ARCH, drop_path_rate=0.5).train()
    model.compile(backend="eager", fullgraph=True, dynamic=False)
    images = torch.randn(2, 3, 64, 64)
    with torch.autocast("cpu", torch.bfloat16, enabled=casts):
        sum(out.sum() for out in model(images)).backward()
    assert all(p.grad is not None for p in model.parameters())
