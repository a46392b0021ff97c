"""Reads the attributes of a picture: a small network trained on drawn scenes, the judge of generated and edited ones.

It sees every picture plain, blurred or noisy, so that it reads soft pictures too; and colors only of photos,
since a sketch has none.

    python classifier.py          trains it and writes classifier.safetensors, with its accuracy on held-out scenes
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

import data
from scenes import ATTRIBUTES, BACKGROUNDS, COLORS, KINDS, POSES, POSITIONS, SIZES, STYLES, Scene

VALUES = {
    "kind": KINDS,
    "color": COLORS,
    "background": tuple(BACKGROUNDS),
    "pose": (None, *dict.fromkeys(pose for poses in POSES.values() for pose in poses)),
    "hat": (False, True),
    "style": tuple(STYLES),
    "size": tuple(SIZES),
    "position": tuple(POSITIONS),
}
WEIGHTS = Path(__file__).parent / "classifier.safetensors"
PEAK_RATE = 2e-3


class Network(nn.Module):
    """(n, 3, 64, 64) from -1 to 1 to the logits of all attributes, one after the other."""

    def __init__(self):
        super().__init__()
        layers, c_in = [], 3
        for c, stride in ((32, 2), (48, 2), (64, 1), (96, 2), (96, 1), (128, 2)):
            layers += [nn.Conv2d(c_in, c, 3, stride, 1, bias=False), nn.BatchNorm2d(c), nn.ReLU()]
            c_in = c
        self.layers = nn.Sequential(
            *layers, nn.Conv2d(c_in, 48, 1), nn.Flatten(), nn.ReLU(), nn.Linear(48 * 16, 192), nn.ReLU()
        )
        self.heads = nn.Linear(192, sum(map(len, VALUES.values())))

    def forward(self, pictures):
        return dict(zip(VALUES, self.heads(self.layers(pictures)).split([len(v) for v in VALUES.values()], 1)))


class Classifier:
    """A trained network."""

    def __init__(self, network: Network):
        self.network = network.eval()

    @torch.no_grad()
    def probabilities(self, pictures: list[np.ndarray]) -> dict[str, np.ndarray]:
        """Of pictures (64, 64, 3) uint8: for each attribute (n, number of its values)."""
        batch = data.to_model_range(np.stack(pictures).transpose(0, 3, 1, 2))
        parts = [self.network(part) for part in batch.split(200)]
        return {name: torch.cat([part[name] for part in parts]).softmax(1).numpy() for name in VALUES}

    def read(self, pictures: list[np.ndarray]) -> list[dict]:
        """The likeliest value of every attribute, a dictionary a picture."""
        best = {name: p.argmax(1) for name, p in self.probabilities(pictures).items()}
        return [{name: VALUES[name][best[name][i]] for name in VALUES} for i in range(len(pictures))]


def load(path: Path | None = None) -> Classifier:
    with safe_open(path or WEIGHTS, "pt") as file:
        weights = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 -- safe_open is no dictionary
    network = Network()
    network.load_state_dict(weights)
    return Classifier(network)


def accuracy(classifier: Classifier, scenes: list[Scene]) -> dict[str, float]:
    """Share of the scenes whose attribute is read right; colors of photos only."""
    from drawing import render

    readings = classifier.read([render(scene, data.SIZE) for scene in scenes])
    right = {
        name: [r[name] == getattr(s, name) for s, r in zip(scenes, readings) if name != "color" or s.style == "photo"]
        for name in ATTRIBUTES
    }
    return {name: float(np.mean(values)) for name, values in right.items()}


def spoil(batch: torch.Tensor) -> torch.Tensor:
    """The batch with a third of it blurred and a third of it noisy."""
    third = len(batch) // 3
    kernel = torch.tensor([1.0, 2.0, 1.0]) / 4
    kernel = (kernel[:, None] * kernel).expand(3, 1, 3, 3)
    blurred = F.conv2d(F.pad(batch[:third], (1, 1, 1, 1), "replicate"), kernel, groups=3)
    noisy = batch[third : 2 * third] + 0.12 * torch.rand(third, 1, 1, 1) * torch.randn(third, *batch.shape[1:])
    return torch.cat([blurred, noisy, batch[2 * third :]])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("work"))
    parser.add_argument("--pictures", type=int, default=100_000)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)

    pictures, scenes = data.pictures(options.pictures, options.work), data.scenes(options.pictures)
    labels = {
        name: torch.tensor([values.index(getattr(scene, name)) for scene in scenes]) for name, values in VALUES.items()
    }
    labels["color"][torch.tensor([scene.style == "sketch" for scene in scenes])] = -100  # what cross_entropy ignores
    network = Network().to(memory_format=torch.channels_last)
    steps = options.epochs * options.pictures // options.batch
    optimizer = torch.optim.AdamW(network.parameters(), PEAK_RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, steps, pct_start=0.1)
    start = time.time()
    for step in range(steps):
        chosen = torch.randint(options.pictures, (options.batch,))
        batch = spoil(data.to_model_range(pictures[chosen.numpy()]))
        with torch.autocast("cpu", torch.bfloat16, enabled=data.has_fast_bfloat16()):
            logits = network(batch)
        loss = sum(F.cross_entropy(logits[name].float(), labels[name][chosen]) for name in VALUES)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 200 == 0:
            print(f"classifier step {step} of {steps} {time.time() - start:.0f} s loss {loss.item():.3f}", flush=True)
    weights = {name: w.half() if w.is_floating_point() else w for name, w in network.state_dict().items()}
    weights = {name: w.contiguous() for name, w in weights.items()}
    save_file(weights, WEIGHTS)
    shares = accuracy(load(), data.scenes(4000, data.HELD_OUT_SEED))
    save_file(
        weights,
        WEIGHTS,
        metadata={"accuracy on 4000 held-out scenes": json.dumps({n: round(v, 4) for n, v in shares.items()})},
    )
    print(", ".join(f"{name} {share:.2%}" for name, share in shares.items()))


if __name__ == "__main__":
    main()
