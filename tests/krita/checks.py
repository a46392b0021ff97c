"""Runs inside a real Krita, started by tests/krita.rs: each function here is one check, in this order. Every check
tells "ok" or "FAILED" in the report; the last line is "the end"."""

import array
import importlib
import os
import signal
import subprocess
import time
import traceback

from krita import Extension, Krita, Selection

from imagic.dialog import Dialog
from imagic.document import Edited, Refused, Source
from imagic.earlier import Removal
from imagic.qt import (
    PYQT,
    QAbstractEventDispatcher,
    QApplication,
    QByteArray,
    QCheckBox,
    QLabel,
    QListWidget,
    QPushButton,
    Qt,
    QTimer,
)
from imagic.strip import RESULT

QTest = importlib.import_module(PYQT + ".QtTest").QTest

FOLDER = os.environ["IMAGIC_CHECKS"]
PICTURES = os.environ["IMAGIC_PICTURES"]
WIDTH, HEIGHT = 48, 40

# Steps of stage B that take some seconds, so that Krita, which may be busy for one, still finds the edit in that stage.
LONG = 2000

# The longest that anything may take, in seconds: the machine may be busy.
PATIENCE = 60


def tell(text):
    with open(os.path.join(FOLDER, "report.txt"), "a", encoding="utf-8") as report:
        report.write(text + "\n")


def wait_until(what, condition):
    start = time.monotonic()
    while not condition():
        QApplication.processEvents()
        time.sleep(0.01)
        assert time.monotonic() - start < PATIENCE, what + " did not come"


def settle():
    end = time.monotonic() + 0.3
    while time.monotonic() < end:
        QApplication.processEvents()
        time.sleep(0.01)


def application():
    return Krita.instance()


class Opened:
    """A document in a window of its own, with a gradient in its only layer; closed in the end."""

    def __init__(self, model="RGBA", depth="U8", profile="", is_opaque=False):
        self.document = application().createDocument(WIDTH, HEIGHT, "a check", model, depth, profile, 100.0)
        application().activeWindow().addView(self.document)
        settle()
        self.layer = self.document.topLevelNodes()[0]
        self.layer.setPixelData(QByteArray(gradient(model, depth, is_opaque)), 0, 0, WIDTH, HEIGHT)
        self.document.refreshProjection()
        self.document.waitForDone()
        settle()
        # The text of the action names what would be undone.
        self.undone_first = undo_state()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for dialog in dialogs():
            dialog.reject()
        settle()
        self.document.setModified(False)
        self.document.close()
        settle()

    def layers(self):
        """Their names, from the bottom; Krita lists the selection as a layer, too."""
        return [node.name() for node in self.document.topLevelNodes() if node.type() != "selectionmask"]

    def pixels(self, node=None):
        return bytes((node or self.layer).pixelData(0, 0, WIDTH, HEIGHT))

    def dialog(self):
        """The dialog, opened from the menu's action."""
        application().action("imagic_edit").trigger()
        wait_until("the dialog", lambda: dialogs())
        dialog = dialogs()[-1]
        wait_until("the engine", lambda: button(dialog, "Edit").isEnabled())
        return dialog


def activate(document, node):
    """Makes `node` the active one. Krita makes a new node so by itself, later than it adds it."""

    def is_active():
        document.setActiveNode(node)
        settle()
        active = document.activeNode()
        return active is not None and active.uniqueId() == node.uniqueId()

    settle()
    wait_until("the active layer", is_active)


def gradient(model, depth, is_opaque):
    """Colors from dark to light and perhaps some transparency, as Krita keeps them."""
    colors = {"RGBA": 3, "GRAYA": 1, "CMYKA": 4}[model]
    values = []
    for _ in range(HEIGHT):
        for x in range(WIDTH):
            values += [(20 + 3 * x + 20 * color) / 255 for color in range(colors)]
            values.append(0.5 if x < 5 and not is_opaque else 1.0)
    if depth == "U8":
        return bytes(round(value * 255) for value in values)
    if depth == "U16":
        return array.array("H", (round(value * 65535) for value in values)).tobytes()
    return array.array("f", values).tobytes()


def dialogs():
    return [widget for widget in QApplication.topLevelWidgets() if isinstance(widget, Dialog) and widget.isVisible()]


def button(dialog, label):
    if label == "Edit":
        # It says what it will do: edit, or insert what is there.
        return dialog._edit
    return next(one for one in dialog.findChildren(QPushButton) if one.text().replace("&", "") == label)


def status(dialog):
    return dialog._status.text()


def fill(dialog, **params):
    quick = {
        "prompt": "a red square",
        "eta": 0.7,
        "seed": 0,
        "embedding_steps": 2,
        "tuning_steps": 2,
        "sampling_steps": 2,
    }
    for name, value in dict(quick, **params).items():
        dialog._form.fields[name].set_value(value)


def press_edit(dialog):
    button(dialog, "Edit").click()
    wait_until("the end of the edit", lambda: button(dialog, "Edit").isEnabled())


def start_slow_edit(dialog, prompt):
    fill(dialog, prompt=prompt, tuning_steps=100_000)
    button(dialog, "Edit").click()
    wait_until("stage B", lambda: "B: " in dialog._bar.text())


