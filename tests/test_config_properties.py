"""Whatever is typed behind `--config.`: it takes effect, or one line says why not. Nothing is trained here."""

import ast
import inspect
import pathlib

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gen_jax import config as configs
from gen_jax import methods, optimizer, parallel, stages
from gen_jax.diffusion import schedule
from gen_jax.method import DataSpec, UserError, labelled
from gen_jax.run import Run
from gen_jax.vae import likelihood

pytestmark = pytest.mark.long

FILES = sorted(pathlib.Path(__file__).parents[1].glob("configs/*.py"))
CONFIGS = [methods.load(f"{path}:tiny")[2] for path in FILES]
DDPM, LATENT = (methods.load(f"{name}:tiny")[2] for name in ("ddpm_mnist", "latent_mnist"))
SPEC = DataSpec("made_up", (8, 8, 1), 64, labelled("0123456789"), fingerprint="f" * 64)

NAMES = [
    *methods.METHODS, *parallel.EXECUTORS, *schedule.STRIDES, *likelihood.BINARISATIONS,
    "bfloat16", "log_snr", "rms", "group", "large",
]  # fmt: skip
WHOLE = [-1, 0, 1, 2, 3, 4, 16]
# Not between: a schedule of 2^30 times, say, is legal and takes all memory.
LARGE = [1000, 10_000, 2**31, 2**32, 10**400]
ODD = ["", "nan", "inf", "1e999", "-1e999", "1e300", "True", "None", "1j", "[1, 2]", "()", "(1, (2,))", "('a',)", "{}",
       "{[]: 1}", "1_000", "0x10", "1\n2", "a\u2028b", "--config.seed=1", "=", "(" * 500, "9" * 5000]  # fmt: skip

# As versions before 0.2 called them.
OLD_KEYS = {
    "optimizer.decay_share": "optimizer.decay.share",
    "diffusion.num_timesteps": "diffusion.schedule.num_steps",
    "diffusion.zero_terminal_snr": "diffusion.schedule.zero_terminal_snr",
    "sample.eta": "sample.sampler.eta",
    "sample.variance": "sample.sampler.variance",
    "vae.sigma": "vae.likelihood.sigma",
    "gan.clip": "gan.constraint.bound",
    "gan.penalty_weight": "gan.penalty.weight",
}

FITTING = {
    bool: st.booleans(),
    int: st.sampled_from(WHOLE),
    float: st.sampled_from(WHOLE) | st.floats(0, 1) | st.floats(),
    tuple: st.lists(st.sampled_from(WHOLE), max_size=3).map(tuple),
    str: st.sampled_from(NAMES),
}
noise = st.one_of([*FITTING.values(), st.sampled_from(ODD), st.text(max_size=8)])


def parameters(choice, name):
    """{parameter: default} of a name of a choice, as its factory or its modules declare them."""
    parts, found = choice.table[name], {}
    for part in parts if isinstance(parts, tuple) else (parts,):
        found |= {each.name: each.default for each in inspect.signature(part).parameters.values()}
    hidden = {*choice.given, "parent", "name"}
    return {key: choice.defaults.get(key, found[key]) for key in found if key not in hidden}


def choices_of(config):
    """Every choice of a config by its path; the table of the optimizer's decay stands below that of the optimizer."""
    return methods.options(config).all_choices


