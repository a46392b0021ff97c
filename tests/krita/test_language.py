"""How the Krita package translates, without Krita; run by tests/language.rs."""

import importlib.util
import pathlib
import unittest

_root = pathlib.Path(__file__).parents[2] / "plugin-manifest"
_spec = importlib.util.spec_from_file_location("language", _root / "krita/pykrita/imagic/language.py")
language = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(language)


class LanguageTest(unittest.TestCase):
    def tearDown(self):
        language.use({})

    def test_without_a_catalogue_texts_stay_english(self):
        self.assertEqual(language.tr("Stop"), "Stop")
        self.assertEqual(language.tr("Layer “{}” of {}", "{0}", "a.kra"), "Layer “{0}” of a.kra")
        self.assertEqual(language.tr("loss {}", 0.25), "loss 0.25")

    def test_values_go_to_their_places_and_stay_as_they_are(self):
        language.load(["fr-FR", "ko-KR", "de"], str(_root / "locale"))
        self.assertEqual(language.tr("Stop"), "중지")
        self.assertEqual(language.tr("loss {}", language.number("0.250")), "손실 0.250")
        self.assertEqual(language.tr("Layer “{}” of {}", "Stop", "a.kra"), "a.kra의 레이어 ‘Stop’")
        self.assertEqual(language.tr("“{}” is {}; {}.", "x", language.tr("a group"), "y"), "‘x’은(는) 그룹입니다. y.")

    def test_numbers_are_written_as_in_the_language_and_names_are_not(self):
        language.load(["de-DE"], str(_root / "locale"))
        self.assertEqual(language.tr("Strength {}, seed {}", 0.25, 3), "Stärke 0,25, Startwert 3")
        self.assertEqual(language.tr("Layer “{}” of {}", "0.7", "a.kra"), "Ebene „0.7“ von a.kra")
        self.assertEqual(language.number("1.2"), "1,2")
        entry = language.fill("{text} (eta {eta}, Startwert {seed})", text="{eta} 0.7", eta=0.25, seed=3)
        self.assertEqual(entry, "{eta} 0.7 (eta 0,25, Startwert 3)")

    def test_the_engine_is_told_the_language(self):
        self.assertEqual(language.environment_names(["de-DE", "de"]), "de_DE:de")


if __name__ == "__main__":
    unittest.main()
