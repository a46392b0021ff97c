"""Makes folders of the sizes of published models, whose weights files are holes in the file system: all names and
shapes of diffusers and transformers, and no values.

    cd tests/reference && .venv/bin/python make_real_sizes.py /tmp/real-sizes
    IMAGIC_REAL_SIZES=/tmp/real-sizes cargo test --release --test engine -- published --nocapture

With `--random`, random values in f16, of the models that are named: 2.1 GB of Stable Diffusion 1.5, 6.9 GB of XL.

    .venv/bin/python make_real_sizes.py /tmp/real-sizes --random "Stable Diffusion XL"
    benches/memory.py --model "/tmp/real-sizes/Stable Diffusion XL" --side 512 --batch 1 --mode lora --steps 2

Those of Stable Diffusion and BK-SDM are the published ones. For SSD-1B, Vega and KOALA the files could not be read:
their depths are those by which other programs know them. What is counted is what diffusers makes of them."""

import argparse
import json
import pathlib
import shutil
import struct

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

DOWN, CROSS_DOWN, UP, CROSS_UP = "DownBlock2D", "CrossAttnDownBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"
SD_1 = {
    "block_out_channels": [320, 640, 1280, 1280],
    "down_block_types": [CROSS_DOWN, CROSS_DOWN, CROSS_DOWN, DOWN],
    "up_block_types": [UP, CROSS_UP, CROSS_UP, CROSS_UP],
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "sample_size": 64,
}
SD_2 = {
    **SD_1,
    "cross_attention_dim": 1024,
    "attention_head_dim": [5, 10, 20, 20],
    "use_linear_projection": True,
    "sample_size": 96,
}
SD_XL = {
    "block_out_channels": [320, 640, 1280],
    "down_block_types": [DOWN, CROSS_DOWN, CROSS_DOWN],
    "up_block_types": [CROSS_UP, CROSS_UP, UP],
    "cross_attention_dim": 2048,
    "attention_head_dim": [5, 10, 20],
    "use_linear_projection": True,
    "transformer_layers_per_block": [1, 2, 10],
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
    "sample_size": 128,
}
SMALL = {"layers_per_block": 1, "mid_block_type": None}
TINY = {"block_out_channels": [320, 640, 1280], "down_block_types": [CROSS_DOWN] * 3, "up_block_types": [CROSS_UP] * 3}
MODELS = {
    "Stable Diffusion 1.5": SD_1,
    "BK-SDM-Base": {**SD_1, "layers_per_block": 1},
    "BK-SDM-Small": {**SD_1, **SMALL},
    "BK-SDM-Tiny": {**SD_1, **SMALL, **TINY},
    "Stable Diffusion 2.1": SD_2,
    "BK-SDM-v2-Small": {**SD_2, **SMALL},
    "Stable Diffusion XL": SD_XL,
    "SSD-1B": {
        **SD_XL,
        "transformer_layers_per_block": [1, [2, 2], [4, 4]],
        "reverse_transformer_layers_per_block": [[4, 4, 10], [2, 1, 1], 1],
        "mid_block_type": "UNetMidBlock2D",
    },
    "Vega": {
        **SD_XL,
        "transformer_layers_per_block": [1, [1, 1], [2, 2]],
        "reverse_transformer_layers_per_block": [[2, 2, 2], [1, 1, 1], 1],
        "mid_block_type": "UNetMidBlock2D",
    },
    "KOALA-700M": {**SD_XL, **SMALL, "transformer_layers_per_block": [1, 2, 5]},
}


def clip(width, layers, heads, projection, activation):
    return {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "projection_dim": projection,
        "hidden_act": activation,
        "vocab_size": 49408,
        "max_position_embeddings": 77,
    }


CLIP_L, CLIP_H, CLIP_G = (
    clip(768, 12, 12, 768, "quick_gelu"),
    clip(1024, 23, 16, 512, "gelu"),
    clip(1280, 32, 20, 1280, "gelu"),
)
VAE = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}
SCHEDULER = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "prediction_type": "epsilon"}
TOKENIZER = pathlib.Path(__file__).parent.parent / "fixtures" / "small-sd1" / "model" / "tokenizer"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("names", nargs="*", help="of the models, all of them if none is named")
    parser.add_argument("--random", action="store_true", help="random values instead of holes")
    arguments = parser.parse_args()
    random = torch.Generator().manual_seed(0) if arguments.random else None
    for name, config in MODELS.items():
        if arguments.names and name not in arguments.names:
            continue
        folder = arguments.folder / name
        first = CLIP_H if config["cross_attention_dim"] == 1024 else CLIP_L
        with torch.device("meta"):
            unet = UNet2DConditionModel.from_config(config)
            write(folder / "unet", unet, config, random)
            write(folder / "vae", AutoencoderKL.from_config(VAE), VAE, random)
            write(folder / "text_encoder", CLIPTextModel(CLIPTextConfig(**first)), first, random, "text_model.")
            if "addition_embed_type" in config:
                second = CLIPTextModelWithProjection(CLIPTextConfig(**CLIP_G))
                write(folder / "text_encoder_2", second, CLIP_G, random)
                shutil.copytree(TOKENIZER, folder / "tokenizer_2", dirs_exist_ok=True)
        shutil.copytree(TOKENIZER, folder / "tokenizer", dirs_exist_ok=True)
        (folder / "scheduler").mkdir(exist_ok=True)
        (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
        parameters = sum(weight.numel() for weight in unet.parameters())
        (folder / "parameters.json").write_text(json.dumps({"unet": parameters}))


def write(folder, model, config, random, prefix=""):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    header, end = {}, 0
    for name, weight in model.state_dict().items():
        begin, end = end, end + 2 * weight.numel()
        header[prefix + name] = {"dtype": "F16", "shape": list(weight.shape), "data_offsets": [begin, end]}
    header = json.dumps(header).encode()
    file_name = "model" if folder.name.startswith("text") else "diffusion_pytorch_model"
    with open(folder / f"{file_name}.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        if random:
            for name, weight in model.state_dict().items():
                with torch.device("cpu"):
                    file.write(values(name, weight.shape, random).half().numpy().tobytes())
        file.truncate(8 + len(header) + end)


def values(name, shape, random):
    """As in random_model.py: what goes into a matrix comes out as large."""
    noise = torch.randn(shape, generator=random)
    if noise.ndim == 1:
        return 1 + 0.2 * noise if name.endswith("weight") else 0.1 * noise
    return noise * (0.5 if "embedding.weight" in name else noise[0].numel() ** -0.5)


if __name__ == "__main__":
    main()