@st.composite
def command_lines(draw):
    """A config and what is set on its command line: (config, [(key, text), ...]).

    Mostly keys of the config with values of their types: of mere noise, nothing would pass the first check.
    """
    config = draw(st.sampled_from(CONFIGS))
    flat, choices = configs.flatten(config), choices_of(config)
    pairs = []
    if draw(st.integers(0, 2)) == 0:  # another name of a choice, mostly with a parameter of it
        path = draw(st.sampled_from(sorted(choices)))
        name = draw(st.sampled_from(sorted(choices[path].table)))
        pairs.append((draw(st.sampled_from([path, f"{path}.name"])), name))
        its = parameters(choices[path], name) or {"name": name}
        flat = {key: v for key, v in flat.items() if not key.startswith(f"{path}.")} | {
            f"{path}.{key}": value for key, value in its.items()
        }
        key = draw(st.sampled_from(sorted(its)))
        pairs.append((f"{path}.{key}", str(draw(st.just(its[key]) | FITTING[type(its[key])]))))
    for _ in range(draw(st.sampled_from([0, 1, 2, 3] if pairs else [1, 1, 2, 3]))):
        key = draw(st.sampled_from(sorted(flat)))
        values = {"own": st.just(flat[key]), "fitting": FITTING[type(flat[key])], "noise": noise}
        if key.removesuffix(".name") in choices:
            values["fitting"] = st.sampled_from(sorted(choices[key.removesuffix(".name")].table))
        if "network." not in key:  # a network of 1,000 blocks is legal, and takes long to trace
            values["large"] = st.sampled_from(LARGE)
        value = draw(values[draw(st.sampled_from([*["fitting"] * 5, *values]))])
        old = [before for before, now in OLD_KEYS.items() if now == key]
        mangled = [key[1:], key.partition(".")[0], key.upper(), f"{key}.x", f"{key}\n", f"network.{key}", *old * 5]
        pairs.append((draw(st.sampled_from([*[key] * 40, *mangled])), str(value)))
    return config, draw(st.permutations(pairs))


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
        first = stages.find(config, Run("no_such_run"), SPEC)
        stage = first.stage if first else None
        method = methods.make(config, SPEC, stage)
        if any("network" in key or key.endswith("vae.latents") for key, _ in pairs):  # nothing else changes a network
            methods.abstract_state(method, SPEC, stage, parallel.make_mesh(1))
    except UserError as error:
        return None, str(error)
    return config, ""


def expected_keys(before, asked):
    """{key: value} of what a config holds with these names, and nothing else, set: worked out from the outside in."""
    flat = configs.flatten(before)
    for path, choice in sorted(choices_of(before).items()):
        name = asked.get(f"{path}.name", flat[f"{path}.name"])
        if name != flat[f"{path}.name"]:
            stay = tuple(f"{path}.{key}" for key in optimizer.COMMON) if path.endswith("optimizer") else ()
            flat = {key: v for key, v in flat.items() if not key.startswith(f"{path}.") or key.startswith(stay)}
            flat |= {f"{path}.{key}": value for key, value in parameters(choice, name).items()}
            flat[f"{path}.name"] = name
    return flat


@settings(
    max_examples=300, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
@given(command_lines())
@example((DDPM, [("sample.eta", "0.5"), ("sample.sampler", "ddim"), ("optimizer.decay_share", "0.25")]))
@example((DDPM, [("diffusion.num_timesteps", "50"), ("diffusion.schedule", "linear"), ("sample.num_steps", "5")]))
@example((LATENT, [("pretrained", "a\nb")]))
@example((LATENT, [("pretrained", "9" * 5000)]))
@example((LATENT, [("pretrained", "\0")]))
@example((LATENT, [("pretrained.network", "dense"), ("pretrained", "x")]))
@example((LATENT, [("pretrained.network.hidden", "3"), ("pretrained.network", "dense")]))
def test_any_words_take_effect_or_are_refused_in_one_line(case):
    before, pairs = case
    config, said = build(before, pairs)
    if config is None:
        assert len(said.splitlines()) == 1
        return
    asked = {}
    for key, text in pairs:
        key = OLD_KEYS.get(key, key)
        asked[f"{key}.name" if key in choices_of(before) else key] = text
    expected, found = expected_keys(before, asked), configs.flatten(config)
    assert found.keys() == expected.keys()
    assert asked.keys() <= found.keys()
    for key, value in found.items():
        assert same(value, asked[key]) if key in asked else value == expected[key]
