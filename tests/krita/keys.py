"""Prints the texts of the Krita package as JSON, places as `{}`: those that `tr` gets as they stand; all others, of
which tables and variables may hold some that `tr` gets later; and those of the dialog's files. Run by
tests/language.rs."""

import ast
import json
import pathlib
import re

# What knows no dialog: it speaks of Krita's documents, or where there is no engine.
_NO_DIALOG = ("__init__.py", "document.py", "engine.py", "workshop.py")

_package = pathlib.Path(__file__).parents[2] / "plugin-manifest/krita/pykrita/imagic"


def _is_text(node):
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _is_tr(call):
    return isinstance(call, ast.Call) and "tr" in (getattr(call.func, "id", ""), getattr(call.func, "attr", ""))


def main():
    translated, others, dialog = set(), set(), set()
    for file in _package.glob("*.py"):
        nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
        texts = {node.value for node in nodes if _is_text(node)}
        others |= texts
        if file.name not in _NO_DIALOG:
            dialog |= texts
        translated.update(node.args[0].value for node in nodes if _is_tr(node) and _is_text(node.args[0]))
    places = [sorted(re.sub(r"\{\w*\}", "{}", text) for text in texts) for texts in (translated, others, dialog)]
    print(json.dumps(places))


if __name__ == "__main__":
    main()
