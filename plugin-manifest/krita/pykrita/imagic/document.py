"""One paint layer of a Krita document: what is read, where the result goes and what the document remembers; knows neither
engine nor widgets."""

import collections
import json
import os
import tempfile
import uuid
import zipfile

from krita import Krita
from PyQt5.QtCore import QByteArray, QRect
from PyQt5.QtGui import QColorSpace

# Name of the annotation that keeps the history, as GIMP's parasite does.
ANNOTATION = "imagic-edit"

# Kinds of layers, as a person calls them.
KINDS = {
    "grouplayer": "a group",
    "filelayer": "a file layer",
    "filterlayer": "a filter layer",
    "filllayer": "a fill layer",
    "clonelayer": "a clone layer",
    "vectorlayer": "a vector layer",
    "transparencymask": "a transparency mask",
    "filtermask": "a filter mask",
    "transformmask": "a transform mask",
    "selectionmask": "a selection mask",
    "colorizemask": "a colorize mask",
}

Space = collections.namedtuple("Space", "model depth profile")

# What the model works in.
SRGB = "sRGB-elle-V2-srgbtrc.icc"
SRGB8 = Space("RGBA", "U8", SRGB)
SRGB16 = Space("RGBA", "U16", SRGB)

# Krita keeps red, green and blue of whole numbers the other way round.
FORMATS = {SRGB8: "bgra8", SRGB16: "bgra16"}

# The same colors under another name.
SRGB_TOO = "sRGB built-in"


class Picture(collections.namedtuple("Picture", "area space pixels coverage note")):
    """What was read of a layer: `area` of the document in `space`, its coverage by the selection (or None), and what the user
    should know of it."""

    def format(self):
        """What the engine calls the layout of the pixels."""
        return FORMATS[self.space]


class Refused(Exception):
    """Something cannot be done; the text is a sentence with a remedy."""


class Source:
    """The layer that an edit reads; stays the same when its results become active."""

    def __init__(self, document, node):
        self.document = document
        if node is None:
            raise Refused("No layer is active; click a paint layer in the Layers docker.")
        if node.type() != "paintlayer":
            kind = KINDS.get(node.type(), "of the kind " + node.type())
            remedy = "click a paint layer, or convert a copy of it: Layer > Convert > to Paint Layer"
            raise Refused("“{}” is {}; {}.".format(node.name(), kind, remedy))
        self._first_id = uuid.uuid4().hex
        # The run that made this layer, if it is a result; it stands for the layer from which it was made.
        self.recipe = next((run for run in reversed(self.history()["runs"]) if run["layer"] == _id(node)), None)
        self._node_id = _id(node)
        if self.recipe is not None and _find(document, self.recipe["source"]) is not None:
            self._node_id = self.recipe["source"]
        self.name = self.node().name()

    def is_open(self):
        """Whether the document still is."""
        return self.document in Krita.instance().documents()

    def node(self):
        """The layer, or None when it was deleted."""
        return _find(self.document, self._node_id)

    def is_source(self, document, node):
        """Whether an edit of `node` would be one of this layer."""
        return self.document == document and (
            self._node_id == _id(node)
            or any(run["layer"] == _id(node) and run["source"] == self._node_id for run in self.history()["runs"])
        )

    def history(self):
        """What the document remembers; something that cannot be read counts as nothing, because it only serves convenience."""
        known = None
        if ANNOTATION in self.document.annotationTypes():
            try:
                known = json.loads(bytes(self.document.annotation(ANNOTATION)).decode("utf-8"))
            except ValueError:
                known = None
        if isinstance(known, dict) and known.get("version") == 1 and isinstance(known.get("runs"), list):
            return known
        return {"version": 1, "document": self._first_id, "runs": []}

    def read(self):
        """The pixels of the layer, cut to canvas and selection, in sRGB."""
        if not self.is_open():
            raise Refused("The document was closed; open it and choose Filter > Imagic Edit again.")
        node = self.node()
        if node is None:
            raise Refused("The layer was deleted; click another one and choose Filter > Imagic Edit again.")
        area = node.bounds() & QRect(0, 0, self.document.width(), self.document.height())
        if area.isEmpty():
            raise Refused("The layer “{}” is empty inside the canvas; click one with a picture.".format(node.name()))
        selection, coverage = self.document.selection(), None
        if selection is not None:
            area &= QRect(selection.x(), selection.y(), selection.width(), selection.height())
            coverage = b"" if area.isEmpty() else bytes(selection.pixelData(*area.getRect()))
            if not any(coverage):
                remedy = "choose Select > Deselect, or select a part of the layer"
                raise Refused("The selection lies outside of the layer; {}.".format(remedy))
        pixels = bytes(node.pixelData(*area.getRect()))
        space = Space(node.colorModel(), node.colorDepth(), node.colorProfile())
        same = space._replace(profile=SRGB) if space.profile == SRGB_TOO else space
        if same in FORMATS:
            return Picture(area, same, pixels, coverage, "")
        note = "The layer is {} {} ({}). The model works in sRGB, so it got a copy in 16-bit sRGB{}.".format(
            space.model, space.depth, space.profile, " without what is brighter than white" if space.depth[0] == "F" else ""
        )
        return Picture(area, SRGB16, _converted(area, space, pixels), coverage, note)

    def insert(self, picture, name, pixels, report, remembered_runs):
        """Puts the result above the newest one of this layer, in one step of undo, and returns what the user should know."""
        document = self.document
        if not self.is_open():
            raise Refused(
                "The document was closed while the edit ran. Open it and edit again: the tuned model is kept, so that takes"
                " only the last stage."
            )
        history = self.history()
        layer = self._make_layer(picture, name, pixels)
        node, notes = self.node(), [picture.note] if picture.note else []
        if node is None:
            notes.append("The edited layer is gone, so the result lies on top of the document.")
            inserted = document.rootNode().addChildNode(layer, None)
        else:
            newest = self._newest(node, history)
            inserted = newest.parentNode().addChildNode(layer, newest)
        if not inserted:
            raise Refused("Krita did not take the new layer; end what runs in the document and edit again.")
        document.waitForDone()
        document.refreshProjection()
        history["runs"].append({
            "layer": _id(layer),
            "source": self._node_id,
            "tuned": report["tuned"],
            "params": report["params"],
            "seconds": report["seconds"],
        })
        del history["runs"][:-remembered_runs]
        data = QByteArray(json.dumps(history).encode("utf-8"))
        document.setAnnotation(ANNOTATION, "Imagic Edit: how its layers were made", data)
        return "\n".join(notes)

    def _newest(self, node, history):
        """The newest result of `node` that still lies above it, or `node`."""
        siblings = [_id(sibling) for sibling in node.parentNode().childNodes()]
        above = siblings[siblings.index(self._node_id) + 1 :]
        results = (run["layer"] for run in reversed(history["runs"]) if run["source"] == self._node_id)
        newest = next((result for result in results if result in above), None)
        return node if newest is None else _find(self.document, newest)

    def _make_layer(self, picture, name, pixels):
        """The result as a layer of no document yet, with the selection as its mask."""
        document, area = self.document, picture.area
        own = Space(document.colorModel(), document.colorDepth(), document.colorProfile())
        # The layer is finished in a document of its own, because every change in the user's one would be a step of undo.
        with _Workshop(area, picture.space) as workshop:
            layer = workshop.add(name, pixels)
            workshop.convert(own)
            if picture.coverage is not None and picture.coverage.strip(b"\xff"):
                mask = _new_mask()
                layer.addChildNode(mask, None)
                mask.setName("Selection")
                mask.setPixelData(QByteArray(picture.coverage), *area.getRect())
            return layer.duplicate()


