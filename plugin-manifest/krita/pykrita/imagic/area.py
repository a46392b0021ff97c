"""The area that shows a result in size against the original; knows nothing but images."""

from .language import tr
from .qt import (
    QCheckBox,
    QHBoxLayout,
    QLabel,
    QPainter,
    QPalette,
    QPoint,
    QRect,
    QSize,
    QSizePolicy,
    QSlider,
    Qt,
    QVBoxLayout,
    QWidget,
)

# Side of the area in lines of text, so that it grows with the font.
LINES = 17

# Places of the knob between before and after.
PARTS = 100

# Side of the squares behind what is transparent.
CHECKS = 8


class Area(QWidget):
    """The picture, a line that says what it is, and the switch between it and the original."""

    def __init__(self):
        super().__init__()
        self._original = self._image = None
        self._canvas = _Canvas()
        self._canvas.setToolTip(tr("Hold the mouse button to see the original."))
        self._caption = QLabel()
        self._caption.setTextFormat(Qt.TextFormat.PlainText)
        # A long text must not widen the dialog.
        self._caption.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self._caption.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        self._switch, self._split = QCheckBox(), QSlider(Qt.Orientation.Horizontal)
        self._split.setRange(0, PARTS)
        below = QHBoxLayout()
        below.addWidget(self._switch)
        below.addWidget(self._caption, 1)
        everything = QVBoxLayout(self)
        everything.setContentsMargins(0, 0, 0, 0)
        everything.addWidget(self._canvas, 1)
        everything.addWidget(self._split)
        everything.addLayout(below)
        self._split.valueChanged.connect(lambda value: self._canvas.set_split(value / PARTS))
        self._switch.toggled.connect(lambda _: self._show())
        self._canvas.held = self._show
        self._show()

    def build(self, texts, mnemonics):
        """The words on the switch and the knob, from the engine's greeting."""
        button = texts["buttons"]["show_original"]
        self._split.setToolTip(texts["split"])
        self._switch.setText(mnemonics.mark(button["label"]))
        self._switch.setToolTip(button["tooltip"])

    def set_original(self, image):
        """Another picture is edited; there is no result of it."""
        self._original, self._image = image, None
        self._caption.setText("")
        self._switch.setChecked(False)
        self._show()

    def show_image(self, image, caption):
        """A result, or a picture that forms."""
        self._image = image
        self._caption.setText(caption)
        self._show()

    def shown(self):
        """The image that is on the screen, or None."""
        return self._canvas.image

    def _show(self):
        self._switch.setEnabled(self._image is not None)
        self._split.setEnabled(self._image is not None)
        wants_original = self._image is None or self._switch.isChecked() or self._canvas.is_held
        self._canvas.show_image(self._original if wants_original else self._image, self._original)


class _Canvas(QWidget):
    """Shows one image, in the shape of another."""

    def __init__(self):
        super().__init__()
        self.image = self._shape = None
        self._split = 0.0
        self.is_held, self.held = False, None
        side = LINES * self.fontMetrics().lineSpacing()
        self.setMinimumSize(QSize(side, side))

    def show_image(self, image, shape):
        self.image, self._shape = image, shape
        self.update()

    def set_split(self, share):
        """So much of the width shows the original."""
        self._split = share
        self.update()

    def mousePressEvent(self, _):
        self.is_held = True
        self.held()

    def mouseReleaseEvent(self, _):
        self.is_held = False
        self.held()

    def paintEvent(self, _):
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform)
        palette = self.palette()
        painter.fillRect(self.rect(), palette.color(QPalette.ColorRole.Base))
        if self.image is None:
            return
        ratio = self.devicePixelRatioF()
        place = QRect(QPoint(0, 0), self._shape.size().scaled(self.size(), Qt.AspectRatioMode.KeepAspectRatio))
        place.moveCenter(self.rect().center())
        if self.image.hasAlphaChannel():
            painter.setClipRect(place)
            for y in range(place.top(), place.bottom() + 1, CHECKS):
                for x in range(place.left(), place.right() + 1, CHECKS):
                    is_light = (x - place.left() + y - place.top()) // CHECKS % 2
                    color = Qt.GlobalColor.lightGray if is_light else Qt.GlobalColor.gray
                    painter.fillRect(x, y, CHECKS, CHECKS, color)
        # Qt's painter smooths only what it enlarges.
        size, smooth = place.size() * ratio, Qt.TransformationMode.SmoothTransformation
        painter.drawImage(place, self.image.scaled(size, Qt.AspectRatioMode.IgnoreAspectRatio, smooth))
        line = place.left() + round(place.width() * self._split)
        if self.image is not self._shape and line > place.left():
            painter.setClipRect(QRect(place.left(), place.top(), line - place.left(), place.height()))
            painter.drawImage(place, self._shape.scaled(size, Qt.AspectRatioMode.IgnoreAspectRatio, smooth))
            painter.setPen(palette.color(QPalette.ColorRole.Highlight))
            painter.drawLine(line - 1, place.top(), line - 1, place.bottom())
