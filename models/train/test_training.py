"""The training of the diffusion model with tiny parts: what it is shown, how it goes on, how it ends."""

import json
import os
import random
import signal
import tempfile
import unittest
from dataclasses import replace
from pathlib import Path
from unittest import mock

import torch
from transformers import CLIPTokenizer

import data
import diffusion
import gates
import latents
import vae
from scenes import ATTRIBUTES, SIZES, caption, random_scene, vocabulary
from tokens import write_tokenizer

CHANNELS = [16, 16, 32]


class Small(unittest.TestCase):
    """A folder with an untrained autoencoder and a tokenizer, and settings for seconds instead of days."""

    def setUp(self):
        torch.set_num_threads(1)
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.work = Path(folder.name)
        torch.manual_seed(0)
        self.vae = vae.build([8, 8, 8])
        self.vae.save_pretrained(self.work / "vae")
        write_tokenizer(vocabulary(), self.work / "tokenizer")
        self.tokenizer = CLIPTokenizer.from_pretrained(self.work / "tokenizer")
        for module, name, value in (
            (data, "CHUNK", 40),
            (latents, "FIRST_CHUNKS", 1),
            (latents, "SAMPLES_PER_CHUNK", 16),
            (diffusion, "SOFTEN_EVERY", 2),
            (diffusion, "CURVE_SCENES", 4),
            (diffusion, "CURVE_STEPS", 2),
            (diffusion, "sample_grid", mock.MagicMock()),
        ):
            patch = mock.patch.object(module, name, value)
            patch.start()
            self.addCleanup(patch.stop)

    def training(self) -> diffusion.Training:
        training_set = latents.TrainingSet(self.work / "latents", self.vae, self.tokenizer)
        training_set.grow_to(1)
        return diffusion.Training(self.tokenizer, CHANNELS, training_set, batch=4)

    def main(self, *options: str):
        """The program as it is called; what it does to signals is undone."""
        self.addCleanup(signal.signal, signal.SIGTERM, signal.getsignal(signal.SIGTERM))
        self.addCleanup(signal.signal, signal.SIGINT, signal.getsignal(signal.SIGINT))
        fixed = ["--work", str(self.work), "--batch", "4", "--channels", *map(str, CHANNELS)]
        with mock.patch("sys.argv", ["diffusion.py", *fixed, *options]), mock.patch("builtins.print"):
            diffusion.main()

    def state(self, name: str = "diffusion.pt") -> dict:
        return torch.load(self.work / name)


class Resuming(Small):
    def test_a_run_that_was_interrupted_is_the_run_that_was_not(self):
        self.main("--steps", "8")
        whole = self.state()
        (self.work / "diffusion.pt").unlink()
        self.main("--steps", "5")
        self.main("--steps", "8")
        self.assert_same(whole, self.state())
        self.assertEqual((whole["step"], whole["samples"]), (8, 32))

    def assert_same(self, one, other, path=""):
        self.assertIs(type(one), type(other), path)
        if isinstance(one, dict):
            self.assertEqual(one.keys(), other.keys(), path)
        if isinstance(one, torch.Tensor):
            self.assertTrue(torch.equal(one, other), path)
        elif isinstance(one, (dict, list, tuple)):
            for key in one if isinstance(one, dict) else range(max(len(one), len(other))):
                self.assert_same(one[key], other[key], f"{path}/{key}")
        else:
            self.assertEqual(one, other, path)

    def test_it_writes_a_checkpoint_when_told_to_stop(self):
        advance = diffusion.Training.advance

        def stopped_at_3(training):
            if training.step == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            return advance(training)

        with mock.patch.object(diffusion.Training, "advance", stopped_at_3):
            self.main()
        self.assertEqual(self.state()["step"], 3)

    def test_a_write_that_fails_leaves_the_checkpoint_before_it(self):
        diffusion.save({"step": 1}, self.work / "diffusion.pt")

        def half(state, file):
            file.write(b"half of it")
            raise OSError("disk full")

        with mock.patch("torch.save", half), self.assertRaises(OSError):
            diffusion.save({"step": 2}, self.work / "diffusion.pt")
        self.assertEqual(self.state(), {"step": 1})

    def test_weights_without_an_optimizer_warm_up_again_and_keep_their_count(self):
        folder, training = self.work / "trained", self.training()
        training.text_encoder.save_pretrained(folder / "text_encoder")
        training.unet.save_pretrained(folder / "unet")
        (folder / diffusion.RUN_FILE).write_text(json.dumps({"step": 70_000, "samples": 280_000}))
        other = self.training()
        other.begin_with(folder)
        self.assertEqual((other.step, other.samples), (70_000, 280_000))
        self.assertEqual(other.rate(), diffusion.rate(0))
        for one, two in zip(training.parameters, other.averaged_parameters):
            self.assertTrue(torch.equal(one, two))


