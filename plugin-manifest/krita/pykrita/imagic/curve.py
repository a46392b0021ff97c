"""A small picture of how the losses of stages A and B go; knows nothing but numbers."""

from .language import number, tr
from .qt import QPainter, QPalette, QPen, QPointF, QPolygonF, Qt, QWidget

# Points that are drawn at most; more would lie on each other.
MOST_POINTS = 400


class LossCurve(QWidget):
    """One line for each stage, side by side, in the colors of the theme."""

    def __init__(self):
        super().__init__()
        self.setFixedHeight(4 * self.fontMetrics().lineSpacing())
        self._averaged = 1
        self._stages = {}

    def build(self, hello):
        """Losses jump with the timestep that was drawn; some of them in a row are averaged for the line."""
        self._averaged = hello["policy"]["averaged"]
        self.setToolTip(hello["texts"]["curve"])

    def clear(self):
        """Forgets everything."""
        self._stages = {}
        self.update()

    def add(self, stage, loss):
        """One more loss of `stage`."""
        self._stages.setdefault(stage, []).append(loss)
        self.update()

    def set(self, stages):
        """All losses, by stage in the order of the stages."""
        self._stages = {stage: losses for stage, losses in stages.items() if losses}
        self.update()

    def paintEvent(self, _):
        """Draws it."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        palette = self.palette()
        painter.fillRect(self.rect(), palette.color(QPalette.ColorRole.Base))
        lines = [_means(losses, self._averaged) for losses in self._stages.values()]
        if not lines:
            return
        top = max(max(line) for line in lines) or 1.0
        width, height = self.width() / len(lines), self.height() - 4
        for at, line in enumerate(lines):
            color = palette.color(QPalette.ColorRole.Highlight if at % 2 else QPalette.ColorRole.Link)
            painter.setPen(QPen(color, 1.5))
            step = (width - 4) / max(len(line) - 1, 1)
            points = [QPointF(at * width + 2 + n * step, 2 + height * (1 - loss / top)) for n, loss in enumerate(line)]
            painter.drawPolyline(QPolygonF(points))
        painter.setPen(palette.color(QPalette.ColorRole.Text))
        latest = list(self._stages.values())[-1][-1]
        text = tr("loss {}", number(f"{latest:.3f}"))
        place = Qt.AlignmentFlag.AlignTop | Qt.AlignmentFlag.AlignRight
        painter.drawText(self.rect().adjusted(4, 2, -4, -2), place, text)


def _means(losses, averaged):
    """At most MOST_POINTS running means."""
    means, total = [], 0.0
    for at, loss in enumerate(losses):
        total += loss
        if at >= averaged:
            total -= losses[at - averaged]
        means.append(total / min(at + 1, averaged))
    return means[:: len(means) // MOST_POINTS + 1]
