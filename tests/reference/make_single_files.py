"""How diffusers reads single files: which tensor of the file becomes which tensor of which network.

Makes a file with the original names for each of four small models, lets diffusers' own `from_single_file` read it,
and notes for every tensor of the result which one of the file it is, and how it was taken. The names in the files are
written out here; that they are right is shown by diffusers, which finds every tensor of its networks in them.

Usage: make_single_files.py FOLDER
"""

import gzip
import json
import sys
import tempfile
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import create_diffusers_clip_model_from_ldm
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

MERGES = Path(__file__).parents[2] / "models/clip-vocabulary/merges.txt.gz"
TEXTS = [
    "",
    "a photo of a cat",
    "A bird spreading its wings!",
    "don't 12,345 (blue:1.2)   \n\tcar",
    "ein größeres Haus im Schnee",
    "\u732b \U0001f600 caf\u00e9 cafe\u0301",
    "<|endoftext|> inside, \u201cquoted\u201d",
]
# What becomes of a tensor; `tests/models.rs` reads these.
TAKES = {
    "whole": lambda tensor: tensor,
    "first third": lambda tensor: tensor.chunk(3)[0],
    "second third": lambda tensor: tensor.chunk(3)[1],
    "last third": lambda tensor: tensor.chunk(3)[2],
    "transposed": lambda tensor: tensor.t(),
    "linear": lambda tensor: tensor.flatten(1),
}


