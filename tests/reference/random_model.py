"""Writes a complete diffusers folder with seeded random weights, in the form in which Stable Diffusion is published.

Weights are drawn so that every part shows in the output: no norm weight is 1, no bias is 0, no layer starts at zero,
and every matrix keeps the size of what goes in, so that attention is far from uniform but not so sharp that gradients
amplify the rounding of f32."""

import json
from collections import Counter

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection
from transformers.convert_slow_tokenizer import bytes_to_unicode

START, END = "<|startoftext|>", "<|endoftext|>"

# What the tokenizer's merges are learned from.
CORPUS = """a photo of a bird spreading its wings a photo of a dog sitting on the grass a painting of a house in the snow
a cat wearing a hat a child jumping over the box two people standing in front of the red car at night the photograph of
an open door a drawing of the tree on the hill with birds and flowers a horse raising its head a person giving thumbs up
a cake with three candles it's don't we're isn't it the cafe near the river was painted in blue and yellow colours"""  # noqa: E501


def write(folder, config, seed):
    generator = torch.Generator().manual_seed(seed)
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.6.0",
        "feature_extractor": [None, None],
        "safety_checker": [None, None],
        "scheduler": ["diffusers", config["scheduler"]["_class_name"]],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    for part, kind in (("", CLIPTextModel), ("_2", CLIPTextModelWithProjection)):
        text_config = config.get(f"text_encoder{part}")
        if text_config:
            vocab_size = write_tokenizer(folder / f"tokenizer{part}", config[f"tokenizer{part}"], text_config)
            write_text_encoder(folder / f"text_encoder{part}", kind, text_config, vocab_size, generator)
            index[f"text_encoder{part}"] = ["transformers", kind.__name__]
            index[f"tokenizer{part}"] = ["transformers", "CLIPTokenizer"]
    if "text_encoder_2" in config:
        del index["safety_checker"]
        index["_class_name"] = "StableDiffusionXLPipeline"
        index["force_zeros_for_empty_prompt"] = config["force_zeros_for_empty_prompt"]
        index["image_encoder"] = [None, None]
    write_unet(folder / "unet", config["unet"], generator)
    write_vae(folder / "vae", config["vae"], generator)
    write_json(folder / "scheduler" / "scheduler_config.json", config["scheduler"])
    write_json(folder / "model_index.json", dict(sorted(index.items())))


def write_unet(folder, config, generator):
    unet = UNet2DConditionModel.from_config(config)
    randomize(unet, generator)
    unet.save_pretrained(folder)


def write_vae(folder, config, generator):
    config = dict(config)
    old_names = config.pop("old_attention_names", False)
    vae = AutoencoderKL.from_config(config)
    randomize(vae, generator)
    vae.save_pretrained(folder)
    if old_names:
        # The published SD 1.x files still name the attention's weights as diffusers did in 2022.
        renames = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
        path = folder / "diffusion_pytorch_model.safetensors"
        weights = load_file(path)
        for new, old in renames.items():
            weights = {name.replace(f"attentions.0.{new}.", f"attentions.0.{old}."): w for name, w in weights.items()}
        save_file(weights, path, metadata={"format": "pt"})


def write_text_encoder(folder, kind, config, vocab_size, generator):
    config = dict(config)
    position_ids = config.pop("position_ids", False)
    text_encoder = kind(CLIPTextConfig(vocab_size=vocab_size, **config))
    randomize(text_encoder, generator)
    # transformers 5 dropped the prefix inside CLIPTextModel; published files have it.
    prefix = "text_model." if kind is CLIPTextModel else ""
    weights = {f"{prefix}{name}": weight for name, weight in text_encoder.state_dict().items()}
    if position_ids:
        # Files saved by transformers before 4.31 carry this buffer.
        weights["text_model.embeddings.position_ids"] = torch.arange(text_encoder.config.max_position_embeddings)[None]
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    published = {"architectures": [kind.__name__], "model_type": "clip_text_model", "vocab_size": vocab_size}
    write_json(folder / "config.json", {**published, **config, "torch_dtype": "float32"})


@torch.no_grad()
def randomize(model, generator):
    model.eval()
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        if weight.ndim == 1:
            is_norm_weight = name.endswith("weight")
            weight.copy_(1 + 0.2 * noise if is_norm_weight else 0.1 * noise)
        elif "embedding.weight" in name:
            weight.copy_(0.5 * noise)
        else:
            weight.copy_(noise / weight[0].numel() ** 0.5)


def write_tokenizer(folder, config, text_config):
    """CLIP's layout: 256 bytes, 256 bytes that end a word, one token per merge, start, end. Answers the number of
    tokens."""
    alphabet = list(bytes_to_unicode().values())
    merges = learn_merges(CORPUS, config["merges"])
    tokens = alphabet + [letter + "</w>" for letter in alphabet] + ["".join(pair) for pair in merges] + [START, END]
    assert len(tokens) == len(set(tokens))
    write_json(folder / "vocab.json", {token: id for id, token in enumerate(tokens)}, indent=None)
    lines = ["#version: 0.2"] + [" ".join(pair) for pair in merges]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def special(content):
        return {"content": content, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}

    pad = config["pad_token"]
    special_tokens = {"bos_token": special(START), "eos_token": special(END), "unk_token": special(END)}
    write_json(folder / "special_tokens_map.json", {**special_tokens, "pad_token": pad})
    write_json(
        folder / "tokenizer_config.json",
        {
            "add_prefix_space": False,
            **{name: {"__type": "AddedToken", **token} for name, token in special_tokens.items()},
            "do_lower_case": True,
            "errors": "replace",
            "model_max_length": text_config["max_position_embeddings"],
            "pad_token": pad,
            "tokenizer_class": "CLIPTokenizer",
        },
    )
    return len(tokens)


def learn_merges(corpus, count):
    """Byte-pair encoding: join the most frequent pair, again and again; of equals the one that sorts first."""
    words = Counter(tuple(word[:-1]) + (word[-1] + "</w>",) for word in corpus.split())
    merges = []
    while len(merges) < count:
        pairs = Counter()
        for word, times in words.items():
            for pair in zip(word, word[1:]):
                pairs[pair] += times
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        words = Counter({joined(word, best): times for word, times in words.items()})
    return merges


def joined(word, pair):
    out = []
    for letter in word:
        if out and (out[-1], letter) == pair:
            out[-1] += letter
        else:
            out.append(letter)
    return tuple(out)


def write_json(path, value, indent=2):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=indent, ensure_ascii=False) + "\n", encoding="utf-8")