class _Workshop:
    """A document that nobody sees."""

    def __init__(self, area, space):
        application = Krita.instance()
        self._area = area
        self._document = application.createDocument(area.width(), area.height(), "Imagic Edit", *space, 100.0)
        if self._document is None:
            raise Refused("Krita knows no color space {} {} ({}); convert the document to RGB.".format(*space))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._document.waitForDone()
        # Krita asks about a changed document before it closes it.
        self._document.setModified(False)
        self._document.close()

    def add(self, name, pixels):
        layer = self._document.createNode(name, "paintlayer")
        layer.setPixelData(QByteArray(pixels), *self._area.getRect())
        self._document.rootNode().addChildNode(layer, None)
        return layer

    def convert(self, space):
        document = self._document
        if Space(document.colorModel(), document.colorDepth(), document.colorProfile()) != space:
            if not document.setColorSpace(*space):
                raise Refused("Krita cannot convert to {} {} ({}); convert the document to RGB.".format(*space))
            document.waitForDone()


def _converted(area, space, pixels):
    """`pixels` of `area` in 16-bit sRGB; the user's layer is not touched."""
    with _Workshop(area, space) as workshop:
        layer = workshop.add("copy", pixels)
        workshop.convert(SRGB16)
        return bytes(layer.pixelData(*area.getRect()))


def _id(node):
    return node.uniqueId().toString()


def _find(document, node_id):
    """The layer or mask with this lasting name, or None."""
    root = document.rootNode()
    waiting = [root] if root is not None else []
    while waiting:
        node = waiting.pop()
        if _id(node) == node_id:
            return node
        waiting.extend(node.childNodes())
    return None


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


def _new_mask():
    """A transparency mask that can be written to: one that Krita 5.1 makes with createNode() has no pixels until somebody
    paints on it, but one that was read from a file has."""
    application = Krita.instance()
    handle, path = tempfile.mkstemp(suffix=".kra")
    os.close(handle)
    try:
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("mimetype", "application/x-krita")
            file.writestr("maindoc.xml", _DOCUMENT_WITH_MASK)
            for name, size in (("layer1", 4), ("mask1.pixelselection", 1)):
                tiles = "VERSION 2\nTILEWIDTH 64\nTILEHEIGHT 64\nPIXELSIZE {}\nDATA 0\n".format(size)
                file.writestr("mask/layers/" + name, tiles)
                file.writestr("mask/layers/{}.defaultpixel".format(name), bytes(size))
            # Without it Krita warns in a window that waits for an answer.
            profile = QColorSpace(QColorSpace.SRgb).iccProfile()
            file.writestr("mask/layers/layer1.icc", bytes(profile))
        document = application.openDocument(path)
        if document is None or not document.topLevelNodes():
            raise Refused("Krita did not make a transparency mask; choose Select > Deselect and edit the whole layer.")
        mask = document.topLevelNodes()[0].childNodes()[0].duplicate()
        document.close()
        return mask
    finally:
        os.remove(path)
