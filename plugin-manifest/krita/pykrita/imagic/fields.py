"""One widget for each row of the table of parameters, which the engine sends; knows neither engine nor documents."""

import random
import string

from .language import tr
from .qt import (
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QEvent,
    QFileDialog,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QLocale,
    QMenu,
    QPlainTextEdit,
    QPushButton,
    QSlider,
    QSpinBox,
    Qt,
    QVBoxLayout,
    QWidget,
    pyqtSignal,
)

# Steps of a slider in one unit of its parameter.
SLIDER_STEPS = 20


class Mnemonics:
    """Gives every label of the dialog its own key, as long as the label has a letter that is free."""

    def __init__(self):
        self._taken = set()

    def mark(self, label, wish=""):
        """The translated `label` with `&` before its key: the letter `wish`, or the first free one, beginnings of words
        first; a label without Latin letters gets one in brackets."""
        label = tr(label)
        letters = [at for at, letter in enumerate(label) if letter.isascii() and letter.isalpha()]
        begins = [at for at in letters if at == 0 or not label[at - 1].isalnum()]
        wished = [at for at in letters if label[at] == wish]
        for at in wished + begins + letters:
            if label[at].upper() not in self._taken:
                self._taken.add(label[at].upper())
                return label[:at] + "&" + label[at:]
        if not letters:
            for key in string.ascii_uppercase:
                if key not in self._taken:
                    self._taken.add(key)
                    return f"{label}(&{key})"
        return label


class Field(QWidget):
    """What all fields share; `value` and `set_value` speak the parameter's JSON."""

    # What the label's key goes to.
    focus = None
    # Its value is another one, by the user or by `set_value`.
    changed = pyqtSignal()

    def __init__(self, row):
        super().__init__()
        self.row = row
        self.line = QHBoxLayout(self)
        self.line.setContentsMargins(0, 0, 0, 0)

    def put(self, *widgets):
        """Adds widgets from left to right; the first one gets the room."""
        for widget in widgets:
            widget.setToolTip(self.row["tooltip"])
            self.line.addWidget(widget, 0 if self.line.count() else 1)
        if self.focus is None:
            self.focus = widgets[0]


class Prompt(Field):
    """The target text; Enter starts the edit."""

    entered = pyqtSignal()

    def __init__(self, row, mnemonics, texts):
        super().__init__(dict(row, tooltip=row["tooltip"] + " " + texts["enter"]))
        earlier = texts["buttons"]["earlier_edits"]
        self.earlier = QPushButton(mnemonics.mark(earlier["label"]))
        self._examples = QPushButton(mnemonics.mark("Examples", "x"))
        self.text = QPlainTextEdit()
        self.text.setTabChangesFocus(True)
        self.text.setMinimumWidth(36 * self.text.fontMetrics().averageCharWidth())
        self.text.setFixedHeight(4 * self.text.fontMetrics().lineSpacing())
        self.text.installEventFilter(self)
        # What is to be said of the text: two lines, so that nothing moves when it comes; beside it how much of it fits.
        self._remarks, self._length = QLabel(), QLabel()
        self._remarks.setTextFormat(Qt.TextFormat.PlainText)
        self._remarks.setWordWrap(True)
        self._remarks.setAlignment(Qt.AlignmentFlag.AlignTop)
        self._remarks.setMinimumHeight(2 * self._remarks.fontMetrics().lineSpacing())
        self._length.setWordWrap(True)
        self._length.setAlignment(Qt.AlignmentFlag.AlignTop | Qt.AlignmentFlag.AlignRight)
        column = QVBoxLayout()
        column.addWidget(self.text)
        column.addWidget(self._remarks)
        self.text.setToolTip(self.row["tooltip"])
        self.focus = self.text
        self.line.addLayout(column, 1)
        buttons = QVBoxLayout()
        buttons.addWidget(self.earlier)
        buttons.addWidget(self._examples)
        buttons.addWidget(self._length)
        buttons.addStretch()
        self.line.addLayout(buttons)
        self.text.textChanged.connect(self.changed)
        self.earlier.setToolTip(earlier["tooltip"])
        self._examples.setToolTip(tr("Texts that the base model understands."))
        self._examples.setMenu(QMenu(self._examples))
        self.offer_examples([])

    def offer_examples(self, texts):
        """What the base model understands."""
        menu = self._examples.menu()
        menu.clear()
        for text in texts:
            menu.addAction(text.replace("&", "&&")).triggered.connect(lambda _, text=text: self._take(text))
        self._examples.setEnabled(bool(texts))

    def show_remarks(self, remarks, length):
        """What the engine says of the text."""
        self._remarks.setText(" ".join(remarks))
        self._remarks.setToolTip("\n".join(remarks))
        self._length.setText(length)

    def _take(self, text):
        self.set_value(text)
        self.text.setFocus()

    def eventFilter(self, watched, event):
        """Shift+Enter begins a new line."""
        if (
            event.type() == QEvent.Type.KeyPress
            and event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter)
            and not event.modifiers() & ~Qt.KeyboardModifier.KeypadModifier
        ):
            self.entered.emit()
            return True
        return super().eventFilter(watched, event)

    def value(self):
        return self.text.toPlainText()

    def set_value(self, value):
        self.text.setPlainText(value)


