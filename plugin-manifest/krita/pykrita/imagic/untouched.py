"""What an edit has not touched stays bit for bit what it was in any color space; knows nothing but bytes."""

import itertools
import operator

# Pixels that are compared at once.
CHUNK = 4096

# Whole numbers as large as a pixel of four channels with one or two bytes each.
PIXEL_TYPES = {4: "I", 8: "Q"}


def restored(result, source, came, sent, pixels):
    """`result` is the picture that `came` from the engine, in the document's color space. Wherever `came` is what was
    `sent`, the pixels of `source` take its place: the way to sRGB and back would change them a little. All have as many
    `pixels`."""
    size, own_size = len(sent) // pixels, len(source) // pixels
    before, after = (memoryview(picture).cast(PIXEL_TYPES[size]) for picture in (sent, came))
    mixed = bytearray(result)
    for start in range(0, pixels, CHUNK):
        end = min(start + CHUNK, pixels)
        if sent[start * size : end * size] == came[start * size : end * size]:
            mixed[start * own_size : end * own_size] = source[start * own_size : end * own_size]
            continue
        at = start
        for is_same, run in itertools.groupby(map(operator.eq, before[start:end], after[start:end])):
            run_end = at + sum(1 for _ in run)
            if is_same:
                mixed[at * own_size : run_end * own_size] = source[at * own_size : run_end * own_size]
            at = run_end
    return bytes(mixed)
