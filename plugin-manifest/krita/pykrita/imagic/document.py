"""One paint layer of a Krita document: what is read, where results go and what the document remembers; knows neither
engine nor widgets."""

import collections
import json
import uuid

from krita import Krita

from .language import tr
from .qt import QByteArray, QRect
from .workshop import SRGB, SRGB8, SRGB16, Refused, Space, Workshop, converted, new_mask

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

# Krita keeps red, green and blue of whole numbers the other way round.
FORMATS = {SRGB8: "bgra8", SRGB16: "bgra16"}

# Runs that were removed together with their layers, and where they stood, by the document's name in its history: an
# undo that brings a layer back brings its run back. Only here, because the document shall forget them; an undo ends
# with the program, too.
_removed = collections.defaultdict(list)

# The same colors under another name.
SRGB_TOO = "sRGB built-in"


class Picture(collections.namedtuple("Picture", "area space pixels own_space own_pixels coverage note")):
    """What was read of a layer: `area` of the document in `space` for the engine and as it lies in the layer, its
    coverage by the selection (or None), and what the user should know of it."""

    def layout(self):
        """What the engine has to know of the pixels."""
        return {"width": self.area.width(), "height": self.area.height(), "format": FORMATS[self.space]}


# One picture that becomes a layer, how it was made, and how much of each pixel is to be seen (or None), a byte each.
Edited = collections.namedtuple("Edited", "picture name pixels report mask", defaults=(None,))


