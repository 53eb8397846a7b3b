"""The published network in PyTorch, twice: diffusers' own, and one written here with the names of the original code.

Both are filled with random numbers, saved, converted, and must then compute what our network computes.
"""

import math

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is in the extra bench")

from torch import nn  # noqa: E402  after the skip
from torch.nn import functional as F  # noqa: E402, N812  as everyone calls it

from gen_jax import convert  # noqa: E402
from gen_jax.diffusion import published  # noqa: E402
from gen_jax.diffusion.unet import UNet  # noqa: E402

pytestmark = pytest.mark.slow

TIMES = (0, 371, 999)
# The published config.json of google/ddpm-cifar10-32.
GOOGLE = {
    "act_fn": "silu", "attention_head_dim": None, "block_out_channels": [128, 256, 256, 256],
    "center_input_sample": False, "downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"], "in_channels": 3,
    "layers_per_block": 2, "mid_block_scale_factor": 1, "norm_eps": 1e-06, "norm_num_groups": 32, "out_channels": 3,
    "sample_size": 32, "time_embedding_type": "positional",
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
}  # fmt: skip


class Residual(nn.Module):
    def __init__(self, width, out):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(32, width, eps=1e-6), nn.Conv2d(width, out, 3, padding=1)
        self.temb_proj = nn.Linear(512, out)
        self.norm2, self.conv2 = nn.GroupNorm(32, out, eps=1e-6), nn.Conv2d(out, out, 3, padding=1)
        if width != out:
            self.nin_shortcut = nn.Conv2d(width, out, 1)

    def forward(self, x, told):
        h = self.conv1(F.silu(self.norm1(x))) + self.temb_proj(F.silu(told))[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class Attention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.GroupNorm(32, width, eps=1e-6)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(width, width, 1) for _ in range(4))

    def forward(self, x):
        h = self.norm(x)
        q, k, v = (layer(h).flatten(2).mT[:, None] for layer in (self.q, self.k, self.v))  # [B, 1, N, C]
        mixed = F.scaled_dot_product_attention(q, k, v)[:, 0].mT.reshape(x.shape)
        return x + self.proj_out(mixed)


class Level(nn.Module):
    """Blocks of one size, and what leads to the next."""

    def __init__(self, widths, out, attends, resample=""):
        super().__init__()
        self.block = nn.ModuleList(Residual(width, out) for width in widths)
        self.attn = nn.ModuleList(Attention(out) for _ in widths if attends)
        if resample:
            layer = nn.Module()
            layer.conv = nn.Conv2d(out, out, 3, **({"stride": 2} if resample == "downsample" else {"padding": 1}))
            self.add_module(resample, layer)

    def apply_block(self, number, x, told):
        x = self.block[number](x, told)
        return self.attn[number](x) if len(self.attn) else x


class Original(nn.Module):
    """The CIFAR-10 network, with the names of the ports of the original code."""

    def __init__(self):
        super().__init__()
        self.temb = nn.Module()
        self.temb.dense = nn.ModuleList([nn.Linear(128, 512), nn.Linear(512, 512)])
        self.conv_in = nn.Conv2d(3, 128, 3, padding=1)
        # By hand, from the table of the network's sizes.
        self.down = nn.ModuleList([
            Level([128, 128], 128, False, "downsample"), Level([128, 256], 256, True, "downsample"),
            Level([256, 256], 256, False, "downsample"), Level([256, 256], 256, False),
        ])  # fmt: skip
        self.mid = nn.Module()
        self.mid.block_1, self.mid.attn_1, self.mid.block_2 = Residual(256, 256), Attention(256), Residual(256, 256)
        self.up = nn.ModuleList([
            Level([384, 256, 256], 128, False), Level([512, 512, 384], 256, True, "upsample"),
            Level([512, 512, 512], 256, False, "upsample"), Level([512, 512, 512], 256, False, "upsample"),
        ])  # fmt: skip
        self.norm_out, self.conv_out = nn.GroupNorm(32, 128, eps=1e-6), nn.Conv2d(128, 3, 3, padding=1)

    def forward(self, x, t):
        angles = t[:, None] * torch.exp(-math.log(10_000) / 63 * torch.arange(64))
        told = self.temb.dense[0](torch.cat([angles.sin(), angles.cos()], 1))
        told = self.temb.dense[1](F.silu(told))
        hs = [self.conv_in(x)]
        for level in self.down:
            for number in range(2):
                hs.append(level.apply_block(number, hs[-1], told))
            if hasattr(level, "downsample"):
                hs.append(level.downsample.conv(F.pad(hs[-1], (0, 1, 0, 1))))
        h = self.mid.block_2(self.mid.attn_1(self.mid.block_1(hs[-1], told)), told)
        for level in reversed(self.up):
            for number in range(3):
                h = level.apply_block(number, torch.cat([h, hs.pop()], 1), told)
            if hasattr(level, "upsample"):
                h = level.upsample.conv(F.interpolate(h, scale_factor=2))
        return self.conv_out(F.silu(self.norm_out(h)))


