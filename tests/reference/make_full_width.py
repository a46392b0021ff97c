"""What diffusers makes of one input with a U-Net of a published size: its prediction and the gradient of the embedding,
beside the model, for `tests/parity.rs`. In f32 on the processor, with gradient checkpointing: the weights of Stable
Diffusion XL take 10 GB, so that with latents of 32 x 32 the whole network fits into 16 GB and need not be cut.

    .venv/bin/python make_real_sizes.py /tmp/real-sizes "Stable Diffusion XL" --random
    .venv/bin/python make_full_width.py "/tmp/real-sizes/Stable Diffusion XL"
    IMAGIC_FULL_WIDTH="/tmp/real-sizes/Stable Diffusion XL" cargo test --release --test parity -- full_width --nocapture
"""

import argparse
import pathlib
import sys

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file

import noise

TOKENS = 77
TIMESTEP = 500


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--side", type=int, default=32, help="of the latents")
    arguments = parser.parse_args()
    unet = UNet2DConditionModel.from_pretrained(arguments.model / "unet", torch_dtype=torch.float32)
    unet.requires_grad_(False)
    unet.enable_gradient_checkpointing()
    # Gradients are checkpointed in training only; there is no dropout in these networks.
    unet.train()
    config = unet.config

    def normals(number, *shape):
        return torch.from_numpy(noise.normals((0, noise.REFERENCE_INPUTS, number), shape))

    size = (1, config.in_channels, arguments.side, arguments.side)
    tensors = {"x_t": normals(0, *size), "e": normals(1, 1, TOKENS, config.cross_attention_dim)}
    # The gradient is that of the sum of the prediction times these.
    tensors["weights"] = normals(2, 1, config.out_channels, arguments.side, arguments.side)
    added = None
    if config.addition_embed_type == "text_time":
        pixels = float(8 * arguments.side)
        width = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        tensors["pooled"] = normals(3, 1, width)
        time_ids = torch.tensor([[pixels, pixels, 0.0, 0.0, pixels, pixels]])
        added = {"text_embeds": tensors["pooled"].requires_grad_(), "time_ids": time_ids}
    e = tensors["e"].requires_grad_()
    output = unet(tensors["x_t"], TIMESTEP, e, added_cond_kwargs=added).sample
    (output * tensors["weights"]).sum().backward()
    tensors |= {"output": output, "gradient.e": e.grad}
    if added:
        tensors["gradient.pooled"] = added["text_embeds"].grad
    tensors = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    save_file(tensors, arguments.model / "full-width.safetensors")
    print(f"{arguments.model.name}: {output.std():.3f} is the prediction's deviation", file=sys.stderr)


if __name__ == "__main__":
    main()
