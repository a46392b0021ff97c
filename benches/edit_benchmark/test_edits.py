"""Edits, judges, store and program together. Needs the packages of models/train/requirements.txt; run with
benches/edit_benchmark/python."""

import json
import subprocess
import sys
import tempfile
import unittest
from dataclasses import astuple
from pathlib import Path
from types import SimpleNamespace

try:
    import numpy as np
    import torch
    from PIL import Image
except ModuleNotFoundError as error:
    print(f"skipped: the benchmark's edits ({error}; benches/edit_benchmark/python has it)")
    raise unittest.SkipTest(str(error)) from error

import data
from classifier import VALUES
from edit_benchmark import Failed, edits, measures, methods, perceptual
from edit_benchmark.program import ROOT, Program, read_preset
from edit_benchmark.store import Result, Store
from scenes import ATTRIBUTES

METRICS = ROOT.parent / "shared/metrics"


class KnowsTheScenes:
    """A classifier of pictures that it has seen with their scenes."""

    def __init__(self, chosen):
        self.scenes = {
            picture.tobytes(): scene
            for edit in chosen
            for picture, scene in ((edit.source, edit.scene), (edit.target, edit.edited))
        }

    def read(self, pictures):
        return [
            {attribute: getattr(self.scenes[picture.tobytes()], attribute) for attribute in ATTRIBUTES}
            for picture in pictures
        ]

    def probabilities(self, pictures):
        return {
            attribute: np.array(
                [[float(reading[attribute] == value) for value in VALUES[attribute]] for reading in self.read(pictures)]
            )
            for attribute in ATTRIBUTES
        }


class Edits(unittest.TestCase):
    def test_splits_share_no_scene_and_no_seed(self):
        seen = {}
        for split in edits.SPLITS:
            for seed in (0, 1):
                for edit in edits.edits(split, seed, 2):
                    for scene in {edit.scene, edit.edited}:
                        self.assertIsNone(seen.get(astuple(scene)), f"{split} {seed} {edit.name}")
                        seen[astuple(scene)] = edit.name
        others = (data.TRAINING_SEED, data.HELD_OUT_SEED)
        for base in edits.SPLITS.values():
            for other in (*edits.SPLITS.values(), *others):
                self.assertTrue(base == other or abs(base - other) >= edits.SEEDS)
        with self.assertRaisesRegex(Failed, "must be 0 to 999999"):
            edits.edits("validation", edits.SEEDS, 1)

    def test_more_edits_or_fewer_attributes_leave_the_others_as_they_are(self):
        few, more = edits.edits("test", 0, 1), edits.edits("test", 0, 2)
        self.assertEqual([edit.scene for edit in few], [edit.scene for edit in more if edit.name.endswith("00")])
        self.assertEqual(
            edits.edits("test", 0, 1, ["hat"])[0].edited, next(edit for edit in few if edit.attribute == "hat").edited
        )

    def test_the_mask_is_where_source_and_target_agree(self):
        for edit in edits.edits("test", 0, 2):
            difference = np.abs(edit.source.astype(int) - edit.target).max(-1)
            self.assertLess(difference[edit.keep].max(initial=0), 8)
            self.assertGreaterEqual(difference[~edit.keep].min(), 8)
            self.assertIn(edit.attribute, ATTRIBUTES)

    def test_the_truth_succeeds_and_the_source_does_not(self):
        chosen = edits.edits("test", 0, 3)
        classifier = KnowsTheScenes(chosen)
        judges = measures.Judges(classifier=classifier, values=VALUES)
        for edit in chosen:
            source, truth = measures.measure(edit, [edit.source, edit.target], judges)
            self.assertEqual(
                (truth["success"], truth["asked"], truth["others"], truth["alignment"]), (True, True, True, 1.0)
            )
            self.assertEqual(
                (source["success"], source["asked"], source["others"], source["alignment"]), (False, False, True, 0.0)
            )
            self.assertIsNone(truth["psnr"])
            self.assertNotIn("squeezenet", truth)


class Judges(unittest.TestCase):
    @unittest.skipUnless((METRICS / perceptual.FILE).exists(), f"{METRICS} has no {perceptual.FILE}")
    def test_the_distance_grows_with_the_difference(self):
        edit = edits.edits("test", 0, 1, ["color"])[0]
        net = perceptual.SqueezeNet(METRICS)
        noisy = [
            np.clip(edit.source + np.random.default_rng(0).normal(0, noise, edit.source.shape), 0, 255).astype(np.uint8)
            for noise in (4, 16, 64)
        ]
        distances = net.distances([edit.source, *noisy], edit.source)
        self.assertAlmostEqual(distances[0], 0, places=6)
        self.assertEqual(distances, sorted(distances))
        self.assertAlmostEqual(net.distances([edit.source], noisy[1])[0], distances[2], places=4)


