"""Small pictures in many color spaces, and what LittleCMS makes of them in sRGB: writes tests/fixtures/pictures.

Everything in them is made here, the ICC profiles too. Run with Pillow 13, which brings LittleCMS 2.19:

    python tests/reference/make_pictures.py
"""

import io
import json
import struct
import zlib
from pathlib import Path

from PIL import Image, ImageCms

FOLDER = Path(__file__).parent.parent / "fixtures/pictures"

# Side of a patch of one color; JPEG has blocks of 8.
SIDE = 16

D50 = (0.9642, 1.0, 0.8249)
ADOBE = [(0.3127, 0.3290), (0.64, 0.33), (0.21, 0.71), (0.15, 0.06)]
PROPHOTO = [(0.3457, 0.3585), (0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001)]
SRGB = [(0.3127, 0.3290), (0.64, 0.33), (0.30, 0.60), (0.15, 0.06)]
P3 = [(0.3127, 0.3290), (0.680, 0.320), (0.265, 0.690), (0.150, 0.060)]

COLORS = [(200, 100, 50), (60, 180, 90), (30, 40, 200), (128, 128, 128), (250, 240, 20), (0, 0, 0), (255, 255, 255)]
# Inside of sRGB, for spaces that are much larger.
MUTED = [(150, 110, 70), (90, 100, 75), (80, 70, 110), (128, 128, 128), (200, 190, 120), (0, 0, 0), (255, 255, 255)]
GRAYS = [(0,), (16,), (64,), (128,), (200,), (240,), (255,)]
INKS = [
    (200, 20, 0, 10),
    (0, 230, 40, 0),
    (10, 0, 220, 30),
    (0, 0, 0, 128),
    (120, 90, 90, 20),
    (0, 0, 0, 0),
    (255,) * 4,
]


def inverse(m):
    (a, b, c), (d, e, f), (g, h, i) = m
    det = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
    rows = [
        [e * i - f * h, c * h - b * i, b * f - c * e],
        [f * g - d * i, a * i - c * g, c * d - a * f],
        [d * h - e * g, b * g - a * h, a * e - b * d],
    ]
    return [[value / det for value in row] for row in rows]


def times(m, n):
    return [[sum(row[k] * n[k][j] for k in range(3)) for j in range(len(n[0]))] for row in m]


def xyz(point):
    x, y = point
    return [x / y, 1.0, (1 - x - y) / y]


def colorants(points):
    """XYZ of red, green and blue, adapted to D50 (Bradford)."""
    white, *primaries = [xyz(point) for point in points]
    columns = [list(column) for column in zip(*primaries, strict=True)]
    scales = times(inverse(columns), [[value] for value in white])
    bradford = [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
    here, there = (times(bradford, [[value] for value in point]) for point in (white, D50))
    gains = [[there[i][0] / here[i][0] if i == j else 0.0 for j in range(3)] for i in range(3)]
    adapted = times(times(inverse(bradford), times(gains, bradford)), columns)
    return [[adapted[row][column] * scales[column][0] for row in range(3)] for column in range(3)]


def profile(space, pcs, tags, kind=b"mntr"):
    """An ICC profile of version 2.1."""
    tags = {b"desc": text(b"desc", b"test"), b"cprt": b"text\0\0\0\0CC0\0", b"wtpt": point(D50), **tags}
    table, data, start = b"", b"", 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        table += name + struct.pack(">II", start + len(data), len(content))
        data += content + b"\0" * (-len(content) % 4)
    head = struct.pack(">I4sI4s4s4s12s4s", start + len(data), b"", 0x02100000, kind, space, pcs, b"\0" * 12, b"acsp")
    head += b"\0" * 28 + struct.pack(">iii", *(round(value * 65536) for value in D50))
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + data


def text(name, content):
    return name + b"\0" * 4 + struct.pack(">I", len(content) + 1) + content + b"\0" + b"\0" * 78


def point(value):
    return b"XYZ \0\0\0\0" + struct.pack(">iii", *(round(number * 65536) for number in value))


def gamma_curve(gamma):
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"


def srgb_curve():
    light = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in (i / 1023 for i in range(1024))]
    return b"curv\0\0\0\0" + struct.pack(">I1024H", 1024, *(round(value * 65535) for value in light))


def rgb_profile(points, curve):
    tags = {name: point(value) for name, value in zip((b"rXYZ", b"gXYZ", b"bXYZ"), colorants(points), strict=True)}
    return profile(b"RGB ", b"XYZ ", tags | {b"rTRC": curve, b"gTRC": curve, b"bTRC": curve})


def gray_profile(gamma):
    return profile(b"GRAY", b"XYZ ", {b"kTRC": gamma_curve(gamma)})


