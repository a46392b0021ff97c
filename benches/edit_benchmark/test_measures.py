"""Measures, intervals and the report's place in a document, on values known without them. Needs numpy only."""

import math
import random
import tempfile
import unittest
from dataclasses import replace
from pathlib import Path

try:
    import numpy as np
except ModuleNotFoundError as error:
    print(f"skipped: the benchmark's measures ({error}; benches/edit_benchmark/python has it)")
    raise unittest.SkipTest(str(error)) from error

from edit_benchmark import Failed, intervals, measures, report, summary
from scenes import ATTRIBUTES, random_edit, random_scene


def gradients() -> tuple[np.ndarray, np.ndarray]:
    """Two pictures that differ by up to 20 levels."""
    y, x = np.mgrid[0:32, 0:40]
    a = np.stack([(x * 6) % 256, (y * 8) % 256, (x * y) % 256], -1).astype(np.uint8)
    b = np.clip(a.astype(int) + ((x * 7 + y * 13) % 41 - 20)[..., None], 0, 255).astype(np.uint8)
    return a, b


class PictureMeasures(unittest.TestCase):
    def test_psnr_and_ssim_are_those_of_scikit_image(self):
        # scikit-image 0.26.0: structural_similarity(a, b, gaussian_weights=True, sigma=1.5,
        # use_sample_covariance=False, data_range=255, channel_axis=2) and peak_signal_noise_ratio(a, b,
        # data_range=255).
        a, b = gradients()
        self.assertAlmostEqual(measures.ssim(a, b), 0.7599043094981233, places=12)
        self.assertAlmostEqual(measures.psnr(a, b), 26.86121601018356, places=12)

    def test_a_picture_is_itself(self):
        a, _ = gradients()
        self.assertAlmostEqual(measures.ssim(a, a), 1)
        self.assertEqual(measures.psnr(a, a), math.inf)
        self.assertIsNone(measures.finite(measures.psnr(a, a)))

    def test_black_is_far_from_white(self):
        black, white = np.zeros((16, 16, 3), np.uint8), np.full((16, 16, 3), 255, np.uint8)
        self.assertEqual(measures.psnr(black, white), 0)
        self.assertAlmostEqual(measures.ssim(black, white), 1e-4 / (1 + 1e-4))

    def test_what_is_kept_is_seen_on_the_kept_pixels_only(self):
        source = np.zeros((10, 10, 3), np.uint8)
        picture, keep = source.copy(), np.zeros((10, 10), bool)
        keep[:5] = True
        picture[5:] = 200
        self.assertEqual(measures.keep_psnr(picture, source, keep), math.inf)
        picture[:5] = 51  # a fifth of 255
        self.assertAlmostEqual(measures.keep_psnr(picture, source, keep), 20 * math.log10(5))

    def test_with_less_than_one_percent_to_keep_nothing_is_said_of_it(self):
        source, keep = np.zeros((20, 20, 3), np.uint8), np.zeros((20, 20), bool)
        keep[0, :3] = True
        self.assertIsNone(measures.keep_psnr(source, source, keep))
        keep[0, 3] = True
        self.assertEqual(measures.keep_psnr(source, source, keep), math.inf)


class Success(unittest.TestCase):
    def check(self, edited, changes, kept, expected):
        reading = {attribute: getattr(edited, attribute) for attribute in ATTRIBUTES} | changes
        self.assertEqual(measures.success(measures.right_attributes(reading, edited), edited, kept), expected)

    def test_every_attribute_must_read_right_and_the_rest_be_kept(self):
        edited = replace(random_scene(random.Random(0)), style="photo", color="red", hat=False)
        self.check(edited, {}, 25.0, True)
        self.check(edited, {}, math.inf, True)
        self.check(edited, {}, None, True)
        self.check(edited, {}, measures.KEPT, True)
        self.check(edited, {}, 19.9, False)
        self.check(edited, {"color": "blue"}, 25.0, False)
        self.check(edited, {"hat": True}, 25.0, False)

    def test_a_sketch_has_no_color(self):
        edited = replace(random_scene(random.Random(0)), style="sketch", color="red")
        self.check(edited, {"color": "blue"}, None, True)
        self.check(edited, {"style": "photo"}, None, False)

    def test_an_edit_changes_only_what_it_says(self):
        rng = random.Random(0)
        for attribute in ATTRIBUTES:
            scene, edited = random_edit(attribute, rng)
            self.assertEqual(replace(scene, **{attribute: getattr(edited, attribute)}), edited)
            self.assertNotEqual(scene, edited)


