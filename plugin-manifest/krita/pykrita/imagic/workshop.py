"""Documents that nobody sees, in which layers are converted and finished: every change in the user's document would be
a step of undo."""

import collections
import os
import tempfile
import zipfile

from krita import Krita

from .language import tr
from .qt import QByteArray, QColorSpace

Space = collections.namedtuple("Space", "model depth profile")

# What the model works in.
SRGB = "sRGB-elle-V2-srgbtrc.icc"
SRGB8 = Space("RGBA", "U8", SRGB)
SRGB16 = Space("RGBA", "U16", SRGB)


class Refused(Exception):
    """Something cannot be done; the text is a sentence with a remedy."""


class Workshop:
    """One such document, of the size of `area` and at its place."""

    def __init__(self, area, space):
        application = Krita.instance()
        self._area = area
        self._document = application.createDocument(area.width(), area.height(), "Imagic Edit", *space, 100.0)
        if self._document is None:
            raise Refused(tr("Krita knows no color space {} {} ({}); convert the document to RGB.", *space))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._document.waitForDone()
        # Krita asks about a changed document before it closes it.
        self._document.setModified(False)
        self._document.close()

    def add(self, name, pixels, group=None):
        """A paint layer, in `group` or on its own."""
        layer = self._document.createNode(name, "paintlayer")
        layer.setPixelData(QByteArray(pixels), *self._area.getRect())
        (group or self._document.rootNode()).addChildNode(layer, None)
        return layer

    def add_group(self, name):
        """A group without layers."""
        group = self._document.createGroupLayer(name)
        self._document.rootNode().addChildNode(group, None)
        return group

    def convert(self, space):
        """All layers."""
        document = self._document
        if Space(document.colorModel(), document.colorDepth(), document.colorProfile()) != space:
            if not document.setColorSpace(*space):
                raise Refused(tr("Krita cannot convert to {} {} ({}); convert the document to RGB.", *space))
            document.waitForDone()


def converted(area, space, pixels):
    """`pixels` of `area` in 16-bit sRGB; the user's layer is not touched."""
    with Workshop(area, space) as workshop:
        layer = workshop.add("copy", pixels)
        workshop.convert(SRGB16)
        return bytes(layer.pixelData(*area.getRect()))


# The smallest document that has a transparency mask.
_DOCUMENT_WITH_MASK = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE DOC PUBLIC '-//KDE//DTD krita 2.0//EN' 'http://www.calligra.org/DTD/krita-2.0.dtd'>
<DOC xmlns="http://www.calligra.org/DTD/krita" syntaxVersion="2.0" kritaVersion="5.0.0" editor="Krita">
 <IMAGE width="1" height="1" mime="application/x-kra" name="mask" colorspacename="RGBA"
  profile="sRGB-elle-V2-srgbtrc.icc" x-res="100" y-res="100">
  <layers>
   <layer nodetype="paintlayer" name="layer" filename="layer1" visible="1" opacity="255" compositeop="normal"
    colorspacename="RGBA" x="0" y="0">
    <masks><mask nodetype="transparencymask" name="mask" filename="mask1" visible="1" x="0" y="0"/></masks>
   </layer>
  </layers>
 </IMAGE>
</DOC>
"""


def new_mask():
    """A transparency mask that can be written to: one that Krita 5.1 makes with createNode() has no pixels until
    somebody paints on it, but one that was read from a file has."""
    application = Krita.instance()
    handle, path = tempfile.mkstemp(suffix=".kra")
    os.close(handle)
    try:
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("mimetype", "application/x-krita")
            file.writestr("maindoc.xml", _DOCUMENT_WITH_MASK)
            for name, size in (("layer1", 4), ("mask1.pixelselection", 1)):
                tiles = f"VERSION 2\nTILEWIDTH 64\nTILEHEIGHT 64\nPIXELSIZE {size}\nDATA 0\n"
                file.writestr("mask/layers/" + name, tiles)
                file.writestr(f"mask/layers/{name}.defaultpixel", bytes(size))
            # Without it Krita warns in a window that waits for an answer.
            profile = QColorSpace(QColorSpace.NamedColorSpace.SRgb).iccProfile()
            file.writestr("mask/layers/layer1.icc", bytes(profile))
        document = application.openDocument(path)
        if document is None or not document.topLevelNodes():
            raise Refused("Krita did not make a transparency mask; choose Select > Deselect and edit the whole layer.")
        mask = document.topLevelNodes()[0].childNodes()[0].duplicate()
        document.close()
        return mask
    finally:
        os.remove(path)
