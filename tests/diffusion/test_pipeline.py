"""diffusers' folder: what its JSON files say is what a config says, both ways; diffusers itself reads it slowly."""

import json

import jax
import numpy as np
import pytest
from published_files import named_shapes, random_tensors

from gen_jax import methods
from gen_jax.diffusion import pipeline, published, schedule
from gen_jax.diffusion.unet import UNet
from gen_jax.method import DataSpec, UserError
from gen_jax.metrics import safetensors_file

SPEC = DataSpec("cifar10", (32, 32, 3), 50_000)
# The published files of google/ddpm-cifar10-32.
GOOGLE = {
    "_class_name": "UNet2DModel", "act_fn": "silu", "attention_head_dim": None,
    "block_out_channels": [128, 256, 256, 256], "center_input_sample": False, "downsample_padding": 0,
    "flip_sin_to_cos": False, "freq_shift": 1, "in_channels": 3, "layers_per_block": 2, "mid_block_scale_factor": 1,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"], "norm_eps": 1e-06,
    "norm_num_groups": 32, "out_channels": 3, "sample_size": 32, "time_embedding_type": "positional",
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
}  # fmt: skip
SCHEDULER = {
    "_class_name": "DDPMScheduler", "beta_end": 0.02, "beta_schedule": "linear", "beta_start": 0.0001,
    "clip_sample": True, "num_train_timesteps": 1000, "trained_betas": None, "variance_type": "fixed_large",
}  # fmt: skip


def config(*words):
    return methods.override(methods.load("ddpm_cifar10")[2], [f"--config.{word}" for word in words])


def zeros(network):
    x = np.zeros((1, 32, 32, 3), np.float32)
    shapes = jax.eval_shape(network.init, jax.random.key(0), x, np.zeros(1, np.float32))["params"]
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)


def test_the_published_config_is_that_of_our_recipe():
    told, _ = pipeline.files(config(), SPEC, {"in": {"bias": np.zeros(128, np.float32)}})
    assert told["unet/config.json"].items() >= GOOGLE.items()
    scheduler = told["scheduler/scheduler_config.json"]
    np.testing.assert_allclose(scheduler["trained_betas"], np.linspace(1e-4, 0.02, 1000), rtol=1e-9)
    assert {key: scheduler[key] for key in ("variance_type", "prediction_type", "clip_sample")} == {
        "variance_type": "fixed_large", "prediction_type": "epsilon", "clip_sample": True
    }  # fmt: skip
    assert json.loads(json.dumps(told)) == told


@pytest.mark.parametrize("unet", [GOOGLE, {**GOOGLE, "sample_size": [32, 32]}])
def test_the_published_folder_tells_our_recipe(unet):
    words = pipeline.words_of(unet, SCHEDULER, "theirs")
    assert methods.override(methods.load("ddpm_cifar10")[2], words) == config()


@pytest.mark.parametrize(
    "words",
    [
        (),
        (
            "network.channels=64",
            "network.multipliers=(1,2,4)",
            "network.attention_sizes=(16,8)",
            "network.num_blocks=3",
        ),
        ("diffusion.prediction=v", "diffusion.schedule=cosine", "diffusion.schedule.zero_terminal_snr=true"),
        ("diffusion.prediction=x", "diffusion.schedule=scaled_linear", "sample.sampler.variance=small"),
        ("sample.clip=false",),
    ],
)
def test_a_config_comes_back_from_what_is_written(words):
    made = config(*words)
    told, _ = pipeline.files(made, SPEC, {"in": {"bias": np.zeros(128, np.float32)}})
    found = pipeline.words_of(told["unet/config.json"], told["scheduler/scheduler_config.json"], "ours")
    kept = {key: made[key] for key in ("network", "diffusion", "sample")}
    back = methods.override(methods.load("ddpm_cifar10")[2], found)
    assert {key: back[key] for key in kept} == kept


