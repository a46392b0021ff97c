"""DDIB (Su et al., ICLR 2023): noise that gives the source back under a caption of the source, by DDIM run backwards,
and from it DDIM under the target text.

The caption of the source is no part of an edit as Imagic has it, so there are three of them: none, the true one, and
the one that the base model itself finds (Li et al., ICCV 2023), attribute by attribute.
"""

from dataclasses import replace

import torch

from scenes import ATTRIBUTES, BACKGROUNDS, COLORS, KINDS, POSES, POSITIONS, SIZES, STYLES, Scene, caption

VALUES = {
    "kind": KINDS,
    "color": COLORS,
    "background": tuple(BACKGROUNDS),
    "pose": (),  # those of its kind
    "hat": (False, True),
    "style": tuple(STYLES),
    "size": tuple(SIZES),
    "position": tuple(POSITIONS),
}
LOOKS = (300, 400, 500, 600)  # timesteps at which captions are compared


def invert(unet, e, x: torch.Tensor, schedule, steps: int) -> torch.Tensor:
    """The noise from which DDIM without guidance gives back the latents `x`, (1, c, h, w), as far as steps go."""
    schedule.set_timesteps(steps)
    upwards = schedule.timesteps.flip(0).tolist()
    before = 0
    for t in upwards:
        x_0, noise = both_of(unet(x, before, e).sample, x, before, schedule)
        x = schedule.add_noise(x_0, noise, torch.tensor([t]))
        before = t
    return x


def both_of(predicted: torch.Tensor, x_t: torch.Tensor, t: int, schedule) -> tuple[torch.Tensor, torch.Tensor]:
    """Clean latents and noise, by what the network predicts of `x_t` at timestep `t`."""
    signal = schedule.alphas_cumprod[t] ** 0.5
    spread = (1 - schedule.alphas_cumprod[t]) ** 0.5
    if schedule.config.prediction_type == "v_prediction":
        return signal * x_t - spread * predicted, spread * x_t + signal * predicted
    return (x_t - spread * predicted) / signal, predicted


def found_caption(losses, scene: Scene) -> str:
    """The caption with the smallest loss, one attribute after the other, from a usual scene on. `losses` gives those of
    captions; of `scene` only what no caption says is taken."""
    found = replace(scene, kind="ball", color="red", background="grass", pose=None, hat=False, style="photo")
    found = replace(found, size="normal", position="middle")
    for attribute in ATTRIBUTES:
        values = POSES.get(found.kind, ()) if attribute == "pose" else VALUES[attribute]
        # A pose belongs to its kind.
        others = [
            replace(
                found, **{attribute: value}, **({"pose": POSES.get(value, (None,))[0]} if attribute == "kind" else {})
            )
            for value in values
        ]
        if others:
            each = losses([caption(other) for other in others])
            found = others[min(range(len(others)), key=each.__getitem__)]
    return caption(found)