class Schedule(Small):
    def test_the_rate_warms_up_and_stays(self):
        rates = [diffusion.rate(step) for step in range(diffusion.WARM_UP)]
        self.assertEqual(rates, sorted(rates))
        for step in (diffusion.WARM_UP, 100_000, 10_000_000):
            self.assertEqual(diffusion.rate(step), diffusion.PEAK_RATE)

    def test_a_cool_down_falls_from_the_rate_to_zero_and_leaves_the_run_alone(self):
        self.main("--steps", "4")
        run = (self.work / "diffusion.pt").read_bytes()
        rates, advance = [], diffusion.Training.advance

        def noted(training):
            rates.append(training.rate())
            return advance(training)

        with mock.patch.object(diffusion.Training, "advance", noted):
            self.main("--cool-down", "5")
        self.assertEqual((self.work / "diffusion.pt").read_bytes(), run)
        self.assertEqual(self.state("cool-down.pt")["step"], 9)
        self.assertEqual(rates, sorted(rates, reverse=True))
        self.assertEqual(rates[0], diffusion.rate(4))
        self.assertEqual(diffusion.cool_down_share(1), 0)
        lines = [json.loads(line) for line in (self.work / "curve.jsonl").read_text().splitlines()]
        self.assertEqual([(line["step"], line["cool-down"]) for line in lines], [(4, False), (9, True)])

    def test_a_new_cool_down_begins_when_the_run_has_gone_on(self):
        self.main("--steps", "2")
        self.main("--cool-down", "2")
        self.main("--steps", "6")
        self.main("--cool-down", "2")
        self.assertEqual(self.state("cool-down.pt")["step"], 8)

    def test_timesteps_that_decide_the_structure_come_more_often_and_none_is_left_out(self):
        shares = diffusion.timestep_shares()
        self.assertAlmostEqual(shares.sum().item(), 1)
        self.assertGreaterEqual(shares.min().item(), 0.0005)
        self.assertGreater(shares[200:700].sum(), 0.6)
        drawn = diffusion.draw_timesteps(20_000, shares.cumsum(0))
        self.assertTrue(((drawn >= 0) & (drawn < 1000)).all())
        self.assertAlmostEqual((drawn < 500).float().mean().item(), shares[:500].sum().item(), places=2)


