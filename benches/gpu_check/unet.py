"""Stable Diffusion's U-Net in plain PyTorch, with the names of diffusers: what the engine is timed against where there
is no diffusers."""

import json
import math
import struct
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn


class Resnet(nn.Module):
    def __init__(self, c_in, c_out, time, groups, eps):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(groups, c_in, eps), nn.Conv2d(c_in, c_out, 3, padding=1)
        self.time_emb_proj = nn.Linear(time, c_out)
        self.norm2, self.conv2 = nn.GroupNorm(groups, c_out, eps), nn.Conv2d(c_out, c_out, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x, silu_emb):
        h = self.conv1(F.silu(self.norm1(x))) + self.time_emb_proj(silu_emb)[:, :, None, None]
        return self.conv_shortcut(x) + self.conv2(F.silu(self.norm2(h)))


class Attention(nn.Module):
    def __init__(self, c, context, heads):
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k, self.to_v = (nn.Linear(d, c, bias=False) for d in (c, context, context))
        self.to_out = nn.ModuleList([nn.Linear(c, c)])

    def forward(self, x, context):
        q, k, v = (
            y.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for y in (self.to_q(x), self.to_k(context), self.to_v(context))
        )
        return self.to_out[0](F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Geglu(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.proj = nn.Linear(c, 8 * c)

    def forward(self, x):
        h, gate = self.proj(x).chunk(2, -1)
        return h * F.gelu(gate)


class TransformerBlock(nn.Module):
    def __init__(self, c, context, heads):
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(c) for _ in range(3))
        self.attn1, self.attn2 = Attention(c, c, heads), Attention(c, context, heads)
        self.ff = nn.ModuleDict({"net": nn.Sequential(Geglu(c), nn.Identity(), nn.Linear(4 * c, c))})

    def forward(self, x, e):
        y = self.norm1(x)
        x = x + self.attn1(y, y)
        x = x + self.attn2(self.norm2(x), e)
        return x + self.ff["net"](self.norm3(x))


class Transformer(nn.Module):
    def __init__(self, c, context, heads, blocks, groups):
        super().__init__()
        self.norm = nn.GroupNorm(groups, c, 1e-6)
        self.proj_in, self.proj_out = nn.Conv2d(c, c, 1), nn.Conv2d(c, c, 1)
        self.transformer_blocks = nn.ModuleList(TransformerBlock(c, context, heads) for _ in range(blocks))

    def forward(self, x, e):
        hidden = self.proj_in(self.norm(x)).flatten(2).transpose(1, 2)
        for block in self.transformer_blocks:
            hidden = block(hidden, e)
        return x + self.proj_out(hidden.transpose(1, 2).unflatten(2, x.shape[2:]))


class Block(nn.Module):
    """One resolution of the way down or up, or the middle."""

    def __init__(self, resnets, attentions, resize):
        super().__init__()
        self.resnets = nn.ModuleList(resnets)
        if attentions:
            self.attentions = nn.ModuleList(attentions)
        if resize:
            name, conv = resize
            setattr(self, name, nn.ModuleList([nn.ModuleDict({"conv": conv})]))

    def layer(self, i, x, silu_emb, e):
        x = self.resnets[i](x, silu_emb)
        return self.attentions[i](x, e) if hasattr(self, "attentions") and i < len(self.attentions) else x


class UNet(nn.Module):
    """Of Stable Diffusion 1: `config` is a unet/config.json of diffusers."""

    def __init__(self, config):
        super().__init__()
        channels, groups, eps = config["block_out_channels"], config["norm_num_groups"], config.get("norm_eps", 1e-5)
        n, layers, context = len(channels), config.get("layers_per_block", 2), config["cross_attention_dim"]
        heads = config.get("attention_head_dim", 8)
        heads = heads if isinstance(heads, list) else [heads] * n
        blocks = config.get("transformer_layers_per_block", 1)
        blocks = blocks if isinstance(blocks, list) else [blocks] * n
        time, self.width = 4 * channels[0], channels[0]
        if config.get("use_linear_projection"):
            raise ValueError("only Stable Diffusion 1 is here")

        def resnet(c_in, c_out):
            return Resnet(c_in, c_out, time, groups, eps)

        def transformers(level, count):
            return [Transformer(channels[level], context, heads[level], blocks[level], groups) for _ in range(count)]

        def conv(c, stride):
            return nn.Conv2d(c, c, 3, stride, 1)

        self.conv_in = nn.Conv2d(config["in_channels"], channels[0], 3, padding=1)
        self.time_embedding = nn.ModuleDict(
            {"linear_1": nn.Linear(channels[0], time), "linear_2": nn.Linear(time, time)}
        )
        down, up = [], []
        for i, c in enumerate(channels):
            resnets = [resnet(channels[max(i - 1, 0)] if j == 0 else c, c) for j in range(layers)]
            attends = config["down_block_types"][i].startswith("Cross")
            down.append(
                Block(
                    resnets,
                    transformers(i, layers) if attends else [],
                    ("downsamplers", conv(c, 2)) if i + 1 < n else None,
                )
            )
        for i in range(n):
            level = n - 1 - i
            c, below, above = channels[level], channels[min(level + 1, n - 1)], channels[max(level - 1, 0)]
            ins = [(below if j == 0 else c) + (above if j == layers else c) for j in range(layers + 1)]
            attends = config["up_block_types"][i].startswith("Cross")
            attentions = transformers(level, layers + 1) if attends else []
            up.append(
                Block([resnet(c_in, c) for c_in in ins], attentions, ("upsamplers", conv(c, 1)) if i + 1 < n else None)
            )
        last = channels[-1]
        self.down_blocks, self.up_blocks = nn.ModuleList(down), nn.ModuleList(up)
        self.mid_block = Block([resnet(last, last), resnet(last, last)], transformers(n - 1, 1), None)
        self.conv_norm_out = nn.GroupNorm(groups, channels[0], eps)
        self.conv_out = nn.Conv2d(channels[0], config["out_channels"], 3, padding=1)

    def forward(self, x, t, e):
        frequencies = torch.exp(-math.log(10_000) * torch.arange(self.width // 2, device=x.device) / (self.width // 2))
        angles = t[:, None].float() * frequencies
        emb = torch.cat([angles.cos(), angles.sin()], 1).to(self.conv_in.weight.dtype)
        emb = F.silu(self.time_embedding["linear_2"](F.silu(self.time_embedding["linear_1"](emb))))
        x = self.conv_in(x)
        skips = [x]
        for block in self.down_blocks:
            for i in range(len(block.resnets)):
                x = block.layer(i, x, emb, e)
                skips.append(x)
            if hasattr(block, "downsamplers"):
                x = block.downsamplers[0]["conv"](x)
                skips.append(x)
        x = self.mid_block.resnets[1](self.mid_block.layer(0, x, emb, e), emb)
        for block in self.up_blocks:
            for i in range(len(block.resnets)):
                x = block.layer(i, torch.cat([x, skips.pop()], 1), emb, e)
            if hasattr(block, "upsamplers"):
                x = block.upsamplers[0]["conv"](F.interpolate(x, scale_factor=2.0))
        return self.conv_out(F.silu(self.conv_norm_out(x)))


@torch.no_grad()
def randomize(unet, seed):
    """Weights that keep the size of what goes through them, the same ones for a seed on one kind of device."""
    generator = torch.Generator(next(unet.parameters()).device).manual_seed(seed)
    for parameter in unet.parameters():
        if parameter.dim() == 1:
            parameter.uniform_(-0.1, 0.1, generator=generator)
        else:
            parameter.normal_(0, 1 / math.sqrt(parameter[0].numel()), generator=generator)
    for module in unet.modules():
        if isinstance(module, (nn.GroupNorm, nn.LayerNorm)):
            module.weight += 1


def save(unet, file: Path):
    """As safetensors, which is a header and the numbers."""
    header, at = {}, 0
    tensors = unet.state_dict()
    for name, tensor in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [at, at + 4 * tensor.numel()]}
        at += 4 * tensor.numel()
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(file, "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors.values():
            out.write(tensor.detach().float().cpu().contiguous().numpy().tobytes())
