"""Pictures of one edit with different strengths, side by side; the chosen ones become layers. Knows neither engine nor
documents."""

import sys

from PyQt5.QtCore import QSize, Qt, pyqtSignal
from PyQt5.QtGui import QIcon, QImage, QPixmap
from PyQt5.QtWidgets import (
    QAbstractItemView,
    QCheckBox,
    QHBoxLayout,
    QLabel,
    QListWidget,
    QListWidgetItem,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

# From the picture itself to more than the text asks for.
ETAS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2)

# Sides of the largest thumbnail and of the preview, in lines of text, so that they grow with the font.
THUMBNAIL_LINES, PREVIEW_LINES = 4, 14

# What an item of the list knows: the engine's message with the pixels, and whether they are a layer already.
RESULT, INSERTED = Qt.UserRole, Qt.UserRole + 1


class Strip(QWidget):
    """Offered after an edit; computes one strength after the other on demand, each once."""

    # The parameters of one more picture.
    wanted = pyqtSignal(dict)

    def __init__(self, mnemonics, insert):
        """`insert(message, pixels)` makes a layer of a picture and says whether it could."""
        super().__init__()
        self._insert_layer = insert
        line = self.fontMetrics().lineSpacing()
        self._thumbnail, self._preview = THUMBNAIL_LINES * line, PREVIEW_LINES * line
        self._compare = QPushButton(mnemonics.mark("Compare strengths"))
        self._compare.setToolTip("Computes the same edit with strengths from 0 to 1.2; the tuned model is kept.")
        self._insert = QPushButton(mnemonics.mark("Insert chosen"))
        self._insert.setToolTip("Each chosen picture becomes a layer.")
        self._original = QCheckBox(mnemonics.mark("Original"))
        self._original.setToolTip("Shows what was edited in place of the edit.")
        self._pictures = QListWidget()
        self._pictures.setViewMode(QListWidget.IconMode)
        self._pictures.setFlow(QListWidget.LeftToRight)
        self._pictures.setWrapping(False)
        self._pictures.setMovement(QListWidget.Static)
        self._pictures.setSelectionMode(QAbstractItemView.ExtendedSelection)
        self._pictures.setIconSize(QSize(self._thumbnail, self._thumbnail))
        # Room for all of them without scrolling.
        cell = self._thumbnail + line // 2
        frame = 2 * self._pictures.frameWidth() + 2
        self._pictures.setGridSize(QSize(cell, self._thumbnail + 2 * line))
        self._pictures.setFixedHeight(self._thumbnail + 2 * line + frame)
        self._pictures.setMinimumWidth(len(ETAS) * cell + frame)
        self._large = QLabel()
        self._large.setAlignment(Qt.AlignCenter)
        buttons = QHBoxLayout()
        buttons.addWidget(self._compare)
        buttons.addWidget(self._original)
        buttons.addStretch()
        buttons.addWidget(self._insert)
        everything = QVBoxLayout(self)
        everything.setContentsMargins(0, 0, 0, 0)
        everything.addWidget(self._large)
        everything.addWidget(self._pictures)
        everything.addLayout(buttons)
        self._compare.clicked.connect(self._begin)
        self._insert.clicked.connect(self._choose)
        self._original.toggled.connect(lambda _: self._show_large())
        self._pictures.itemSelectionChanged.connect(self._selection_changed)
        self._busy = False
        self._input = self._params = None
        # Strengths that are still to be computed.
        self._missing = []
        self.clear()

    def clear(self):
        """Forgets everything: another picture is edited."""
        self.stop()
        self._pictures.clear()
        self._original.setChecked(False)
        self.hide()

    def offer(self, picture, message, pixels):
        """The first result, which is a layer already."""
        self.clear()
        self._input, self._params = picture, message["report"]["params"]
        self._append(message, pixels).setData(INSERTED, True)
        for widget in (self._pictures, self._large, self._original, self._insert):
            widget.hide()
        self.show()

    def add(self, message, pixels):
        """A picture that was wanted; asks for the next one."""
        item = self._append(message, pixels)
        if not self._pictures.selectedItems():
            self._pictures.setCurrentItem(item)
        self._want_next()

    def stop(self):
        """No more pictures are wanted."""
        self._missing = []

    def set_busy(self, busy):
        """While an edit runs nothing else can be started."""
        self._busy = busy
        self._selection_changed()

    def _begin(self):
        for widget in (self._pictures, self._large, self._original, self._insert):
            widget.show()
        there = [self._message(item)["report"]["params"]["eta"] for item in self._items()]
        self._missing = [eta for eta in ETAS if eta not in there]
        self._pictures.setCurrentRow(0)
        self._want_next()

    def _want_next(self):
        if self._missing:
            self.wanted.emit(dict(self._params, eta=self._missing.pop(0)))

    def _items(self):
        return [self._pictures.item(row) for row in range(self._pictures.count())]

    @staticmethod
    def _message(item):
        return item.data(RESULT)[0]

    def _append(self, message, pixels):
        """A thumbnail in its place by strength."""
        eta = message["report"]["params"]["eta"]
        image = self._image(pixels)
        size = QSize(self._thumbnail, self._thumbnail)
        icon = QIcon(QPixmap.fromImage(image.scaled(size, Qt.KeepAspectRatio, Qt.SmoothTransformation)))
        item = QListWidgetItem(icon, "{:g}".format(eta))
        item.setToolTip(message["name"])
        item.setData(RESULT, (message, pixels))
        at = sum(self._message(other)["report"]["params"]["eta"] <= eta for other in self._items())
        self._pictures.insertItem(at, item)
        return item

    def _image(self, pixels):
        width, height = self._input.area.width(), self._input.area.height()
        if self._input.space.depth == "U16":
            # The upper bytes are enough for a screen of 8 bits.
            pixels = pixels[1 if sys.byteorder == "little" else 0 :: 2]
        # A copy, because Qt does not keep the bytes alive.
        return QImage(pixels, width, height, 4 * width, QImage.Format_ARGB32).copy()

    def _selection_changed(self):
        items = self._pictures.selectedItems()
        new = [item for item in items if not item.data(INSERTED)]
        self._insert.setEnabled(bool(new) and not self._busy)
        self._compare.setEnabled(not self._busy and self._pictures.count() < len(ETAS))
        self._show_large()

    def _show_large(self):
        items = self._pictures.selectedItems()
        if items:
            image = self._image(self._input.pixels if self._original.isChecked() else items[-1].data(RESULT)[1])
            size = QSize(self._preview, self._preview)
            self._large.setPixmap(QPixmap.fromImage(image.scaled(size, Qt.KeepAspectRatio, Qt.SmoothTransformation)))

    def _choose(self):
        for item in self._pictures.selectedItems():
            if not item.data(INSERTED):
                item.setData(INSERTED, self._insert_layer(*item.data(RESULT)))
        self._selection_changed()
