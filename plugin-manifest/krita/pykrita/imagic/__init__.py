"""Filter > Imagic Edit... in Krita: one dialog for each layer, one engine for all of them."""

from krita import Extension, Krita

from . import language
from .dialog import Dialog
from .document import Refused, Source
from .engine import Engine
from .qt import QApplication, QLocale, QMessageBox


class ImagicEdit(Extension):
    """Adds the menu entry and opens the dialogs."""

    def __init__(self, parent):
        super().__init__(parent)
        self._engine = None
        self._dialogs = []

    def setup(self):
        """Before a window opens."""
        # Krita's own choice, which may differ from the system's.
        language.load(QLocale().uiLanguages())

    def createActions(self, window):
        """Krita calls this for each of its windows."""
        action = window.createAction("imagic_edit", "Imagic Edit...", "filter")
        # A letter, as for the tool that writes.
        action.setIcon(Krita.instance().icon("draw-text"))
        action.triggered.connect(self.open_dialog)

    def open_dialog(self):
        """The dialog of the active layer, which may be there already."""
        window = Krita.instance().activeWindow()
        document = Krita.instance().activeDocument()
        try:
            if document is None:
                raise Refused("No document is open; open a picture first.")
            node = document.activeNode()
            known = next((dialog for dialog in self._dialogs if dialog.edits(document, node)), None)
            if known is not None:
                known.activateWindow()
                known.raise_()
                return
            source = Source(document, node)
        except Refused as reason:
            QMessageBox.information(window.qwindow(), "Imagic Edit", language.tr(str(reason)))
            return
        if self._engine is None:
            self._engine = Engine(QApplication.instance())
        dialog = Dialog(source, self._engine, window.qwindow())
        self._dialogs.append(dialog)
        dialog.finished.connect(lambda _: self._dialogs.remove(dialog))
        dialog.show()


Krita.instance().addExtension(ImagicEdit(Krita.instance()))