def cmyk_profile():
    """A printer whose inks absorb as simple ones do: a table of 9 x 9 x 9 x 9 colors in Lab."""
    grid = 9
    inks = {"c": (0.05, 0.45, 0.75), "m": (0.75, 0.08, 0.35), "y": (0.9, 0.8, 0.05), "k": (0.03, 0.03, 0.03)}
    table = bytearray()
    for index in range(grid**4):
        amounts = [index // grid**power % grid / (grid - 1) for power in (3, 2, 1, 0)]
        light = [0.95, 0.95, 0.95]
        for amount, ink in zip(amounts, inks.values(), strict=True):
            light = [value * (1 - amount + amount * through) for value, through in zip(light, ink, strict=True)]
        x, y, z = (sum(c[row] * value for c, value in zip(colorants(SRGB), light, strict=True)) for row in range(3))
        f = [
            value ** (1 / 3) if value > 0.008856 else 7.787 * value + 16 / 116 for value in (x / D50[0], y, z / D50[2])
        ]
        lab = [116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])]
        table += bytes([round(lab[0] * 2.55), *(max(0, min(255, round(value + 128))) for value in lab[1:])])
    matrix = struct.pack(">9i", *(65536 if i % 4 == 0 else 0 for i in range(9)))
    ramp = bytes(range(256))
    lut = b"mft1\0\0\0\0" + bytes([4, 3, grid, 0]) + matrix + ramp * 4 + bytes(table) + ramp * 3
    # It goes one way only: nothing is converted to it.
    return profile(b"CMYK", b"Lab ", {b"A2B0": lut}, b"prtr")


def srgb_of(icc, mode, colors):
    """What LittleCMS makes of `colors`: perceptual, as most programs open pictures."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    exact = 0x0100
    transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB", 0, exact)
    picture = Image.new(mode, (len(colors), 1))
    for at, color in enumerate(colors):
        picture.putpixel((at, 0), color if len(color) > 1 else color[0])
    picture = ImageCms.applyTransform(picture, transform)
    return [picture.getpixel((at, 0)) for at in range(len(colors))]


def rows(colors):
    return [[color for color in colors for _ in range(SIDE)]] * SIDE


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(name, colors, chunks, depth=8, palette=None):
    kind = 3 if palette else {1: 0, 3: 2}[len(colors[0])]
    width = SIDE * len(colors)
    # 8 bits become 16 as everywhere: 255 is 65535.
    values = {
        color: bytes(color) if depth == 8 else struct.pack(f">{len(color)}H", *(257 * v for v in color))
        for color in colors
    }
    pixels = b"".join(b"\0" + b"".join(values[color] for color in row) for row in rows(colors))
    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", width, SIDE, depth, kind, 0, 0, 0))]
    parts += [chunk(key, content) for key, content in chunks]
    if palette:
        parts.append(chunk(b"PLTE", b"".join(bytes(color) for color in palette)))
    parts += [chunk(b"IDAT", zlib.compress(pixels, 9)), chunk(b"IEND", b"")]
    (FOLDER / name).write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def iccp(icc):
    return (b"iCCP", b"icc\0\0" + zlib.compress(icc, 9))


def ink_jpeg(name, inks, icc, ycck):
    picture = Image.new("CMYK", (SIDE * len(inks), SIDE))
    for x in range(picture.width):
        c, m, y, k = inks[x // SIDE]
        if ycck:
            # What stands in a YCCK file of Adobe's: ink as if it were red, green and blue.
            luminance = 0.299 * c + 0.587 * m + 0.114 * y
            values = (luminance, 128 + (y - luminance) / 1.772, 128 + (c - luminance) / 1.402, 255 - k)
            c, m, y, k = (255 - round(max(0, min(255, value))) for value in values)
        for row in range(SIDE):
            picture.putpixel((x, row), (c, m, y, k))
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=100, subsampling=0, icc_profile=icc)
    data = bytearray(out.getvalue())
    if ycck:
        data[data.index(b"Adobe") + 11] = 2
    (FOLDER / name).write_bytes(data)
    again = Image.open(FOLDER / name)
    return [again.getpixel((SIDE * at + SIDE // 2, SIDE // 2)) for at in range(len(inks))]


def main():
    FOLDER.mkdir(exist_ok=True)
    adobe, prophoto = (rgb_profile(ADOBE, gamma_curve(2.2)), rgb_profile(PROPHOTO, gamma_curve(1.8)))
    linear, p3, gray = rgb_profile(SRGB, gamma_curve(1.0)), rgb_profile(P3, srgb_curve()), gray_profile(1.8)
    expected = {}

    def case(name, colors, icc, mode="RGB"):
        expected[name] = {"numbers": colors, "srgb": srgb_of(icc, mode, colors)}

    png("adobergb.png", COLORS, [iccp(adobe)])
    case("adobergb.png", COLORS, adobe)
    png("prophoto-16.png", MUTED, [iccp(prophoto)], depth=16)
    case("prophoto-16.png", MUTED, prophoto)
    png("palette.png", [(i,) for i in range(len(COLORS))], [iccp(adobe)], palette=COLORS)
    case("palette.png", COLORS, adobe)
    png("gray.png", GRAYS, [iccp(gray)])
    case("gray.png", GRAYS, gray, "L")
    png("gamma.png", COLORS, [(b"gAMA", struct.pack(">I", 100_000))])
    case("gamma.png", COLORS, linear)
    points = struct.pack(">8I", *(round(value * 100_000) for point in ADOBE for value in point))
    png("chromaticities.png", COLORS, [(b"gAMA", struct.pack(">I", 45_455)), (b"cHRM", points)])
    case("chromaticities.png", COLORS, adobe)
    png("code-points.png", COLORS, [(b"cICP", bytes([12, 13, 0, 1]))])
    case("code-points.png", COLORS, p3)
    for name, ycck in (("cmyk.jpg", False), ("ycck.jpg", True)):
        icc = cmyk_profile()
        inks = ink_jpeg(name, INKS, icc, ycck)
        case(name, inks, icc, "CMYK")
    (FOLDER / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
