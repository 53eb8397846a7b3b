"""Whatever is typed behind `--config.`: it takes effect, or one line says why not. Nothing is trained here."""

import ast
import pathlib

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gen_jax import config as configs
from gen_jax import methods, optimizer, parallel, train
from gen_jax.diffusion import sampler, schedule
from gen_jax.method import DataSpec, UserError, labelled
from gen_jax.vae import likelihood, networks

FILES = sorted(pathlib.Path(__file__).parents[1].glob("configs/*.py"))
CONFIGS = [methods.load(f"{path}:tiny")[2] for path in FILES]
SPEC = DataSpec("made_up", (8, 8, 1), 64, labelled("0123456789"))

NAMES = [
    *methods.METHODS, *optimizer.OPTIMIZERS, *optimizer.DECAYS, *parallel.EXECUTORS, *schedule.SCHEDULES,
    *schedule.SPACINGS, *sampler.SAMPLERS, *likelihood.LIKELIHOODS, *likelihood.BINARISATIONS, *networks.NETWORKS,
    "bfloat16", "v", "x", "eps", "rms", "group", "large",
]  # fmt: skip
WHOLE = [-1, 0, 1, 2, 3, 4, 16]
# Not between: a schedule of 2^30 times, say, is legal and takes all memory.
LARGE = [1000, 10_000, 2**31, 2**32, 10**400]
ODD = ["", "nan", "inf", "1e999", "-1e999", "1e300", "True", "None", "1j", "[1, 2]", "()", "(1, (2,))", "('a',)", "{}",
       "{[]: 1}", "1_000", "0x10", "1\n2", "a\u2028b", "--config.seed=1", "=", "(" * 500, "9" * 5000]  # fmt: skip

FITTING = {
    bool: st.booleans(),
    int: st.sampled_from(WHOLE),
    float: st.sampled_from(WHOLE) | st.floats(0, 1) | st.floats(),
    tuple: st.lists(st.sampled_from(WHOLE), max_size=3).map(tuple),
    str: st.sampled_from(NAMES),
}
noise = st.one_of([*FITTING.values(), st.sampled_from(ODD), st.text(max_size=8)])


@st.composite
def command_lines(draw):
    """A config and what is set on its command line: (config, [(key, text), ...]).

    Mostly keys of the config with values of their types: of mere noise, nothing would pass the first check.
    """
    config = draw(st.sampled_from(CONFIGS))
    flat = configs.flatten(config)
    pairs = []
    for _ in range(draw(st.sampled_from([1, 1, 2, 3]))):
        key = draw(st.sampled_from(sorted(flat)))
        values = {"own": st.just(flat[key]), "fitting": FITTING[type(flat[key])], "noise": noise}
        if not key.startswith("network."):  # a network of 1,000 blocks is legal, and takes long to trace
            values["large"] = st.sampled_from(LARGE)
        value = draw(values[draw(st.sampled_from([*["fitting"] * 5, *values]))])
        mangled = [key[1:], key.partition(".")[0], key.upper(), f"{key}.x", f"network.{key}"]
        pairs.append((draw(st.sampled_from([*[key] * 40, *mangled])), str(value)))
    return config, pairs


def same(value, text):
    """Whether a config's value is what the text says; read here in another way than the parser does."""
    if isinstance(value, str):
        return value == text
    if isinstance(value, bool):
        return str(value).lower() == text.lower()
    said = ast.literal_eval(text)
    if isinstance(value, tuple):
        return list(value) == (list(said) if isinstance(said, tuple | list) else [said])
    return value == said


def build(config, pairs):
    """Returns (the config, ""), as a run would have it, or (None, what is said against it)."""
    try:
        config = methods.override(config, [f"--config.{key}={text}" for key, text in pairs])
        methods.check(config)
        method = methods.make(config, SPEC)
        if any(key.startswith(("network.", "vae.latents")) for key, _ in pairs):  # nothing else changes a network
            train.abstract_state(method, SPEC, parallel.make_mesh(1))
    except UserError as error:
        return None, str(error)
    return config, ""


@settings(
    max_examples=300, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
@given(command_lines())
def test_any_words_take_effect_or_are_refused_in_one_line(case):
    before, pairs = case
    config, said = build(before, pairs)
    if config is None:
        assert len(said.splitlines()) == 1
        return
    asked, old, new = dict(pairs), configs.flatten(before), configs.flatten(config)
    assert old.keys() == new.keys()
    assert asked.keys() <= new.keys()
    for key, value in new.items():
        assert same(value, asked[key]) if key in asked else value == old[key]
