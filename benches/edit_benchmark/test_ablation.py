"""The ablation's own training steps."""

import unittest

import torch

import enlarger
from edit_benchmark import ablation


class TheAblation(unittest.TestCase):
    def test_tuning_fits_the_source_and_leaves_the_model_as_it_was(self):
        torch.manual_seed(0)
        unet = enlarger.build_unet()
        before = [parameter.clone() for parameter in unet.parameters()]
        large = torch.rand(1, 3, ablation.SIDE, ablation.SIDE)
        large = torch.nn.functional.avg_pool2d(large, 9, 1, 4)
        plain = torch.zeros_like(large)
        e = torch.zeros(1, 77, enlarger.WIDTH)
        preset = {"detail_lr": 1e-3, "detail_steps": 3, "batch_size": 1}
        tuned = ablation.tuned(unet, e, plain, large, preset)
        self.assertTrue(all(torch.equal(a, b) for a, b in zip(before, unet.parameters())))

        def error(network):
            found = enlarger.enlarge(network, e, plain, torch.Generator().manual_seed(1))
            return (found - large).square().mean()

        self.assertLess(error(tuned), 0.9 * error(unet))

    def test_the_ways_have_names_of_their_own(self):
        names = [ablation.name_of(*way) for way in ablation.TUNED]
        self.assertEqual(len(set(names)), len(ablation.TUNED))


if __name__ == "__main__":
    unittest.main()
