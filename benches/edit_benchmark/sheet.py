"""Pictures in rows with words beside and above them."""

import textwrap

import numpy as np
from PIL import Image, ImageDraw, ImageFont

GAP = 6  # pixels


def sheet(
    rows: list[tuple[str, list[np.ndarray]]], columns: list[str], cell: int = 128, words: int = 150, size: int = 14
) -> Image.Image:
    """Each row its words, `words` pixels wide (0: none), and its square pictures, each `cell` pixels wide, under the
    columns' words."""
    font = ImageFont.load_default(size)
    top = (size + GAP) * max((len(wrap(text, cell, size)) for text in columns), default=0) + GAP
    image = Image.new("RGB", (words + len(columns) * (cell + GAP) + GAP, top + len(rows) * (cell + GAP)), "white")
    draw = ImageDraw.Draw(image)
    for i, text in enumerate(columns):
        middle = words + GAP + i * (cell + GAP) + cell / 2
        draw.multiline_text(
            (middle, top - GAP / 2), "\n".join(wrap(text, cell, size)), "black", font, "md", align="center"
        )
    for j, (text, pictures) in enumerate(rows):
        y = top + j * (cell + GAP)
        if words:
            draw.multiline_text(
                (words - GAP, y + cell / 2), "\n".join(wrap(text, words, size)), "black", font, "rm", align="right"
            )
        for i, picture in enumerate(pictures):
            # Small pictures get bigger pixels, large ones are averaged.
            how = Image.Resampling.NEAREST if picture.shape[1] <= cell else Image.Resampling.BOX
            image.paste(Image.fromarray(picture).resize((cell, cell), how), (words + GAP + i * (cell + GAP), y))
    return image


def wrap(text: str, width: int, size: int) -> list[str]:
    """In lines that fit; a letter is about half as wide as high."""
    return textwrap.wrap(text, max(1, int(width / (0.53 * size))))
