"""Writes the trained model as a diffusers folder of f16 safetensors, and checks that diffusers can draw with it.

The weights are the moving average: of the branch that has cooled down, or with --run of the run as it is.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from safetensors.torch import save_file
from transformers import CLIPTokenizer

from diffusion import RUN_FILE, build_text_encoder, build_unet
from sampling import sample_grid, scheduler

PIPELINE = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.42.1",
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def averaged_models(work: Path, checkpoint: str):
    """(tokenizer, text encoder, U-Net) with the moving average of the weights, and the counts of their training."""
    tokenizer = CLIPTokenizer.from_pretrained(work / "tokenizer")
    state = torch.load(work / checkpoint, map_location="cpu")
    text_encoder, unet = build_text_encoder(tokenizer), build_unet(state["channels"])
    text_encoder.load_state_dict(state["models"][2])
    unet.load_state_dict(state["models"][3])
    return tokenizer, text_encoder, unet, {name: state[name] for name in ("step", "samples")}


def write_json(path: Path, value):
    path.write_text(json.dumps(value, indent=2) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("work"))
    parser.add_argument("--run", action="store_true", help="the run as it is, for diffusion.py --init to go on from")
    parser.add_argument("folder", type=Path, help="what is in it already, such as README.md, stays")
    options = parser.parse_args()
    torch.set_num_threads(1)

    tokenizer, text_encoder, unet, counts = averaged_models(
        options.work, "diffusion.pt" if options.run else "cool-down.pt"
    )
    shutil.copytree(options.work / "tokenizer", options.folder / "tokenizer", dirs_exist_ok=True)
    if options.run:
        write_json(options.folder / RUN_FILE, counts)
    unet.half().save_pretrained(options.folder / "unet")
    AutoencoderKL.from_pretrained(options.work / "vae").half().save_pretrained(options.folder / "vae")
    text_encoder.half().save_pretrained(options.folder / "text_encoder")
    # Checkpoints of Stable Diffusion name the keys as transformers did before 5.0; both versions read these.
    weights = {
        "text_model." + name.removeprefix("text_model."): weight.contiguous()
        for name, weight in text_encoder.state_dict().items()
    }
    save_file(weights, options.folder / "text_encoder" / "model.safetensors", metadata={"format": "pt"})
    scheduler().save_pretrained(options.folder / "scheduler")
    write_json(options.folder / "model_index.json", PIPELINE)
    for config in options.folder.glob("*/config.json"):
        values = json.loads(config.read_text())
        values.pop("_name_or_path", None)
        write_json(config, values)

    pipeline = StableDiffusionPipeline.from_pretrained(options.folder, torch_dtype=torch.float32)
    ids = torch.tensor([[tokenizer.bos_token_id, 1, tokenizer.eos_token_id]])
    difference = (pipeline.text_encoder(ids)[0] - text_encoder.float()(ids)[0]).abs().max()
    assert difference < 1e-4, "the text encoder read back differs"
    sample_grid(pipeline).save(options.folder / "samples.png", optimize=True)
    for file in options.folder.rglob("*.safetensors"):
        file.chmod(0o644)
    size = sum(f.stat().st_size for f in options.folder.rglob("*") if f.is_file())
    print(f"step {counts['step']}, {size / 1e6:.1f} MB in {options.folder}")


if __name__ == "__main__":
    main()
