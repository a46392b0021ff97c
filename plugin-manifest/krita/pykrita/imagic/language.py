"""Texts in the language of the user, from the catalogue of all hosts; knows neither engine nor Qt."""

import json
import os
import re

# Put here by the installer: one catalogue for each language besides English.
FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "locale")

# A place for a value: `{}` here, `{name}` or `{0}` in the catalogue.
_PLACE = re.compile(r"\{(\w*)\}")

# The entry that tells how numbers are written.
_NUMBER = "0.5"

# From English, its places without names, to their names and the translation.
_translations = {}


def use(translations):
    """Takes the catalogue, from English; an empty one means English."""
    _translations.clear()
    for text, translation in translations.items():
        _translations[_PLACE.sub("{}", text)] = (_PLACE.findall(text), translation)


def load(languages, folder=FOLDER):
    """Takes the catalogue of the first of Qt's languages, such as de-DE and de, that has one or is English."""
    for name in languages:
        language = name.split("-")[0]
        file = os.path.join(folder, language + ".json")
        if language == "en":
            break
        if os.path.isfile(file):
            with open(file, encoding="utf-8") as catalogue:
                use(json.load(catalogue))
            return
    use({})


def environment_names(languages):
    """Qt's list of languages, such as de-DE and de, as LANGUAGE has it."""
    return ":".join(name.replace("-", "_") for name in languages)


def number(text):
    """The number `text`, such as 0.25, as the language writes it."""
    return str(text).replace(".", tr(_NUMBER).strip("0123456789"))


def tr(text, *values):
    """`text` with `values` in its places. Numbers are written as in the language; everything else stays as it is: a
    name is not translated, and a sentence or a formatted number goes through tr or number first."""
    names, translation = _translations.get(_PLACE.sub("{}", text), ([], text))
    if not values:
        return translation
    following = iter(values)
    by_name = dict(zip(names, values))
    return _PLACE.sub(lambda place: _shown(by_name[place.group(1)] if place.group(1) else next(following)), translation)


def fill(text, /, **values):
    """A text of the engine, which is translated, with `values` in its places; otherwise as tr."""
    return _PLACE.sub(lambda place: _shown(values[place.group(1)]), text)


def _shown(value):
    return number(value) if isinstance(value, (int, float)) else str(value)