class Model(Field):
    """Name of a model of the list, or a path; those that cannot be used are gray, behind the others."""

    def __init__(self, row, mnemonics, models, texts):
        super().__init__(row)
        self._title = texts["choose_model"]
        self.choice = QComboBox()
        self.choice.setEditable(True)
        # Names and reasons may be long, and would widen the whole window.
        self.choice.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.choice.setMinimumContentsLength(16)
        for model in sorted(models, key=lambda model: bool(model["problem"])):
            if model["problem"]:
                text = texts["unusable"].format(name=model["name"], reason=model["problem"])
                self.choice.addItem(text)
                item = self.choice.model().item(self.choice.count() - 1)
                item.setEnabled(False)
                item.setToolTip(text)
            else:
                self.choice.addItem(model["name"])
        # The list is as wide as its texts, but no wider than they can be read.
        room = 80 * self.choice.fontMetrics().averageCharWidth()
        texts_width = self.choice.view().sizeHintForColumn(0) + 2 * self.choice.fontMetrics().height()
        self.choice.view().setMinimumWidth(min(texts_width, room))
        self.choice.view().setTextElideMode(Qt.TextElideMode.ElideRight)
        button = texts["buttons"]["browse"]
        browse = QPushButton(mnemonics.mark(button["label"]))
        self.put(self.choice, browse)
        browse.setToolTip(button["tooltip"])
        self.choice.editTextChanged.connect(lambda _: self.changed.emit())
        browse.clicked.connect(self._browse)

    def _browse(self):
        file, _ = QFileDialog.getOpenFileName(self, self._title)
        if file:
            self.set_value(file)

    def value(self):
        return self.choice.currentText().strip()

    def set_value(self, value):
        self.choice.setEditText(value)


class Seed(Field):
    """A whole number, and a button for another one."""

    def __init__(self, row, mnemonics, hello):
        super().__init__(row)
        self.number = _spin_box(row)
        button, most = hello["texts"]["buttons"]["new_seed"], hello["policy"]["new_seeds"]
        new = QPushButton(mnemonics.mark(button["label"]))
        self.put(self.number, new)
        self.number.valueChanged.connect(lambda _: self.changed.emit())
        new.setToolTip(button["tooltip"])
        new.clicked.connect(lambda: self.number.setValue(random.randrange(most)))

    def value(self):
        return self.number.value()

    def set_value(self, value):
        self.number.setValue(int(value))


class AnyPoint(QDoubleSpinBox):
    """A number that is shown as the user's language writes it, and may be typed with a comma as well as with a
    point."""

    def validate(self, text, at):
        return super().validate(_localized(text), at)

    def valueFromText(self, text):
        return super().valueFromText(_localized(text))


