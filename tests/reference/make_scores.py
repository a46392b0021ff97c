"""Makes `scores.json`: how much a text helps a network of diffusers to predict the noise in a picture.

    cd tests/reference
    .venv/bin/python make_scores.py ../fixtures/scores.json ../fixtures/small-sd1 ../fixtures/small-v

The score of Li et al., "Your Diffusion Model is Secretly a Zero-Shot Classifier", ICCV 2023, of a text against the
empty one: at twelve timesteps the mean square error of the network's prediction without the text and with it, and the
mean over the timesteps of the share that the text takes away."""

import json
import sys
from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

import noise

CANDIDATE_NOISE = 13
SEED, SHAPE, TEXT = 11, (1, 4, 8, 12), "a photo of a bird spreading its wings"


@torch.no_grad()
def score(model: Path) -> list[list[float]]:
    """Losses without and with the text, timestep by timestep."""
    tokenizer = CLIPTokenizer.from_pretrained(model / "tokenizer")
    text_encoder = CLIPTextModel.from_pretrained(model / "text_encoder")
    unet = UNet2DConditionModel.from_pretrained(model / "unet")
    scheduler = DDIMScheduler.from_pretrained(model / "scheduler")
    ids = tokenizer(["", TEXT], padding="max_length", truncation=True, return_tensors="pt").input_ids
    both = text_encoder(ids)[0]
    x = torch.from_numpy(noise.normals((SEED, noise.INITIAL_LATENTS, 0), SHAPE))
    losses = []
    for look in range(12):
        t = torch.tensor(int((0.1 + 0.8 * look / 11) * scheduler.config.num_train_timesteps))
        drawn = torch.from_numpy(noise.normals((SEED, CANDIDATE_NOISE, look), SHAPE))
        x_t = scheduler.add_noise(x, drawn, t[None])
        is_v = scheduler.config.prediction_type == "v_prediction"
        target = scheduler.get_velocity(x, drawn, t[None]) if is_v else drawn
        predicted = unet(torch.cat([x_t, x_t]), t, both).sample
        losses.append((predicted - target).square().mean((1, 2, 3)).tolist())
    return losses


def main():
    models = {}
    for fixture in map(Path, sys.argv[2:]):
        losses = score(fixture / "model")
        shares = [(without - with_text) / without for without, with_text in losses]
        models[fixture.name] = {"losses": losses, "score": sum(shares) / len(shares)}
    content = {"seed": SEED, "shape": SHAPE, "text": TEXT, "models": models}
    Path(sys.argv[1]).write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
