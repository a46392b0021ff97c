"""Texts in the language of the user, from the catalogue of all hosts; knows neither engine nor Qt."""

import json
import os
import re

# Put here by the installer: one catalogue for each language besides English.
FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "locale")

# A place for a value: `{}`, `{0}`, in the catalogue also `{#}` for a number and `{!}` for a text that is translated
# itself.
_PLACE = re.compile(r"\{(\d*)([#!]?)\}")

# The entry that tells how numbers are written.
_NUMBER = "0.5"

# From English to the translation, and to which of the places are of numbers.
_translations, _numbers = {}, {}


def use(translations):
    """Takes the catalogue, from English; an empty one means English."""
    _translations.clear()
    _numbers.clear()
    for text, translation in translations.items():
        key = _PLACE.sub("{}", text)
        _translations[key] = translation
        _numbers[key] = [place.group(2) == "#" for place in _PLACE.finditer(text)]


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
    return str(text).replace(".", _translations.get(_NUMBER, _NUMBER).strip("0123456789"))


def tr(text, *values):
    """`text` with `values` in its places. Values stay as they are, but for the sign in a number: a name is not
    translated, a sentence goes through tr first."""
    key = _PLACE.sub("{}", text)
    translation = _translations.get(key, text)
    if not values:
        return translation
    is_number = _numbers.get(key, [False] * len(values))
    following = iter(range(len(values)))

    def value(place):
        at = next(following)
        at = int(place.group(1)) if place.group(1) else at
        return number(values[at]) if is_number[at] else str(values[at])

    return _PLACE.sub(value, translation)
