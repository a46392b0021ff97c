"""Small pictures of one edit with different strengths or seeds, side by side; the marked ones become layers. Knows
neither engine nor documents."""

from .language import number, tr
from .qt import (
    QAbstractItemView,
    QHBoxLayout,
    QIcon,
    QListWidget,
    QListWidgetItem,
    QPainter,
    QPalette,
    QPen,
    QPixmap,
    QPushButton,
    QSize,
    Qt,
    QVBoxLayout,
    QWidget,
    pyqtSignal,
)

# From the picture itself to more than the text asks for.
ETAS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2)

# Seeds side by side: the present one and those after it.
SEEDS = 6

# Side of the largest thumbnail in lines of text, so that it grows with the font.
THUMBNAIL_LINES = 4

# What an item of the list knows: the parameters of its picture, and its result once that is there.
PARAMS, RESULT = Qt.ItemDataRole.UserRole, Qt.ItemDataRole.UserRole + 1


class Strip(QWidget):
    """Says which pictures are wanted and shows those that it is given."""

    # "eta" or "seed": a strip over it is wanted.
    asked = pyqtSignal(str)
    # A result that is to be seen in size.
    looked_at = pyqtSignal(object)
    # Results that are to become layers.
    chosen = pyqtSignal(list)

    def __init__(self, mnemonics):
        super().__init__()
        line = self.fontMetrics().lineSpacing()
        self._side = THUMBNAIL_LINES * line
        # Keys that leave the ones of the most used fields free.
        self._etas = QPushButton(mnemonics.mark("Compare strengths", "h"))
        self._etas.setToolTip(tr("Computes this edit with strengths from 0 to 1.2; none becomes a layer yet."))
        self._seeds = QPushButton(mnemonics.mark("Compare seeds", "p"))
        self._seeds.setToolTip(tr("Computes this edit with this seed and the five after it; none becomes a layer yet."))
        self._insert = QPushButton(mnemonics.mark("Insert marked"))
        self._insert.setToolTip(
            tr("The marked pictures become layers; several come in a group. Ctrl marks more than one.")
        )
        self._pictures = QListWidget()
        self._pictures.setViewMode(QListWidget.ViewMode.IconMode)
        self._pictures.setFlow(QListWidget.Flow.LeftToRight)
        self._pictures.setWrapping(False)
        self._pictures.setMovement(QListWidget.Movement.Static)
        self._pictures.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self._pictures.setIconSize(QSize(self._side, self._side))
        self._pictures.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self._pictures.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        # Room for all of them without scrolling.
        cell = self._side + line // 2
        frame = 2 * self._pictures.frameWidth() + 2
        self._pictures.setGridSize(QSize(cell, self._side + 3 * line // 2))
        self._pictures.setFixedHeight(self._side + 3 * line // 2 + frame)
        self._pictures.setMinimumWidth(len(ETAS) * cell + frame)
        self._pictures.setAccessibleName(tr("Compared pictures"))
        buttons = QHBoxLayout()
        buttons.addWidget(self._etas)
        buttons.addWidget(self._seeds)
        buttons.addStretch()
        buttons.addWidget(self._insert)
        everything = QVBoxLayout(self)
        everything.setContentsMargins(0, 0, 0, 0)
        everything.addLayout(buttons)
        everything.addWidget(self._pictures)
        self._etas.clicked.connect(lambda: self.asked.emit("eta"))
        self._seeds.clicked.connect(lambda: self.asked.emit("seed"))
        self._insert.clicked.connect(lambda: self.chosen.emit(self._marked()))
        self._pictures.itemSelectionChanged.connect(self._selection_changed)
        self._pictures.currentItemChanged.connect(self._look)
        self._pictures.itemClicked.connect(self._look)
        self._can_start = False
        self.clear()

    def clear(self):
        """Another picture is edited."""
        self._pictures.clear()
        self._pictures.hide()
        self._selection_changed()

    def plan(self, what, params, largest_seed):
        """Shows empty places for a strip over `what` and returns the parameters of its pictures."""
        if what == "eta":
            several = [dict(params, eta=eta) for eta in ETAS]
        else:
            first = min(params["seed"], largest_seed - SEEDS + 1)
            several = [dict(params, seed=first + more) for more in range(SEEDS)]
        self._pictures.clear()
        self._pictures.show()
        for one in several:
            item = QListWidgetItem(number(f"{one[what]:g}"))
            item.setData(PARAMS, one)
            item.setIcon(self._icon(None))
            item.setFlags(Qt.ItemFlag.NoItemFlags)
            self._pictures.addItem(item)
        return several

    def put(self, params, result):
        """Shows `result` in the place for `params`, if there is one."""
        for item in self._items():
            if item.data(PARAMS) == params:
                item.setData(RESULT, result)
                item.setFlags(Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsSelectable)
                item.setIcon(self._icon(result.image))
                item.setToolTip(result.message["name"])
        self.mark_layers(lambda result: result.layer is not None)

    def mark_layers(self, is_layer):
        """Results for which `is_layer` says so are shown in bold."""
        for item in self._items():
            result, font = item.data(RESULT), self._pictures.font()
            font.setBold(result is not None and is_layer(result))
            item.setFont(font)

    def set_can_start(self, can_start):
        """While an edit runs nothing else can be started."""
        self._can_start = can_start
        self._selection_changed()

    def _items(self):
        return [self._pictures.item(row) for row in range(self._pictures.count())]

    def _marked(self):
        return [item.data(RESULT) for item in self._items() if item.isSelected()]

    def _icon(self, image):
        """In the middle of a square, so that the texts below are in one line."""
        square = QPixmap(self._side, self._side)
        square.fill(Qt.GlobalColor.transparent)
        if image is None:
            painter = QPainter(square)
            painter.setPen(QPen(self.palette().color(QPalette.ColorRole.Mid), 1, Qt.PenStyle.DashLine))
            painter.drawRect(4, 4, self._side - 9, self._side - 9)
        else:
            smooth = Qt.TransformationMode.SmoothTransformation
            small = image.scaled(square.size(), Qt.AspectRatioMode.KeepAspectRatio, smooth)
            painter = QPainter(square)
            painter.drawImage((self._side - small.width()) // 2, (self._side - small.height()) // 2, small)
        painter.end()
        icon = QIcon(square)
        # A frame in place of Qt's veil, which would hide the colors.
        painter = QPainter(square)
        painter.setPen(QPen(self.palette().color(QPalette.ColorRole.Highlight), 3))
        painter.drawRect(1, 1, self._side - 3, self._side - 3)
        painter.end()
        icon.addPixmap(square, QIcon.Mode.Selected)
        return icon

    def _selection_changed(self):
        self._insert.setEnabled(self._can_start and bool(self._marked()))
        self._etas.setEnabled(self._can_start)
        self._seeds.setEnabled(self._can_start)

    def _look(self, item, _=None):
        if item is not None and item.data(RESULT) is not None:
            self.looked_at.emit(item.data(RESULT))
