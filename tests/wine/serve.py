"""Talks to `imagic-edit.exe serve` as Krita's package does: an edit, one that is stopped, and the end.
Usage: serve.py COMMAND..."""

import importlib.util
import pathlib
import subprocess
import sys

# Not imported as a package, because that would want Krita.
_file = pathlib.Path(__file__).parents[2] / "plugin-manifest/krita/pykrita/imagic/protocol.py"
_spec = importlib.util.spec_from_file_location("protocol", _file)
protocol = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(protocol)

SIDE = 64
PIXELS = bytes(value for at in range(SIDE * SIDE) for value in (at % 251, at // 16 % 256, 90, 255))


def main():
    engine = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    reader, waiting = protocol.Reader(), []

    def hear():
        while not waiting:
            data = engine.stdout.read1(1 << 16)
            assert data, "the engine ended"
            waiting.extend(reader.feed(data))
        return waiting.pop(0)

    def ask(message, pixels=b""):
        engine.stdin.write(protocol.encode(message, pixels))
        engine.stdin.flush()

    def edit(job, **params):
        order = {"do": "edit", "job": job, "params": dict(params, prompt="a red house"), "document": "a test"}
        ask(dict(order, width=SIDE, height=SIDE, format="rgba8"), PIXELS)

    def end():
        message, pixels = hear()
        while message["event"] == "progress":
            message, pixels = hear()
        return message, pixels

    hello, _ = hear()
    assert hello["protocol"] == protocol.PROTOCOL, hello
    assert [model["name"] for model in hello["models"]] == ["scenes-64"], hello["models"]
    print("hello")

    edit(1, embedding_steps=2, tuning_steps=2, sampling_steps=2)
    message, pixels = end()
    assert message["event"] == "done" and len(pixels) == len(PIXELS) and pixels != PIXELS, message
    print("done")

    edit(2, embedding_steps=1, tuning_steps=100000, sampling_steps=1)
    message, _ = hear()
    while message.get("stage") != "fine_tune":
        message, _ = hear()
    ask({"do": "stop", "job": 2})
    message, _ = end()
    assert message["event"] == "stopped", message
    print("stopped")

    engine.stdin.close()
    assert engine.wait(60) == 0
    print("ended")


main()
