"""The part of the Krita package that puts messages together, without Krita; run by tests/krita.rs."""

import importlib.util
import json
import pathlib
import unittest

# Not imported as a package, because that would want Krita.
_file = pathlib.Path(__file__).parents[2] / "plugin-manifest/krita/pykrita/imagic/protocol.py"
_spec = importlib.util.spec_from_file_location("protocol", _file)
protocol = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(protocol)


class ReaderTest(unittest.TestCase):
    def test_messages_come_whole_however_the_pipe_cuts_them(self):
        sent = [
            ({"event": "progress", "text": "Übung"}, b""),
            ({"event": "done", "bytes": 5}, b"\n{}\n\0"),
            ({"event": "x"}, b""),
        ]
        stream = b"".join(json.dumps(message).encode() + b"\n" + pixels for message, pixels in sent)
        for size in (1, 2, 7, len(stream)):
            reader = protocol.Reader()
            pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
            self.assertEqual([message for piece in pieces for message in reader.feed(piece)], sent, size)

    def test_what_is_no_message_is_refused(self):
        for line in (b"hello\n", b"[1]\n", b"{}\n", b"\xff\n"):
            with self.assertRaises(protocol.ProtocolError):
                protocol.Reader().feed(line)


class EncodeTest(unittest.TestCase):
    def test_a_message_says_how_many_bytes_follow(self):
        line, pixels = protocol.encode({"do": "edit", "prompt": "a\nb"}, b"123").split(b"\n", 1)
        self.assertEqual((json.loads(line)["bytes"], pixels), (3, b"123"))
        self.assertNotIn("bytes", json.loads(protocol.encode({"do": "models"})))


if __name__ == "__main__":
    unittest.main()
