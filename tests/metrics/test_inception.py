import hashlib
import types

import jax.numpy as jnp
import numpy as np
import pytest

import gen_jax.metrics
from gen_jax.method import UserError
from gen_jax.metrics import inception


def resized(image, height, width):
    """The resize of one channel [H, W], as a list."""
    made = inception.resize_tf1(np.asarray(image)[None, :, :, None], height, width)
    return np.asarray(made)[0, :, :, 0].tolist()


def test_resize_to_twice_the_size():
    # Outputs at 0, 0.5, 1, 1.5 of the input; beyond the last pixel, at 1, it is repeated.
    assert resized([[0, 10], [20, 40]], 4, 4) == [
        [0, 5, 10, 10],
        [10, 17.5, 25, 25],
        [20, 30, 40, 40],
        [20, 30, 40, 40],
    ]


def test_resize_from_three_to_two():
    # Outputs at 0 and 1.5: pixel 0, and the mean of pixels 1 and 2.
    assert resized([[0, 1, 2], [3, 4, 5], [6, 7, 14]], 2, 2) == [[0, 1.5], [4.5, 7.5]]


def test_resize_from_four_to_three():
    # Outputs at 0, 4/3, 8/3. A row 0 9 27 81 becomes 0, 9 + 18/3 = 15, 27 + 54 * 2/3 = 63; rows are 100 apart, and
    # add 0, 400/3, 800/3.
    image = np.array([0, 9, 27, 81]) + 100 * np.arange(4)[:, None]
    expected = np.array([0, 15, 63]) + np.array([0, 400 / 3, 800 / 3])[:, None]
    np.testing.assert_allclose(resized(image, 3, 3), expected, rtol=1e-6)


def test_resize_does_not_smooth():
    # Outputs at 0, 3 and 6 of nine pixels see none of the others.
    assert resized([[1, 9, 9, 2, 9, 9, 3, 9, 9]], 1, 3) == [[1, 2, 3]]


def test_resize_of_heights_and_widths_apart():
    assert resized([[0, 6], [2, 8], [4, 10]], 3, 3) == [[0, 4, 6], [2, 6, 8], [4, 8, 10]]  # at 0, 2/3, 4/3 of a row


def test_resize_keeps_constants_and_equal_sizes():
    assert np.unique(resized(np.full((5, 7), 255), 299, 299)).tolist() == [255]
    image = np.random.default_rng(0).integers(0, 256, (9, 9))
    assert resized(image, 9, 9) == image.tolist()


def test_resize_of_a_ramp():
    # Pixel i of 299 is at i * 32/299: the ramp itself, until it ends at pixel 31.
    expected = np.minimum(8 * np.arange(299) * 32 / 299, 8 * 31)
    np.testing.assert_allclose(resized(8 * np.arange(32)[None], 1, 299)[0], expected, atol=1e-4)


def reference_resize(image, size):
    """In float64, one output at a time: image [H, W, C] -> [size, size, C]."""
    out = np.empty((size, size, image.shape[2]))
    for i in range(size):
        for j in range(size):
            y, x = i * image.shape[0] / size, j * image.shape[1] / size
            low, left = int(y), int(x)
            rows, columns = [low, min(low + 1, len(image) - 1)], [left, min(left + 1, image.shape[1] - 1)]
            weights = np.outer([1 - y + low, y - low], [1 - x + left, x - left])
            out[i, j] = np.einsum("ij,ijc->c", weights, image[np.ix_(rows, columns)])
    return out


@pytest.mark.parametrize("shape", [(17, 23, 3), (64, 41, 1)])
def test_resize_agrees_with_one_pixel_at_a_time(shape):
    image = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    np.testing.assert_allclose(inception.resize_tf1(image[None], 37, 37)[0], reference_resize(image, 37), atol=1e-3)


def test_number_of_parameters():
    # Keras counts 23,851,784 for Inception-v3: three values per feature of a convolution (its norm has no scale) and
    # 1,000 classes. Here a scale for each of the 17,216 features and 8 more classes of 2,048 weights and a bias add up.
    total = sum(int(np.prod(shape)) for shape in inception.shapes().values())
    assert total == 23_851_784 + 17_216 + 8 * (2_048 + 1) == 23_885_392