def engine_pid(dialog):
    return dialog._engine._process.processId()


def undo_state():
    action = application().action("edit_undo")
    return action.isEnabled(), action.text()


def undo():
    application().action("edit_undo").trigger()
    settle()


def an_edit_is_one_new_layer_and_one_step_of_undo():
    with Opened() as opened:
        before = opened.pixels()
        dialog = opened.dialog()
        assert ". For photographs: get a model" in dialog._form._description.text(), dialog._form._description.text()
        fill(dialog)
        press_edit(dialog)
        assert status(dialog).startswith("Done in "), status(dialog)
        assert opened.layers() == ["Background", "eta 0.7 #0: a red square"], opened.layers()
        assert opened.pixels() == before, "the source changed"
        result = opened.document.topLevelNodes()[1]
        assert opened.pixels(result) != before, "nothing was edited"
        assert opened.pixels(result)[3::4] == before[3::4], "the alpha changed"
        settle()
        QApplication.primaryScreen().grabWindow(0).save(os.path.join(PICTURES, "1-result.png"))
        undo()
        assert opened.layers() == ["Background"], opened.layers()
        assert undo_state() == opened.undone_first, ("another step is left", undo_state())
        application().action("edit_redo").trigger()
        settle()
        assert len(opened.layers()) == 2, opened.layers()


def every_color_space_gets_its_result_in_its_own():
    for model, depth, tolerance in (
        ("RGBA", "U8", 0),
        ("RGBA", "U16", 32),
        ("RGBA", "F32", 1 / 2000),
        ("GRAYA", "U8", 1),
        ("GRAYA", "U16", 64),
        ("CMYKA", "U8", 255),
    ):
        with Opened(model, depth) as opened:
            document, before = opened.document, opened.pixels()
            source = Source(document, opened.layer)
            picture = source.read()
            form = picture.layout()["format"]
            assert (form == "bgra8") == ((model, depth) == ("RGBA", "U8")), form
            assert bool(picture.note) == (form == "bgra16"), picture.note
            # An edit that changes nothing, so that only the way to the engine and back is measured.
            report = {"tuned": "now", "params": {"prompt": "same", "eta": 0, "seed": 0}, "seconds": {}}
            source.insert([Edited(picture, "same", picture.pixels, report)], "same", 100)
            assert opened.pixels() == before, "the source changed"
            result = document.topLevelNodes()[1]
            own = (document.colorModel(), document.colorDepth(), document.colorProfile())
            assert (result.colorModel(), result.colorDepth(), result.colorProfile()) == own, own
            kind = {"U8": "B", "U16": "H", "F32": "f"}[depth]
            pairs = zip(array.array(kind, opened.pixels(result)), array.array(kind, before))
            worst = max(abs(a - b) for a, b in pairs)
            assert worst <= tolerance, (model, depth, worst)


def a_document_of_floats_is_edited():
    with Opened("RGBA", "F32") as opened:
        dialog = opened.dialog()
        fill(dialog)
        press_edit(dialog)
        assert len(opened.layers()) == 2, status(dialog)
        assert "16-bit sRGB" in status(dialog), status(dialog)


def a_selection_becomes_a_mask():
    with Opened() as opened:
        before = opened.pixels()
        # Two rectangles.
        selection = krita_selection(8, 6, 20, 10)
        selection.add(krita_selection(8, 12, 6, 8))
        opened.document.setSelection(selection)
        settle()
        dialog = opened.dialog()
        fill(dialog)
        press_edit(dialog)
        result = opened.document.topLevelNodes()[1]
        masks = result.childNodes()
        assert [mask.type() for mask in masks] == ["transparencymask"], masks
        coverage = bytes(masks[0].pixelData(0, 0, WIDTH, HEIGHT))
        wanted = bytes(selection.pixelData(0, 0, WIDTH, HEIGHT))
        # Soft inside of its border.
        assert [bool(value) for value in coverage] == [bool(value) for value in wanted], "the mask is not the selection"
        assert 0 < coverage[WIDTH * 10 + 8] < 255 == coverage[WIDTH * 11 + 18], "the border is hard"
        picture = bytes(opened.document.pixelData(0, 0, WIDTH, HEIGHT))
        outside = [at for at, covered in enumerate(wanted) if not covered]
        assert all(picture[4 * at : 4 * at + 4] == before[4 * at : 4 * at + 4] for at in outside), "changed outside"
        # The dialog shows it in its place: the surroundings are the layer's.
        shown, layer = dialog._area.shown(), dialog._work.picture
        assert (shown.width(), shown.height()) == (layer.area.width(), layer.area.height()), layer.area
        assert (shown.width(), shown.height()) == (WIDTH, HEIGHT), layer.area
        assert shown.pixelColor(0, 0) == dialog._area._original.pixelColor(0, 0), "the preview is not in its place"
        assert any(shown.pixelColor(x, 10) != dialog._area._original.pixelColor(x, 10) for x in range(8, 28))
        undo()
        assert opened.layers() == ["Background"], opened.layers()
        # One step brings both back.
        application().action("edit_redo").trigger()
        settle()
        assert len(opened.layers()) == 2, opened.layers()
        masks = opened.document.topLevelNodes()[1].childNodes()
        assert [mask.type() for mask in masks] == ["transparencymask"], masks