class Source:
    """The layer that an edit reads; stays the same when its results become active."""

    def __init__(self, document, node):
        self.document = document
        if node is None:
            raise Refused("No layer is active; click a paint layer in the Layers docker.")
        if node.type() != "paintlayer":
            is_known = node.type() in KINDS
            kind = tr(KINDS[node.type()]) if is_known else tr("of the kind {}", node.type())
            remedy = "click a paint layer, or convert a copy of it: Layer > Convert > to Paint Layer"
            raise Refused(tr("“{}” is {}; {}.", node.name(), kind, tr(remedy)))
        self._first_id = uuid.uuid4().hex
        # The run that made this layer, if it is a result; it stands for the layer from which it was made, if that is
        # still there.
        known = (run for run in reversed(self.history()["runs"]) if run["layer"] == _id(node))
        self.recipe = next((run for run in known if _find(document, run["source"]) is not None), None)
        self._node_id = _id(node) if self.recipe is None else self.recipe["source"]
        # The layer that was active before the last insertion.
        self._worked_on = self._node_id
        self.name = self.node().name()

    def is_open(self):
        """Whether the document still is."""
        return self.document in Krita.instance().documents()

    def node(self):
        """The layer, or None when it was deleted."""
        return _find(self.document, self._node_id)

    def has(self, layer_id):
        """Whether the document has a layer with this lasting name."""
        return self.is_open() and _find(self.document, layer_id) is not None

    def is_source(self, document, node):
        """Whether an edit of `node` would be one of this layer."""
        return self.document == document and (
            self._node_id == _id(node)
            or any(run["layer"] == _id(node) and run["source"] == self._node_id for run in self.history()["runs"])
        )

    def history(self):
        """What the document remembers; something that cannot be read counts as nothing, because it only serves
        convenience."""
        history = self._written()
        for at, run in reversed(_removed[history["document"]]):
            if run not in history["runs"] and _find(self.document, run["layer"]) is not None:
                history["runs"].insert(at, run)
        return history

    def _written(self):
        known = None
        if ANNOTATION in self.document.annotationTypes():
            try:
                known = json.loads(bytes(self.document.annotation(ANNOTATION)).decode("utf-8"))
            except ValueError:
                known = None
        if isinstance(known, dict) and known.get("version") == 1 and isinstance(known.get("runs"), list):
            return known
        return {"version": 1, "document": self._first_id, "runs": []}

    def read(self, known=None):
        """The pixels of the layer, cut to the canvas, or to a selection and its surroundings, in sRGB; `known` itself,
        if they still are what was read then."""
        if not self.is_open():
            raise Refused("The document was closed; open it and choose Filter > Imagic Edit again.")
        node = self.node()
        if node is None:
            raise Refused("The layer was deleted; click another one and choose Filter > Imagic Edit again.")
        area = node.bounds() & QRect(0, 0, self.document.width(), self.document.height())
        if area.isEmpty():
            raise Refused(tr("The layer “{}” is empty inside the canvas; click one with a picture.", node.name()))
        selection, coverage = self.document.selection(), None
        if selection is not None:
            selected = area & QRect(selection.x(), selection.y(), selection.width(), selection.height())
            if selected.isEmpty() or not any(bytes(selection.pixelData(*selected.getRect()))):
                remedy = "choose Select > Deselect, or select a part of the layer"
                raise Refused(tr("The selection lies outside of the layer; {}.", tr(remedy)))
            area = _surroundings(selected, area)
            coverage = bytes(selection.pixelData(*area.getRect()))
            if not coverage.strip(b"\xff"):
                coverage = None
        pixels = bytes(node.pixelData(*area.getRect()))
        space = Space(node.colorModel(), node.colorDepth(), node.colorProfile())
        if known is not None and (known.area, known.own_space, known.coverage, known.own_pixels) == (
            area,
            space,
            coverage,
            pixels,
        ):
            return known
        same = space._replace(profile=SRGB) if space.profile == SRGB_TOO else space
        if same in FORMATS:
            return Picture(area, same, pixels, space, pixels, coverage, "")
        text = "The layer is {} {} ({}). The model works in sRGB, so it got a copy in 16-bit sRGB."
        if space.depth[0] == "F":
            text = (
                "The layer is {} {} ({}). The model works in sRGB, so it got a copy in 16-bit sRGB"
                " without what is brighter than white."
            )
        note = tr(text, *space)
        return Picture(area, SRGB16, converted(area, space, pixels), space, pixels, coverage, note)

    def leave_active(self, made):
        """Krita makes a new layer the active one, some time after it was added; whatever the user worked on stays
        active, as in GIMP, except that a result gives way to the layer from which it was made. `made` are the lasting
        names of new layers; False while Krita has not done it yet."""
        if not self.is_open():
            return True
        active = self.document.activeNode()
        if active is None:
            return True
        if not any(_id(node) in made for node in (active, *active.childNodes())):
            return False
        known = _find(self.document, self._worked_on) if self._worked_on else None
        if known is not None:
            self.document.setActiveNode(known)
        return True

    def insert(self, edits, group_name, remembered_runs):
        """Puts one result, or several in a group, above the newest one of this layer, in one step of undo; returns the
        lasting names of the layers, and what the user should know."""
        document = self.document
        if not self.is_open():
            raise Refused(
                "The document was closed while the edit ran. Open it and edit again: the tuned model is kept,"
                " so that takes only the last stage."
            )
        history = self.history()
        active = self.document.activeNode()
        ours = {run["layer"] for run in history["runs"]}
        is_theirs = active is not None and _id(active) not in ours
        self._worked_on = _id(active) if is_theirs else self._node_id
        top = self._make_layers(edits, group_name)
        node, note = self.node(), edits[0].picture.note
        notes = [note] if note else []
        if node is None:
            notes.append("The edited layer is gone, so the result lies on top of the image.")
            inserted = document.rootNode().addChildNode(top, None)
        else:
            newest = self._newest(node, history)
            inserted = newest.parentNode().addChildNode(top, newest)
        if not inserted:
            raise Refused("Krita did not take the new layer; end what runs in the document and edit again.")
        document.waitForDone()
        document.refreshProjection()
        layers = [_id(top)] if len(edits) == 1 else [_id(layer) for layer in top.childNodes()]
        for layer, edit in zip(layers, edits):
            run = {
                "layer": layer,
                "source": self._node_id,
                "tuned": edit.report["tuned"],
                "params": edit.report["params"],
                "seconds": edit.report["seconds"],
            }
            if len(edits) > 1:
                run["group"] = _id(top)
            history["runs"].append(run)
        del history["runs"][:-remembered_runs]
        self._write(history)
        return layers, "\n".join(notes)

    def remove(self, run, with_layer):
        """Forgets `run` of the history; its layer, if it is to go as well, in one step of undo, with the group of
        several results if it was the last one there."""
        if not self.is_open():
            raise Refused("The document was closed; there is nothing to remove.")
        history = self.history()
        if run not in history["runs"]:
            return
        layer = _find(self.document, run["layer"])
        # A result that is edited itself, because its source is gone, stays.
        if with_layer and layer is not None and layer.type() == "paintlayer" and run["layer"] != self._node_id:
            group = layer.parentNode()
            is_last = _id(group) == run.get("group") and len(group.childNodes()) == 1
            if not (group if is_last else layer).remove():
                raise Refused("Krita did not remove the layer; end what runs in the document and try again.")
            self.document.waitForDone()
            self.document.refreshProjection()
            _removed[history["document"]].append((history["runs"].index(run), run))
        history["runs"].remove(run)
        self._write(history)

    def _write(self, history):
        data = QByteArray(json.dumps(history).encode("utf-8"))
        self.document.setAnnotation(ANNOTATION, "Imagic Edit: how its layers were made", data)

    def _newest(self, node, history):
        """The newest result of `node` that still lies above it, or the group around that one, or `node`."""
        siblings = [_id(sibling) for sibling in node.parentNode().childNodes()]
        above = siblings[siblings.index(self._node_id) + 1 :]
        for run in reversed(history["runs"]):
            result = _find(self.document, run["layer"]) if run["source"] == self._node_id else None
            while result is not None and _id(result) not in above:
                result = result.parentNode()
            if result is not None:
                return result
        return node

    def _make_layers(self, edits, group_name):
        """The result, or a group of them, as a layer of no document yet, with what is to be seen of it as its mask."""
        document, picture = self.document, edits[0].picture
        rectangle = picture.area.getRect()
        own = Space(document.colorModel(), document.colorDepth(), document.colorProfile())
        with Workshop(picture.area, picture.space) as workshop:
            group = workshop.add_group(group_name) if len(edits) > 1 else None
            layers = [workshop.add(edit.name, edit.pixels, group) for edit in edits]
            workshop.convert(own)
            for layer, edit in zip(layers, edits):
                if edit.mask is not None:
                    mask = new_mask()
                    layer.addChildNode(mask, None)
                    mask.setName("Edited part")
                    mask.setPixelData(QByteArray(edit.mask), *rectangle)
            return (group or layers[0]).duplicate()


def _surroundings(selected, layer):
    """What the engine gets of a layer in which that rectangle is selected: as much around it as it is long, so that the
    model can see its surroundings; moved into the layer and cut to it. As for GIMP: src/engine/picture/selection.rs."""
    margin = max(selected.width(), selected.height())
    grown = selected.adjusted(-margin, -margin, margin, margin)
    grown.moveTo(
        max(min(grown.x(), layer.x() + layer.width() - grown.width()), layer.x()),
        max(min(grown.y(), layer.y() + layer.height() - grown.height()), layer.y()),
    )
    return grown & layer


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
