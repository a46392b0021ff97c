"""Distance of two pictures as SqueezeNet 1.0 sees them: unit weights on its features, no trained heads (Zhang et al.
2018).

The weights are not part of this project; their folder's README says where they are from.
"""

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

FILE = "squeezenet10.npz"
MEAN_BGR = torch.tensor([104.0, 117.0, 123.0])[:, None, None]


class SqueezeNet:
    def __init__(self, folder: Path):
        self.weights = {name: torch.from_numpy(values) for name, values in np.load(folder / FILE).items()}

    @torch.no_grad()
    def distances(self, pictures: list[np.ndarray], reference: np.ndarray) -> list[float]:
        """From each of the pictures to the reference."""
        batch = np.stack([reference, *pictures])[..., ::-1].transpose(0, 3, 1, 2)  # BGR
        total = torch.zeros(len(pictures))
        for features in self.features(torch.from_numpy(batch.astype(np.float32)) - MEAN_BGR):
            features = features / (features.norm(dim=1, keepdim=True) + 1e-10)
            total += (features[1:] - features[:1]).square().sum(1).mean((1, 2))
        return total.tolist()

    def features(self, x):
        """After conv1, fire4, fire6, fire8 and fire9."""
        x = F.relu(self.conv("conv1", x, stride=2))
        yield x
        x = F.max_pool2d(x, 3, 2, ceil_mode=True)
        for number in range(2, 10):
            x = self.fire(f"fire{number}", x)
            if number in (4, 6, 8, 9):
                yield x
            if number in (4, 8):
                x = F.max_pool2d(x, 3, 2, ceil_mode=True)

    def fire(self, name, x):
        x = F.relu(self.conv(f"{name}.conv1x1_1", x))
        both = self.conv(f"{name}.conv1x1_2", x), self.conv(f"{name}.conv3x3_2", x, padding=1)
        return F.relu(torch.cat(both, 1))

    def conv(self, name, x, **shape):
        return F.conv2d(x, self.weights[f"{name}.w"], self.weights[f"{name}.b"], **shape)