class Names:
    """The shapes of a file's tensors, by their original names."""

    def __init__(self):
        self.shapes = {}

    def layer(self, name, *shape, bias=True):
        """A layer's weight and bias."""
        self.shapes[f"{name}.weight"] = list(shape)
        if bias:
            self.shapes[f"{name}.bias"] = list(shape[:1])

    def resnet(self, name, c_in, c_out, time):
        """A residual block of the U-Net."""
        self.layer(f"{name}.in_layers.0", c_in)
        self.layer(f"{name}.in_layers.2", c_out, c_in, 3, 3)
        self.layer(f"{name}.emb_layers.1", c_out, time)
        self.layer(f"{name}.out_layers.0", c_out)
        self.layer(f"{name}.out_layers.3", c_out, c_out, 3, 3)
        if c_in != c_out:
            self.layer(f"{name}.skip_connection", c_out, c_in, 1, 1)

    def transformer(self, name, c, text, depth, linear, only_cross_attention=False):
        """A transformer of the U-Net."""
        seen = text if only_cross_attention else c
        ends = [] if linear else [1, 1]
        self.layer(f"{name}.norm", c)
        self.layer(f"{name}.proj_in", c, c, *ends)
        for i in range(depth):
            block = f"{name}.transformer_blocks.{i}"
            for norm in ("norm1", "norm2", "norm3"):
                self.layer(f"{block}.{norm}", c)
            for attention, width in (("attn1", seen), ("attn2", text)):
                self.layer(f"{block}.{attention}.to_q", c, c, bias=False)
                self.layer(f"{block}.{attention}.to_k", c, width, bias=False)
                self.layer(f"{block}.{attention}.to_v", c, width, bias=False)
                self.layer(f"{block}.{attention}.to_out.0", c, c)
            self.layer(f"{block}.ff.net.0.proj", 8 * c, c)
            self.layer(f"{block}.ff.net.2", c, 4 * c)
        self.layer(f"{name}.proj_out", c, c, *ends)

    def unet(self, channels, depths, text, linear, added, enlarges=False):
        """The U-Net; `depths`: transformer blocks of each level, 0 without attention. Where it enlarges, it sees a
        picture, the level of its noise, and, in all levels but the last, the text twice."""
        at, time = "model.diffusion_model", 4 * channels[0]
        self.layer(f"{at}.time_embed.0", time, channels[0])
        self.layer(f"{at}.time_embed.2", time, time)
        if added:
            self.layer(f"{at}.label_emb.0.0", time, added)
            self.layer(f"{at}.label_emb.0.2", time, time)
        if enlarges:
            self.layer(f"{at}.label_emb", 1000, time, bias=False)
        self.layer(f"{at}.input_blocks.0.0", channels[0], 7 if enlarges else 4, 3, 3)
        block, c, skips = 1, channels[0], [channels[0]]
        for level, (c_out, depth) in enumerate(zip(channels, depths)):
            for _ in range(2):
                self.resnet(f"{at}.input_blocks.{block}.0", c, c_out, time)
                if depth:
                    twice = enlarges and level + 1 < len(channels)
                    self.transformer(f"{at}.input_blocks.{block}.1", c_out, text, depth, linear, twice)
                c = c_out
                skips.append(c)
                block += 1
            if level + 1 < len(channels):
                self.layer(f"{at}.input_blocks.{block}.0.op", c, c, 3, 3)
                skips.append(c)
                block += 1
        self.resnet(f"{at}.middle_block.0", c, c, time)
        self.transformer(f"{at}.middle_block.1", c, text, depths[-1] or 1, linear)
        self.resnet(f"{at}.middle_block.2", c, c, time)
        block = 0
        for level, (c_out, depth) in reversed(list(enumerate(zip(channels, depths)))):
            for place in range(3):
                self.resnet(f"{at}.output_blocks.{block}.0", c + skips.pop(), c_out, time)
                c = c_out
                if depth:
                    twice = enlarges and level + 1 < len(channels)
                    self.transformer(f"{at}.output_blocks.{block}.1", c, text, depth, linear, twice)
                if level and place == 2:
                    self.layer(f"{at}.output_blocks.{block}.{2 if depth else 1}.conv", c, c, 3, 3)
                block += 1
        self.layer(f"{at}.out.0", channels[0])
        self.layer(f"{at}.out.2", 4, channels[0], 3, 3)

    def vae_resnet(self, name, c_in, c_out):
        """A residual block of the autoencoder."""
        self.layer(f"{name}.norm1", c_in)
        self.layer(f"{name}.conv1", c_out, c_in, 3, 3)
        self.layer(f"{name}.norm2", c_out)
        self.layer(f"{name}.conv2", c_out, c_out, 3, 3)
        if c_in != c_out:
            self.layer(f"{name}.nin_shortcut", c_out, c_in, 1, 1)

    def vae_middle(self, name, c):
        """The middle of the encoder or decoder."""
        self.vae_resnet(f"{name}.mid.block_1", c, c)
        self.layer(f"{name}.mid.attn_1.norm", c)
        for layer in ("q", "k", "v", "proj_out"):
            self.layer(f"{name}.mid.attn_1.{layer}", c, c, 1, 1)
        self.vae_resnet(f"{name}.mid.block_2", c, c)

    def vae(self, channels):
        """The autoencoder."""
        at, last = "first_stage_model", channels[-1]
        self.layer(f"{at}.encoder.conv_in", channels[0], 3, 3, 3)
        c = channels[0]
        for level, c_out in enumerate(channels):
            for place in range(2):
                self.vae_resnet(f"{at}.encoder.down.{level}.block.{place}", c, c_out)
                c = c_out
            if level + 1 < len(channels):
                self.layer(f"{at}.encoder.down.{level}.downsample.conv", c, c, 3, 3)
        self.vae_middle(f"{at}.encoder", last)
        self.layer(f"{at}.encoder.norm_out", last)
        self.layer(f"{at}.encoder.conv_out", 8, last, 3, 3)
        self.layer(f"{at}.decoder.conv_in", last, 4, 3, 3)
        self.vae_middle(f"{at}.decoder", last)
        for level, c_out in reversed(list(enumerate(channels))):
            for place in range(3):
                self.vae_resnet(f"{at}.decoder.up.{level}.block.{place}", c, c_out)
                c = c_out
            if level:
                self.layer(f"{at}.decoder.up.{level}.upsample.conv", c, c, 3, 3)
        self.layer(f"{at}.decoder.norm_out", c)
        self.layer(f"{at}.decoder.conv_out", 3, c, 3, 3)
        self.layer(f"{at}.quant_conv", 8, 8, 1, 1)
        self.layer(f"{at}.post_quant_conv", 4, 4, 1, 1)

    def clip(self, at, width, layers):
        """CLIP's text encoder, under transformers' names."""
        at = f"{at}.text_model"
        self.layer(f"{at}.embeddings.token_embedding", 49408, width, bias=False)
        self.layer(f"{at}.embeddings.position_embedding", 77, width, bias=False)
        for i in range(layers):
            layer = f"{at}.encoder.layers.{i}"
            for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
                self.layer(f"{layer}.self_attn.{part}", width, width)
            self.layer(f"{layer}.layer_norm1", width)
            self.layer(f"{layer}.mlp.fc1", 4 * width, width)
            self.layer(f"{layer}.mlp.fc2", width, 4 * width)
            self.layer(f"{layer}.layer_norm2", width)
        self.layer(f"{at}.final_layer_norm", width)

    def open_clip(self, at, width, layers):
        """OpenCLIP's text encoder."""
        self.shapes[f"{at}.positional_embedding"] = [77, width]
        self.shapes[f"{at}.text_projection"] = [width, width]
        self.shapes[f"{at}.logit_scale"] = []
        self.layer(f"{at}.token_embedding", 49408, width, bias=False)
        for i in range(layers):
            layer = f"{at}.transformer.resblocks.{i}"
            self.layer(f"{layer}.ln_1", width)
            self.shapes[f"{layer}.attn.in_proj_weight"] = [3 * width, width]
            self.shapes[f"{layer}.attn.in_proj_bias"] = [3 * width]
            self.layer(f"{layer}.attn.out_proj", width, width)
            self.layer(f"{layer}.ln_2", width)
            self.layer(f"{layer}.mlp.c_fc", 4 * width, width)
            self.layer(f"{layer}.mlp.c_proj", width, 4 * width)
        self.layer(f"{at}.ln_final", width)


