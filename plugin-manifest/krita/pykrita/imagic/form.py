"""The settings of an edit: one field for each row of the table of parameters, which the engine sends; knows no
documents."""

from . import fields
from .qt import QFormLayout, QGridLayout, QLabel, QTabWidget, QVBoxLayout, QWidget, pyqtSignal
from .sentences import Sentences


class Form(QTabWidget):
    """Two pages, so that the window stays as high as it is; both are empty until the table comes."""

    # Any value is another one.
    changed = pyqtSignal()
    # Enter in the target text.
    entered = pyqtSignal()
    # A model that is in no list: somebody may know more of it.
    model_named = pyqtSignal(str)

    def __init__(self, mnemonics):
        super().__init__()
        self.fields = {}
        self._mnemonics = mnemonics
        self._hello = None
        # The model that was shown last.
        self._model = None
        # Name of the model that came together with its settings: its preset would overwrite them.
        self._settled = None
        # The preset's settings are being written.
        self._applying = False
        self._rows = QFormLayout()
        self._rows.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        self._description = Sentences()
        self._columns = QGridLayout()
        for title, rows in (("Text", self._rows), ("Advanced", self._columns)):
            page = QWidget()
            layout = QVBoxLayout(page)
            layout.addLayout(rows)
            layout.addStretch()
            self.addTab(page, mnemonics.mark(title))

    def build(self, hello):
        """The fields, from the engine's greeting."""
        self._hello = hello
        half = (sum(row["advanced"] for row in hello["parameters"]) + 1) // 2
        advanced = 0
        for row in hello["parameters"]:
            field = fields.make(row, self._mnemonics, hello)
            self.fields[row["id"]] = field
            label = QLabel()
            if row["kind"] != "switch":
                label.setText(self._mnemonics.mark(row["label"]) + ":")
                label.setBuddy(field.focus)
                label.setToolTip(field.row["tooltip"])
            if row["advanced"]:
                at, column = advanced % half, advanced // half
                self._columns.addWidget(label, at, 2 * column)
                self._columns.addWidget(field, at, 2 * column + 1)
                advanced += 1
            else:
                self._rows.addRow(label, field)
            if row["id"] == "prompt":
                field.entered.connect(self.entered)
            elif row["id"] == "model":
                self._rows.addRow("", self._description)
                field.changed.connect(self._on_model)
            elif row["id"] == "preset":
                field.changed.connect(self._apply_preset)
            if of_preset(row):
                field.changed.connect(self._name_preset)
            field.changed.connect(self.changed)

    def read(self):
        """The values, as JSON has them."""
        return {name: field.value() for name, field in self.fields.items()}

    def write(self, params):
        """The model comes before those that its preset sets; what this version does not know is left out."""
        if "model" in params:
            self._settled = params["model"]
        for name, field in self.fields.items():
            if name in params:
                field.set_value(params[name])
            if name == "model" and self._model is None:
                # The list of models shows its first one from the beginning, so nothing may have changed.
                self._on_model()

    def write_default_preset(self):
        """The model that counts without a name, with what fits it."""
        name = self._hello["default_model"]
        known = self._known_model(name)
        self.write(dict((known["params"] if known else None) or {}, model=name))

    def show_model(self, name, model, problem):
        """What is known of a model that was named; None and why if nothing is."""
        if self.fields and name == self.fields["model"].value():
            self._show_model(model, problem)

    def show_remarks(self, message):
        """What the engine says of a target text, if that still is the one."""
        prompt = self.fields.get("prompt")
        if prompt is not None and message["text"] == prompt.value():
            prompt.show_remarks(message["remarks"], message["length"] or "")

    def _known_model(self, name):
        return next((model for model in self._hello["models"] if model["name"] == name), None)

    def _on_model(self):
        name = self.fields["model"].value()
        known = self._known_model(name)
        if known:
            self._show_model(known, "")
        else:
            self.model_named.emit(name)

    def _show_model(self, model, problem):
        """Description and examples; a model that was not the chosen one brings its preset."""
        description, examples = problem, []
        if model is not None:
            description, examples = model["problem"] or model["description"], model["examples"]
            if not model["problem"] and model["name"] == self._hello["builtin_model"]:
                description += " " + self._hello["texts"]["other_models"]
        self._description.setText(description)
        self._description.setVisible(bool(description))
        self.fields["prompt"].offer_examples(examples)
        is_usable = model is not None and model["params"] and not model["problem"]
        if is_usable and (self._model or {}).get("path") != model["path"]:
            self._model = model
            if self.fields["model"].value() != self._settled:
                if self.fields["preset"].value() == "custom":
                    # Those were for the model before.
                    self.write({"preset": model["params"]["preset"]})
                self._apply_preset()
                self.write({"eta": model["params"]["eta"]})
            self._settled = None

    def _preset(self):
        """The advanced settings that the chosen preset has; none for own settings."""
        name = self.fields["preset"].value()
        known = self._model["presets"].get(name) if self._model is not None and name != "custom" else None
        names = {row["id"] for row in self._hello["parameters"] if of_preset(row)}
        return {name: value for name, value in (known or {}).items() if name in names}

    def _apply_preset(self):
        self._applying = True
        self.write(self._preset())
        self._applying = False

    def _name_preset(self):
        """Shows that the settings are the user's own when they are not the preset's any more."""
        preset = self._preset()
        if not self._applying and any(not same(self.fields[name].value(), value) for name, value in preset.items()):
            self.write({"preset": "custom"})


def of_preset(row):
    """Whether the preset sets this parameter."""
    return row["advanced"] and row["affects"] != "nothing"


def same(shown, value):
    """Whether a field shows `value`; numbers may be texts there."""
    try:
        return float(shown) == float(value)
    except ValueError:
        return shown == value
