"""Makes diffusers_golden.json: numbers of diffusers, an independent implementation, with a formula for the network.

    python tests/diffusion/make_diffusers_golden.py

It needs the extra `others`. test_diffusers.py compares ours with the file; its slow test makes the numbers again.
Pictures have two pixels; the network's output, its noise and the start are formulas that both sides share.
"""

from __future__ import annotations

import json
import pathlib
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

FILE = pathlib.Path(__file__).with_name("diffusers_golden.json")
SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "cosine": "squaredcos_cap_v2"}
BETAS = {"linear": (1e-4, 0.02), "scaled_linear": (0.00085, 0.012), "cosine": (1e-4, 0.02)}  # unused by cosine
PREDICTIONS = ("epsilon", "v_prediction", "sample")
TIMES = (0, 1, 250, 500, 998, 999)
START = ((0.7, -1.2),)
NUM_STEPS = 5


def output(x: Any, t: Any) -> Any:
    """The network: any array's x, and a time in 0..999."""
    return x / (1 + x**2) - t / 2000


def noise(step: int) -> np.ndarray:
    """What each step draws, [1, 2]."""
    return np.cos((step + 1) * np.array([[2.0, 3.0]]))


def pictures(shift: float) -> np.ndarray:
    """Two pictures, [2, 1, 2, 2], of different contrast."""
    return np.sin(shift + np.arange(8.0)).reshape(2, 1, 2, 2) * np.array([1.5, 4.0]).reshape(2, 1, 1, 1)


class Walk(NamedTuple):
    """A way from noise to data, with trailing steps of the linear schedule.

    Attributes:
      scheduler: a class of diffusers.
      config: its arguments.
      n: number of steps.
      step: arguments of each step.
      float64: whether its tables are made again in float64; otherwise they are its own, of float32.
    """

    scheduler: str
    config: dict[str, Any]
    n: int = NUM_STEPS
    step: dict[str, Any] = {}  # noqa: RUF012  never changed
    float64: bool = False


def _walks() -> dict[str, Walk]:
    ddpm, ddim, dpm = "DDPMScheduler", "DDIMScheduler", "DPMSolverMultistepScheduler"
    free = {"clip_sample": False}
    steps_of = {
        "ddpm small": (ddpm, {**free, "variance_type": "fixed_small"}, {}),
        "ddpm large": (ddpm, {**free, "variance_type": "fixed_large"}, {}),
        "ddim 0": (ddim, free, {"eta": 0.0}),
        "ddim 0.5": (ddim, free, {"eta": 0.5}),
    }
    sde = {"algorithm_type": "sde-dpmsolver++"}
    multistep = {
        "dpm 1": {"solver_order": 1},
        "dpm 2 midpoint": {"solver_order": 2},
        "sde 1": {"solver_order": 1, **sde},
        "sde 2 midpoint": {"solver_order": 2, **sde},
        "sde 2 heun": {"solver_order": 2, "solver_type": "heun", **sde},
    }
    v, zero = {"prediction_type": "v_prediction"}, {"rescale_betas_zero_snr": True}
    return {
        **{
            f"{name}, {kind}": Walk(scheduler, {**config, "prediction_type": kind}, step=step, float64=True)
            for name, (scheduler, config, step) in steps_of.items()
            for kind in PREDICTIONS
        },
        **{
            f"{name}, its own tables": Walk(scheduler, {**config, **v}, step=step)
            for name, (scheduler, config, step) in steps_of.items()
        },
        **{f"{name}, v_prediction": Walk(dpm, {**config, **v}) for name, config in multistep.items()},
        **{
            f"dpm 2 midpoint, {kind}": Walk(dpm, {**multistep["dpm 2 midpoint"], "prediction_type": kind})
            for kind in PREDICTIONS
        },
        "ddim 0, zero SNR": Walk(ddim, {**free, **v, **zero}, float64=True),
        "dpm 2 midpoint, zero SNR": Walk(dpm, {**multistep["dpm 2 midpoint"], **v, **zero}),
        "ddim 0, 7 steps": Walk(ddim, {**free, **v}, n=7, float64=True),
        "ddim 0, clipped": Walk(ddim, {"clip_sample": True}, float64=True),
        "ddim 0, clipped and derived": Walk(ddim, {"clip_sample": True}, 5, {"use_clipped_model_output": True}, True),
        **{
            f"{name}, {kind}": Walk(f"{name.title()}DiscreteScheduler", {"prediction_type": kind})
            for name in ("euler", "heun")
            for kind in ("epsilon", "v_prediction")
        },
    }


WALKS = _walks()


