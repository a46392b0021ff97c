"""The dialog Filter > Imagic Edit: settings on the left, pictures on the right, one edit after the other in the
engine's process."""

import os

from . import fields
from .area import Area
from .curve import LossCurve
from .document import Edited, Refused
from .earlier import EarlierEdits
from .form import Form
from .language import fill, number, tr
from .qt import (
    QDesktopServices,
    QDialog,
    QDialogButtonBox,
    QEvent,
    QHBoxLayout,
    QLabel,
    QProgressBar,
    QPushButton,
    QStyle,
    Qt,
    QTimer,
    QUrl,
    QVBoxLayout,
    QWidget,
)
from .results import image
from .sentences import Sentences
from .strip import Strip
from .work import COMPARE, EDIT, LOOK, WHOLE, Work

# What is always there, in the order in which it gets its key.
BUTTONS = ("Stop", "Close", "Edit")

# Parts of the progress bar.
BAR = 1000

# How often it is looked whether Krita has made a new layer the active one, and the milliseconds between.
ACTIVATION, ACTIVATION_PAUSE = 20, 50

INFO, SUCCESS, WARNING, FAILURE = (
    QStyle.StandardPixmap.SP_MessageBoxInformation,
    QStyle.StandardPixmap.SP_DialogApplyButton,
    QStyle.StandardPixmap.SP_MessageBoxWarning,
    QStyle.StandardPixmap.SP_MessageBoxCritical,
)


