import hashlib
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
import sklearn.datasets

from gen_jax.method import UserError
from gen_jax.metrics import efficientnet


def made_up_tensors(seed: int = 0) -> dict[str, np.ndarray]:
    """Tensors with the names and shapes of the PyTorch network, such that rounding errors do not grow."""
    rng, made = np.random.default_rng(seed), {}

    def layer(name: str, norm: str, *shape: int) -> None:
        made[f"{name}.weight"] = rng.normal(0, np.prod(shape[1:]) ** -0.5, shape).astype(np.float32)
        ranges = {"weight": (0.5, 1), "bias": (0, 1), "running_mean": (-0.5, 0.5), "running_var": (0.5, 1.5)}
        for part, (low, high) in ranges.items():
            made[f"{norm}.{part}"] = rng.uniform(low, high, shape[0]).astype(np.float32)
        made[f"{norm}.num_batches_tracked"] = np.array(7)

    layer("_conv_stem", "_bn0", 32, 3, 3, 3)
    for number, (expansion, kernel, _, width_in, width_out) in enumerate(efficientnet.BLOCKS):
        name, hidden = f"_blocks.{number}.", expansion * width_in
        if number:
            layer(f"{name}_expand_conv", f"{name}_bn0", hidden, width_in, 1, 1)
        layer(f"{name}_depthwise_conv", f"{name}_bn1", hidden, 1, kernel, kernel)
        layer(f"{name}_project_conv", f"{name}_bn2", width_out, hidden, 1, 1)
    layer("_conv_head", "_bn1", 1_280, 320, 1, 1)
    made["_fc.weight"] = rng.normal(0, 0.03, (1_000, 1_280)).astype(np.float32)
    made["_fc.bias"] = rng.normal(0, 1, 1_000).astype(np.float32)
    return made


@pytest.fixture(scope="module")
def tensors() -> dict[str, np.ndarray]:
    return made_up_tensors()


@pytest.fixture(scope="module")
def params(tensors: dict[str, np.ndarray]) -> Any:
    return jax.device_put(efficientnet.fold(tensors))


def photographs(height: int = 224, width: int = 224) -> np.ndarray:
    """The two photographs of scikit-learn, uint8 [2, height, width, 3]."""
    loaded = sklearn.datasets.load_sample_images().images
    return np.stack([np.asarray(PIL.Image.fromarray(image).resize((width, height))) for image in loaded])


def test_the_architecture_is_the_published_one(tensors: dict[str, np.ndarray]):
    trained = [a.size for name, a in tensors.items() if "running" not in name and "num_batches" not in name]
    assert sum(trained) == 4_652_008  # Tan and Le's 4.7 million
    assert [block.stride for block in efficientnet.BLOCKS] == [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1]
    assert len(efficientnet.BLOCKS) == 16


def test_folding_leaves_a_kernel_and_a_bias_per_layer(params: Any):
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 4_652_008 - 21_008  # less a gamma for each channel
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))


def by_xla(x: Any, kernel: Any, stride: int) -> Any:
    """XLA's convolution of as many groups as the kernel [h, w, C / groups, F] needs."""
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1] // kernel.shape[2], precision="highest",
    )  # fmt: skip


@pytest.mark.long
def test_the_network_against_xlas_convolutions_and_norms_of_their_own(tensors: dict[str, np.ndarray], params: Any):
    def layer(x: Any, name: str, norm: str, stride: int = 1) -> Any:
        x = by_xla(x, tensors[f"{name}.weight"].transpose(2, 3, 1, 0), stride)
        gamma, beta, mean, variance = (
            tensors[f"{norm}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")
        )
        return gamma * (x - mean) / np.sqrt(variance + 1e-3) + beta

    @jax.jit
    def network(images: Any) -> tuple[Any, Any]:
        x = jax.nn.relu6(layer(efficientnet.prepare(images), "_conv_stem", "_bn0", 2))
        for number, stride in enumerate([1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1]):
            name = f"_blocks.{number}."
            y = jax.nn.relu6(layer(x, f"{name}_expand_conv", f"{name}_bn0")) if number else x
            y = jax.nn.relu6(layer(y, f"{name}_depthwise_conv", f"{name}_bn1", stride))
            y = layer(y, f"{name}_project_conv", f"{name}_bn2")
            x = x + y if stride == 1 and x.shape[-1] == y.shape[-1] else y
        features = jax.nn.relu6(layer(x, "_conv_head", "_bn1")).mean((1, 2))
        return features, features @ tensors["_fc.weight"].T + tensors["_fc.bias"]

    images = photographs(40, 32)
    features, logits = efficientnet.outputs(params, images)
    expected_features, expected_logits = network(images)
    assert 0 < features.mean() < 6
    np.testing.assert_allclose(features, expected_features, atol=1e-4 * float(np.abs(expected_features).max()))
    np.testing.assert_allclose(logits, expected_logits, atol=1e-4 * float(np.abs(expected_logits).max()))