def make_scheduler(name: str, schedule: str = "linear", **config: Any) -> Any:
    """Returns a scheduler of diffusers."""
    import diffusers

    start, end = BETAS[schedule]
    config = {"beta_schedule": SCHEDULES[schedule], "timestep_spacing": "trailing", **config}
    return getattr(diffusers, name)(beta_start=start, beta_end=end, **config)


def states(walk: Walk) -> list[list[float]]:
    """Returns x before and after every call of a walk, as the scheduler scales it."""
    import torch
    from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr

    scheduler = make_scheduler(walk.scheduler, **walk.config)
    if walk.float64:
        betas = torch.linspace(*BETAS["linear"], 1000, dtype=torch.float64)
        betas = rescale_zero_terminal_snr(betas) if walk.config.get("rescale_betas_zero_snr") else betas
        scheduler.alphas_cumprod = torch.cumprod(1 - betas, dim=0)
    scheduler.set_timesteps(walk.n)
    x = torch.tensor(START, dtype=torch.float64)
    if hasattr(scheduler, "is_scale_input_called") or "Heun" in walk.scheduler:  # these scale x by 1 / alpha
        x = x * (scheduler.sigmas[0].double() ** 2 + 1) ** 0.5
    found = [x]
    for i, t in enumerate(scheduler.timesteps):
        given = torch.from_numpy(noise(i))
        takes = {} if walk.scheduler[:4] in ("DDPM", "Eule", "Heun") else {"variance_noise": given}
        predicted = output(scheduler.scale_model_input(x, t), float(t))
        with mock.patch("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *a, given=given, **k: given):
            x = scheduler.step(predicted, t, x, **takes, **walk.step).prev_sample
        found.append(x)
    return [_rounded(x[0]) for x in found]


def alpha_bars() -> dict[str, list[float]]:
    """Returns alpha_bar at `TIMES`, of its float32 tables, with and without zero terminal SNR."""
    made = {}
    for name in SCHEDULES:
        for suffix, rescaled in (("", False), (", zero SNR", True)):
            scheduler = make_scheduler("DDIMScheduler", name, rescale_betas_zero_snr=rescaled)
            made[f"alpha_bar, {name}{suffix}"] = _rounded(scheduler.alphas_cumprod[list(TIMES)])
    scheduler = make_scheduler("DPMSolverMultistepScheduler", rescale_betas_zero_snr=True)
    return made | {"alpha_bar, linear, zero SNR, multistep": _rounded(scheduler.alphas_cumprod[list(TIMES)])}


def step_lists() -> dict[str, list[float]]:
    """Returns lists of steps by scheduler, spacing and number."""
    asked = [("DDIM", spacing, n) for spacing in ("trailing", "leading", "linspace") for n in (1, 7, 10)]
    asked += [("DDIM", "trailing", 48), ("DDIM", "trailing", 61), ("DDPM", "trailing", 10)]
    asked += [("DPMSolverMultistep", spacing, 10) for spacing in ("trailing", "leading", "linspace")]
    asked += [(name, spacing, 5) for name in ("EulerDiscrete", "HeunDiscrete") for spacing in ("trailing", "linspace")]
    made = {}
    for name, spacing, n in asked:
        scheduler = make_scheduler(f"{name}Scheduler", timestep_spacing=spacing)
        scheduler.set_timesteps(n)
        made[f"steps, {name}, {spacing}, {n}"] = scheduler.timesteps.tolist()
    return made


def limits() -> dict[str, list[float]]:
    """Returns rescaled guidance, and pictures with its dynamic threshold."""
    import torch
    from diffusers.guiders.guider_utils import rescale_noise_cfg

    guided, conditional = (torch.from_numpy(pictures(shift)) for shift in (0.3, 1.1))
    made = {"rescale_noise_cfg, 0.7": _rounded(rescale_noise_cfg(guided, conditional, 0.7).flatten())}
    for largest in (1.0, 100.0):
        limited = make_scheduler("DDPMScheduler", dynamic_thresholding_ratio=0.7, sample_max_value=largest)
        made[f"threshold 0.7, at most {largest:g}"] = _rounded(limited._threshold_sample(guided).flatten())
    return made


def make() -> dict[str, Any]:
    """Returns all numbers by name."""
    walks = {f"walk, {name}": states(walk) for name, walk in WALKS.items()}
    return alpha_bars() | step_lists() | limits() | walks


def _rounded(values: Any) -> list[float]:
    return [float(f"{float(value):.12g}") for value in values]


def main() -> None:
    lines = [f"  {json.dumps(name)}: {json.dumps(values)}" for name, values in make().items()]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