def test_number_of_weights_block_by_block():
    # Worked out from the figures of the paper, not from the table.
    stem = 9 * (3 * 32 + 32 * 32 + 32 * 64) + 64 * 80 + 9 * 80 * 192
    a = [x * (64 + 48 + 64 + p) + 25 * 48 * 64 + 9 * (64 * 96 + 96 * 96) for x, p in ((192, 32), (256, 64), (288, 64))]
    b = 9 * 288 * 384 + 288 * 64 + 9 * (64 * 96 + 96 * 96)
    c = [768 * (192 + 2 * n + 192) + 7 * (n * n + n * 192) + 7 * (3 * n * n + n * 192) for n in (128, 160, 160, 192)]
    d = 768 * 192 + 9 * 192 * 320 + 768 * 192 + 7 * 2 * 192 * 192 + 9 * 192 * 192
    e = [x * (320 + 384 + 448 + 192) + 3 * 4 * 384 * 384 + 9 * 448 * 384 for x in (1_280, 2_048)]
    expected = [stem, *a, b, *c, d, *e]

    found: dict[str, int] = {}
    for name, shape in inception.shapes().items():
        if name.endswith(".conv.weight"):
            block = name.split(".")[0] if name.startswith("Mixed") else "stem"
            found[block] = found.get(block, 0) + int(np.prod(shape))
    blocks = ["5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c"]
    assert found == dict(zip(["stem", *(f"Mixed_{block}" for block in blocks)], expected, strict=True))
    assert sum(expected) == 21_751_136  # Keras: 23,851,784 - 3 * 17,216 - 1,000 * 2,049


def test_names_and_shapes():
    shapes = inception.shapes()
    kernels = [name for name in shapes if name.endswith(".conv.weight")]
    assert len(kernels) == 94
    assert len(shapes) == 5 * 94 + 2
    assert sum(shapes[name][0] for name in kernels) == 17_216
    some = {
        "Conv2d_1a_3x3.conv.weight": (32, 3, 3, 3),
        "Conv2d_1a_3x3.bn.running_var": (32,),
        "Conv2d_4a_3x3.conv.weight": (192, 80, 3, 3),
        "Mixed_5b.branch1x1.conv.weight": (64, 192, 1, 1),
        "Mixed_5b.branch_pool.conv.weight": (32, 192, 1, 1),
        "Mixed_5d.branch5x5_2.conv.weight": (64, 48, 5, 5),
        "Mixed_6a.branch3x3.conv.weight": (384, 288, 3, 3),
        "Mixed_6c.branch7x7dbl_4.conv.weight": (160, 160, 7, 1),
        "Mixed_6e.branch7x7_3.conv.weight": (192, 192, 7, 1),
        "Mixed_7a.branch7x7x3_2.conv.weight": (192, 192, 1, 7),
        "Mixed_7b.branch3x3_2b.conv.weight": (384, 384, 3, 1),
        "Mixed_7c.branch3x3dbl_3a.conv.weight": (384, 384, 1, 3),
        "Mixed_7c.branch_pool.bn.bias": (192,),
        "fc.weight": (1_008, 2_048),
        "fc.bias": (1_008,),
    }
    assert {name: shapes[name] for name in some} == some


def test_pools_count_no_padding():
    x = jnp.array([[1.0, 2, 3], [4, 5, 6], [7, 8, 18]])[None, :, :, None]
    mean = inception._pool(x, inception.Pool(mean=True))[0, :, :, 0]
    assert mean.tolist() == [[3, 3.5, 4], [4.5, 6, 7], [6, 8, 9.25]]  # of 4, 6 or 9 pixels
    largest = inception._pool(-x, inception.Pool(mean=False))[0, :, :, 0]
    assert largest.tolist() == [[-1, -1, -2], [-1, -1, -2], [-4, -4, -5]]


def test_the_last_block_takes_a_maximum_like_those_that_shrink():
    blocks = [layer for layer in inception.LAYERS if isinstance(layer, inception.Block)]
    pools = {b.name: layer.mean for b in blocks for layer in b.branches[-1] if isinstance(layer, inception.Pool)}
    assert len(pools) == 11
    assert [name for name, mean in pools.items() if not mean] == ["Mixed_6a.", "Mixed_7a.", "Mixed_7c."]