def krita_selection(x, y, width, height):
    selection = Selection()
    selection.select(x, y, width, height, 255)
    return selection


def results_stack_and_an_edit_of_a_result_is_one_of_its_source():
    with Opened() as opened:
        document = opened.document
        dialog = opened.dialog()
        fill(dialog, eta=0.5)
        press_edit(dialog)
        fill(dialog, eta=1.0)
        press_edit(dialog)
        assert status(dialog).startswith("Tuned model reused"), status(dialog)
        names = ["Background", "eta 0.5 #0: a red square", "eta 1 #0: a red square"]
        assert opened.layers() == names, opened.layers()
        dialog.reject()
        settle()

        document.setActiveNode(document.topLevelNodes()[1])
        settle()
        dialog = opened.dialog()
        assert dialog._form.fields["eta"].value() == 0.5, "the recipe of the layer is not shown"
        assert "active layer was made" in status(dialog), status(dialog)
        fill(dialog, prompt="another thing", eta=0.3)
        press_edit(dialog)
        assert opened.layers() == names + ["eta 0.3 #0: another thing"], opened.layers()
        sources = {run["source"] for run in Source(document, opened.layer).history()["runs"]}
        assert len(sources) == 1, "a result was taken for a source"


def a_document_remembers_its_edits_in_its_file():
    with Opened() as opened:
        dialog = opened.dialog()
        fill(dialog, prompt="remembered", eta=0.9)
        press_edit(dialog)
        before = Source(opened.document, opened.layer).history()
        path = os.path.join(FOLDER, "remembered.kra")
        opened.document.setBatchmode(True)
        assert opened.document.saveAs(path)
        opened.document.waitForDone()
    again = application().openDocument(path)
    layer, result = again.topLevelNodes()
    assert Source(again, layer).history() == before, "the file forgot something"
    assert Source(again, result).recipe["params"]["eta"] == 0.9
    assert Source(again, result).name == layer.name(), "the result does not know its source"
    again.close()


def a_refusal_is_said_until_something_else_is_set():
    with Opened() as opened:
        dialog = opened.dialog()
        greeting = status(dialog)
        fill(dialog, prompt="")
        press_edit(dialog)
        assert status(dialog).startswith("The target text is empty"), status(dialog)
        fill(dialog, prompt="a red square")
        assert status(dialog) == greeting, status(dialog)
        press_edit(dialog)
        assert len(opened.layers()) == 2, status(dialog)


def a_dead_engine_leaves_krita_and_the_document_alone():
    with Opened() as opened:
        before = opened.pixels()
        dialog = opened.dialog()
        for number, name in ((signal.SIGKILL, "one"), (signal.SIGABRT, "two")):
            start_slow_edit(dialog, name)
            os.kill(engine_pid(dialog), number)
            wait_until("the message", lambda: "engine crashed" in status(dialog))
            assert "The document is untouched" in status(dialog), status(dialog)
            assert button(dialog, "Edit").isEnabled() and not button(dialog, "Stop").isEnabled()
            assert opened.layers() == ["Background"] and opened.pixels() == before
        fill(dialog, prompt="after the crash")
        press_edit(dialog)
        assert opened.layers() == ["Background", "eta 0.7 #0: after the crash"], status(dialog)


def stop_leaves_the_document_alone():
    with Opened() as opened:
        dialog = opened.dialog()
        start_slow_edit(dialog, "stopped")
        button(dialog, "Stop").click()
        wait_until("the end", lambda: button(dialog, "Edit").isEnabled())
        assert status(dialog) == "Stopped; the image is as it was. Edit goes on from here.", status(dialog)
        wait_until("the cost", lambda: dialog._cost.text().startswith("Goes on at step "))
        assert opened.layers() == ["Background"], opened.layers()


def a_document_that_is_closed_during_an_edit_gets_a_message():
    opened = Opened()
    dialog = opened.dialog()
    fill(dialog, prompt="closed", tuning_steps=LONG)
    button(dialog, "Edit").click()
    wait_until("stage B", lambda: "B: " in dialog._bar.text())
    opened.document.setModified(False)
    opened.document.close()
    wait_until("the end", lambda: button(dialog, "Edit").isEnabled())
    assert status(dialog).startswith("The image was closed, so its edit was stopped."), status(dialog)
    button(dialog, "Edit").click()
    assert "document was closed; open it" in status(dialog), status(dialog)
    dialog.reject()
    settle()


def a_layer_that_is_deleted_during_an_edit_leaves_its_result_on_top():
    with Opened() as opened:
        other = opened.document.createNode("other", "paintlayer")
        opened.document.rootNode().addChildNode(other, None)
        activate(opened.document, opened.layer)
        dialog = opened.dialog()
        fill(dialog, prompt="orphan", tuning_steps=LONG)
        button(dialog, "Edit").click()
        wait_until("stage B", lambda: "B: " in dialog._bar.text())
        opened.layer.remove()
        wait_until("the end", lambda: button(dialog, "Edit").isEnabled())
        assert opened.layers() == ["other", "eta 0.7 #0: orphan"], (opened.layers(), status(dialog))
        assert "The edited layer is gone" in status(dialog), status(dialog)


