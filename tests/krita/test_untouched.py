"""The part of the Krita package that keeps untouched pixels, without Krita; run by tests/krita.rs."""

import importlib.util
import pathlib
import unittest

# Not imported as a package, because that would want Krita.
_file = pathlib.Path(__file__).parents[2] / "plugin-manifest/krita/pykrita/imagic/untouched.py"
_spec = importlib.util.spec_from_file_location("untouched", _file)
untouched = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(untouched)


class RestoredTest(unittest.TestCase):
    def test_pixels_that_came_back_as_they_were_sent_are_the_sources_own(self):
        pixels = 2 * untouched.CHUNK + 7
        # In the document gray and alpha, two bytes a pixel; to and from the engine eight.
        source, result = b"\x10\x20" * pixels, b"\x11\x21" * pixels
        for changed in ([], [0], [pixels - 1], [5, 6, 9, untouched.CHUNK], range(pixels)):
            sent, wanted = b"\x01\x02\x03\x04\x05\x06\x07\x08" * pixels, bytearray(source)
            came = bytearray(sent)
            for at in changed:
                # Only one of a pixel's bytes.
                came[8 * at + 6] += 1
                wanted[2 * at : 2 * at + 2] = result[2 * at : 2 * at + 2]
            self.assertEqual(untouched.restored(result, source, bytes(came), sent, pixels), bytes(wanted))


if __name__ == "__main__":
    unittest.main()
