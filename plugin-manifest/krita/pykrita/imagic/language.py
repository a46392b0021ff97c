"""Texts in the language of the user, from the catalogue of all hosts; knows neither engine nor Qt."""

import json
import os
import re

# Put here by the installer: one catalogue for each language besides English.
FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "locale")

# A place for a value: `{}`, `{0}`, in the catalogue also `{#}` for a number and `{!}` for a text that is translated itself.
_PLACE = re.compile(r"\{(\d*)[#!]?\}")

_translations = {}


def use(translations):
    """Takes the catalogue, from English; an empty one means English."""
    _translations.clear()
    _translations.update((_PLACE.sub("{}", text), translation) for text, translation in translations.items())


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


def tr(text, *values):
    """`text` with `values` in its places. Values stay as they are: a name is not translated, a sentence goes through tr first."""
    translation = _translations.get(_PLACE.sub("{}", text), text)
    if not values:
        return translation
    following = iter(range(len(values)))

    def value(place):
        at = next(following)
        return str(values[int(place.group(1)) if place.group(1) else at])

    return _PLACE.sub(value, translation)