@pytest.fixture(scope="module")
def ours():
    """Our network and the shapes of its parameters, compiled once."""
    network = UNet()
    x, t = np.zeros((len(TIMES), 32, 32, 3), np.float32), np.zeros(len(TIMES), np.float32)
    return jax.jit(network.apply), jax.eval_shape(network.init, jax.random.key(0), x, t)["params"]


def filled(make):
    """A model with random numbers everywhere, also in what starts as ones and zeros."""
    torch.manual_seed(0)
    model = make()
    assert sum(parameter.numel() for parameter in model.parameters()) == 35_746_307
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn(parameter.shape))
            else:
                parameter.mul_(1 + 0.2 * torch.randn(parameter.shape))
    return model.eval()


def check_same(ours, model, path, layout):
    """That the network of a file computes what the PyTorch model does."""
    apply, shapes = ours
    params, found = published.params_of(convert.read(path), shapes, str(path))
    assert found == layout
    x = np.random.default_rng(0).normal(size=(1, 32, 32, 3)).astype(np.float32).repeat(len(TIMES), 0)
    t = np.array(TIMES, np.float32)
    with torch.no_grad():
        output = model(torch.from_numpy(x).permute(0, 3, 1, 2), torch.from_numpy(t))
    expected = getattr(output, "sample", output).permute(0, 2, 3, 1).numpy()
    assert expected.std() > 0.1
    assert abs(expected[1:] - expected[0]).max((1, 2, 3)).min() > 0.01  # the time is heard
    difference = np.abs(np.asarray(apply({"params": params}, x, t)) - expected).max((1, 2, 3))
    print(f"{layout}: largest differences at t = {TIMES}: {difference}, of values with std {expected.std():.3f}")
    assert difference.max() < 1e-4


def test_the_original_codes_names_as_torch_saves_them(ours, tmp_path):
    model, path = filled(Original), tmp_path / "model-790000.pth"
    torch.save(model.state_dict(), path)
    check_same(ours, model, path, "original")


@pytest.fixture(scope="module")
def diffusers_model():
    diffusers = pytest.importorskip("diffusers", reason="diffusers is in the extra others")
    return filled(lambda: diffusers.UNet2DModel(**GOOGLE))


@pytest.mark.parametrize("file", ["diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"])
def test_diffusers_model_as_diffusers_saves_it(ours, diffusers_model, file, tmp_path):
    diffusers_model.save_pretrained(tmp_path, safe_serialization=file.endswith(".safetensors"))
    check_same(ours, diffusers_model, tmp_path / file, "diffusers")


def test_diffusers_model_under_the_older_names_that_diffusers_still_loads(ours, diffusers_model, tmp_path):
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = diffusers_model.state_dict()
    for new, old in older.items():
        tensors = {name.replace(f".{new}.", f".{old}."): tensor for name, tensor in tensors.items()}
    torch.save(tensors, tmp_path / "diffusion_pytorch_model.bin")
    check_same(ours, diffusers_model, tmp_path / "diffusion_pytorch_model.bin", "diffusers, older")
