"""What one dialog has the engine do for its layer: one edit at a time, and what the next one will cost. Knows no
widgets."""

from .qt import QImage, QObject, pyqtSignal
from .results import Result, Results, image
from .workshop import Refused

# Why a picture is computed: to become a layer, to lie in a strip, only to be looked at, or because one that was looked
# at is to become a layer.
EDIT, COMPARE, LOOK, WHOLE = "edit", "compare", "look", "whole"


class Job:
    """One edit that runs."""

    def __init__(self, picture, params, purpose):
        self.number = None
        self.picture, self.params, self.purpose = picture, params, purpose


class Work(QObject):
    """Owns the picture that was read of the layer, its results, and what runs."""

    # The layer or the selection is another one than before; results of the former picture are gone.
    picture_changed = pyqtSignal()
    # Something began or ended.
    state_changed = pyqtSignal()
    # The parameters that were asked for, and the engine's answer; {} where there is none.
    estimated = pyqtSignal(dict, dict)
    progressed = pyqtSignal(dict)
    # The picture as it is so far.
    formed = pyqtSignal(QImage)
    # The job and its result.
    finished = pyqtSignal(object, object)
    # The job, and what the engine said: it was stopped or failed.
    ended = pyqtSignal(object, dict)

    def __init__(self, source, engine):
        # Without a parent: when Krita quits, the engine may still speak while the dialog is gone.
        super().__init__()
        self._source, self._engine = source, engine
        self.picture = None
        self.results = Results()
        self.job = None
        # What the engine says of all dialogs.
        self.policy = None
        # Stands for the latest question; answers to earlier ones are stale.
        self._question = None

    def is_busy(self):
        """Whether something runs that the user waits for."""
        return self.job is not None and self.job.purpose != LOOK

    def read(self):
        """Reads the layer again; what cannot be read is refused."""
        picture = self._source.read(self.picture)
        if picture is not self.picture:
            self.picture = picture
            self.results.clear()
            self.picture_changed.emit()

    def estimate(self, params):
        """Asks what an edit would cost."""
        self._question = question = object()
        if self.job is not None and self.job.purpose == LOOK and self.job.params != params:
            # Otherwise the answer would come only after it.
            self.drop()
            self._question = question

        def hear(message, _):
            if question is self._question:
                self.estimated.emit(params, message if message["event"] == "estimate" else {})

        try:
            self.read()
        except Refused:
            # The edit will say why.
            self.estimated.emit(params, {})
            return
        self._engine.estimate(self._order(params), self.picture, hear)

    def start(self, params, purpose):
        """Computes one picture; the one that was only to be looked at makes way."""
        self._question = None
        if self.job is not None and self.job.purpose == LOOK:
            if purpose == EDIT and self.job.params == params and self.job.picture is self.picture:
                self.job.purpose = EDIT
                self.state_changed.emit()
                return
            self.drop()
        job = self.job = Job(self.picture, params, purpose)
        order = self._order(params)
        if purpose == EDIT:
            order["previews"] = self.policy["previews"]
        elif purpose != WHOLE:
            # Rendered no larger than it is shown.
            order["side"] = self.policy["shown_side"]
        job.number = self._engine.edit(order, self.picture, lambda message, pixels: self._hear(job, message, pixels))
        self.state_changed.emit()

    def stop(self):
        """Asks what runs to stop; its end is told."""
        if self.job is not None:
            self._engine.stop(self.job.number)

    def drop(self):
        """Nobody waits any more for what runs; its end is not told."""
        job, self.job, self._question = self.job, None, None
        if job is not None:
            self._engine.stop(job.number)

    def _order(self, params):
        return {"params": params, "document": self._source.history()["document"]}

    def _hear(self, job, message, pixels):
        if job is not self.job:
            return
        if message["event"] == "progress":
            if "preview" in message:
                self.formed.emit(image(pixels, dict(job.picture.layout(), **message["preview"])))
            self.progressed.emit(message)
            return
        self.job = None
        if message["event"] == "done":
            result = Result(job.picture, job.params, message, pixels)
            if job.picture is self.picture and job.purpose != WHOLE:
                self.results.keep(result)
            self.finished.emit(job, result)
        else:
            self.ended.emit(job, message)
        self.state_changed.emit()
