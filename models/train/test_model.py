"""The built-in model and its judge keep what their descriptions promise, on scenes that no training saw."""

import unittest
from pathlib import Path

import classifier
import data
import gates

MODEL = Path(__file__).parents[1] / "scenes-64"


class Classifier(unittest.TestCase):
    def test_it_reads_drawn_scenes(self):
        shares = classifier.accuracy(classifier.load(), data.scenes(1500, data.HELD_OUT_SEED))
        for attribute, least in {"background": 0.99, "color": 0.99, "kind": 0.97, "pose": 0.97}.items():
            self.assertGreaterEqual(shares[attribute], least, attribute)


class Model(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.pipeline = gates.load(MODEL)

    def test_the_autoencoder_gives_pictures_back(self):
        self.assertGreaterEqual(gates.round_trip(self.pipeline, 200)["all"], 30)

    def test_samples_show_what_was_asked(self):
        shares = gates.samples_read_back(self.pipeline, classifier.load(), data.scenes(150, data.HELD_OUT_SEED))
        # What the model card says of 400 scenes, less what 150 may be off by chance.
        for attribute, least in {"background": 0.95, "color": 0.90, "kind": 0.75, "pose": 0.82}.items():
            self.assertGreaterEqual(shares[attribute], least, attribute)


if __name__ == "__main__":
    unittest.main()
