"""The dialog Filter > Imagic Edit: fields from the table of parameters, one edit after the other in the engine's process."""

import html
import os

from PyQt5.QtCore import Qt
from PyQt5.QtWidgets import (
    QDialog,
    QDialogButtonBox,
    QFormLayout,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QMenu,
    QProgressBar,
    QPushButton,
    QStyle,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from . import fields
from .curve import LossCurve
from .document import Refused
from .strip import Strip

# What is always there, in the order in which it gets its key.
BUTTONS = ("Stop", "Close", "Edit", "Advanced", "Reset to preset")

# Example prompts that are offered; more would push the fields below away.
EXAMPLES = 3

# Earlier edits that are offered.
EARLIER = 20

# Parts of the progress bar.
BAR = 1000

INFO, SUCCESS, WARNING, FAILURE = (
    QStyle.SP_MessageBoxInformation,
    QStyle.SP_DialogApplyButton,
    QStyle.SP_MessageBoxWarning,
    QStyle.SP_MessageBoxCritical,
)


class Dialog(QDialog):
    """Edits one layer as often as the user likes; Krita stays usable."""

    def __init__(self, source, engine, parent):
        super().__init__(parent)
        self.setAttribute(Qt.WA_DeleteOnClose)
        self.setWindowTitle("Imagic Edit")
        self._source, self._engine = source, engine
        self._hello = None
        self._fields = {}
        # The edit that runs: its number, and the picture that was read for it.
        self._job = self._picture = None
        self._hint = None
        # The model whose preset was applied last.
        self._model = None
        self._mnemonics = fields.Mnemonics()
        self._build()
        engine.ready.connect(self._on_ready)
        engine.died.connect(self._on_death)
        engine.answered.connect(self._on_answer)
        self._tell(INFO, "Starting the engine.")
        engine.attach(self)

    def edits(self, document, node):
        """Whether this is the dialog for `node`."""
        return self._source.is_open() and node is not None and self._source.is_source(document, node)

    def _build(self):
        """Everything but the fields, which wait for the table."""
        stop, close, edit, advanced, reset = (self._mnemonics.mark(label) for label in BUTTONS)
        self._buttons = QDialogButtonBox()
        self._stop = self._buttons.addButton(stop, QDialogButtonBox.ResetRole)
        self._close = self._buttons.addButton(close, QDialogButtonBox.RejectRole)
        self._edit = self._buttons.addButton(edit, QDialogButtonBox.AcceptRole)
        self._edit.setDefault(True)
        self._stop.clicked.connect(self._ask_to_stop)
        self._close.clicked.connect(self.reject)
        self._edit.clicked.connect(self._start)

        name = os.path.basename(self._source.document.fileName()) or "a document without a file"
        subject = QLabel("Layer “{}” of {}".format(self._source.name, name))
        subject.setTextFormat(Qt.PlainText)
        self._form = QFormLayout()
        self._form.setFieldGrowthPolicy(QFormLayout.AllNonFixedFieldsGrow)
        self._description, self._examples = _text(), QLabel()
        self._examples.setWordWrap(True)
        self._examples.linkActivated.connect(self._take_example)

        self._fold = QToolButton()
        self._fold.setText(advanced)
        self._fold.setCheckable(True)
        self._fold.setArrowType(Qt.RightArrow)
        self._fold.setToolButtonStyle(Qt.ToolButtonTextBesideIcon)
        self._fold.setAutoRaise(True)
        self._fold.toggled.connect(self._unfold)
        self._folded = QWidget()
        self._columns = QGridLayout(self._folded)
        self._columns.setContentsMargins(0, 0, 0, 0)
        self._folded.hide()
        self._reset = QPushButton(reset)
        self._reset.setToolTip("Sets the strength and everything here to what fits the base model.")
        self._reset.clicked.connect(self._apply_preset)

        self._bar = QProgressBar()
        self._bar.setRange(0, BAR)
        self._bar.setFormat("")
        self._curve = LossCurve()
        self._curve.hide()
        self._icon, self._status = QLabel(), _text()
        self._icon.setAlignment(Qt.AlignTop)
        line = QHBoxLayout()
        line.addWidget(self._icon)
        line.addWidget(self._status, 1)
        self._strip = Strip(self._mnemonics, self._insert)
        self._strip.wanted.connect(self._compare)

        everything = QVBoxLayout(self)
        everything.addWidget(subject)
        everything.addLayout(self._form)
        everything.addWidget(self._fold)
        everything.addWidget(self._folded)
        everything.addWidget(self._bar)
        everything.addWidget(self._curve)
        everything.addLayout(line)
        everything.addWidget(self._strip)
        everything.addStretch()
        everything.addWidget(self._buttons)
        self._set_busy(False)
        self._edit.setEnabled(False)

    def _on_ready(self, hello):
        """The engine runs; the first time it brings the table."""
        self._edit.setEnabled(self._job is None)
        if self._hello is not None:
            return
        self._hello = hello
        names = [model["name"] for model in hello["models"]]
        advanced = sum(row["advanced"] for row in hello["parameters"])
        folded = 0
        for row in hello["parameters"]:
            field = fields.make(row, self._mnemonics, names)
            self._fields[row["id"]] = field
            label = QLabel()
            if row["kind"] != "switch":
                label.setText(self._mnemonics.mark(row["label"]) + ":")
                label.setBuddy(field.focus)
                label.setToolTip(row["tooltip"])
            if row["advanced"]:
                at, column = folded % ((advanced + 1) // 2), folded // ((advanced + 1) // 2)
                self._columns.addWidget(label, at, 2 * column)
                self._columns.addWidget(field, at, 2 * column + 1)
                folded += 1
            else:
                self._form.addRow(label, field)
            if row["id"] == "prompt":
                self._form.addRow("", self._examples)
                field.entered.connect(self._start)
                menu = QMenu(field.earlier)
                menu.aboutToShow.connect(lambda: self._list_earlier(menu))
                field.earlier.setMenu(menu)
            elif row["id"] == "model":
                self._form.addRow("", self._description)
                field.changed.connect(self._on_model)
        self._columns.addWidget(self._reset, (advanced + 1) // 2, 3)
        self._show_first_values()

    def _show_first_values(self):
        """The recipe of the result from which the dialog was opened, else the last values of this document, else of any."""
        texts, runs = self._hello["texts"], self._source.history()["runs"]
        if self._source.recipe is not None:
            params, text = self._source.recipe["params"], "These are the settings with which the active layer was made."
        elif runs:
            params, text = runs[-1]["params"], texts["known_image"]
        else:
            params, text = self._hello["last_values"], texts["first_edit"]
        self._tell(INFO, text)
        self._write(params or dict(self._preset_of(self._hello["builtin_model"]) or {}, model=self._hello["builtin_model"]))
        prompt = self._fields["prompt"].text
        prompt.selectAll()
        prompt.setFocus()
        self._fields["prompt"].earlier.setEnabled(bool(runs))

    def _preset_of(self, name):
        known = [model for model in self._hello["models"] if model["name"] == name]
        return known[0]["params"] if known else None

    def _read(self):
        return {name: field.value() for name, field in self._fields.items()}

    def _write(self, params):
        """The model comes before those that its preset sets; what this version does not know is left out."""
        for name, field in self._fields.items():
            if name in params:
                field.set_value(params[name])

    def _start(self):
        if self._job is not None or self._hello is None:
            return
        try:
            self._picture = self._source.read()
        except Refused as reason:
            self._tell(FAILURE, str(reason))
            return
        self._strip.clear()
        self._curve.clear()
        self._submit(self._read(), self._hear)
        self._bar.setValue(0)
        self._bar.setFormat("Starting")
        self._tell(INFO, "Krita and this window stay usable; changes here count for the next edit.")

    def _submit(self, params, listener):
        picture = self._picture
        self._hint = None
        self._set_busy(True)
        message = {
            "params": params,
            "document": self._source.history()["document"],
            "width": picture.area.width(),
            "height": picture.area.height(),
            "format": picture.format(),
        }
        self._job = self._engine.submit(message, picture.pixels, listener)

    def _hear(self, message, pixels):
        """What the engine says of the edit that runs."""
        event = message["event"]
        if event == "progress":
            self._show_progress(message)
            return
        self._job = None
        self._set_busy(False)
        if event == "done":
            self._finish(message, pixels)
        elif event == "stopped":
            self._bar.setFormat("")
            self._bar.setValue(0)
            self._tell(INFO, self._hello["texts"]["stopped"])
        else:
            self._bar.setFormat("")
            self._bar.setValue(0)
            self._tell(FAILURE, message["message"])

    def _show_progress(self, message):
        self._bar.setValue(round(message["fraction"] * BAR))
        self._bar.setFormat(message["text"])
        if message["loss"] is not None:
            self._curve.show()
            self._curve.add(message["stage"], message["loss"])
        if message["hint"] and message["hint"] != self._hint:
            self._hint = message["hint"]
            self._tell(WARNING, self._hint)

    def _finish(self, message, pixels):
        """Puts the result into the document and offers to compare strengths."""
        report = message["report"]
        if report["embedding_losses"] or report["tuning_losses"]:
            self._curve.set({"A": report["embedding_losses"], "B": report["tuning_losses"]})
        if not self._insert(message, pixels):
            return
        self._bar.setValue(BAR)
        self._bar.setFormat("Done")
        self._engine.ask({"do": "remember", "params": report["params"]})
        self._strip.offer(self._picture, message, pixels)

    def _insert(self, message, pixels):
        """Whether the result is in the document."""
        try:
            note = self._source.insert(
                self._picture, message["name"], pixels, message["report"], self._hello["remembered_runs"]
            )
        except Refused as reason:
            self._bar.setFormat("")
            self._bar.setValue(0)
            self._tell(FAILURE, str(reason))
            return False
        self._fields["prompt"].earlier.setEnabled(True)
        tone = WARNING if message["report"]["hint"] else SUCCESS
        self._tell(tone, message["summary"] + ("\n" + note if note else ""))
        return True

    def _compare(self, params):
        """Computes one more picture for the strip, from the picture and the tuned model of the last edit."""
        self._submit(params, self._hear_compared)

    def _hear_compared(self, message, pixels):
        if message["event"] == "progress":
            self._show_progress(message)
            return
        if message["event"] != "done":
            self._strip.stop()
            self._hear(message, pixels)
            return
        self._job = None
        self._set_busy(False)
        self._bar.setValue(BAR)
        self._bar.setFormat("Done")
        self._strip.add(message, pixels)

    def _ask_to_stop(self):
        if self._job is not None:
            self._stop.setEnabled(False)
            self._strip.stop()
            self._engine.stop(self._job)
            self._tell(INFO, self._hello["texts"]["stopping"])

    def keyPressEvent(self, event):
        """Escape stops a running edit first; only the next one closes."""
        if event.key() == Qt.Key_Escape and self._job is not None:
            self._ask_to_stop()
        else:
            super().keyPressEvent(event)

    def done(self, result):
        """However it closes: a running edit is of no use without the dialog."""
        if self._job is not None:
            self._engine.stop(self._job)
            self._job = None
        for signal, slot in (
            (self._engine.ready, self._on_ready),
            (self._engine.died, self._on_death),
            (self._engine.answered, self._on_answer),
        ):
            signal.disconnect(slot)
        self._engine.detach(self)
        super().done(result)

    def _on_death(self, reason):
        if self._hello is None:
            self._edit.setEnabled(False)
        self._tell(FAILURE, reason)

    def _on_answer(self, message):
        if message["event"] == "failed":
            self._tell(FAILURE, message["message"])
        elif message["event"] == "model" and self._fields and message["name"] == self._fields["model"].value():
            self._show_model(message["model"], message.get("message", ""))

    def _on_model(self):
        name = self._fields["model"].value()
        known = [model for model in self._hello["models"] if model["name"] == name]
        if known:
            self._show_model(known[0], "")
        else:
            self._engine.ask({"do": "model", "name": name})

    def _show_model(self, model, problem):
        """Description and examples; a model that was not the chosen one brings its preset."""
        description, examples = problem, []
        if model is not None:
            others = self._hello["texts"]["other_models"] if model["name"] == self._hello["builtin_model"] else ""
            description, examples = model["problem"] or model["description"] + others, model["examples"][:EXAMPLES]
        self._description.setText(description)
        self._description.setVisible(bool(description))
        links = ['<a href="{}">{}</a>'.format(html.escape(text), html.escape(text)) for text in examples]
        self._examples.setText("For example " + ", ".join(links))
        self._examples.setVisible(bool(links))
        if model is not None and model["params"] and (self._model or {}).get("folder") != model["folder"]:
            self._model = model
            self._apply_preset()

    def _apply_preset(self):
        """Everything but prompt, model and seed as the model's preset says."""
        if self._model is not None:
            kept = ("prompt", "model", "seed")
            self._write({name: value for name, value in self._model["params"].items() if name not in kept})

    def _take_example(self, text):
        self._fields["prompt"].set_value(text)
        self._fields["prompt"].text.setFocus()

    def _list_earlier(self, menu):
        """Every different edit of the document, the newest first."""
        menu.clear()
        listed = []
        for run in reversed(self._source.history()["runs"]):
            if run["params"] in listed:
                continue
            listed.append(run["params"])
            params = run["params"]
            text = "{} (eta {}, seed {})".format(" ".join(params["prompt"].split()), params["eta"], params["seed"])
            action = menu.addAction(text.replace("&", "&&"))
            action.triggered.connect(lambda _, params=params: self._write(params))
            if len(listed) == EARLIER:
                break

    def _unfold(self, open_):
        self._fold.setArrowType(Qt.DownArrow if open_ else Qt.RightArrow)
        self._folded.setVisible(open_)
        if not open_:
            self.adjustSize()

    def _set_busy(self, busy):
        self._edit.setEnabled(not busy)
        self._stop.setEnabled(busy)
        self._strip.set_busy(busy)

    def _tell(self, icon, text):
        size = self.style().pixelMetric(QStyle.PM_SmallIconSize)
        self._icon.setPixmap(self.style().standardIcon(icon).pixmap(size, size))
        self._status.setText(text)


def _text():
    """A label for sentences."""
    label = QLabel()
    label.setTextFormat(Qt.PlainText)
    label.setWordWrap(True)
    label.setTextInteractionFlags(Qt.TextSelectableByMouse)
    return label