class Command(unittest.TestCase):
    def test_it_reports_in_a_document_and_in_json(self):
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            document, numbers, pictures = folder / "doc.md", folder / "edits.json", folder / "edits.png"
            document.write_text("<!-- edits test: written by benches/edits -->\n<!-- end of edits test -->\n")
            command = [
                sys.executable,
                "-m",
                "edit_benchmark.main",
                "--scenes",
                "1",
                "--methods",
                "source,truth",
                "--work",
                folder,
                "--docs",
                document,
                "--json",
                numbers,
                "--sheet",
                pictures,
            ]
            text = subprocess.run(command, cwd=ROOT / "benches", check=True, capture_output=True, text=True).stdout
            self.assertIn("| the true result itself |", text)
            self.assertIn(text.strip(), document.read_text())
            result = json.loads(numbers.read_text())
            self.assertEqual(len(result["rows"]), 2 * len(ATTRIBUTES))
            self.assertEqual(result["methods"]["truth"]["ssim"]["value"], 1)
            Image.open(pictures).verify()

    def test_what_is_chosen_is_not_chosen_on_test_scenes(self):
        command = [sys.executable, "-m", "edit_benchmark.main", "--split", "test", "--strengths", "0.5"]
        process = subprocess.run(command, cwd=ROOT / "benches", capture_output=True, text=True)
        self.assertEqual(process.returncode, 2)
        self.assertIn("--strengths needs --split validation", process.stderr)


class Methods(unittest.TestCase):
    def test_sdedit_is_the_image_to_image_pipeline_of_diffusers(self):
        from diffusers import StableDiffusionImg2ImgPipeline

        model = ROOT / "models/scenes-64"
        [edit] = edits.edits("validation", 0, 1, ["pose"])
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            settings = methods.Settings(
                program=Program(Path("none"), model),
                preset={"guidance": 2.0, "sampling_steps": 20, "seed": 3},
                eta=1.0,
                etas=(),
                strengths=(0.35, 0.8),
                store=Store(Path(folder)),
                jobs=1,
            )
            results = methods.sdedit(edit, settings)
            pipeline = settings.pipeline
            source = methods.encode(pipeline, edit.source)
            reference = StableDiffusionImg2ImgPipeline(**pipeline.components, requires_safety_checker=False)
            reference.set_progress_bar_config(disable=True)
            # A picture of four channels would be taken for latents; with eight of them the pipeline has to be handed
            # them.
            pipeline.vae.encode = lambda latents: SimpleNamespace(latents=latents / pipeline.vae.config.scaling_factor)
            for result in results:
                [picture] = reference(
                    prompt_embeds=methods.embed(pipeline, edit.prompt),
                    negative_prompt_embeds=methods.embed(pipeline, ""),
                    image=source,
                    strength=result.level,
                    guidance_scale=2.0,
                    num_inference_steps=20,
                    generator=torch.Generator().manual_seed(3),
                    output_type="np",
                ).images
                self.assertLessEqual(np.abs(picture * 255 - result.picture).max(), 1)  # a level, for rounding


class Results(unittest.TestCase):
    def test_a_result_comes_back_from_the_store_as_it_was(self):
        picture = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
        with tempfile.TemporaryDirectory() as folder:
            store = Store(Path(folder))
            store.write("key", [Result(picture, 1.5, 0.8)])
            [result] = store.read("key", [0.8])
            self.assertTrue(np.array_equal(result.picture, picture))
            self.assertEqual((result.seconds, result.level), (1.5, 0.8))
            self.assertIsNone(store.read("key", [0.8, 1.0]))
            self.assertIsNone(store.read("other", [0.8]))

    def test_the_program_edits_at_every_eta_and_only_once(self):
        program = ROOT / "target/release/imagic-edit"
        if not program.exists():
            print(f"skipped: the benchmark with the program ({program} is not built)")
            self.skipTest("not built")
        with tempfile.TemporaryDirectory() as folder:
            model = ROOT / "models/scenes-64"
            changes = {"embedding_steps": "1", "tuning_steps": "1", "batch_size": "1", "sampling_steps": "2"}
            preset = read_preset(model, "balanced", changes)
            eta = preset.pop("eta")
            settings = methods.Settings(
                program=Program(program, model, 1, changes),
                preset=preset,
                eta=eta,
                etas=(0.0, eta),
                strengths=(0.5,),
                store=Store(Path(folder)),
                jobs=1,
            )
            [edit] = edits.edits("validation", 0, 1, ["color"])
            results = methods.run({"imagic", "source"}, [edit], settings)
            self.assertEqual([result.level for result in results[edit.name, "imagic"]], [0.0, eta])
            self.assertTrue(
                all(
                    result.picture.shape == edit.source.shape and result.seconds > 0
                    for result in results[edit.name, "imagic"]
                )
            )
            times = {file: file.stat().st_mtime_ns for file in Path(folder).rglob("*.png")}
            self.assertEqual(len(times), 2)
            methods.run({"imagic"}, [edit], settings)
            self.assertEqual(times, {file: file.stat().st_mtime_ns for file in Path(folder).rglob("*.png")})
            for file in times:
                Image.open(file).verify()


if __name__ == "__main__":
    unittest.main()
