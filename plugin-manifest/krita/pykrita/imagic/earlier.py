"""The edits that a document remembers: a menu that offers their settings, and a window that removes them."""

from .fields import Mnemonics
from .language import fill, tr
from .qt import (
    QAbstractItemView,
    QCheckBox,
    QDialog,
    QDialogButtonBox,
    QLabel,
    QListWidget,
    QListWidgetItem,
    QMenu,
    Qt,
    QVBoxLayout,
    pyqtSignal,
)
from .workshop import Refused

# Earlier edits that are offered.
SHOWN = 20


class EarlierEdits(QMenu):
    """Every different edit of the document, the newest first."""

    # The parameters of the one that the user took.
    taken = pyqtSignal(dict)
    # Some were removed; the text says why not all of them, if so.
    removed = pyqtSignal(str)

    def __init__(self, source, hello, parent):
        super().__init__(parent)
        self._source = source
        self._entry, self._longest = hello["texts"]["earlier_edit"], hello["policy"]["name_length"]
        self.aboutToShow.connect(self._list)

    def _list(self):
        self.clear()
        listed = []
        for run in reversed(self._source.history()["runs"]):
            params = run["params"]
            if params in listed:
                continue
            listed.append(params)
            action = self.addAction(self._title(run).replace("&", "&&"))
            action.triggered.connect(lambda _, params=params: self.taken.emit(params))
            if len(listed) == SHOWN:
                break
        self.addSeparator()
        self.addAction(tr("&Remove...")).triggered.connect(self._remove)

    def _title(self, run):
        params = run["params"]
        prompt = " ".join(params["prompt"].split())
        if len(prompt) > self._longest:
            prompt = prompt[: self._longest].rstrip() + "…"
        return fill(self._entry, text=prompt, eta=params["eta"], seed=params["seed"])

    def _remove(self):
        window = Removal(self._source, self._title, self.window())
        if window.exec() == QDialog.DialogCode.Accepted:
            problem = ""
            try:
                for run in window.marked():
                    self._source.remove(run, window.with_layers())
            except Refused as reason:
                problem = str(reason)
            self.removed.emit(problem)


class Removal(QDialog):
    """Asks which edits are to be removed; removes nothing itself."""

    def __init__(self, source, title, parent):
        super().__init__(parent)
        self.setWindowTitle(tr("Remove earlier edits"))
        mnemonics = Mnemonics()
        self._list = QListWidget()
        self._list.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        for run in reversed(source.history()["runs"]):
            text = title(run)
            item = QListWidgetItem(text if source.has(run["layer"]) else tr("{}: its layer is gone", text))
            item.setData(Qt.ItemDataRole.UserRole, run)
            self._list.addItem(item)
        self._list.setMinimumWidth(46 * self.fontMetrics().averageCharWidth())
        label = QLabel(tr("Edits that this document shall forget:"))
        label.setBuddy(self._list)
        self._layers = QCheckBox(mnemonics.mark("Delete their layers, too"))
        self._layers.setToolTip(tr("One step of undo for each layer. Only layers that Imagic Edit made are deleted."))
        self._layers.setChecked(True)
        buttons = QDialogButtonBox()
        remove = buttons.addButton(mnemonics.mark("Remove"), QDialogButtonBox.ButtonRole.AcceptRole)
        cancel = buttons.addButton(mnemonics.mark("Cancel"), QDialogButtonBox.ButtonRole.RejectRole)
        remove.clicked.connect(self.accept)
        cancel.clicked.connect(self.reject)
        remove.setEnabled(False)
        self._list.itemSelectionChanged.connect(lambda: remove.setEnabled(bool(self.marked())))
        everything = QVBoxLayout(self)
        for widget in (label, self._list, self._layers, buttons):
            everything.addWidget(widget)

    def marked(self):
        """The runs of the history."""
        return [item.data(Qt.ItemDataRole.UserRole) for item in self._list.selectedItems()]

    def with_layers(self):
        """Whether their layers go as well."""
        return self._layers.isChecked()