def text_config(width, layers, activation):
    """The configuration of a text encoder."""
    return CLIPTextConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // 64),
        projection_dim=width,
        hidden_act=activation,
    )


def unet_config(channels, depths, text, linear, added):
    """The configuration of a U-Net."""
    config = {
        "block_out_channels": channels,
        "down_block_types": ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths],
        "up_block_types": ["CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(depths)],
        "transformer_layers_per_block": [depth or 1 for depth in depths],
        "cross_attention_dim": text,
        "attention_head_dim": 8 if text == 768 else [max(1, c // 64) for c in channels],
        "use_linear_projection": linear,
        "sample_size": 16,
    }
    if added:
        config |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": added,
        }
    return config


def notes(state, tensors):
    """For every tensor of `state` the one of `tensors` that it is, and how it is taken."""
    known = {}
    for name, tensor in tensors.items():
        # Every tensor counts up from a number of its own: the first element tells which one it is.
        known[int(tensor.flatten()[0])] = name
    result = {}
    starts = sorted(known)
    for name, tensor in state.items():
        if name.endswith("position_ids"):
            continue
        first = int(tensor.flatten()[0])
        source = known[max(start for start in starts if start <= first)]
        takes = [take for take, of in TAKES.items() if matches(of, tensors[source], tensor)]
        assert takes, (name, source, tensor.shape, tensors[source].shape)
        result[name] = [source, takes[0]]
    return result


def matches(take, tensor, expected):
    """Whether `take` makes `expected` of `tensor`."""
    try:
        taken = take(tensor)
    except (RuntimeError, IndexError):
        return False
    return taken.shape == expected.shape and bool((taken == expected).all())


def make(folder, name):
    """The notes of one family."""
    names, clips, open_clips = Names(), {}, {}
    if name == "sd1":
        unet = unet_config([32, 64, 64, 64], [1, 1, 1, 0], 768, False, None)
        clips["text_encoder"] = ("cond_stage_model.transformer", 768, 2)
    elif name == "x4":
        unet = unet_config([32, 64, 96], [0, 1, 1], 128, True, None) | {
            "in_channels": 7,
            "num_class_embeds": 1000,
            "attention_head_dim": 8,
            "only_cross_attention": [True, True, False],
        }
        open_clips["text_encoder"] = ("cond_stage_model.model", 128, 2)
    elif name == "sd2":
        unet = unet_config([64, 64, 128, 128], [1, 1, 1, 0], 128, True, None)
        open_clips["text_encoder"] = ("cond_stage_model.model", 128, 3)
    else:
        unet = unet_config([64, 64, 128], [0, 2, 3], 192, True, 128 + 6 * 256)
        clips["text_encoder"] = ("conditioner.embedders.0.transformer", 64, 2)
        open_clips["text_encoder_2"] = ("conditioner.embedders.1.model", 128, 3)
    kinds = unet["down_block_types"]
    depths = [d if "CrossAttn" in kind else 0 for d, kind in zip(unet["transformer_layers_per_block"], kinds)]
    linear, added = unet["use_linear_projection"], unet.get("projection_class_embeddings_input_dim")
    names.unet(unet["block_out_channels"], depths, unet["cross_attention_dim"], linear, added, name == "x4")
    vae_channels = [32, 32, 64] if name == "x4" else [32, 32, 64, 64]
    names.vae(vae_channels)
    for at, width, layers in clips.values():
        names.clip(at, width, layers)
    for at, width, layers in open_clips.values():
        names.open_clip(at, width, layers)

    tensors, start = {}, 1
    for tensor, shape in names.shapes.items():
        count = torch.Size(shape).numel()
        # Rounded to f32 they still never fall.
        tensors[tensor] = torch.arange(start, start + count, dtype=torch.float64).float().reshape(shape)
        start += count
    file = folder / "model.safetensors"
    save_file(tensors, file)
    checkpoint = load_file(file)
    configs = {"unet": unet}
    configs["vae"] = {
        "block_out_channels": vae_channels,
        "down_block_types": ["DownEncoderBlock2D"] * len(vae_channels),
        "up_block_types": ["UpDecoderBlock2D"] * len(vae_channels),
        "layers_per_block": 2,
        "latent_channels": 4,
        "sample_size": 128,
    }
    networks = {}
    for part, kind in (("unet", UNet2DConditionModel), ("vae", AutoencoderKL)):
        with torch.device("meta"):
            kind(**configs[part]).save_config(folder / part)
        network = kind.from_single_file(str(file), config=str(folder), subfolder=part)
        networks[part] = notes(network.state_dict(), tensors)
    for part, (_, width, layers) in (clips | open_clips).items():
        is_open = part in open_clips
        # diffusers leaves the last layer of Stable Diffusion 2 out.
        used = layers - 1 if is_open and part == "text_encoder" else layers
        config = text_config(width, used, "gelu" if is_open else "quick_gelu")
        kind = CLIPTextModelWithProjection if part == "text_encoder_2" else CLIPTextModel
        config.save_pretrained(folder / part)
        network = create_diffusers_clip_model_from_ldm(
            kind,
            dict(checkpoint),
            subfolder=part,
            config=str(folder),
            local_files_only=True,
            is_legacy_loading=False,
        )
        networks[part] = notes(network.state_dict(), tensors)
        configs[part] = config.to_diff_dict()
    return {"shapes": names.shapes, "configs": configs, "networks": networks}


def tokens():
    """What transformers' tokenizer makes of some texts, with CLIP's vocabulary: as list of texts and numbers."""
    merges = gzip.decompress(MERGES.read_bytes()).decode()
    pairs = ["".join(line.split()) for line in merges.splitlines()]
    characters = list(bytes_to_unicode().values())
    words = characters + [c + "</w>" for c in characters] + pairs + ["<|startoftext|>", "<|endoftext|>"]
    with tempfile.TemporaryDirectory() as folder:
        vocab = Path(folder) / "vocab.json"
        vocab.write_text(json.dumps({word: number for number, word in enumerate(words)}))
        (Path(folder) / "merges.txt").write_text("#version: 0.2\n" + merges)
        tokenizer = CLIPTokenizer(vocab=str(vocab), merges=str(Path(folder) / "merges.txt"))
        return [[text, tokenizer(text)["input_ids"]] for text in TEXTS]


def main():
    """Writes the notes."""
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    (out / "tokens.json").write_text(json.dumps(tokens(), indent=1) + "\n")
    for name in ("sd1", "sd2", "sdxl", "x4"):
        with tempfile.TemporaryDirectory() as folder:
            result = make(Path(folder), name)
        (out / f"{name}.json").write_text(json.dumps(result, separators=(",", ":")) + "\n")
        print(name, {part: len(names) for part, names in result["networks"].items()})


if __name__ == "__main__":
    main()
