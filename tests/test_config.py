import pytest

from gen_jax import config as configs
from gen_jax.method import UserError


def refused(*words):
    with pytest.raises(UserError) as error:
        configs.check(configs.override(configs.base_config(), words))
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("--config.sede=1", "did you mean seed?"),
        ("--config.learning_rate=1", "did you mean optimizer.learning_rate?"),
        ("--config.sampel.num=1", "did you mean sample.num?"),
        ("--config.sample=1", "sample.num"),
        ("--confg.seed=1", "did you mean --config?"),
        ("leftover", "leftover"),
        ("--config.seed", "--config.seed=0"),
        ("--config.seed=one", "a whole number"),
        ("--config.seed=1.5", "a whole number"),
        ("--config.seed=-1", "0..4294967295"),
        ("--config.ema=high", "a number"),
        ("--config.fast_compile_options=1", "true or false"),
        ("--config.batch_size=0", "at least 1"),
        ("--config.num_steps=-5", "at least 1"),
        ("--config.accumulate=3", "does not divide"),
        ("--config.steps_per_call=7", "multiple of steps_per_call"),
        ("--config.executor=jitt", "did you mean jit?"),
        ("--config.optimizer.name=adma", "did you mean adam?"),
        ("--config.optimizer.decay=exponential", "allowed: none, linear, cosine"),
        ("--config.optimizer.learning_rate=nan", "a number"),
        ("--config.optimizer.learning_rate=1e999", "finite"),
        ("--config.optimizer.learning_rate=-1", "not negative"),
        ("--config.compute_dtype=float16", "bfloat16"),
    ],
)
def test_a_mistake_is_one_line_that_helps(word, hint):
    assert hint in refused(word)


def test_values_take_the_type_of_their_default():
    words = ["--config.ema=0", "--config.seed=7", "--config.data.name=cifar10", "--config.num_steps=1_000"]
    config = configs.override(configs.base_config(), words)
    assert (config.ema, config.seed, config.data.name, config.num_steps) == (0.0, 7, "cifar10", 1000)
    assert isinstance(config.ema, float)


def test_overriding_leaves_the_given_config_alone():
    config = configs.base_config()
    configs.override(config, ["--config.seed=5"])
    assert config.seed == 0


def test_a_config_survives_its_file():
    config = configs.base_config()
    config.sizes = (1, 2)
    assert configs.from_dict(configs.json.loads(config.to_json())).to_dict() == config.to_dict()


def test_a_resumed_run_refuses_what_changes_training_and_names_it():
    old, new = configs.base_config(), configs.base_config()
    new.num_steps, new.sample.num, new.log_every = 5, 6, 7
    assert configs.changes(old.to_dict(), new.to_dict()) == []
    new.optimizer.learning_rate, new.seed = 1.0, 3
    assert configs.changes(old.to_dict(), new.to_dict()) == ["optimizer.learning_rate: 0.0002 -> 1.0", "seed: 0 -> 3"]


def test_an_unknown_config_or_variant_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/good.py").write_text(
        "from gen_jax.config import base_config, with_variant\n"
        "def get_config(variant=''):\n    return with_variant(base_config(), variant, {'tiny': {'seed': 3}})\n"
    )
    assert configs.load("configs/good.py:tiny")[2].seed == 3
    with pytest.raises(UserError, match="did you mean configs/good.py"):
        configs.load("configs/goood.py")
    with pytest.raises(UserError, match="no variant 'tny'.*`:tiny`"):
        configs.load("configs/good.py:tny")