class TrainingSet(Small):
    def test_no_chunk_shares_a_scene_or_a_seed_with_those_that_judge(self):
        others = (data.HELD_OUT_SEED, data.VALIDATION_SEED, data.CURVE_SEED, data.TEST_SEED)
        for number in range(latents.MOST_CHUNKS):
            self.assertNotIn(data.CHUNK_SEED + number, others)
        self.assertEqual(len(set(others)), len(others))
        trained = {scene for number in range(latents.MOST_CHUNKS) for scene in data.chunk_scenes(number)}
        self.assertEqual(len(trained), latents.MOST_CHUNKS * data.CHUNK)
        for seed in others:
            self.assertTrue(trained.isdisjoint(data.scenes(400, seed)))

    def test_it_grows_with_the_training_and_not_for_ever(self):
        self.assertEqual(latents.chunks_wanted(0), 1)
        self.assertEqual(latents.chunks_wanted(16), 2)
        self.assertEqual(latents.chunks_wanted(10**9), latents.MOST_CHUNKS)
        training_set = self.training().set
        first = training_set.draw(4)[0].shape
        training_set.grow_to(3)
        self.assertEqual(len(training_set.cumulative), 120)
        self.assertEqual(training_set.draw(4)[0].shape, first)

    def test_latents_and_captions_belong_to_one_scene(self):
        training_set = self.training().set
        scenes = data.chunk_scenes(0)
        expected = torch.from_numpy(latents.encode(self.vae, scenes)).float()
        drawn, tokens = training_set.draw(16)
        for x, ids in zip(drawn, tokens):
            scene = scenes[(expected - x).square().sum((1, 2, 3)).argmin()]
            words = self.tokenizer.decode(ids, skip_special_tokens=True).split()
            self.assertIn(scene.kind, words)
            self.assertEqual("sketch" in words, scene.style == "sketch")
        self.assertTrue((latents.encode(self.vae, scenes, processes=2) == expected.numpy()).all())

    def test_what_is_hard_is_drawn_more_often(self):
        scene = replace(random_scene(random.Random(0)), kind="dog", pose="sitting", hat=False, style="photo")
        self.assertGreater(latents.weight(replace(scene, hat=True)), latents.weight(scene))
        self.assertGreater(latents.weight(replace(scene, style="sketch")), latents.weight(scene))
        self.assertGreater(latents.weight(scene), latents.weight(replace(scene, kind="car", pose=None)))

    def test_captions_become_the_tokens_that_the_tokenizer_makes_of_them(self):
        words, rng = latents.Words(self.tokenizer), random.Random(0)
        for _ in range(200):
            text = caption(random_scene(rng), rng)
            self.assertEqual(words(text), diffusion.tokenize(self.tokenizer, [text])[0].tolist())

    def test_silence_about_size_position_and_hat_means_what_is_usual(self):
        rng = random.Random(0)
        unsaid, unusual = 0, 0
        for _ in range(3000):
            scene = random_scene(rng)
            words = caption(scene, rng).split()
            if not set(words) & {"hat", *(word for word, _ in SIZES.values()), "left", "right"}:
                unsaid += 1
                unusual += scene.hat or scene.size != "normal" or scene.position != "middle"
        self.assertLess(unusual / unsaid, 0.08)


class Shares(unittest.TestCase):
    def test_one_wrong_attribute_spoils_a_sample(self):
        scenes = data.scenes(200, data.CURVE_SEED)
        readings = [{name: getattr(scene, name) for name in ATTRIBUTES} for scene in scenes]
        self.assertEqual(set(gates.shares(scenes, readings).values()), {1.0})
        hats = [i for i, scene in enumerate(scenes) if scene.hat]
        readings[hats[0]]["hat"] = False
        readings[hats[0]]["background"] = "none of them"
        shares = gates.shares(scenes, readings)
        self.assertEqual(shares["all together"], 1 - 1 / len(scenes))
        self.assertEqual(shares["hat where asked"], 1 - 1 / len(hats))
        self.assertEqual(shares["background"], 1 - 1 / len(scenes))

    def test_a_sketch_has_no_color_and_a_thing_no_pose_to_get_wrong(self):
        scene = replace(data.scenes(1)[0], kind="car", pose=None, hat=False, style="sketch")
        reading = {name: getattr(scene, name) for name in ATTRIBUTES} | {"color": "none", "pose": "sitting"}
        self.assertEqual(gates.shares([scene], [reading])["all together"], 1)


if __name__ == "__main__":
    unittest.main()