class Slider(Field):
    """A number that is felt rather than typed."""

    def __init__(self, row):
        super().__init__(row)
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setRange(round(row["min"] * SLIDER_STEPS), round(row["max"] * SLIDER_STEPS))
        self.slider.setPageStep(2)
        self.number = AnyPoint()
        self.number.setRange(row["min"], row["max"])
        self.number.setSingleStep(1 / SLIDER_STEPS)
        self.slider.valueChanged.connect(self._slid)
        self.number.valueChanged.connect(self._typed)
        self.put(self.slider, self.number)
        self.focus = self.number

    def _slid(self, at):
        self.number.setValue(at / SLIDER_STEPS)

    def _typed(self, value):
        # A typed number may lie between two places of the slider and must stay as it is.
        self.slider.blockSignals(True)
        self.slider.setValue(round(value * SLIDER_STEPS))
        self.slider.blockSignals(False)
        self.changed.emit()

    def value(self):
        return round(self.number.value(), 3)

    def set_value(self, value):
        self.number.setValue(float(value))


class Whole(Field):
    """A whole number."""

    def __init__(self, row):
        super().__init__(row)
        self.number = _spin_box(row)
        self.put(self.number)
        self.number.valueChanged.connect(lambda _: self.changed.emit())

    def value(self):
        return self.number.value()

    def set_value(self, value):
        self.number.setValue(int(value))


class Text(Field):
    """A short text, such as a path."""

    def __init__(self, row):
        super().__init__(row)
        self.text = QLineEdit()
        self.text.setMinimumWidth(_narrow(self.text))
        self.put(self.text)
        self.text.textChanged.connect(lambda _: self.changed.emit())

    def value(self):
        return self.text.text().strip()

    def set_value(self, value):
        self.text.setText(value)


class Number(Text):
    """A number of any size; the engine says what is wrong with it."""

    def value(self):
        return super().value().replace(",", ".")

    def set_value(self, value):
        super().set_value(_localized(str(value)))


class Switch(Field):
    """Yes or no; its text is its label."""

    def __init__(self, row, mnemonics):
        super().__init__(row)
        self.tick = QCheckBox(mnemonics.mark(row["label"]))
        self.put(self.tick)
        self.tick.toggled.connect(lambda _: self.changed.emit())

    def value(self):
        return self.tick.isChecked()

    def set_value(self, value):
        self.tick.setChecked(bool(value))


class Choice(Field):
    """One of a few texts."""

    def __init__(self, row):
        super().__init__(row)
        self.choice = QComboBox()
        # As narrow as a number: the longest text would widen the whole window.
        self.choice.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.choice.setMinimumContentsLength(3)
        for option in row["options"]:
            self.choice.addItem(option["label"], option["name"])
        self.put(self.choice)
        self.choice.currentIndexChanged.connect(lambda _: self.changed.emit())

    def value(self):
        return self.choice.currentData()

    def set_value(self, value):
        self.choice.setCurrentIndex(self.choice.findData(value))


def make(row, mnemonics, hello):
    """The field for one row of the table, with what the engine's greeting says of it."""
    if row["id"] == "prompt":
        return Prompt(row, mnemonics, hello["texts"])
    if row["id"] == "model":
        return Model(row, mnemonics, hello["models"], hello["texts"])
    if row["id"] == "seed":
        return Seed(row, mnemonics, hello)
    if row["kind"] == "switch":
        return Switch(row, mnemonics)
    if row["kind"] == "choice":
        return Choice(row)
    if row["kind"] == "text":
        return Text(row)
    if row["kind"] == "integer":
        return Whole(row)
    if row["kind"] == "real" and not row["advanced"]:
        return Slider(row)
    return Number(row)


def _localized(number):
    """`number` with the sign before its fraction that the user's language has."""
    return number.replace(",", ".").replace(".", QLocale().decimalPoint())


def _spin_box(row):
    box = QSpinBox()
    box.setRange(row["min"], row["max"])
    # By itself it has room for the largest number there can be.
    box.setMinimumWidth(_narrow(box))
    return box


def _narrow(widget):
    """Width with room for a number as they are used, in pixels."""
    return 11 * widget.fontMetrics().averageCharWidth()