def a_document_that_is_scaled_cut_or_converted_during_an_edit_gets_its_result():
    gray = application().profiles("GRAYA", "U16")[0]
    check_change("scaled", lambda document: document.scaleImage(20, 20, 72, 72, "Bilinear"))
    check_change("cut", lambda document: document.resizeImage(5, 5, 10, 10))
    check_change("converted", lambda document: document.setColorSpace("GRAYA", "U16", gray))


def check_change(name, change):
    with Opened() as opened:
        dialog = opened.dialog()
        fill(dialog, prompt=name, tuning_steps=LONG)
        button(dialog, "Edit").click()
        wait_until("stage B", lambda: "B: " in dialog._bar.text())
        change(opened.document)
        opened.document.waitForDone()
        wait_until("the end", lambda: button(dialog, "Edit").isEnabled())
        assert opened.layers() == ["Background", "eta 0.7 #0: " + name], (opened.layers(), status(dialog))
        undo()
        assert opened.layers() == ["Background"], opened.layers()


def what_cannot_be_edited_is_refused_with_the_remedy():
    with Opened() as opened:
        document = opened.document
        group = document.createGroupLayer("group")
        document.rootNode().addChildNode(group, None)
        for node, wanted in ((group, "is a group; click a paint layer"), (None, "No layer is active")):
            try:
                Source(document, node)
                raise AssertionError("not refused: " + wanted)
            except Refused as reason:
                assert wanted in str(reason), reason
        empty = document.createNode("empty", "paintlayer")
        document.rootNode().addChildNode(empty, None)
        settle()
        try:
            Source(document, empty).read()
            raise AssertionError("an empty layer was not refused")
        except Refused as reason:
            assert "The layer “empty” is empty inside the canvas" in str(reason), reason
        for node in (group, empty):
            node.remove()
        settle()

        document.setSelection(krita_selection(500, 500, 9, 9))
        settle()
        dialog = opened.dialog()
        for change, wanted in (
            ({}, "The selection lies outside of the layer; choose Select > Deselect"),
            ({"prompt": " "}, "The target text is empty; write what"),
            ({"embedding_lr": "x"}, "Embedding_lr is x, must be 0 to 1."),
            ({"model": "dreams"}, "Model dreams: no such model in "),
        ):
            fill(dialog, **change)
            press_edit(dialog)
            assert wanted in status(dialog), (wanted, status(dialog))
            document.setSelection(None)
            dialog._form.fields["embedding_lr"].set_value(0.001)
        assert opened.layers() == ["Background"], opened.layers()


def pictures(dialog):
    """The texts and the results of the strip; None where one is still to come."""
    strip = dialog.findChild(QListWidget)
    items = [strip.item(at) for at in range(strip.count())]
    return [item.text() for item in items], [item.data(RESULT) for item in items]


def compare(dialog, what):
    button(dialog, what).click()
    wait_until("the strip", lambda: all(pictures(dialog)[1]) and button(dialog, "Edit").isEnabled())


def mark(dialog, *places):
    strip = dialog.findChild(QListWidget)
    strip.clearSelection()
    for at in places:
        strip.item(at).setSelected(True)
    settle()


def a_photograph_meets_a_door_and_a_text_its_remarks():
    with Opened() as opened:
        random = 1
        values = bytearray()
        for _ in range(WIDTH * HEIGHT):
            random = random * 1103515245 + 12345 & 0x7FFFFFFF
            values += bytes([random >> 16 & 255, random >> 18 & 255, random >> 20 & 255, 255])
        opened.layer.setPixelData(QByteArray(bytes(values)), 0, 0, WIDTH, HEIGHT)
        opened.document.refreshProjection()
        dialog = opened.dialog()
        # It brings its preset.
        dialog._form.fields["model"].set_value("drawings")
        settle()
        fill(dialog, prompt="make it a shiny red square")
        wait_until("the door", lambda: dialog._door_row.isVisible())
        assert dialog._door_text.text() == "The model drawings draws no photographs.", dialog._door_text.text()
        assert not button(dialog, "Edit").isEnabled() and not button(dialog, "Try strengths").isEnabled()
        remarks = dialog._form.fields["prompt"]._remarks.text
        wait_until("the remarks", lambda: "Unknown words: it, shiny." in remarks())
        assert "Describe the whole picture" in remarks(), remarks()
        assert " tokens" in dialog._form.fields["prompt"]._length.text()
        dialog.grab().save(os.path.join(PICTURES, "door.png"))
        button(dialog, "Get a model...").click()
        assert "imagic-edit models download photo" in status(dialog) or "in the list" in status(dialog), status(dialog)
        button(dialog, "Try anyway").click()
        assert not dialog._door_row.isVisible()
        press_edit(dialog)
        assert len(opened.layers()) == 2, status(dialog)