class Intervals(unittest.TestCase):
    def test_wilson(self):
        # Newcombe 1998, table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
        for right, of, low, high in (
            (81, 263, 0.2553, 0.3662),
            (15, 148, 0.0624, 0.1605),
            (0, 20, 0.0, 0.1611),
            (1, 29, 0.0061, 0.1718),
        ):
            estimate = intervals.rate([True] * right + [False] * (of - right))
            self.assertAlmostEqual(estimate.value, right / of)
            self.assertAlmostEqual(estimate.low, low, places=4)
            self.assertAlmostEqual(estimate.high, high, places=4)

    def test_a_mean_of_many_has_the_interval_of_the_normal_distribution(self):
        values = np.random.default_rng(1).normal(5, 2, 400).tolist()
        estimate = intervals.mean(values)
        spread = 1.96 * np.std(values) / 20
        self.assertAlmostEqual(estimate.value, np.mean(values))
        self.assertAlmostEqual(estimate.low, estimate.value - spread, delta=0.02)
        self.assertAlmostEqual(estimate.high, estimate.value + spread, delta=0.02)
        self.assertEqual(estimate, intervals.mean(values))


class Tables(unittest.TestCase):
    rows = [
        {
            "edit": edit,
            "attribute": "color",
            "method": method,
            "level": level,
            "psnr": psnr,
            "squeezenet": distance,
            "success": success,
        }
        for edit, method, level, psnr, distance, success in (
            ("color-00", "imagic", 0.4, 20.0, 2.0, False),
            ("color-00", "imagic", 0.8, 21.0, 1.0, True),
            ("color-00", "sdedit", 0.6, 22.0, 1.5, False),
            ("color-01", "imagic", 0.4, 25.0, 0.5, True),
            ("color-01", "imagic", 0.8, 24.0, 1.5, False),
            ("color-01", "sdedit", 0.6, 22.0, 2.0, False),
        )
    ]

    def test_the_oracle_takes_the_nearest_result_of_each_edit(self):
        picked = summary.tables_rows(self.rows, ["imagic", "imagic-oracle", "sdedit"], 0.8, 0.6)
        self.assertEqual([row["level"] for row in picked["imagic"]], [0.8, 0.8])
        self.assertEqual([row["level"] for row in picked["imagic-oracle"]], [0.8, 0.4])
        without_distances = [{name: value for name, value in row.items() if name != "squeezenet"} for row in self.rows]
        self.assertEqual([row["level"] for row in summary.nearest(without_distances, "imagic")], [0.8, 0.4])

    def test_shares_and_means(self):
        picked = summary.tables_rows(self.rows, ["imagic", "sdedit"], 0.8, 0.6)
        nearer = summary.share_nearer(picked["imagic"], picked["sdedit"])
        self.assertEqual((nearer["squeezenet"].value, nearer["psnr"].value), (1.0, 0.5))
        levels = summary.by_level(self.rows, "imagic")
        self.assertEqual({eta: row["psnr"].value for eta, row in levels.items()}, {0.4: 22.5, 0.8: 22.5})
        self.assertEqual(summary.best_level(levels), 0.4)  # as successful as 0.8
        self.assertIsNone(summary.best_level(summary.by_level(self.rows, "sdedit")))
        self.assertEqual(summary.by_attribute(picked["imagic"])["color"].value, 0.5)

    def test_a_report_replaces_the_one_before_and_nothing_else(self):
        with tempfile.TemporaryDirectory() as folder:
            document = Path(folder) / "doc.md"
            document.write_text(
                "a\n<!-- edits test: written by benches/edits -->\nold\n<!-- end of edits test -->\nb\n"
            )
            for text in ("new\n", "newer \\1\n"):
                report.write_into(document, "edits test", text)
                self.assertEqual(
                    document.read_text(),
                    f"a\n<!-- edits test: written by benches/edits -->\n{text}<!-- end of edits test -->\nb\n",
                )
            with self.assertRaisesRegex(Failed, "no place"):
                report.write_into(document, "edits validation", "text")

    def test_the_document_has_a_place_for_both_splits(self):
        text = (Path(__file__).parents[2] / "docs/BENCHMARK.md").read_text()
        for split in ("validation", "test"):
            self.assertIn(f"<!-- edits {split}: written by benches/edits -->\n", text)
            self.assertIn(f"<!-- end of edits {split} -->\n", text)


if __name__ == "__main__":
    unittest.main()
