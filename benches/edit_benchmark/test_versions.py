"""Choosing among versions, and DDIB, on networks whose answers are known."""

import random
import unittest
from types import SimpleNamespace

import torch

import sampling
from edit_benchmark import ddib, versions
from scenes import caption, random_scene


class Network:
    """Predicts v as if the picture were `x_0`, whatever the text."""

    def __init__(self, x_0: torch.Tensor, schedule):
        self.x_0, self.schedule = x_0, schedule

    def __call__(self, x_t, t, _e):
        signal = self.schedule.alphas_cumprod[int(t)] ** 0.5
        spread = (1 - self.schedule.alphas_cumprod[int(t)]) ** 0.5
        noise = (x_t - signal * self.x_0) / spread
        return SimpleNamespace(sample=signal * noise - spread * self.x_0)


class Ddib(unittest.TestCase):
    def test_the_noise_gives_the_picture_back(self):
        schedule = sampling.scheduler()
        generator = torch.Generator().manual_seed(0)
        x, e = torch.randn(1, 8, 4, 4, generator=generator), torch.zeros(1, 3, 5)
        network = Network(torch.randn(1, 8, 4, 4, generator=generator), schedule)
        x_t = ddib.invert(network, e, x, schedule, 20)
        self.assertGreater((x_t - x).abs().mean(), 0.5)
        back = sampling.generate(network, e, e, x_t, 20, 1.0, schedule)
        # The steps that sampling takes end one timestep's noise away from where the inversion begins.
        self.assertLess((back - x).abs().mean(), 0.05)

    def test_picture_and_noise_come_back_from_either_prediction(self):
        schedule = sampling.scheduler()
        x_0, noise = torch.randn(2, 1, 2, 2, 2, generator=torch.Generator().manual_seed(1))
        x_t = schedule.add_noise(x_0, noise, torch.tensor([400]))
        for prediction in (schedule.get_velocity(x_0, noise, torch.tensor([400])), noise):
            found = ddib.both_of(prediction, x_t, 400, schedule)
            self.assertTrue(torch.allclose(found[0], x_0, atol=1e-5) and torch.allclose(found[1], noise, atol=1e-5))
            schedule = sampling.DDIMScheduler.from_config(schedule.config, prediction_type="epsilon")

    def test_a_caption_is_found_by_its_loss(self):
        scene = random_scene(random.Random(3))
        wanted = set(caption(scene).split())
        found = ddib.found_caption(lambda texts: [len(wanted ^ set(text.split())) for text in texts], scene)
        self.assertEqual(found, caption(scene))


class Choice(unittest.TestCase):
    def test_pairs_that_differ_evenly_are_chance(self):
        self.assertEqual(versions.by_chance(3, 3), 1.0)
        self.assertEqual(versions.by_chance(0, 0), 1.0)
        self.assertAlmostEqual(versions.by_chance(5, 0), 2 / 2**5)
        self.assertAlmostEqual(versions.by_chance(1, 4), 2 * 6 / 2**5)

    def test_the_chosen_version_is_the_one_of_the_best_score(self):
        def version(success, distance):
            kept = 30.0 if success else None
            return {"success": success, "asked": True, "others": success, "keep_psnr": kept, "squeezenet": distance}

        rows = [[version(False, 2.0), version(True, 1.0)], [version(True, 1.0), version(False, 3.0)]]
        base = [version(False, 2.0), version(True, 1.0)]
        text = versions.line("way", rows, [[0.1, 0.2], [0.1, 0.2]], base, 100)
        for part in ("one 50.0%", "mean 50.0%", "chosen 50.0%", "oracle 100.0%", "gained 1 lost 1", "further by 0.500"):
            self.assertIn(part, text)


if __name__ == "__main__":
    unittest.main()