def strengths_and_seeds_are_compared_once_and_the_marked_ones_inserted():
    with Opened() as opened:
        dialog = opened.dialog()
        fill(dialog, eta=0.8, seed=3)
        press_edit(dialog)
        compare(dialog, "Try strengths")
        texts, strengths = pictures(dialog)
        assert texts == ["0", "0.2", "0.4", "0.6", "0.8", "1", "1.2"], texts
        assert opened.layers() == ["Background", "eta 0.8 #3: a red square"], "comparing inserted a layer"
        compare(dialog, "Five more seeds")
        texts, seeds = pictures(dialog)
        assert texts == ["#3", "#4", "#5", "#6", "#7", "#8"], texts
        assert len({one.pixels for one in seeds}) == 6, "seeds make no difference"
        last_job = dialog._engine._last_job
        button(dialog, "Try strengths").click()
        # Everything is there at once, and nothing was computed.
        assert pictures(dialog)[1] == strengths, "a picture was computed twice"
        settle()
        assert dialog._work.job is None and dialog._engine._last_job <= last_job + 1

        mark(dialog, 1)
        button(dialog, "Insert").click()
        names = ["Background", "eta 0.8 #3: a red square", "eta 0.2 #3: a red square"]
        assert opened.layers() == names, opened.layers()
        mark(dialog, 1, 2, 4, 6)
        QApplication.primaryScreen().grabWindow(0).save(os.path.join(PICTURES, "2-strip.png"))
        of_one = strengths[2].pixels
        button(dialog, "Insert").click()
        assert opened.layers() == names + ["a red square"], opened.layers()
        group = opened.document.topLevelNodes()[3]
        # 0.2 and 0.8 are layers already.
        assert [layer.name() for layer in group.childNodes()] == ["eta 0.4 #3", "eta 1.2 #3"]
        assert opened.pixels(group.childNodes()[0]) == of_one
        for layer, eta in zip(group.childNodes(), (0.4, 1.2)):
            assert Source(opened.document, layer).recipe["params"]["eta"] == eta, "a layer lost its recipe"
        button(dialog, "Insert").click()
        assert opened.layers() == names + ["a red square"], "the same picture was inserted twice"
        undo()
        assert opened.layers() == names, "several layers were not one step of undo"
        application().action("edit_redo").trigger()
        settle()
        # The next one comes above the group.
        mark(dialog, 0)
        button(dialog, "Insert").click()
        assert opened.layers() == names + ["a red square", "eta 0 #3: a red square"], opened.layers()


def the_cost_is_told_before_an_edit():
    with Opened() as opened:
        dialog = opened.dialog()
        wait_until("an answer", lambda: dialog._engine._taken)
        fill(dialog, prompt="what it costs")
        wait_until("the cost", lambda: dialog._cost.text().startswith("The model has to be tuned"))
        sent = dialog._engine._sent_with
        fill(dialog, prompt="  ")
        wait_until("no cost", lambda: dialog._cost.text() == "")
        assert "empty" not in status(dialog), "a question for the cost complained"
        fill(dialog, prompt="what it costs", model="no such model")
        settle()
        settle()
        assert dialog._cost.text() == "" and "no such model" not in status(dialog), status(dialog)
        fill(dialog, prompt="what it costs", model=dialog._hello["builtin_model"])
        press_edit(dialog)
        wait_until("the cost", lambda: dialog._cost.text().startswith("The tuned model is there: about "))
        assert dialog._engine._sent_with == sent, "the pixels were sent again"
        assert len(opened.layers()) == 2, "asking for the cost inserted something"

        # Whoever paints on the layer gets another picture.
        opened.layer.setPixelData(QByteArray(bytes(4 * WIDTH)), 0, 0, WIDTH, 1)
        dialog._ask_cost()
        wait_until("the cost", lambda: dialog._cost.text().startswith("The model has to be tuned"))
        assert dialog._engine._sent_with != sent, "the engine has the pixels of before"


def the_picture_is_seen_as_it_forms_and_against_the_original():
    with Opened() as opened:
        dialog = opened.dialog()
        wait_until("the original", lambda: dialog._area.shown() is not None)
        original = dialog._area.shown()
        formed = []
        dialog._work.formed.connect(formed.append)
        fill(dialog, sampling_steps=200)
        press_edit(dialog)
        assert 1 <= len(formed) <= 3, len(formed)
        result = dialog._area.shown()
        assert result != original and result.size() == original.size()
        switch = next(box for box in dialog.findChildren(QCheckBox) if box.text().replace("&", "") == "View original")
        switch.click()
        assert dialog._area.shown() == original
        settle()
        dialog.grab().save(os.path.join(PICTURES, "4-original.png"))
        switch.click()
        assert dialog._area.shown() == result
        # The same with the mouse held down.
        QTest.mousePress(dialog._area._canvas, Qt.MouseButton.LeftButton)
        assert dialog._area.shown() == original
        QTest.mouseRelease(dialog._area._canvas, Qt.MouseButton.LeftButton)
        assert dialog._area.shown() == result


def another_strength_is_seen_without_a_click_and_edit_only_inserts_it():
    with Opened() as opened:
        dialog = opened.dialog()
        fill(dialog, eta=0.5)
        press_edit(dialog)
        wait_until("the cost", lambda: dialog._cost.text().startswith("The tuned model is there"))
        before, start = dialog._area.shown(), time.monotonic()
        dialog._form.fields["eta"].number.setValue(1.1)
        wait_until("the look", lambda: dialog._area.shown() != before)
        tell(f"another strength is seen after {time.monotonic() - start:.2f} s")
        assert len(opened.layers()) == 2, "looking inserted a layer"
        assert "Insert the result makes a layer of it" in status(dialog), status(dialog)
        button(dialog, "Edit").click()
        assert dialog._work.job is None, "it was computed again"
        assert opened.layers()[2:] == ["eta 1.1 #0: a red square"], opened.layers()
        button(dialog, "Edit").click()
        assert len(opened.layers()) == 3 and "There is a layer of this already" in status(dialog), status(dialog)
        # Back to what is kept: at once, even if an answer about the settings before comes late.
        former = dialog._form.read()
        dialog._form.fields["eta"].number.setValue(0.5)
        dialog._on_estimate(former, {})
        wait_until("the kept one", lambda: dialog._area.shown() == before)


