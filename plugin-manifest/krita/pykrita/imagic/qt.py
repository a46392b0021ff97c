"""Qt as this Krita has it, the only module that knows that there are two. The others write enums with their class
(`Qt.Key.Key_Escape`) and call what both have."""

from krita import Krita

# Of Krita's own classes, because both may be installed, and another package may have loaded the one that is not
# Krita's.
PYQT = Krita.__base__.__module__.split(".")[0]

if PYQT == "PyQt6":
    from PyQt6.QtCore import *
    from PyQt6.QtGui import *
    from PyQt6.QtWidgets import *
else:
    from PyQt5.QtCore import *
    from PyQt5.QtGui import *
    from PyQt5.QtWidgets import *