def made_up(seed=0, dtype="float32"):
    """Random weights of the network, with which activations keep their size."""
    rng, weights = np.random.default_rng(seed), {}
    for name, shape in inception.shapes().items():
        if name.endswith("conv.weight"):
            array = rng.standard_normal(shape, np.float32) * np.sqrt(2 / np.prod(shape[1:]))
        elif name.endswith(("bn.weight", "bn.running_var")):
            array = rng.uniform(0.5, 1.5, shape)
        else:
            array = rng.normal(0, 0.1 if "bn" in name else 0.03, shape)
        weights[name] = array.astype(dtype)
    return weights


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """The network of a made-up file, and the digest of that file."""
    path = tmp_path_factory.mktemp("weights") / "made_up.npz"
    np.savez(path, **made_up(dtype="float16"))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    network = inception.load(path)
    path.unlink()  # 48 MB
    return network, digest


@pytest.mark.long
def test_a_file_of_weights_end_to_end(loaded):
    network, digest = loaded
    assert network.sha256 == digest
    assert network.digest == digest[:8]
    assert not network.published

    grey = np.random.default_rng(0).integers(0, 256, (3, 9, 12, 1)).astype(np.uint8)
    features, logits = network.outputs(grey, batch_size=2)
    assert features.shape == (3, 2_048)
    assert logits.shape == (3, 1_008)
    assert features.dtype == logits.dtype == np.float32
    assert np.isfinite(logits).all()
    assert len(np.unique(features.round(3), axis=0)) == 3

    # The last of the three shared its batch with zeros; colours of equal channels are grey.
    again, _ = network.outputs(np.repeat(grey[1:], 3, axis=3), batch_size=2)
    np.testing.assert_allclose(again, features[1:], rtol=1e-5, atol=1e-5)
    assert network.outputs(grey[:0])[1].shape == (0, 1_008)
    assert inception._compiled()[1]._cache_size() == 1  # for both sizes and numbers of channels


def test_without_kernels_the_features_are_the_shifts_of_the_last_norms():
    weights = {name: np.zeros_like(x) if "conv" in name else x for name, x in made_up(1).items()}
    order = ("1x1", "3x3_2a", "3x3_2b", "3x3dbl_3a", "3x3dbl_3b", "_pool")
    shifts = []
    for name in (f"Mixed_7c.branch{each}.bn" for each in order):
        weight, bias, mean, var = (weights[f"{name}.{s}"] for s in ("weight", "bias", "running_mean", "running_var"))
        shifts.append(np.maximum(bias - mean * weight / np.sqrt(var + 1e-3), 0))
    expected = np.concatenate(shifts)

    # With the shapes of the test before: the program is compiled already.
    network = inception.Inception(inception.fold(weights), "0" * 64)
    features, logits = network.outputs(np.zeros((2, 9, 12, 1), np.uint8), batch_size=2)
    np.testing.assert_allclose(features, [expected] * 2, atol=1e-6)
    np.testing.assert_allclose(logits[0], weights["fc.weight"] @ expected + weights["fc.bias"], atol=1e-4)


def test_pictures_that_it_cannot_take():
    network = inception.Inception({}, "0" * 64)
    with pytest.raises(UserError, match=r"1 channel \(grey\) or 3 \(RGB\), not 4"):
        network.outputs(np.zeros((1, 8, 8, 4), np.uint8))
    with pytest.raises(ValueError, match="float32"):
        network.outputs(np.zeros((1, 8, 8, 3), np.float32))


@pytest.fixture
def refusal(monkeypatch, tmp_path):
    """The line with which `load` refuses a file of PyTorch that holds the arrays of this network, changed."""

    def load(drop=(), **changes):
        arrays = {name: np.broadcast_to(np.float32(1), shape) for name, shape in inception.shapes().items()}
        arrays = {name: x for name, x in (arrays | changes).items() if name not in drop}
        # In place of the reader, so that no test writes 95 MB.
        reader = types.SimpleNamespace(read=lambda path: arrays)
        monkeypatch.setattr(gen_jax.metrics, "torch_file", reader, raising=False)
        path = tmp_path / "weights.pth"
        path.write_bytes(b"abc")
        with pytest.raises(UserError) as caught:
            inception.load(path)
        line = str(caught.value)
        # The SHA-256 of "abc" is a test value of FIPS 180.
        start = f"{path} (SHA-256 ba7816bf) is not the Inception network of FID: "
        assert line.startswith(start)
        assert line.endswith("give pt_inception-2015-12-05-6726825d.pth, or its arrays as .npz")
        assert "\n" not in line
        return line.removeprefix(start)

    return load


