"""The companion that enlarges: what it is trained on, how it is sampled, what is exported."""

import json
import tempfile
import unittest
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel

import enlarger
from sampling import scheduler


class Oracle:
    """Predicts v of what is known to be lacking, whatever else it sees."""

    def __init__(self, lacking: torch.Tensor):
        self.lacking, self.levels, self.times = lacking, [], []

    def __call__(self, inputs, t, embedding, class_labels):
        self.levels += class_labels.tolist()
        self.times.append(int(t))
        x_t = inputs[:, : self.lacking.shape[1]]
        a = scheduler().alphas_cumprod[t]
        noise = (x_t - a.sqrt() * self.lacking) / (1 - a).sqrt()

        class Output:
            sample = a.sqrt() * noise - (1 - a).sqrt() * self.lacking

        return Output


class TheCompanion(unittest.TestCase):
    def test_what_is_lacking_is_added_to_the_plain_enlargement(self):
        truth, plain = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
        oracle = Oracle(enlarger.SCALE * (truth - plain))
        result = enlarger.enlarge(oracle, torch.zeros(2, 1, 1), plain, torch.Generator().manual_seed(0))
        self.assertEqual(len(oracle.times), enlarger.STEPS)
        self.assertEqual(oracle.times[0], 999)
        self.assertEqual(set(oracle.levels), {enlarger.LEVEL})
        # The last step ends at the first timestep's noise, as everywhere with this schedule.
        noise = (1 - scheduler().alphas_cumprod[0]).sqrt() / enlarger.SCALE
        self.assertLess((result - truth).abs().max(), 6 * noise)

    def test_colors_over_many_pixels_are_those_of_the_plain_enlargement(self):
        plain, picture = torch.zeros(1, 3, 64, 64), torch.full((1, 3, 64, 64), 0.3)
        picture[..., ::2] += 0.1
        fixed = enlarger.with_colors_of(picture, plain)
        self.assertLess(fixed.mean().abs(), 1e-3)
        # At the borders the last column counts more than once.
        self.assertLess((fixed - (picture - picture.mean()))[..., 8:-8].abs().max(), 0.01)

    def test_the_rate_warms_up_and_falls_to_nothing(self):
        rates = [enlarger.rate(step, 1000) for step in range(1000)]
        self.assertTrue(rates[0] < rates[50] < rates[200] == max(rates) == enlarger.PEAK_RATE)
        self.assertAlmostEqual(rates[900], 0.5 * enlarger.PEAK_RATE)
        self.assertLess(rates[-1], 0.01 * enlarger.PEAK_RATE)

    def test_pictures_are_enlarged_around_the_same_places(self):
        ramp = torch.linspace(-0.9, 0.9, 64).expand(1, 3, 64, 64)
        small = torch.nn.functional.avg_pool2d(ramp, enlarger.FACTOR)
        inner = (..., slice(16, 48))
        self.assertLess((enlarger.enlarge_plainly(small)[inner] - ramp[inner]).abs().max(), 1e-3)

    def test_what_is_exported_is_read_again(self):
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            unet = enlarger.build_unet()
            enlarger.export(unet, folder)
            again = UNet2DConditionModel.from_pretrained(folder / "unet")
            self.assertTrue(all(torch.equal(a, b) for a, b in zip(unet.parameters(), again.half().parameters())))
            pipeline = json.loads((folder / "model_index.json").read_text())
            self.assertEqual(pipeline["residual_scale"], enlarger.SCALE)
            self.assertEqual(pipeline["max_noise_level"], enlarger.LEVELS)


if __name__ == "__main__":
    unittest.main()