def test_tensors_are_those_of_the_published_names_and_come_back():
    sizes = {"channels": 8, "multipliers": (1, 2), "num_blocks": 1}
    network = UNet(out_channels=1, attention_sizes=(4,), num_groups=4, **sizes)
    x = np.zeros((1, 8, 8, 1), np.float32)
    shapes = jax.eval_shape(network.init, jax.random.key(0), x, np.zeros(1, np.float32))["params"]
    tensors = random_tensors("diffusers")
    params, layout = published.params_of(tensors, shapes, "theirs")
    assert layout == "diffusers"
    back = published.tensors_of(params)
    assert {name: tensor.shape for name, tensor in back.items()} == named_shapes("diffusers")
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(back[name], tensor)


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("network.norm=rms",), "config.network.norm is 'rms'"),
        (("network.num_heads=2",), "config.network.num_heads is 2"),
        (("diffusion.schedule.num_steps=500", "sample.num_steps=500"), "config.diffusion.schedule.num_steps is 500"),
        (("diffusion.told=log_snr",), "config.diffusion.told is 'log_snr'"),
        (("network.multipliers=(1,1,1,1,1,1,1)",), "do not halve 6 times"),
        (("diffusion.prediction=edm",), "config.diffusion.prediction is edm"),
    ],
)
def test_what_diffusers_cannot_hold_is_one_line(words, part):
    with pytest.raises(UserError) as error:
        pipeline.files(config(*words), SPEC, {})
    assert part in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("unet", "scheduler", "part"),
    [
        ({**GOOGLE, "act_fn": "gelu"}, None, "act_fn='gelu'"),
        ({**GOOGLE, "num_class_embeds": 10}, None, "num_class_embeds=10"),
        ({key: value for key, value in GOOGLE.items() if key != "freq_shift"}, None, "freq_shift=0"),
        ({**GOOGLE, "block_out_channels": [128, 192, 256, 256]}, None, "no U-Net as here"),
        ({**GOOGLE, "up_block_types": ["UpBlock2D"] * 4}, None, "other levels on the way up"),
        ({**GOOGLE, "down_block_types": None}, None, "no U-Net as here"),
        (GOOGLE, {**SCHEDULER, "beta_end": 0.03}, "whose betas are those of no schedule here"),
        (GOOGLE, {**SCHEDULER, "beta_schedule": "sigmoid"}, "whose betas are those of no schedule here"),
        (GOOGLE, {**SCHEDULER, "variance_type": "learned"}, "variance_type='learned'"),
        (GOOGLE, {**SCHEDULER, "prediction_type": "flow"}, "prediction_type='flow'"),
    ],
)
def test_another_folder_is_refused_in_one_line(unet, scheduler, part):
    with pytest.raises(UserError) as error:
        pipeline.words_of(unet, scheduler, "theirs")
    assert part in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.slow
def test_diffusers_itself_computes_the_same_from_our_folder_and_gives_it_back(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is in the extra others")
    diffusers = pytest.importorskip("diffusers", reason="diffusers is in the extra others")
    small = ("network.channels=32", "network.multipliers=(1,2)", "network.num_blocks=1")
    made = config(*small)
    network = UNet(channels=32, multipliers=(1, 2), num_blocks=1, attention_sizes=(16,))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.normal(0, 0.1, leaf.shape).astype(np.float32), zeros(network))
    told, tensors = pipeline.files(made, SPEC, params)
    for name, values in told.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(values))
    safetensors_file.write(tmp_path / "unet" / pipeline.WEIGHTS, tensors, {"format": "pt"})

    theirs = diffusers.DDPMPipeline.from_pretrained(tmp_path)
    x, times = rng.normal(size=(2, 32, 32, 3)).astype(np.float32), np.array([3, 800])
    with torch.no_grad():
        found = theirs.unet(torch.from_numpy(x).permute(0, 3, 1, 2), torch.from_numpy(times)).sample
    expected = np.asarray(jax.jit(network.apply)({"params": params}, x, times.astype(np.float32)))
    assert expected.std() > 0.1
    np.testing.assert_allclose(found.permute(0, 2, 3, 1).numpy(), expected, atol=1e-4 * expected.std())
    alpha_bar = schedule.linear().alpha_bar
    np.testing.assert_allclose(theirs.scheduler.alphas_cumprod.numpy(), alpha_bar, rtol=1e-4)
    # One step as Ho et al. 2020, algorithm 2, has it, without noise: at time 0 there is none.
    x_t, eps = torch.from_numpy(x), torch.from_numpy(0.1 * x)
    stepped = theirs.scheduler.step(eps, 0, x_t).prev_sample.numpy()
    x0 = np.clip((x - np.sqrt(1 - alpha_bar[0]) * 0.1 * x) / np.sqrt(alpha_bar[0]), -1, 1)
    np.testing.assert_allclose(stepped, x0, atol=1e-5)

    theirs.save_pretrained(tmp_path / "again")  # whatever they write of theirs comes back, too
    unet, scheduler = (
        json.loads((tmp_path / "again" / name).read_text())
        for name in ("unet/config.json", "scheduler/scheduler_config.json")
    )
    words = pipeline.words_of(unet, scheduler, "again")
    assert methods.override(methods.load("ddpm_cifar10")[2], words).network == made.network
    again = safetensors_file.read(tmp_path / "again/unet" / pipeline.WEIGHTS)
    back, _ = published.params_of(again, params, "again")
    jax.tree.map(np.testing.assert_array_equal, back, params)