def test_another_shape_is_refused(refusal):
    line = refusal(**{"Mixed_6b.branch7x7_2.conv.weight": np.ones((128, 128, 7, 1), np.float32)})
    assert line.startswith(
        "Mixed_6b.branch7x7_2.conv.weight has the shape [128, 128, 7, 1], expected is [128, 128, 1, 7];"
    )
    assert "torchvision" not in line


def test_a_missing_name_is_refused(refusal):
    line = refusal(drop=("fc.bias", "Mixed_7c.branch_pool.bn.running_var"))
    assert line.startswith("it has no Mixed_7c.branch_pool.bn.running_var, expected with the shape [192];")


def test_another_network_is_refused(refusal):
    torchvision = {
        "fc.weight": np.ones((1_000, 2_048), np.float32),
        "fc.bias": np.ones(1_000, np.float32),
        "AuxLogits.fc.bias": np.ones(1_000, np.float32),
    }
    line = refusal(**torchvision)
    assert line.startswith(
        "fc.weight has the shape [1000, 2048], expected is [1008, 2048]; torchvision's inception_v3 has"
    )
    line = refusal(drop=inception.shapes(), **{"layer1.0.conv1.weight": np.ones((64, 64, 3, 3))})
    assert line.startswith("it has no Conv2d_1a_3x3.conv.weight, expected with the shape [32, 3, 3, 3];")


def test_an_unknown_name_is_refused(refusal):
    line = refusal(**{"AuxLogits.fc.bias": np.ones(1_000, np.float32)})
    assert line.startswith("it has AuxLogits.fc.bias with the shape [1000], which that network has not;")


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.ones(1_008, np.int64), "fc.bias has the type int64, expected are floats"),
        (np.full(1_008, np.nan, np.float32), "fc.bias has values that are not finite"),
    ],
)
def test_wrong_values_are_refused(refusal, array, reason):
    assert refusal(**{"fc.bias": array}).startswith(reason)


def test_a_negative_variance_is_refused(refusal):
    name = "Mixed_5b.branch1x1.bn.running_var"
    assert refusal(**{name: np.full(64, -1, np.float32)}).startswith(f"{name}, a variance, has negative values")


def test_the_published_file_is_known_by_its_digest(monkeypatch, tmp_path):
    arrays = {name: np.broadcast_to(np.float32(1), shape) for name, shape in inception.shapes().items()}
    arrays |= {"Conv2d_1a_3x3.bn.num_batches_tracked": np.array(0)}  # of newer versions of PyTorch
    monkeypatch.setattr(gen_jax.metrics, "torch_file", types.SimpleNamespace(read=lambda path: arrays), raising=False)
    monkeypatch.setattr(inception, "PUBLISHED_SHA256", hashlib.sha256(b"abc").hexdigest())
    (tmp_path / "weights.pth").write_bytes(b"abc")
    assert inception.load(str(tmp_path / "weights.pth")).published
    assert inception.PUBLISHED.endswith("-6726825d.pth")