def earlier_edits_are_removed_with_their_layers_and_with_nothing_else():
    with Opened() as opened:
        dialog = opened.dialog()
        for eta in (0.2, 0.4):
            fill(dialog, eta=eta)
            press_edit(dialog)
        menu = dialog._form.fields["prompt"].earlier.menu()
        menu.aboutToShow.emit()
        texts = [action.text() for action in menu.actions() if not action.isSeparator()]
        assert texts == ["a red square (eta 0.4, seed 0)", "a red square (eta 0.2, seed 0)", "&Remove..."], texts

        def answer():
            window = next(one for one in QApplication.topLevelWidgets() if isinstance(one, Removal) and one.isVisible())
            window._list.item(0).setSelected(True)
            settle()
            window.grab().save(os.path.join(PICTURES, "5-remove.png"))
            button(window, "Remove").click()

        QTimer.singleShot(500, answer)
        menu.actions()[-1].trigger()
        assert opened.layers() == ["Background", "eta 0.2 #0: a red square"], opened.layers()
        source = Source(opened.document, opened.layer)
        assert [run["params"]["eta"] for run in source.history()["runs"]] == [0.2]
        assert "0.4" not in bytes(opened.document.annotation("imagic-edit")).decode(), "the document did not forget it"
        undo()
        assert len(opened.layers()) == 3, "the removal is not one step of undo"
        assert [run["params"]["eta"] for run in source.history()["runs"]] == [0.2, 0.4], "the undo forgot the entry"
        application().action("edit_redo").trigger()
        settle()
        assert [run["params"]["eta"] for run in source.history()["runs"]] == [0.2]
        undo()

        # A history that names a layer of the user, however it came to that, does not take it away.
        history = source.history()
        stranger = dict(history["runs"][0], layer=opened.layer.uniqueId().toString())
        history["runs"].append(stranger)
        source._write(history)
        source.remove(stranger, True)
        assert opened.layers()[0] == "Background", opened.layers()


def the_last_result_of_a_group_goes_with_its_group():
    with Opened() as opened:
        dialog = opened.dialog()
        fill(dialog)
        compare(dialog, "Try strengths")
        mark(dialog, 1, 2)
        button(dialog, "Insert").click()
        names = ["Background", "a red square"]
        assert opened.layers() == names, opened.layers()
        source = Source(opened.document, opened.layer)
        first, second = source.history()["runs"]
        source.remove(first, True)
        assert opened.layers() == names and len(opened.document.topLevelNodes()[1].childNodes()) == 1
        source.remove(second, True)
        assert opened.layers() == ["Background"], opened.layers()
        undo()
        assert opened.layers() == names and len(opened.document.topLevelNodes()[1].childNodes()) == 1
        assert source.history()["runs"] == [second], source.history()
        undo()
        assert source.history()["runs"] == [first, second], source.history()

        # What the user put into it is not ours to remove.
        own = opened.document.createNode("own", "paintlayer")
        opened.document.topLevelNodes()[1].addChildNode(own, None)
        settle()
        for run in (first, second):
            source.remove(run, True)
        assert opened.layers() == names and own.name() == "own", opened.layers()


def what_is_not_touched_stays_bit_for_bit():
    for model, depth, profile in (
        ("RGBA", "U8", ""),
        ("RGBA", "U8", "sRGB built-in"),
        ("RGBA", "U8", "ClayRGB-elle-V2-g22.icc"),
        ("RGBA", "U16", ""),
        ("RGBA", "U16", "ClayRGB-elle-V2-g22.icc"),
        ("RGBA", "F32", ""),
        ("GRAYA", "U8", ""),
        ("GRAYA", "U16", ""),
        ("CMYKA", "U8", ""),
    ):
        for is_opaque in (False, True):
            with Opened(model, depth, profile, is_opaque) as opened:
                before, shown = opened.pixels(), seen(opened.document)
                assert profile in ("", opened.document.colorProfile()), opened.document.colorProfile()
                dialog = opened.dialog()
                fill(dialog, eta=0, keep_untouched=True)
                press_edit(dialog)
                what = (model, depth, opened.document.colorProfile(), is_opaque, status(dialog))
                # A mask lets nothing of the result be seen.
                assert len(opened.layers()) == 2 and seen(opened.document) == shown, what
                assert opened.pixels() == before, what
                if depth == "F32":
                    assert "16-bit sRGB without what is brighter than white" in status(dialog), status(dialog)


def seen(document):
    return bytes(document.pixelData(0, 0, WIDTH, HEIGHT))