@pytest.mark.parametrize("size", [(7, 7), (8, 8), (5, 12), (1, 2), (2, 3)])
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_is_xlas_convolution_with_same_padding(size: tuple[int, int], kernel: int, stride: int):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, *size, 6)).astype(np.float32)
    taps = rng.normal(size=(kernel, kernel, 6)).astype(np.float32)
    made = jax.jit(efficientnet.depthwise, static_argnums=2)(x, taps, stride)
    expected = by_xla(x, taps[:, :, None], stride)
    assert made.shape == expected.shape == (2, -(-size[0] // stride), -(-size[1] // stride), 6)
    np.testing.assert_allclose(made, expected, atol=1e-5)


def test_the_padding_of_a_stride_of_two_by_hand():
    """TensorFlow pads an even side after it only; an odd side on both ends."""
    x, taps = jnp.arange(1.0, 5.0)[None, :, None, None], jnp.array([1.0, 10.0, 100.0])[:, None, None]
    assert efficientnet.depthwise(x, taps, 2).ravel().tolist() == [321.0, 43.0]
    assert efficientnet.depthwise(x[:, :3], taps, 2).ravel().tolist() == [210.0, 32.0]


@pytest.mark.parametrize("size", [(32, 32), (28, 28), (224, 224), (300, 260), (20, 240)])
def test_resizes_as_pillow_does_in_floats(size: tuple[int, int]):
    image = photographs(*size)[0]
    made = np.asarray(jax.jit(efficientnet.prepare)(image[None]))[0]
    for channel in range(3):
        grey = PIL.Image.fromarray(image[..., channel].astype(np.float32))
        expected = (np.asarray(grey.resize((224, 224), PIL.Image.Resampling.BICUBIC)) - 127) / 128
        np.testing.assert_allclose(made[..., channel], expected, atol=2e-5)


@pytest.mark.long
def test_greys_are_repeated(params: Any):
    grey = photographs(28, 28)[..., :1]
    repeated = efficientnet.features(params, np.repeat(grey, 3, axis=-1))
    np.testing.assert_allclose(efficientnet.features(params, grey), repeated, rtol=1e-5, atol=1e-5)


@pytest.mark.long
def test_neither_order_nor_number_of_pictures_matters(params: Any):
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3)).astype(np.uint8)
    features, logits = efficientnet.outputs(params, images)
    assert (features.shape, logits.shape) == ((5, 1_280), (5, 1_000))
    reverse = efficientnet.features(params, images[::-1])
    np.testing.assert_allclose(reverse[::-1], features, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(efficientnet.features(params, images[3:4]), features[3:4], rtol=1e-5, atol=1e-5)
    assert efficientnet.features(params, images[:0]).shape == (0, 1_280)


def test_any_number_of_pictures_compiles_once(params: Any, monkeypatch: pytest.MonkeyPatch):
    traced = []

    def apply(params: Any, images: Any) -> Any:
        traced.append(images.shape)
        return jnp.zeros((len(images), 1_280)), jnp.zeros((len(images), 1_000))

    forward = jax.jit(apply)
    monkeypatch.setattr(efficientnet, "_compiled", lambda: forward)
    for num in (1, 2, 3, 8):
        efficientnet.outputs(params, np.zeros((num, 8, 8, 1), np.uint8))
    assert traced == [(efficientnet._BATCH_ON_CPU, 8, 8, 1)]


@pytest.mark.parametrize(
    "images", [np.zeros((1, 8, 8, 2), np.uint8), np.zeros((1, 8, 8, 3)), np.zeros((8, 8, 3), np.uint8)]
)
def test_what_are_no_pictures_is_refused(images: np.ndarray):
    with pytest.raises(ValueError, match=r"^pictures are uint8 \[B, H, W, 1 or 3\], not "):
        efficientnet.prepare(jnp.asarray(images))


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(efficientnet, "PACKAGE", "a_package_that_nobody_made")
    with pytest.raises(
        UserError, match=r"^.* needs the package a_package_that_nobody_made: pip install 'gen_jax\[judge\]'$"
    ):
        efficientnet.load()


def test_another_file_is_refused(tmp_path: pathlib.Path):
    (tmp_path / "other.pth").write_bytes(b"other")
    digest = hashlib.sha256(b"other").hexdigest()[:8]
    with pytest.raises(
        UserError, match=rf"^.*other.pth has the SHA-256 {digest}... instead of 57934424..., .*pip install"
    ):
        efficientnet.load(tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"^cannot read .*missing: No such file or directory$"):
        efficientnet.load(tmp_path / "missing")


def weights() -> pathlib.Path:
    try:
        return efficientnet.weights_path()
    except UserError as error:
        pytest.skip(str(error))


@pytest.mark.slow
def test_recognises_photographs():
    params = efficientnet.load(weights())
    squares = [image[:, 106:533] for image in sklearn.datasets.load_sample_images().images]
    features, logits = efficientnet.outputs(params, np.stack(squares))
    assert logits.argmax(axis=1).tolist() == [698, 985]  # ImageNet's palace and daisy
    small = efficientnet.features(params, photographs(112, 112))
    distances = np.linalg.norm(features[:, None] - small, axis=-1)
    assert distances.argmin(axis=1).tolist() == [0, 1]


@pytest.mark.slow
def test_features_are_those_of_the_torch_network():
    path = weights()
    torch = pytest.importorskip("torch")
    lite = pytest.importorskip("efficientnet_lite_pytorch")
    network = lite.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=str(path)).eval()
    params = efficientnet.load(path)
    for images in (photographs(), photographs(32, 32), photographs(300, 200)[..., :1]):
        prepared = torch.tensor(np.asarray(efficientnet.prepare(jnp.asarray(images)))).permute(0, 3, 1, 2)
        with torch.no_grad():
            expected = network.extract_features(prepared).mean((2, 3)).numpy(), network(prepared).numpy()
        for made, wanted in zip(efficientnet.outputs(params, images), expected, strict=True):
            difference = np.abs(made - wanted).max() / np.abs(wanted).max()
            print(f"largest difference {difference:.1e}")
            assert difference < 1e-4