def test_files_that_cannot_be_read(tmp_path):
    whole, path = tmp_path / "whole.npz", tmp_path / "weights.npz"
    np.savez(whole, a=np.arange(1_000))
    np.save(tmp_path / "one.npy", np.arange(1_000))
    content = whole.read_bytes()
    damaged = content[:2_000] + b"\xff" + content[2_001:]
    for wrong in (content[: len(content) // 2], damaged, b"", b"no zip at all", (tmp_path / "one.npy").read_bytes()):
        path.write_bytes(wrong)
        with pytest.raises(UserError, match=r"weights.npz \(SHA-256 [0-9a-f]{8}\) is not a whole .npz: .*; copy or"):
            inception.load(path)
    with pytest.raises(UserError, match="cannot read the Inception weights .*missing.npz .No such file"):
        inception.load(tmp_path / "missing.npz")
    with pytest.raises(UserError, match="cannot read the Inception weights .*Is a directory"):
        inception.load(tmp_path)


@pytest.mark.slow
def test_agrees_with_the_network_in_torch():
    torch = pytest.importorskip("torch", reason="PyTorch is in the extra bench")
    weights = made_up(2)
    rng = np.random.default_rng(3)
    for images in (rng.integers(0, 256, (2, 32, 40, 3)), rng.integers(0, 256, (1, 400, 28, 1))):
        images = images.astype(np.uint8)
        found = inception.Inception(inception.fold(weights), "0" * 64).outputs(images, batch_size=2)
        x = np.stack([reference_resize(image, 299) for image in images])
        x = np.repeat(x, 3 // x.shape[3], axis=3)
        with torch.no_grad():
            tensors = {name: torch.from_numpy(array) for name, array in weights.items()}
            expected = in_torch(torch, tensors, torch.from_numpy(np.float32(x.transpose(0, 3, 1, 2))) / 128 - 1)
        for ours, theirs in zip(found, expected, strict=True):
            theirs = theirs.numpy()
            assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max()
            assert np.abs(theirs).max() > 0.1


def in_torch(torch, weights, x):
    """Features and logits of x [N, 3, 299, 299], block by block as the paper draws them."""
    F = torch.nn.functional

    def unit(x, name, stride=1, pad=(0, 0)):
        norm = [weights[f"{name}.bn.{each}"] for each in ("running_mean", "running_var", "weight", "bias")]
        x = F.conv2d(x, weights[f"{name}.conv.weight"], stride=stride, padding=pad)
        return F.relu(F.batch_norm(x, *norm, training=False, eps=0.001))

    def tower(x, name, *pads, last_stride=1):
        """Units `name`_1, `name`_2, ..., with these paddings."""
        for number, pad in enumerate(pads, 1):
            x = unit(x, f"{name}_{number}", last_stride if number == len(pads) else 1, pad)
        return x

    def mean_pool(x):
        return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)

    none, one, two, row, column = (0, 0), (1, 1), (2, 2), (0, 3), (3, 0)
    x = unit(x, "Conv2d_1a_3x3", 2)
    x = unit(x, "Conv2d_2a_3x3")
    x = unit(x, "Conv2d_2b_3x3", 1, one)
    x = F.max_pool2d(x, 3, 2)
    x = unit(x, "Conv2d_3b_1x1")
    x = unit(x, "Conv2d_4a_3x3")
    x = F.max_pool2d(x, 3, 2)
    for block in ("Mixed_5b.", "Mixed_5c.", "Mixed_5d."):
        x = torch.cat([
            unit(x, block + "branch1x1"),
            tower(x, block + "branch5x5", none, two),
            tower(x, block + "branch3x3dbl", none, one, one),
            unit(mean_pool(x), block + "branch_pool"),
        ], 1)  # fmt: skip
    assert x.shape[1:] == (288, 35, 35)
    block = "Mixed_6a."
    parts = unit(x, block + "branch3x3", 2), tower(x, block + "branch3x3dbl", none, one, none, last_stride=2)
    x = torch.cat([*parts, F.max_pool2d(x, 3, 2)], 1)
    for block in ("Mixed_6b.", "Mixed_6c.", "Mixed_6d.", "Mixed_6e."):
        x = torch.cat([
            unit(x, block + "branch1x1"),
            tower(x, block + "branch7x7", none, row, column),
            tower(x, block + "branch7x7dbl", none, column, row, column, row),
            unit(mean_pool(x), block + "branch_pool"),
        ], 1)  # fmt: skip
    assert x.shape[1:] == (768, 17, 17)
    block = "Mixed_7a."
    parts = (
        tower(x, block + "branch3x3", none, none, last_stride=2),
        tower(x, block + "branch7x7x3", none, row, column, none, last_stride=2),
    )
    x = torch.cat([*parts, F.max_pool2d(x, 3, 2)], 1)
    for block in ("Mixed_7b.", "Mixed_7c."):
        small = unit(x, block + "branch3x3_1")
        large = tower(x, block + "branch3x3dbl", none, one)
        pooled = F.max_pool2d(x, 3, 1, 1) if block == "Mixed_7c." else mean_pool(x)
        x = torch.cat([
            unit(x, block + "branch1x1"),
            unit(small, block + "branch3x3_2a", 1, (0, 1)), unit(small, block + "branch3x3_2b", 1, (1, 0)),
            unit(large, block + "branch3x3dbl_3a", 1, (0, 1)), unit(large, block + "branch3x3dbl_3b", 1, (1, 0)),
            unit(pooled, block + "branch_pool"),
        ], 1)  # fmt: skip
    assert x.shape[1:] == (2_048, 8, 8)
    features = x.mean((2, 3))
    return features, features @ weights["fc.weight"].T + weights["fc.bias"]
