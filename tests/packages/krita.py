"""Runs inside a Krita, as a package of its own: Imagic Edit's package is enabled, its engine starts and finds the
built-in model. Writes what came to the file that IMAGIC_REPORT names, and ends Krita."""

import os

from krita import Extension, Krita

from imagic.engine import Engine
from imagic.qt import QApplication, QTimer


class Checks(Extension):
    def __init__(self, parent):
        super().__init__(parent)
        self._engine = None

    def setup(self):
        pass

    def createActions(self, window):
        window.createAction("checks", "Checks", "")
        # When the window and the other packages are there.
        QTimer.singleShot(1000, self._start)

    def _start(self):
        actions = [action.objectName() for action in Krita.instance().actions()]
        self._tell("menu " + str("imagic_edit" in actions))
        self._engine = Engine(QApplication.instance())
        self._engine.ready.connect(self._on_ready)
        self._engine.died.connect(lambda reason: self._end("died " + reason))
        self._engine.attach(self)

    def _on_ready(self, hello):
        self._end("models " + " ".join(model["name"] for model in hello["models"]))

    def _end(self, text):
        self._tell(text)
        self._engine.detach(self)
        Krita.instance().activeWindow().qwindow().close()

    def _tell(self, text):
        with open(os.environ["IMAGIC_REPORT"], "a", encoding="utf-8") as report:
            report.write(text + "\n")


Krita.instance().addExtension(Checks(Krita.instance()))
