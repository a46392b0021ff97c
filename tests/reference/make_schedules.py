"""Makes `schedules.json`: what diffusers' DDIMScheduler makes of every kind of scheduler configuration in this family.

    cd tests/reference && .venv/bin/python make_schedules.py ../fixtures/schedules.json

Of each configuration: some cumulated alphas, the timesteps for two numbers of steps, and every step of the first, taken
alone from the same latents and prediction."""

import itertools
import json
import pathlib
import sys

import torch
from diffusers import DDIMScheduler

STEPS = (10, 7)
X_T, PREDICTION = [0.5, -1.25, 2.0, 0.01], [-0.75, 0.5, 1.5, -0.3]
SHOWN = [0, 1, 250, 500, 998, 999]
STABLE_DIFFUSION = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


def configurations():
    predictions = ("epsilon", "v_prediction", "sample")
    for prediction, spacing in itertools.product(predictions, ("leading", "trailing", "linspace")):
        yield {**STABLE_DIFFUSION, "prediction_type": prediction, "timestep_spacing": spacing}
    for prediction, spacing in itertools.product(predictions[1:], ("leading", "trailing", "linspace")):
        yield {
            **STABLE_DIFFUSION,
            "prediction_type": prediction,
            "timestep_spacing": spacing,
            "rescale_betas_zero_snr": True,
        }
    for schedule in ("linear", "scaled_linear", "squaredcos_cap_v2"):
        yield {"beta_schedule": schedule, "clip_sample": False}
        yield {"beta_schedule": schedule, "clip_sample": True, "prediction_type": "v_prediction", "steps_offset": 0}
    yield {**STABLE_DIFFUSION, "set_alpha_to_one": True, "steps_offset": 0}
    yield {**STABLE_DIFFUSION, "clip_sample": True, "clip_sample_range": 0.5}
    betas = [0.0001 + 0.00002 * i for i in range(1000)]
    yield {"trained_betas": betas, "clip_sample": False, "prediction_type": "v_prediction"}


def main():
    entries = []
    for config in configurations():
        scheduler = DDIMScheduler.from_config(config)
        entry = {"config": config, "shown": SHOWN, "alphas_cumprod": scheduler.alphas_cumprod[SHOWN].tolist()}
        for steps in STEPS[::-1]:
            scheduler.set_timesteps(steps)
            entry[f"timesteps_{steps}"] = scheduler.timesteps.tolist()
        x_t, prediction = torch.tensor(X_T).reshape(1, 1, 2, 2), torch.tensor(PREDICTION).reshape(1, 1, 2, 2)
        taken = (scheduler.step(prediction, t, x_t, eta=0.0).prev_sample for t in scheduler.timesteps)
        entry["steps"] = [step.flatten().tolist() for step in taken]
        entries.append(entry)
    content = {"steps": list(STEPS), "x_t": X_T, "prediction": PREDICTION, "entries": entries}
    pathlib.Path(sys.argv[1]).write_text(json.dumps(content).replace('{"config"', '\n{"config"') + "\n")


if __name__ == "__main__":
    main()
