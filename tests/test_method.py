import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.method import DataSpec, Feature, draw, labelled, stream, to_bytes, to_model, to_pixels, with_factors


def test_a_range_of_values_is_scaled_to_that_of_a_model():
    assert to_model(jnp.array([-4.0, 0.0, 2.0]), (-4, 4)).tolist() == [-1.0, 0.0, 0.5]


def test_to_model_and_to_pixels_invert_each_other_over_all_256_values():
    values = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(to_pixels(to_model(values, (0, 255))), values)
    np.testing.assert_array_equal(jax.jit(lambda v: to_pixels(to_model(v, (0, 255))))(values), values)


def test_pixels_are_rounded_and_clipped_not_cut():
    # 200.6 / 127.5 - 1 is nearest to 201; beyond the range is the end of the range
    np.testing.assert_array_equal(to_pixels(jnp.array([200.6 / 127.5 - 1, -9.0, 9.0])), [201, 0, 255])


def test_streams_are_independent():
    names = ("init", "step", "sample", "eval", "pictures")
    first = [float(jax.random.normal(stream(jax.random.key(0), name))) for name in names]
    assert len(set(first)) == len(names)


def test_a_draw_belongs_to_its_example_whatever_the_batch():
    key = jax.random.key(3)
    whole = draw(key, jnp.arange(8), lambda k: jax.random.normal(k, (4,)))
    for order in ([5, 2], [2], [7, 6, 5, 2]):
        part = jax.jit(lambda i: draw(key, i, lambda k: jax.random.normal(k, (4,))))(jnp.array(order))
        np.testing.assert_array_equal(part, whole[jnp.array(order)])


def test_a_data_spec_survives_json():
    import json

    features = labelled("ab") | with_factors((3, 40)) | {"small": Feature((4, 4, 3), "uint8")}
    for spec in (
        DataSpec("x", (8, 8, 1), 10, features, "f00"),
        DataSpec("y", (1, 1, 2), 10, kind="points", value_range=(-4.0, 4.0)),
        DataSpec("z", (7, 7, 4), 10, labelled("ab"), kind="codes"),
    ):
        assert DataSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_a_data_spec_of_version_0_1_is_read():
    """As it stands in config.json of the runs of that version."""
    old = {"name": "x", "image_shape": [8, 8, 1], "num_examples": 10, "class_names": ["a", "b"], "fingerprint": "f00",
           "dtype": "uint8", "value_range": [0, 255], "factor_sizes": [3, 40]}  # fmt: skip
    expected = DataSpec("x", (8, 8, 1), 10, labelled("ab") | with_factors((3, 40)), "f00")
    assert DataSpec.from_dict(old) == expected
    plain = old | {"class_names": None, "factor_sizes": None}
    assert DataSpec.from_dict(plain) == DataSpec("x", (8, 8, 1), 10, fingerprint="f00")
    points = plain | {"image_shape": [1, 1, 2], "dtype": "float32", "value_range": [-4.0, 4.0]}
    assert DataSpec.from_dict(points).kind == "points"
    assert DataSpec.from_dict(old | {"of_a_newer_version": 1}) == expected


def test_a_batch_is_of_the_features_of_its_data():
    features = labelled("abc") | with_factors((3, 40)) | {"small": Feature((4, 4, 3), "uint8")}
    spec = DataSpec("x", (8, 8, 1), 10, features)
    assert (spec.class_names, spec.num_classes, spec.factor_sizes, spec.dtype) == (tuple("abc"), 3, (3, 40), "uint8")
    shapes = {name: (leaf.shape, leaf.dtype) for name, leaf in spec.abstract_batch(5).items()}
    assert shapes == {
        "image": ((5, 8, 8, 1), np.uint8), "index": ((5,), np.int32), "label": ((5,), np.int32),
        "factors": ((5, 2), np.int32), "small": ((5, 4, 4, 3), np.uint8),
    }  # fmt: skip
    plain = DataSpec("x", (1, 1, 2), 10, kind="points")
    assert (plain.class_names, plain.num_classes, plain.factor_sizes, plain.dtype) == (None, None, None, "float32")


def test_binary_images_are_black_and_white_for_models_and_for_eyes():
    binary = np.array([[0, 1]], np.uint8)
    np.testing.assert_array_equal(to_bytes(binary, (0, 1)), to_pixels(to_model(jnp.array(binary), (0, 1))))
    np.testing.assert_array_equal(to_bytes(np.array([-1.0, 0.2, 1.0, 3.0]), (-1, 1)), [0, 153, 255, 255])
    values = np.arange(256, dtype=np.uint8)
    assert to_bytes(values, (0, 255)) is values