def a_file_with_an_embedded_profile_keeps_it_and_its_pixels():
    path = os.path.join(FOLDER, "profile.kra")
    with Opened("RGBA", "U16", "ClayRGB-elle-V2-g22.icc", True) as opened:
        opened.document.setBatchmode(True)
        assert opened.document.saveAs(path)
        opened.document.waitForDone()
    document = application().openDocument(path)
    application().activeWindow().addView(document)
    settle()
    try:
        profile, layer = document.colorProfile(), document.topLevelNodes()[0]
        assert "sRGB" not in profile and document.colorDepth() == "U16", (profile, document.colorDepth())
        before, shown = bytes(layer.pixelData(0, 0, WIDTH, HEIGHT)), seen(document)
        application().action("imagic_edit").trigger()
        wait_until("the dialog", lambda: dialogs())
        dialog = dialogs()[-1]
        wait_until("the engine", lambda: button(dialog, "Edit").isEnabled())
        fill(dialog, eta=0, keep_untouched=True)
        press_edit(dialog)
        layer, result = document.topLevelNodes()
        assert result.colorProfile() == profile and profile in status(dialog), status(dialog)
        assert seen(document) == shown, "the pixels are others"
        # Without the switch only the way to sRGB and back is measured.
        picture = Source(document, layer).read()
        report = {"tuned": "now", "params": {"prompt": "same", "eta": 0, "seed": 0}, "seconds": {}}
        Source(document, layer).insert([Edited(picture, "same", picture.pixels, report)], "same", 100)
        there = array.array("H", bytes(document.topLevelNodes()[-1].pixelData(0, 0, WIDTH, HEIGHT)))
        worst = max(abs(a - b) for a, b in zip(there, array.array("H", before)))
        tell(f"to 16-bit sRGB and back from {profile}: at most {worst} of 65535")
    finally:
        for dialog in dialogs():
            dialog.reject()
        document.setModified(False)
        document.close()
        settle()


def a_model_brings_its_preset_but_never_over_settings_that_were_written():
    with Opened() as opened:
        dialog = opened.dialog()
        builtin = dialog._hello["builtin_model"]
        model = next(model for model in dialog._hello["models"] if model["name"] == builtin)
        form, preset, folder = dialog._form, model["params"], model["path"]
        # A folder is in no list, so the engine has to say what fits it.
        form.write(dict(preset, model=folder + "/.", guidance=3.5, eta=0.25))
        wait_until("the model", lambda: (form._model or {}).get("path", "").endswith("/."))
        assert (form.fields["eta"].value(), form.fields["guidance"].value()) == (0.25, "3.5")
        form.fields["model"].set_value(builtin)
        assert float(form.fields["guidance"].value()) == preset["guidance"], "the preset did not come"


def a_model_that_cannot_be_used_is_gray_with_its_reason():
    with Opened() as opened:
        dialog = opened.dialog()
        choice = dialog._form.fields["model"].choice
        rows = [(choice.itemText(row), choice.model().item(row).isEnabled()) for row in range(choice.count())]
        assert rows[-1][0].startswith("broken.gguf: GGUF files cannot be trained") and not rows[-1][1], rows
        assert ("scenes-64", True) in rows, rows
        settle()
        dialog.grab().save(os.path.join(PICTURES, "models-dialog.png"))
        choice.showPopup()
        settle()
        assert choice.view().width() > choice.view().sizeHintForColumn(0), "the reason is cut off"
        choice.view().window().grab().save(os.path.join(PICTURES, "models.png"))
        choice.hidePopup()
        # There is nothing else, so the dialog says how to get a model.
        texts = dialog._form._description.text()
        assert "imagic-edit models download photo" in texts, texts


def every_label_has_a_key_of_its_own_and_the_window_fits_a_small_screen():
    with Opened() as opened:
        dialog = opened.dialog()
        fill(dialog)
        # At the lower right corner, where it has no room to grow.
        room = dialog.screen().availableGeometry()
        dialog.move(room.right() - dialog.frameGeometry().width(), room.bottom() - dialog.frameGeometry().height())
        press_edit(dialog)
        compare(dialog, "Try strengths")
        # As long as that of the model that comes with the plug-in.
        dialog._form._description.setText("Small drawn scenes of many kinds. " * 7)
        dialog._form._description.show()
        defaults = [one.text() for one in dialog.findChildren(QPushButton) if one.isDefault()]
        assert [one.replace("&", "") for one in defaults] == ["Edit"], defaults
        for page in range(dialog._form.count()):
            dialog._form.setCurrentIndex(page)
            settle()
            dialog.grab().save(os.path.join(PICTURES, f"3-page-{page + 1}.png"))
            size = dialog.frameGeometry()
            tell(f"the largest window: {size.width()} x {size.height()}")
            assert size.height() <= 740 and size.width() <= 1024, size
            assert room.contains(size), (room, size)
            # KDE gives what is visible keys as it likes.
            widgets = dialog.findChildren(QPushButton) + dialog.findChildren(QCheckBox)
            widgets += [label for label in dialog.findChildren(QLabel) if label.buddy() is not None]
            labels = [widget.text() for widget in widgets if widget.isVisible()]
            labels += [dialog._form.tabText(tab) for tab in range(dialog._form.count())]
            keys = [label[label.index("&") + 1].upper() for label in labels if "&" in label]
            assert len(keys) == len(set(keys)) and len(keys) >= 15, labels
            wanted = ("Seed:", "Base model:", "Target text:", "Strength (eta):") if page == 0 else ("Embedding steps:",)
            for label in wanted:
                assert any("&" in one for one in labels if one.replace("&", "") == label), (label, labels)


