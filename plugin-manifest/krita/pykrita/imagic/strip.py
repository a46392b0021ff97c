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

    def __init__(self):
        super().__init__()
        # What the engine says of all dialogs, once it is there.
        self._policy = None
        # The result that is to be seen in size.
        self._shown = None
        line = self.fontMetrics().lineSpacing()
        self._side = THUMBNAIL_LINES * line
        self._etas, self._seeds, self._insert = (QPushButton() for _ in range(3))
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
        self._cell, self._frame = cell, frame
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
        self._insert.clicked.connect(lambda: self.chosen.emit(self._to_insert()))
        self._pictures.itemSelectionChanged.connect(self._selection_changed)
        self._pictures.currentItemChanged.connect(self._look)
        self._pictures.itemClicked.connect(self._look)
        self._can_start = False
        self.clear()

    def build(self, hello, mnemonics):
        """The words on the buttons, and room for all strengths."""
        policy, buttons = hello["policy"], hello["texts"]["buttons"]
        self._policy = policy
        # Keys that leave the ones of the most used fields free.
        for button, name, key in (
            (self._etas, "compare_strengths", "h"),
            (self._seeds, "compare_seeds", "F"),
            (self._insert, "insert", ""),
        ):
            button.setText(mnemonics.mark(buttons[name]["label"], key))
            button.setToolTip(buttons[name]["tooltip"])
        self._pictures.setMinimumWidth(len(policy["strengths"]) * self._cell + self._frame)

    def clear(self):
        """Another picture is edited."""
        self._shown = None
        self._pictures.clear()
        self._pictures.hide()
        self._selection_changed()

    def plan(self, what, params, largest_seed):
        """Shows empty places for a strip over `what` and returns the parameters of its pictures."""
        if what == "eta":
            several = [dict(params, eta=eta) for eta in self._policy["strengths"]]
        else:
            # The chosen one and those after it.
            seeds = self._policy["seeds"]
            first = min(params["seed"], largest_seed - seeds + 1)
            # Each seed's own version.
            several = [dict(params, seed=first + more, candidates=1) for more in range(seeds)]
        self._pictures.clear()
        self._pictures.show()
        for one in several:
            item = QListWidgetItem(number(f"{one['eta']:g}") if what == "eta" else f"#{one['seed']}")
            item.setData(PARAMS, one)
            item.setIcon(self._icon(None))
            item.setFlags(Qt.ItemFlag.NoItemFlags)
            self._pictures.addItem(item)
        return several

    def put(self, params, result, caption):
        """Shows `result` in the place for `params`, if there is one."""
        for item in self._items():
            if item.data(PARAMS) == params:
                item.setData(RESULT, result)
                item.setFlags(Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsSelectable)
                item.setIcon(self._icon(result.image))
                item.setToolTip(caption)
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

    def show_result(self, result):
        """What is to be seen in size; it is inserted where nothing is marked."""
        self._shown = result
        self._selection_changed()

    def _to_insert(self):
        marked = [item.data(RESULT) for item in self._items() if item.isSelected()]
        return marked or ([self._shown] if self._shown is not None else [])

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
        self._insert.setEnabled(self._can_start and bool(self._to_insert()))
        self._etas.setEnabled(self._can_start)
        self._seeds.setEnabled(self._can_start)

    def _look(self, item, _=None):
        if item is not None and item.data(RESULT) is not None:
            self.looked_at.emit(item.data(RESULT))
