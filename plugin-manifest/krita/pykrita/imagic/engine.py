"""The engine as a child process, so that its end is not Krita's; knows no documents and no widgets."""

import contextlib
import os

from . import language
from .language import tr
from .protocol import PROTOCOL, ProtocolError, Reader, encode
from .qt import QApplication, QLocale, QObject, QProcess, QProcessEnvironment, QTimer, pyqtSignal

# Put here by the installer, as a link, or with its library and models by Krita's importer of plug-ins.
PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "imagic-edit" + (".exe" if os.name == "nt" else ""))

REMEDY = "install Imagic Edit again and restart Krita"

# Milliseconds that the engine gets for its last step and for what it has to write when Krita ends.
PATIENCE = 20000

# How much of what the engine wrote on its error output is kept.
KEPT_MESSAGES = 2000


class Engine(QObject):
    """One process for all dialogs: started when one needs it, again after it died, and ended with the last dialog."""

    # The greeting came: parameters, models, texts.
    ready = pyqtSignal(dict)
    # It does not start, or died; the text is a sentence with a remedy. Running jobs hear it as well.
    died = pyqtSignal(str)
    # An answer that belongs to no job.
    answered = pyqtSignal(dict)

    def __init__(self, parent=None):
        super().__init__(parent)
        self.hello = None
        self._process = None
        self._reader = None
        # Those whose input is closed already.
        self._ending = []
        self._users = set()
        # Who listens, by job number.
        self._listeners = {}
        self._last_job = 0
        # The picture that was sent last, with which job, and whether the engine took it: then it need not be sent
        # again. The engine keeps one picture for all dialogs.
        self._sent, self._sent_with, self._taken = None, None, False
        self._messages = ""
        QApplication.instance().aboutToQuit.connect(self._wait_for_all)

    def attach(self, user):
        """`user` needs the engine from now on."""
        self._users.add(user)
        if self._process is None:
            self._start()
        elif self.hello is not None:
            self.ready.emit(self.hello)

    def detach(self, user):
        """`user` needs it no more."""
        self._users.discard(user)
        if not self._users and self._process is not None:
            self._let_end()

    def _let_end(self):
        # The engine ends when its input does.
        process, self._process, self.hello = self._process, None, None
        self._listeners.clear()
        process.disconnect()
        self._ending.append(process)
        process.finished.connect(lambda: self._forget(process))
        process.closeWriteChannel()

    def _forget(self, process):
        self._ending.remove(process)
        process.deleteLater()

    def _wait_for_all(self):
        """Krita ends, and its children with it: what an edit has done so far is to be on the disk by then."""
        if self._process is not None:
            self._let_end()
        for process in list(self._ending):
            process.waitForFinished(PATIENCE)

    def edit(self, order, picture, listener):
        """Starts an edit of `picture` and returns its number; `listener(message, pixels)` hears of it until it has
        ended."""
        if self._process is None:
            self._start()
        return self._submit("edit", order, picture, listener)

    def estimate(self, order, picture, listener):
        """Asks what an edit would cost; `listener` hears one answer, none if there is no engine."""
        if self._process is not None:
            self._submit("estimate", order, picture, listener)

    def _submit(self, what, order, picture, listener):
        self._last_job += 1
        self._listeners[self._last_job] = listener
        message, pixels = dict(order, do=what, job=self._last_job), b""
        if picture is not self._sent or not self._taken:
            message.update(picture.layout(), selection=picture.coverage is not None)
            pixels = picture.pixels + (picture.coverage or b"")
            self._sent, self._sent_with, self._taken = picture, self._last_job, False
        self.ask(message, pixels)
        return self._last_job

    def stop(self, job):
        """Asks the job to stop; it does within one step."""
        self.ask({"do": "stop", "job": job})

    def ask(self, message, pixels=b""):
        """Sends one message; without an engine there is nobody to hear it."""
        if self._process is not None:
            self._process.write(encode(message, pixels))

    def _start(self):
        self._process = process = QProcess(self)
        self._reader = Reader()
        self._sent, self._sent_with, self._taken = None, None, False
        self._messages = ""
        environment = QProcessEnvironment.systemEnvironment()
        # Krita's AppImage sets it for its own libraries.
        environment.remove("LD_LIBRARY_PATH")
        # Krita's own choice, which may differ from the system's.
        environment.insert("LANGUAGE", language.environment_names(QLocale().uiLanguages()))
        process.setProcessEnvironment(environment)
        process.readyReadStandardOutput.connect(self._read)
        process.readyReadStandardError.connect(self._read_messages)
        # Later, because it may come before start() returns, when nobody listens yet; Qt cannot queue this signal.
        process.errorOccurred.connect(lambda error: QTimer.singleShot(0, lambda: self._on_error(process, error)))
        process.finished.connect(self._on_finished)
        # Krita's importer unpacks it as a file that cannot be started. What is refused here is told by what follows.
        if os.path.isfile(PROGRAM) and not os.access(PROGRAM, os.X_OK):
            with contextlib.suppress(OSError):
                os.chmod(PROGRAM, 0o755)
        process.start(PROGRAM, ["serve"])

    def _read(self):
        try:
            messages = self._reader.feed(bytes(self._process.readAllStandardOutput()))
        except ProtocolError as error:
            self._end(tr("{}; {}.", _capitalized(error), tr(REMEDY)))
            return
        for message, pixels in messages:
            self._hear(message, pixels)

    def _hear(self, message, pixels):
        if message["event"] == "hello":
            if message["protocol"] != PROTOCOL:
                self._end(tr("The engine and this plug-in are of different versions; {}.", tr(REMEDY)))
                return
            self.hello = message
            self.ready.emit(message)
            return
        job = message.get("job")
        listener = self._listeners.get(job)
        if message["event"] in ("done", "stopped", "failed", "estimate"):
            self._listeners.pop(job, None)
        if job is not None and job == self._sent_with and message["event"] != "failed":
            self._taken = True
        if listener is not None:
            listener(message, pixels)
        elif job is None:
            self.answered.emit(message)

    def _read_messages(self):
        text = bytes(self._process.readAllStandardError()).decode("utf-8", "replace")
        self._messages = (self._messages + text)[-KEPT_MESSAGES:]

    def _on_error(self, process, error):
        if process is self._process and error == QProcess.ProcessError.FailedToStart:
            reason = self._process.errorString()
            self._end(tr("{} does not start: {}; {}.", PROGRAM, reason, tr(REMEDY)))

    def _on_finished(self, status, how):
        self._read_messages()
        crashed = how == QProcess.ExitStatus.CrashExit
        what = tr("The engine crashed") if crashed else tr("The engine ended with status {}", status)
        last = self._messages.strip().splitlines()[-1:]
        said = tr(" It said last: {}", last[0]) if last else ""
        remedy = (
            "the next edit starts it anew; if this comes again, imagic-edit doctor in a terminal says what is wrong"
        )
        self._end(tr("{}. The document is untouched, and {}.{}", what, tr(remedy), said))

    def _end(self, reason):
        """Whoever waits for the engine hears why it is gone."""
        process, self._process, self.hello = self._process, None, None
        process.disconnect()
        process.kill()
        process.deleteLater()
        listeners, self._listeners = self._listeners, {}
        for listener in listeners.values():
            listener({"event": "failed", "message": reason}, b"")
        self.died.emit(reason)


def _capitalized(error):
    text = str(error)
    return text[:1].upper() + text[1:]
