"""Finished pictures of one layer, kept while its dialog is open, so that none is computed twice; knows neither engine
nor widgets."""

import json
import sys

from .qt import QImage, QPainter, QSize, Qt

# So many are kept, as small pictures: two strips, and some that were only looked at.
MOST = 32

# Sides of the images on the screen at most, in pixels.
LARGEST_IMAGE = 768


class Result:
    """One picture, the parameters with which it was asked for, and what the engine said of it."""

    def __init__(self, picture, params, message, pixels):
        self.picture, self.params, self.message = picture, params, message
        layout = dict(picture.layout(), width=message["width"], height=message["height"])
        # How much of each pixel is to be seen comes behind them.
        count = layout["width"] * layout["height"] if message["mask"] else 0
        pixels, self.mask = pixels[: len(pixels) - count], pixels[len(pixels) - count :] if count else None
        self.image = image(pixels, layout)
        if self.mask is not None:
            self.image = _in_place(self.image, self.mask, picture)
        # Those of the whole picture, where they came; the engine has them a while.
        self.pixels = pixels if len(pixels) == len(picture.pixels) else None
        # The lasting name of its layer, once it is one.
        self.layer = None


class Results:
    """The results of one picture."""

    def __init__(self):
        self._by_params = {}

    def keep(self, result):
        """From now on, until there are too many."""
        self._by_params[_key(result.params)] = result
        for key in list(self._by_params)[:-MOST]:
            del self._by_params[key]

    def get(self, params):
        """The result of an edit with `params`, or None."""
        return self._by_params.get(_key(params))

    def clear(self):
        """Another picture is edited."""
        self._by_params.clear()


def image(pixels, layout):
    """`pixels` for the screen, made smaller if they are many."""
    width, height = layout["width"], layout["height"]
    if layout["format"] == "bgra16":
        # The upper bytes are enough for a screen of 8 bits.
        pixels = pixels[1 if sys.byteorder == "little" else 0 :: 2]
    # Either way a copy, because Qt does not keep the bytes alive.
    return _fitting(QImage(pixels, width, height, 4 * width, QImage.Format.Format_ARGB32))


def _fitting(whole):
    if max(whole.width(), whole.height()) <= LARGEST_IMAGE:
        return whole.copy()
    largest, smooth = QSize(LARGEST_IMAGE, LARGEST_IMAGE), Qt.TransformationMode.SmoothTransformation
    return whole.scaled(largest, Qt.AspectRatioMode.KeepAspectRatio, smooth)


def _in_place(edited, mask, picture):
    """The image `edited` on that of `picture`, as far as `mask` lets it be seen."""
    there = image(picture.pixels, picture.layout())
    width, height = picture.area.width(), picture.area.height()
    painter = QPainter(edited)
    painter.setCompositionMode(QPainter.CompositionMode.CompositionMode_DestinationIn)
    painter.drawImage(0, 0, _fitting(QImage(mask, width, height, width, QImage.Format.Format_Alpha8)))
    painter.end()
    painter = QPainter(there)
    painter.drawImage(0, 0, edited)
    painter.end()
    return there


def _key(params):
    """The same for the same edit: a field may say 1 where another says 1.0 or "1"."""
    return json.dumps({name: _plain(value) for name, value in params.items()}, sort_keys=True)


def _plain(value):
    if isinstance(value, bool):
        return value
    try:
        return round(float(value), 9)
    except ValueError:
        return value.strip()
