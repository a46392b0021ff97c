"""Scenes, their captions and their pictures."""

import json
import pathlib
import random
import unittest
from dataclasses import fields, replace

import numpy as np

import data
from drawing import edit_truth, render
from scenes import ATTRIBUTES, HAT, KINDS, POSES, RIGID, caption, changes, random_edit, random_scene, vocabulary
from tokens import MAX_LENGTH


def scenes(count: int):
    rng = random.Random(0)
    return [random_scene(rng) for _ in range(count)]


class Captions(unittest.TestCase):
    def test_every_word_is_known_and_every_caption_fits_the_text_encoder(self):
        known, rng = set(vocabulary()), random.Random(0)
        for scene in scenes(2000):
            for words in (caption(scene).split(), caption(scene, rng).split()):
                self.assertLessEqual(set(words), known)
                self.assertLessEqual(len(words) + 2, MAX_LENGTH, " ".join(words))

    def test_the_model_says_which_words_it_knows(self):
        about = json.loads((pathlib.Path(__file__).parents[1] / "scenes-64" / "imagic.json").read_text("utf-8"))
        self.assertEqual(about["words"], vocabulary())

    def test_an_edit_is_another_caption(self):
        rng = random.Random(0)
        for attribute in ATTRIBUTES:
            for _ in range(50):
                scene, edited = random_edit(attribute, rng)
                self.assertNotEqual(caption(scene), caption(edited))

    def test_what_is_usual_is_not_said(self):
        scene = replace(
            scenes(1)[0],
            kind="dog",
            color="orange",
            background="snow",
            pose="sitting",
            hat=False,
            style="photo",
            size="normal",
            position="middle",
        )
        self.assertEqual(caption(scene), "a photo of an orange dog sitting in the snow")
        said = replace(scene, hat=True, style="sketch", size="small", position="left")
        self.assertEqual(
            caption(said), f"a pencil sketch of a small orange dog sitting {HAT[0]} on the left in the snow"
        )


class Edits(unittest.TestCase):
    def test_an_edit_changes_one_attribute_and_no_nuisance(self):
        rng = random.Random(0)
        for attribute in ATTRIBUTES:
            for _ in range(50):
                scene, edited = random_edit(attribute, rng)
                different = [
                    field.name for field in fields(scene) if getattr(scene, field.name) != getattr(edited, field.name)
                ]
                self.assertEqual(different, [attribute])

    def test_siblings_differ_in_one_attribute(self):
        for first, second in zip(*[iter(data.scenes(400))] * 2):
            self.assertEqual(sum(getattr(first, a) != getattr(second, a) for a in ATTRIBUTES), 1)

    def test_a_thing_never_gets_a_pose_or_a_hat_that_it_cannot_have(self):
        for scene in scenes(500):
            for kind in changes(scene, "kind"):
                self.assertEqual(kind in RIGID, scene.kind in RIGID)
                self.assertIn(scene.pose, POSES.get(kind, (None,)))
            if scene.kind in RIGID:
                self.assertEqual((changes(scene, "pose"), changes(scene, "hat")), ([], []))


class Pictures(unittest.TestCase):
    def test_a_scene_has_one_picture(self):
        for scene in scenes(20):
            np.testing.assert_array_equal(render(scene, 64), render(replace(scene), 64))

    def test_a_larger_picture_shows_the_same(self):
        for scene in scenes(40):
            large = render(scene, 256).reshape(64, 4, 64, 4, 3).mean((1, 3))
            # Edges fall on other pixels, and a sketch's lines are whole pixels wide.
            self.assertLess(np.abs(large - render(scene, 64)).mean(), 4, scene)

    def test_a_wide_picture_shows_the_square_in_its_middle(self):
        for scene in scenes(10):
            if scene.style == "photo":
                # All but the roundings of a few edges.
                differs = (render(scene, 96, 64)[:, 16:80] != render(scene, 64)).any(-1)
                self.assertLess(differs.mean(), 0.01)

    def test_every_value_of_an_attribute_can_be_seen(self):
        rng = random.Random(0)
        for attribute in ATTRIBUTES:
            for _ in range(30):
                scene, edited = random_edit(attribute, rng)
                source, target, keep = edit_truth(scene, edited, 64)
                self.assertLess(keep.mean(), 0.9999, f"{scene} {edited}")
                self.assertTrue((np.abs(source.astype(int) - target)[keep] < 8).all())
        self.assertEqual(
            len(
                {
                    render(replace(scenes(1)[0], kind=kind, pose=POSES.get(kind, (None,))[0], hat=False), 64).tobytes()
                    for kind in KINDS
                }
            ),
            len(KINDS),
        )


if __name__ == "__main__":
    unittest.main()
