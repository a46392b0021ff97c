"""A label for sentences, which is never cut off."""

from .qt import QLabel, Qt

# Higher than any text.
ENDLESS = 1 << 20

# Characters that a line has room for, about. Without it a text would be very high until it is given its place, and the
# window with it, which does not shrink again by itself.
LEAST_CHARACTERS = 36


class Sentences(QLabel):
    """As high as its text needs at its width: a layout alone makes windows too low for wrapped texts."""

    def __init__(self):
        super().__init__()
        self.setTextFormat(Qt.TextFormat.PlainText)
        self.setWordWrap(True)
        self.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.setMinimumWidth(LEAST_CHARACTERS * self.fontMetrics().averageCharWidth())

    def setText(self, text):
        super().setText(text)
        self._fit()

    def resizeEvent(self, event):
        super().resizeEvent(event)
        self._fit()

    def _fit(self):
        # Not heightForWidth(): that is never less than the height of before.
        width = max(self.width(), self.minimumWidth())
        text = self.fontMetrics().boundingRect(0, 0, width, ENDLESS, Qt.TextFlag.TextWordWrap, self.text())
        self.setFixedHeight(max(text.height(), self.fontMetrics().lineSpacing()))
