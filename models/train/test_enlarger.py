"""The companion that enlarges: what it is trained on, how it is sampled, what is exported."""

import json
import tempfile
import unittest
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel

import data
import enlarger
from sampling import tokenize
from scenes import caption


class Oracle:
    """Predicts v of what is known to be lacking, whatever it sees, and remembers that."""

    def __init__(self, lacking: torch.Tensor):
        self.lacking, self.seen = lacking, []

    def __call__(self, inputs, t, embedding, class_labels):
        self.seen.append((inputs, t, class_labels.tolist()))

        class Output:
            sample = -self.lacking

        return Output


class TheCompanion(unittest.TestCase):
    def test_what_is_lacking_is_added_to_the_plain_enlargement(self):
        truth, plain = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)
        patches = enlarger.to_patches(plain)
        oracle = Oracle(enlarger.SCALE * (enlarger.to_patches(truth) - patches))
        result = enlarger.enlarge(oracle, torch.zeros(2, 1, 1), plain, torch.Generator().manual_seed(0))
        torch.testing.assert_close(result, truth)
        [(inputs, t, levels)] = oracle.seen
        self.assertEqual((t, levels), (999, [enlarger.LEVEL] * 2))
        self.assertLess((inputs[:, patches.shape[1] :] - patches).abs().max(), 0.02)

    def test_one_step_of_ddim_from_noise_alone_is_minus_v(self):
        schedule = enlarger.last_step_scheduler()
        schedule.set_timesteps(1)
        self.assertEqual(schedule.timesteps.tolist(), [999])
        v, x_t = torch.randn(2, 48, 4, 4), torch.randn(2, 48, 4, 4)
        torch.testing.assert_close(schedule.step(v, 999, x_t).prev_sample, -v)

    def test_the_noise_beside_is_faint(self):
        a = enlarger.low_res_scheduler().alphas_cumprod
        self.assertLess((1 - a[enlarger.LEVEL]).sqrt(), 0.004)
        self.assertLess((1 - a[enlarger.LEVELS - 1]).sqrt(), 0.03)

    def test_a_place_is_a_square_of_pixels(self):
        picture = torch.randn(1, 3, 8, 12)
        patches = enlarger.to_patches(picture)
        self.assertEqual(patches.shape, (1, 48, 2, 3))
        self.assertEqual(sorted(patches[0, :16, 1, 2].tolist()), sorted(picture[0, 0, 4:, 8:].flatten().tolist()))
        torch.testing.assert_close(enlarger.to_pictures(patches), picture)

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

    def test_the_shipped_companion_is_nearer_to_the_scenes_than_what_it_begins_with(self):
        model = Path(__file__).parent.parent / "scenes-64"
        base = StableDiffusionPipeline.from_pretrained(model, torch_dtype=torch.float32)
        unet = UNet2DConditionModel.from_pretrained(model / "enlarger" / "unet", torch_dtype=torch.float32)
        scenes = data.scenes(6, data.HELD_OUT_SEED)
        truth = enlarger.drawn_large(scenes)
        with torch.no_grad():
            e = base.text_encoder(tokenize(base.tokenizer, [caption(scene) for scene in scenes]))[0]
        drawn = torch.nn.functional.avg_pool2d(truth, enlarger.FACTOR)
        for small, gain in ((drawn, 2.0), (enlarger.through(base.vae, drawn), 0.8)):
            plain = enlarger.enlarge_plainly(small)
            ours = enlarger.enlarge(unet, e, plain, torch.Generator().manual_seed(0))
            self.assertGreater(enlarger.psnr(ours, truth), enlarger.psnr(plain, truth) + gain)

    def test_what_is_exported_is_read_again(self):
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            unet = enlarger.build_unet()
            enlarger.export(unet, folder)
            again = UNet2DConditionModel.from_pretrained(folder / "unet")
            self.assertTrue(all(torch.equal(a, b) for a, b in zip(unet.parameters(), again.half().parameters())))
            pipeline = json.loads((folder / "model_index.json").read_text())
            self.assertEqual(pipeline["residual_scale"], enlarger.SCALE)
            self.assertEqual(pipeline["sampling_steps"], 1)
            schedule = json.loads((folder / "scheduler/scheduler_config.json").read_text())
            self.assertTrue(schedule["rescale_betas_zero_snr"] and schedule["set_alpha_to_one"])
            self.assertEqual(pipeline["max_noise_level"], enlarger.LEVELS)


if __name__ == "__main__":
    unittest.main()