def the_dialog_is_usable_with_the_keyboard_alone():
    with Opened() as opened:
        dialog = opened.dialog()
        fill(dialog)
        dialog.activateWindow()
        settle()
        # From other processes, as a keyboard is; the text is selected when the dialog opens.
        dialog._form.fields["prompt"].text.selectAll()
        dialog._form.fields["prompt"].text.setFocus()
        settle()
        for arguments in (["type", "--delay", "20", "typed text"], ["key", "Return"]):
            keyboard = subprocess.Popen(["xdotool"] + arguments)
            wait_until("the keyboard", lambda keyboard=keyboard: keyboard.poll() is not None)
        wait_until("the result", lambda: len(opened.layers()) == 2)
        assert opened.layers()[1] == "eta 0.7 #0: typed text", opened.layers()
        compare(dialog, "Try strengths")
        strip, reached = dialog.findChild(QListWidget), set()
        for _ in range(60):
            reached.add(dialog.focusWidget())
            dialog.focusNextChild()
        wanted = dialog.findChildren(QPushButton) + dialog.findChildren(QCheckBox) + [strip]
        missed = [one for one in wanted if one.isVisible() and one.isEnabled() and one not in reached]
        assert not missed, [one.text() for one in missed if one is not strip]
        strip.setFocus()
        strip.setCurrentRow(1)
        settle()
        keyboard = subprocess.Popen(["xdotool", "key", "shift+Right", "alt+i"])
        wait_until("the keyboard", lambda: keyboard.poll() is not None)
        wait_until("the group", lambda: opened.layers()[2:] == ["typed text"])
        keyboard = subprocess.Popen(["xdotool", "key", "Escape"])
        wait_until("the keyboard", lambda: keyboard.poll() is not None)
        wait_until("the closed dialog", lambda: not dialogs())


def quitting_during_an_edit_ends_krita_and_the_engine():
    opened = Opened()
    dialog = opened.dialog()
    start_slow_edit(dialog, "quit")
    tell(f"engine {engine_pid(dialog)}")
    opened.document.setModified(False)


CHECKS = [
    an_edit_is_one_new_layer_and_one_step_of_undo,
    every_color_space_gets_its_result_in_its_own,
    a_document_of_floats_is_edited,
    a_selection_becomes_a_mask,
    results_stack_and_an_edit_of_a_result_is_one_of_its_source,
    a_document_remembers_its_edits_in_its_file,
    a_refusal_is_said_until_something_else_is_set,
    a_dead_engine_leaves_krita_and_the_document_alone,
    stop_leaves_the_document_alone,
    a_document_that_is_closed_during_an_edit_gets_a_message,
    a_layer_that_is_deleted_during_an_edit_leaves_its_result_on_top,
    a_document_that_is_scaled_cut_or_converted_during_an_edit_gets_its_result,
    what_cannot_be_edited_is_refused_with_the_remedy,
    strengths_and_seeds_are_compared_once_and_the_marked_ones_inserted,
    the_cost_is_told_before_an_edit,
    the_picture_is_seen_as_it_forms_and_against_the_original,
    another_strength_is_seen_without_a_click_and_edit_only_inserts_it,
    earlier_edits_are_removed_with_their_layers_and_with_nothing_else,
    the_last_result_of_a_group_goes_with_its_group,
    what_is_not_touched_stays_bit_for_bit,
    a_file_with_an_embedded_profile_keeps_it_and_its_pixels,
    a_model_brings_its_preset_but_never_over_settings_that_were_written,
    a_model_that_cannot_be_used_is_gray_with_its_reason,
    a_photograph_meets_a_door_and_a_text_its_remarks,
    every_label_has_a_key_of_its_own_and_the_window_fits_a_small_screen,
    the_dialog_is_usable_with_the_keyboard_alone,
    quitting_during_an_edit_ends_krita_and_the_engine,
]


class Checks(Extension):
    def setup(self):
        pass

    def createActions(self, window):
        # The window is not ready before Krita's loop runs.
        QTimer.singleShot(1500, self.wait)

    def wait(self):
        # From the loop and not from an event of it: while an event is handled, Krita puts off signals of its own. In
        # Krita 6 a new view would not become the active one before all checks are done.
        QAbstractEventDispatcher.instance().aboutToBlock.connect(self.run)

    def run(self):
        QAbstractEventDispatcher.instance().aboutToBlock.disconnect(self.run)
        tell("in Krita " + application().version())
        wanted = os.environ.get("IMAGIC_ONLY", "")
        for check in CHECKS:
            if wanted and wanted not in check.__name__:
                continue
            try:
                check()
                tell("ok " + check.__name__)
            except Exception:
                tell(f"FAILED {check.__name__}\n{traceback.format_exc()}")
                for dialog in dialogs():
                    dialog.reject()
        tell("the end")
        application().activeWindow().qwindow().close()


Krita.instance().addExtension(Checks(Krita.instance()))
