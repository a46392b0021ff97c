"""Messages to and from `imagic-edit serve`, which describes them with --help; knows neither Qt nor Krita."""

import json

# Version of the protocol that this package speaks.
PROTOCOL = 6


class ProtocolError(Exception):
    """What came is no message."""


def encode(message, pixels=b""):
    """`message` as bytes, with `pixels` behind it."""
    if pixels:
        message = dict(message, bytes=len(pixels))
    return json.dumps(message).encode("utf-8") + b"\n" + pixels


class Reader:
    """Puts messages together from the pieces in which a pipe delivers them."""

    def __init__(self):
        self._pending = bytearray()
        # The message whose pixels are not all there yet.
        self._message = None

    def feed(self, data):
        """The messages that are whole now that `data` came, each with its pixels."""
        self._pending += data
        whole = []
        while True:
            if self._message is None:
                end = self._pending.find(b"\n")
                if end < 0:
                    return whole
                self._message = _decode(bytes(self._pending[:end]))
                del self._pending[: end + 1]
            size = self._message.get("bytes", 0)
            if len(self._pending) < size:
                return whole
            whole.append((self._message, bytes(self._pending[:size])))
            del self._pending[:size]
            self._message = None


def _decode(line):
    try:
        message = json.loads(line.decode("utf-8"))
    except ValueError:
        message = None
    if not isinstance(message, dict) or "event" not in message:
        raise ProtocolError(f"the engine said {line[:80]!r}")
    return message
