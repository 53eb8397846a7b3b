"""Path x prediction x sampler x spacing x number of steps x eta x guidance: finite everywhere, or refused in one line.

All that have the same sampler and number of steps take each step together, in float32, in one compiled program a
sampler. The network is bounded and else arbitrary.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax.diffusion import multistep, prediction, sampler, schedule, solvers, spacing
from gen_jax.method import UserError

T = 100  # times of a table
TABLES = [name for name, make in schedule.SCHEDULES.items() if isinstance(make(), schedule.Schedule)]
PATHS = {f"{name}, {end}": schedule.SCHEDULES[name](T, end == "noise") for name in TABLES for end in ("trace", "noise")}
PATHS |= {name: make() for name, make in schedule.SCHEDULES.items() if name not in TABLES}
KINDS = {name: make() for name, make in prediction.PREDICTIONS.items()}
SAMPLERS = {
    **{f"ancestral {variance}": solvers.ancestral(variance) for variance in ("small", "large", "learned")},
    **{f"ddim {eta}": solvers.ddim(eta) for eta in (0.0, 0.5, 1.0)},
    "heun": solvers.heun(),
    "edm": solvers.edm(),
    "edm, all churned": solvers.edm(1e3, 0.0, 1e9),
    **{f"dpm_solver {kind}": multistep.dpm_solver(2, kind) for kind in ("none", "midpoint", "heun")},
    **{f"plms {order}": multistep.plms(order) for order in (2, 4)},
}
SPACINGS = {name: make() for name, make in spacing.SPACINGS.items()} | {"even noise": spacing.karras(1.0)}
SCALES = np.array([0.0, 1.0, 7.5], np.float32)[:, None, None]  # of guidance
X_T = np.array([-3.0, 0.1, 2.0], np.float32)  # over the standard deviation of the start


def test_every_name_is_tried():
    assert {name.split()[0].rstrip(",") for name in SAMPLERS} == solvers.SAMPLERS.keys() - {"euler"}  # ddim 0.0


@functools.cache
def lists():
    """The levels of every path and spacing by number of steps, {n: [(names, path, levels)]}; others are refused."""
    found = {n: [] for n in (1, 2, 7, 50, T)}
    for (name, path), (spaced, times) in ((a, b) for a in PATHS.items() for b in SPACINGS.items()):
        for n, those in found.items():
            if spaced in ("leading", "linspace") and isinstance(path, schedule.Continuous):
                with pytest.raises(UserError, match="no whole times; use trailing or karras$"):
                    times(path, n)
            else:
                those.append(((name, spaced), path, path.path(times(path, n))))
    return found


def denoised(x_t, level, unit):
    """x0_hat [prediction, scale, clipped or not, value] of two networks under guidance."""
    conditional, unconditional = jnp.sin(3 * x_t), jnp.cos(x_t)
    estimates = []
    for one in (conditional, unconditional):
        by_kind = [
            jnp.where(unit, *(prediction.to_x0(kind, one[i], x_t[i], level, each) for each in (True, False)))
            for i, kind in enumerate(KINDS.values())
        ]
        estimates.append(jnp.stack(by_kind))
    guided = SCALES * estimates[0] + (1 - SCALES) * estimates[1]
    return jnp.stack([jnp.clip(guided[:, :, 0], -1, 1), guided[:, :, 1]], axis=2)


@functools.cache
def compiled(name):
    made = SAMPLERS[name]

    def step(carry, x, unit, row):
        def denoise(x_t, level):
            x0_hat = denoised(x_t, level, unit)
            return sampler.Estimate(x0_hat, jnp.cos(x_t)) if made.estimates else x0_hat

        return made.step(carry, x, denoise, row, jnp.sign(x) if made.noisy else None)[:2]

    return jax.jit(jax.vmap(step))


@pytest.mark.parametrize("name", SAMPLERS)
def test_values_are_finite_everywhere(name):
    made = SAMPLERS[name]
    for n, those in lists().items():
        rows = [sampler.Row(*sampler.pairs(levels), made.plan(levels, path)) for _, path, levels in those]
        rows = jax.tree.map(lambda *leaves: np.stack(leaves).astype(np.float32), *rows)
        for leaf in jax.tree.leaves(rows):
            assert np.all(np.isfinite(leaf))
        start = np.array([schedule.start_std(path, levels) for _, path, levels in those], np.float32)
        x = start[:, None, None, None, None] * np.broadcast_to(X_T, (len(those), len(KINDS), len(SCALES), 2, len(X_T)))
        unit = np.array([path.unit for _, path, _ in those])
        carry = jax.vmap(made.init)(jnp.asarray(x))
        for i in range(n):
            carry, x = compiled(name)(carry, x, unit, jax.tree.map(lambda leaf, i=i: leaf[:, i], rows))
        x = np.asarray(x)
        assert x.dtype == np.float32
        for ((path_name, spaced), path, _), found in zip(those, x, strict=True):
            for kind, values in zip(KINDS.values(), found, strict=True):
                if not refused(kind, path):
                    assert np.all(np.isfinite(values)), (path_name, spaced, n, kind.name)
                    assert np.all(np.abs(values[:, 0]) <= 1 + 1e-5), (
                        path_name,
                        spaced,
                        n,
                        kind.name,
                    )  # the last x0_hat


def refused(kind, path):
    """Whether a prediction does not determine the data at a path's end; that is one line."""
    if not kind.needs_signal or path.noise_range[1] < np.inf:
        prediction.check(kind, path)
        return False
    with pytest.raises(UserError, match="cannot recover the data from pure noise") as error:
        prediction.check(kind, path)
    assert "\n" not in str(error.value)
    return True