class Dialog(QDialog):
    """Edits one layer as often as the user likes; Krita stays usable."""

    def __init__(self, source, engine, parent):
        super().__init__(parent)
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setWindowTitle("Imagic Edit")
        self._source, self._engine = source, engine
        self._work = Work(source, engine)
        # What the engine says first, and the sentences in it.
        self._hello, self._texts = None, {}
        self._hint = None
        # Whether the curve is of an earlier edit.
        self._curve_is_old = True
        # What was said before any edit, and whether something else is said because settings gave no result; others may.
        self._greeting, self._is_refused = "", False
        # Parameters of the pictures of a strip that are still to be computed.
        self._missing = []
        # Results that become layers once all of them are there in full.
        self._to_insert = []
        # Why the model should not be tried on the layer, and whether the user wants to.
        self._door, self._tries = "", False
        # Whether a quick picture is wanted once its cost is known.
        self._may_look = False
        self._pause = QTimer(self)
        self._pause.setSingleShot(True)
        self._pause.timeout.connect(self._ask_cost)
        self._build()
        for signal, slot in self._engine_signals():
            signal.connect(slot)
        self._work.picture_changed.connect(self._on_picture)
        self._work.state_changed.connect(self._show_state)
        self._work.estimated.connect(self._on_estimate)
        self._work.progressed.connect(self._show_progress)
        self._work.formed.connect(self._on_formed)
        self._work.finished.connect(self._on_result)
        self._work.ended.connect(self._on_end)
        self._show_state()
        self._tell(INFO, "Starting the engine.")
        engine.attach(self)

    def _engine_signals(self):
        return (
            (self._engine.ready, self._on_ready),
            (self._engine.died, self._on_death),
            (self._engine.answered, self._on_answer),
        )

    def edits(self, document, node):
        """Whether this is the dialog for `node`."""
        return self._source.is_open() and node is not None and self._source.is_source(document, node)

    def _build(self):
        """Everything but the fields, which wait for the table."""
        self._mnemonics = mnemonics = fields.Mnemonics()
        stop, close, edit = (mnemonics.mark(label) for label in BUTTONS)
        self._edit_label = edit
        self._buttons = QDialogButtonBox()
        self._help = self._buttons.addButton("", QDialogButtonBox.ButtonRole.HelpRole)
        self._help.setEnabled(False)
        self._help.setAutoDefault(False)
        self._help.clicked.connect(self._open_help)
        self._stop = self._buttons.addButton(stop, QDialogButtonBox.ButtonRole.ResetRole)
        self._close = self._buttons.addButton(close, QDialogButtonBox.ButtonRole.RejectRole)
        self._edit = self._buttons.addButton(edit, QDialogButtonBox.ButtonRole.AcceptRole)
        self._stop.clicked.connect(self._ask_to_stop)
        self._close.clicked.connect(self.reject)
        self._edit.clicked.connect(self._start)

        name = os.path.basename(self._source.document.fileName()) or tr("a document without a file")
        subject = QLabel(tr("Layer “{}” of {}", self._source.name, name))
        subject.setTextFormat(Qt.TextFormat.PlainText)
        self._form = Form(mnemonics)
        self._form.changed.connect(self._on_change)
        self._form.entered.connect(self._start)
        self._form.model_named.connect(lambda name: self._engine.ask({"do": "model", "name": name}))
        self._cost = Sentences()
        self._area = Area()
        self._strip = Strip()
        self._strip.asked.connect(self._compare)
        self._strip.looked_at.connect(self._show_result)
        self._strip.chosen.connect(self._insert)
        self._curve = LossCurve()
        self._curve.hide()
        self._bar = QProgressBar()
        self._bar.setRange(0, BAR)
        self._bar.setFormat("")
        self._icon, self._status = QLabel(), Sentences()
        self._icon.setAlignment(Qt.AlignmentFlag.AlignTop)

        settings = QVBoxLayout()
        settings.addWidget(subject)
        settings.addWidget(self._build_door())
        settings.addWidget(self._form)
        settings.addStretch()
        settings.addWidget(self._curve)
        settings.addWidget(self._cost)
        pictures = QVBoxLayout()
        pictures.addWidget(self._area, 1)
        pictures.addWidget(self._strip)
        columns = QHBoxLayout()
        columns.addLayout(settings, 1)
        columns.addSpacing(self.fontMetrics().lineSpacing() // 2)
        columns.addLayout(pictures, 1)
        line = QHBoxLayout()
        line.addWidget(self._icon)
        line.addWidget(self._status, 1)
        everything = QVBoxLayout(self)
        everything.addLayout(columns, 1)
        everything.addWidget(self._bar)
        everything.addLayout(line)
        everything.addWidget(self._buttons)
        # Only now: before it is in the dialog it would give way to the first button that is.
        self._edit.setDefault(True)

    def _build_door(self):
        """What stands before an edit that the model cannot do; its words come with the greeting."""
        self._door_row, self._door_text = QWidget(), Sentences()
        self._get_model, self._try_anyway = QPushButton(), QPushButton()
        icon, size = QLabel(), self.style().pixelMetric(QStyle.PixelMetric.PM_SmallIconSize)
        icon.setPixmap(self.style().standardIcon(WARNING).pixmap(size, size))
        line = QHBoxLayout(self._door_row)
        line.setContentsMargins(0, 0, 0, 0)
        line.addWidget(icon)
        line.addWidget(self._door_text, 1)
        for button, slot in ((self._get_model, self._tell_of_models), (self._try_anyway, self._go_through)):
            button.setAutoDefault(False)
            button.clicked.connect(slot)
            line.addWidget(button)
        self._door_row.hide()
        return self._door_row

    def _is_closed(self):
        return bool(self._door) and not self._tries

    def _show_door(self):
        self._door_text.setText(self._door)
        self._door_row.setVisible(self._is_closed())
        self._show_state()

    def _open_help(self):
        page = self._hello["help"] or "help.html"
        if not QDesktopServices.openUrl(QUrl.fromLocalFile(page)):
            self._tell(INFO, fill(self._texts["help_is_in"], page=page))

    def _tell_of_models(self):
        self._tell(INFO, self._texts["other_models"])
        self._form.fields["model"].focus.setFocus()

    def _go_through(self):
        self._tries = True
        self._show_door()
        self._form.fields["prompt"].text.setFocus()

    def _on_ready(self, hello):
        """The engine runs; the first time it brings the table."""
        is_first = self._hello is None
        self._hello = hello if is_first else self._hello
        if is_first:
            policy, self._texts = hello["policy"], hello["texts"]
            self._work.policy = policy
            self._area.build(self._texts, self._mnemonics)
            self._strip.build(hello, self._mnemonics)
            self._curve.build(hello)
            for button, name in ((self._get_model, "get_model"), (self._try_anyway, "try_anyway")):
                button.setText(self._texts["buttons"][name]["label"])
                button.setToolTip(self._texts["buttons"][name]["tooltip"])
            self._help.setText(self._texts["help"])
            self._help.setEnabled(True)
            self._pause.setInterval(policy["pause"])
            self._form.build(hello)
            prompt = self._form.fields["prompt"]
            menu = EarlierEdits(self._source, hello, prompt.earlier)
            menu.taken.connect(self._form.write)
            menu.removed.connect(self._on_removed)
            prompt.earlier.setMenu(menu)
            self._show_first_values()
            self._pause.stop()
            self._ask_cost()
            # Opening computes nothing on its own.
            self._may_look = False
        self._show_state()

    def _show_first_values(self):
        """The recipe of the result from which the dialog was opened, else the last values of this document, else of
        any."""
        texts, runs = self._texts, self._source.history()["runs"]
        if self._source.recipe is not None:
            params, text = self._source.recipe["params"], texts["of_layer"]
        elif runs:
            params, text = runs[-1]["params"], texts["known_image"]
        else:
            params, text = self._hello["last_values"], texts["first_edit"]
        self._greeting = text
        self._tell(INFO, text)
        if params:
            self._form.write(params)
        else:
            self._form.write_default_preset()
        prompt = self._form.fields["prompt"]
        prompt.text.selectAll()
        prompt.text.setFocus()
        self._offer_earlier()

    def _offer_earlier(self):
        self._form.fields["prompt"].earlier.setEnabled(bool(self._source.history()["runs"]))

    def changeEvent(self, event):
        """Whoever comes back to this window may have painted meanwhile, or undone."""
        super().changeEvent(event)
        if event.type() == QEvent.Type.ActivationChange and self.isActiveWindow() and self._hello is not None:
            self._pause.start()
            self._offer_earlier()

    def resizeEvent(self, event):
        """What becomes higher when pictures come must not reach out of the screen with its buttons."""
        super().resizeEvent(event)
        QTimer.singleShot(0, self._stay_on_screen)

    def _stay_on_screen(self):
        room, frame = self.screen().availableGeometry(), self.frameGeometry()
        x = max(room.left(), min(frame.left(), room.right() + 1 - frame.width()))
        y = max(room.top(), min(frame.top(), room.bottom() + 1 - frame.height()))
        if (x, y) != (frame.left(), frame.top()):
            self.move(x, y)

    def _on_change(self):
        """Another setting: what it costs, and how it looks if that is there or quickly computed."""
        if self._work.is_busy():
            return
        if self._is_refused:
            self._is_refused = False
            self._tell(INFO, self._greeting)
        self._may_look = True
        self._pause.start()

    def _ask_cost(self):
        if self._hello is None or self._work.is_busy():
            return
        params = self._form.read()
        self._engine.ask({"do": "text", "text": params["prompt"], "model": params["model"]})
        self._work.estimate(params)
        self._name_edit()
        kept = self._work.results.get(params)
        if kept is not None and self._may_look:
            self._show_result(kept)

    def _on_estimate(self, params, answer):
        if self._pause.isActive():
            # It will be asked again; this answer is of the settings before, and a look at the new ones is still wanted.
            return
        self._cost.setText(answer.get("text", ""))
        if answer and answer["door"] != (self._door or None):
            self._door = answer["door"] or ""
            self._show_door()
        is_quick = (
            answer.get("tuned", False)
            and answer["seconds"] is not None
            and answer["seconds"] <= self._work.policy["at_once"]
        )
        wanted, self._may_look = self._may_look, False
        if not wanted or not is_quick or self._work.is_busy() or self._work.results.get(params) is not None:
            return
        if self._work.job is None or self._work.job.params != params:
            self._work.start(params, LOOK)

    def _on_picture(self):
        """The layer is another one; nothing that was computed belongs to it."""
        self._area.set_original(image(self._work.picture.pixels, self._work.picture.layout()))
        self._strip.clear()
        self._curve.clear()

    def _read(self):
        """Whether the layer could be read."""
        try:
            self._work.read()
            return True
        except Refused as reason:
            self._tell(FAILURE, str(reason))
            return False

    def _start(self):
        """Makes a layer of the edit that the settings say; what is kept is not computed again."""
        if self._work.is_busy() or self._hello is None or self._is_closed() or not self._read():
            return
        params = self._form.read()
        kept = self._work.results.get(params)
        if kept is not None:
            self._show_result(kept)
            if kept.layer is not None and self._source.has(kept.layer):
                self._tell(INFO, self._texts["is_layer"])
            else:
                self._insert([kept])
            return
        self._begin(params, EDIT)
        self._tell(INFO, self._texts["running"])

    def _begin(self, params, purpose):
        self._pause.stop()
        self._hint, self._may_look, self._curve_is_old = None, False, True
        self._cost.setText("")
        self._bar.setValue(0)
        self._bar.setFormat(self._texts["starting"])
        self._work.start(params, purpose)

    def _compare(self, what):
        """Fills a strip: with what is kept at once, with the rest one after the other."""
        if self._work.is_busy() or self._hello is None or not self._read():
            return
        largest = self._form.fields["seed"].row["max"]
        planned = self._strip.plan(what, self._form.read(), largest)
        self._missing = []
        for params in planned:
            kept = self._work.results.get(params)
            if kept is None:
                self._missing.append(params)
            else:
                self._strip.put(params, kept, self._caption(kept))
        self._mark_layers()
        self._compare_next()

    def _compare_next(self):
        if self._missing:
            self._tell(INFO, fill(self._texts["to_come"], count=len(self._missing)))
            self._begin(self._missing.pop(0), COMPARE)
        else:
            self._tell(INFO, self._texts["compared"])
            # Of several results the last one is seen, and the fields are of another.
            own = self._work.results.get(self._form.read())
            if own is not None:
                self._show_result(own)

    def _show_progress(self, message):
        if not self._source.is_open():
            # Nothing is left that the result could be put into.
            self._missing = []
            self._work.stop()
        self._bar.setValue(round(message["fraction"] * BAR))
        self._bar.setFormat(message["text"])
        if message["loss"] is not None:
            self._curve.show()
            if self._curve_is_old:
                self._curve.clear()
                self._curve_is_old = False
            self._curve.add(message["stage"], message["loss"])
        if message["hint"] and message["hint"] != self._hint:
            self._hint = message["hint"]
            self._tell(WARNING, self._hint)

    def _on_formed(self, picture):
        self._area.show_image(picture, tr("The picture as it forms"))

    def _on_result(self, job, result):
        report = result.message["report"]
        if report["embedding_losses"] or report["tuning_losses"]:
            self._curve.show()
            self._curve.set({"A": report["embedding_losses"], "B": report["tuning_losses"]})
        self._bar.setValue(BAR)
        self._bar.setFormat(self._texts["done"])
        if job.purpose == WHOLE:
            lacking = next(one for one in self._to_insert if one.pixels is None)
            lacking.pixels, lacking.mask = result.pixels, result.mask
            self._insert(self._to_insert)
            return
        self._strip.put(job.params, result, self._caption(result))
        self._show_result(result)
        if job.purpose == COMPARE:
            self._compare_next()
        elif job.purpose == EDIT:
            self._insert([result], WARNING if report["hint"] else SUCCESS, result.message["summary"])
        else:
            self._tell(INFO, self._texts["only_shown"])
        if "unlike" in result.message and job.purpose != COMPARE:
            self._tell(WARNING, result.message["unlike"])

    def _caption(self, result):
        params = result.message["report"]["params"]
        return fill(self._texts["result"], eta=number("{:g}".format(params["eta"])), seed=params["seed"])

    def _show_result(self, result):
        self._area.show_image(result.image, self._caption(result))
        self._strip.show_result(result)

    def _insert(self, results, tone=SUCCESS, text=""):
        """Makes layers of results that are none yet, several in a group, and says `text`, or how many they are."""
        results = [result for result in results if result.layer is None or not self._source.has(result.layer)]
        if not results:
            self._tell(INFO, self._texts["is_layer"])
            return
        lacking = next((result for result in results if result.pixels is None), None)
        if lacking is not None:
            self._to_insert = results
            self._begin(lacking.params, WHOLE)
            return
        last = results[-1].message
        group = last["name"].split(": ", 1)[1]
        edits = []
        for result in results:
            report = result.message["report"]
            name = result.message["name"]
            if len(results) > 1:
                # The group has the text already.
                name = name.split(": ", 1)[0]
            edits.append(Edited(result.picture, name, result.pixels, report, result.mask))
        try:
            layers, note = self._source.insert(edits, group, self._hello["policy"]["remembered_runs"])
        except Refused as reason:
            self._bar.setFormat("")
            self._bar.setValue(0)
            kept = " " + self._texts["kept"] if self._source.is_open() else ""
            self._tell(FAILURE, tr(str(reason)) + kept)
            return
        self._leave_active(layers, ACTIVATION)
        for result, layer in zip(results, layers):
            # The document has its pixels now.
            result.layer, result.pixels, result.mask = layer, None, None
        self._mark_layers()
        self._name_edit()
        self._offer_earlier()
        self._engine.ask({"do": "remember", "params": last["report"]["params"]})
        many = fill(self._texts["new_layers"], count=len(results))
        text = text or (self._texts["new_layer"] if len(results) == 1 else many)
        self._tell(tone, text + ("\n" + note if note else ""))

    def _leave_active(self, layers, looks):
        """Until Krita has made the new layer the active one, and the user's is that again."""
        if not self._source.leave_active(layers) and looks:
            QTimer.singleShot(ACTIVATION_PAUSE, lambda: self._leave_active(layers, looks - 1))

    def _name_edit(self):
        """The button that edits says what it will do."""
        kept = self._work.results.get(self._form.read())
        is_to_insert = kept is not None and not (kept.layer is not None and self._source.has(kept.layer))
        self._edit.setText(self._texts["insert_result"] if is_to_insert else self._edit_label)

    def _mark_layers(self):
        self._strip.mark_layers(lambda result: result.layer is not None and self._source.has(result.layer))

    def _on_removed(self, problem):
        self._mark_layers()
        self._offer_earlier()
        if problem:
            self._tell(FAILURE, problem)
        else:
            self._tell(SUCCESS, self._texts["removed"])

    def _on_end(self, job, message):
        """What ran was stopped, or failed."""
        self._missing = []
        self._bar.setFormat("")
        self._bar.setValue(0)
        if message["event"] == "stopped" and not self._source.is_open():
            self._tell(FAILURE, self._texts["closed"])
        elif message["event"] == "stopped":
            if job.purpose != LOOK:
                self._tell(INFO, self._texts["stopped"])
        else:
            self._is_refused = True
            self._tell(FAILURE, message["message"])

    def _show_state(self):
        """What can be pressed; when an edit has ended, what the next one costs."""
        busy, is_ready = self._work.is_busy(), self._hello is not None
        can_start = is_ready and not busy and not self._is_closed()
        self._edit.setEnabled(can_start)
        self._stop.setEnabled(busy)
        self._strip.set_can_start(can_start)
        if is_ready and self._work.job is None:
            self._pause.start()

    def _ask_to_stop(self):
        if self._work.is_busy():
            self._stop.setEnabled(False)
            self._missing = []
            self._work.stop()
            self._tell(INFO, self._texts["stopping"])

    def keyPressEvent(self, event):
        """Escape stops a running edit first; only the next one closes."""
        if event.key() == Qt.Key.Key_Escape and self._work.is_busy():
            self._ask_to_stop()
        else:
            super().keyPressEvent(event)

    def done(self, result):
        """However it closes: a running edit is of no use without the dialog."""
        self._pause.stop()
        self._work.drop()
        for signal, slot in self._engine_signals():
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
        elif message["event"] == "text":
            self._form.show_remarks(message)
        elif message["event"] == "model":
            self._form.show_model(message["name"], message["model"], message.get("message", ""))

    def _tell(self, icon, text):
        text = tr(text)
        size = self.style().pixelMetric(QStyle.PixelMetric.PM_SmallIconSize)
        self._icon.setPixmap(self.style().standardIcon(icon).pixmap(size, size))
        self._status.setText(text)
