"""The picture of a scene: drawn with ellipses, polygons and strokes, at any size.

Coordinates are fractions of the shorter side of the picture: x to the right, y down. Pictures that are
not square show more of the background around the same square.
"""

import random

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from scenes import Scene

COLORS = {
    "red": (214, 44, 40),
    "orange": (244, 138, 26),
    "yellow": (246, 220, 60),
    "green": (44, 160, 66),
    "blue": (46, 98, 214),
    "purple": (128, 52, 176),
    "pink": (244, 132, 184),
    "white": (244, 244, 240),
    "black": (36, 36, 42),
    "brown": (122, 76, 42),
}
# background: sky at the top, sky at the horizon, ground near the viewer, ground at the horizon
PALETTES = {
    "grass": ((110, 170, 235), (200, 225, 245), (70, 140, 50), (110, 170, 70)),
    "beach": ((90, 160, 230), (190, 220, 245), (225, 200, 140), (240, 220, 170)),
    "snow": ((150, 175, 205), (215, 225, 235), (206, 217, 232), (228, 235, 244)),
    "desert": ((240, 190, 120), (250, 225, 170), (205, 130, 60), (225, 160, 90)),
    "night": ((10, 12, 40), (40, 45, 90), (30, 48, 48), (44, 66, 68)),
    "sunset": ((90, 50, 120), (250, 140, 60), (70, 50, 60), (110, 70, 60)),
}
LIGHT = {"night": 0.7, "sunset": 0.88}  # how much the light dims a thing; 1 elsewhere
# Things drawn taller than a dog are drawn smaller, so that a big one still fits the picture.
FIT = {"person": 0.84, "bird": 0.95, "balloon": 0.85, "tree": 0.95, "car": 1.05, "ball": 1.1, "box": 1.1, "fish": 1.1}


def edit_truth(scene: Scene, edited: Scene, width: int, height: int | None = None):
    """(source picture, true target picture, mask of the pixels that must stay)."""
    source, target = render(scene, width, height), render(edited, width, height)
    keep = np.abs(source.astype(int) - target.astype(int)).max(-1) < 8
    return source, target, keep


def render(scene: Scene, width: int, height: int | None = None, supersampling: int = 4) -> np.ndarray:
    """The picture, (height, width, 3) uint8. Square if no height is given."""
    height = height or width
    pen = Pen(width * supersampling, height * supersampling)
    draw_background(pen, scene)
    draw_clutter(pen, scene)
    draw_thing(pen, scene)
    image = pencil_sketch(pen) if scene.style == "sketch" else pen.image
    return np.asarray(image.resize((width, height), Image.BOX))


def pencil_sketch(pen) -> Image.Image:
    """Dark lines where neighbours differ, faint tones elsewhere; lines scale with the picture."""
    gray = pen.image.convert("L")
    lightest = darkest = gray
    for _ in range(max(1, round(0.004 * pen.unit))):  # half a line's width
        lightest, darkest = lightest.filter(ImageFilter.MaxFilter(3)), darkest.filter(ImageFilter.MinFilter(3))
    lines = ImageChops.subtract(lightest, darkest).point(lambda contrast: min(130, max(0, contrast - 8) * 4))
    paper = gray.point(lambda tone: 238 - (255 - tone) * 18 // 100)
    return ImageChops.subtract(paper, lines).convert("RGB")


def mix(a, b, share):
    """Color `a` with `share` of `b` in it."""
    return tuple(int(round(p * (1 - share) + q * share)) for p, q in zip(a, b))


def shade(color, factor):
    return tuple(int(max(0, min(255, p * factor))) for p in color)


class Pen:
    """Draws on an image in scene coordinates."""

    def __init__(self, width, height):
        self.image = Image.new("RGB", (width, height))
        self.draw = ImageDraw.Draw(self.image)
        self.unit = min(width, height)
        self.left, self.top = (width - self.unit) / 2, (height - self.unit) / 2

    def at(self, x, y):
        return self.left + x * self.unit, self.top + y * self.unit

    def gradient(self, first_row, last_row, first_color, last_color):
        rows = np.linspace(0, 1, max(1, last_row - first_row))[:, None]
        colors = np.array(first_color) * (1 - rows) + np.array(last_color) * rows
        strip = np.repeat(colors[:, None], self.image.width, 1).astype(np.uint8)
        self.image.paste(Image.fromarray(strip), (0, first_row))

    def ellipse(self, x, y, rx, ry, color):
        self.draw.ellipse([self.at(x - rx, y - ry), self.at(x + rx, y + ry)], fill=color)

    def polygon(self, points, color):
        self.draw.polygon([self.at(x, y) for x, y in points], fill=color)

    def line(self, points, width, color):
        """A stroke with round ends and joints."""
        pixels = max(1, int(width * self.unit))
        self.draw.line([self.at(x, y) for x, y in points], fill=color, width=pixels, joint="curve")
        for x, y in points:
            self.ellipse(x, y, width / 2, width / 2, color)


def draw_background(pen, scene):
    sky_top, sky_low, ground_near, ground_far = PALETTES[scene.background]
    horizon, hills = scene.horizon, scene.mountains
    row = int(pen.at(0, horizon)[1])
    pen.gradient(0, row, sky_top, sky_low)
    pen.gradient(row, pen.image.height, ground_far, ground_near)
    # Ridges start and end far outside the square, for pictures that are not square.
    if scene.background == "night":
        stars = random.Random(5)  # the same sky every night: one thing less to learn
        for _ in range(60):
            x, y, size = stars.uniform(-1, 2), stars.uniform(0.02, 0.5), stars.uniform(0.006, 0.01)
            pen.ellipse(x, y, size, size, (250, 250, 220))
        pen.ellipse(scene.sun, 0.14, 0.07, 0.07, (245, 240, 205))
        pen.ellipse(scene.sun + 0.03, 0.125, 0.06, 0.06, mix(sky_top, sky_low, 0.2))
    elif scene.background == "sunset":
        pen.ellipse(scene.sun, horizon - 0.03, 0.12, 0.12, (255, 225, 110))
        pen.polygon([(-3, horizon), (4, horizon), (4, 4), (-3, 4)], ground_near)
        pen.polygon([(-3, horizon), (4, horizon), (4, horizon + 0.06), (-3, horizon + 0.06)], ground_far)
    elif scene.background != "snow":
        pen.ellipse(scene.sun, 0.13, 0.07, 0.07, (255, 244, 170))
    if scene.background == "beach":
        sea = [(-3, horizon - 0.07), (4, horizon - 0.07), (4, horizon + 0.02), (-3, horizon + 0.03)]
        pen.polygon(sea, (40, 120, 190))
    elif scene.background == "desert":
        dunes = [
            (-3, horizon),
            (0, horizon),
            (0.25, horizon - 0.1 - 0.05 * hills),
            (0.6, horizon),
            (0.8, horizon - 0.07 + 0.05 * hills),
            (1.1, horizon),
            (4, horizon),
            (4, horizon + 0.01),
            (-3, horizon + 0.01),
        ]
        pen.polygon(dunes, (215, 150, 85))
    elif scene.background == "snow":
        peaks = [
            (-3, horizon),
            (0, horizon),
            (0.2, horizon - 0.16),
            (0.4, horizon - 0.02),
            (0.65, horizon - 0.2 - 0.04 * hills),
            (1.05, horizon),
            (4, horizon),
            (4, horizon + 0.01),
            (-3, horizon + 0.01),
        ]
        pen.polygon(peaks, (190, 205, 222))


def draw_clutter(pen, scene):
    _, sky_low, ground_near, _ = PALETTES[scene.background]
    for what, x, y, size in scene.clutter:
        if what == "cloud" and scene.background != "night":
            white, y = mix(sky_low, (255, 255, 255), 0.7), 0.08 + 0.3 * y * scene.horizon
            pen.ellipse(x, y, 0.1 * size, 0.035 * size, white)
            pen.ellipse(x - 0.05 * size, y + 0.01, 0.07 * size, 0.03 * size, white)
            pen.ellipse(x + 0.03 * size, y - 0.02 * size, 0.05 * size, 0.04 * size, white)
        elif what == "bush":
            dark, y = shade(ground_near, 0.72), scene.horizon + 0.02 + 0.25 * y
            pen.ellipse(x, y, 0.07 * size, 0.05 * size, dark)
            pen.ellipse(x + 0.05 * size, y + 0.01, 0.05 * size, 0.04 * size, dark)
        elif what == "stone":
            y = scene.horizon + 0.04 + 0.3 * y
            pen.ellipse(x, y, 0.05 * size, 0.03 * size, (120, 118, 116))
            pen.ellipse(x - 0.01, y - 0.008, 0.03 * size, 0.015 * size, (160, 158, 154))


class Thing:
    """A pen in the thing's own coordinates: origin between its feet, u to where it faces, v down; and its colors."""

    def __init__(self, pen, scene):
        self.pen, self.scene = pen, scene
        self.light = LIGHT.get(scene.background, 1)
        self.base = shade(COLORS[scene.color], self.light)
        self.dark = shade(self.base, 0.68)
        self.pale = mix(self.base, (255, 255, 255), 0.28 * self.light)
        self.ink = (225, 225, 225) if scene.color == "black" else (25, 25, 28)
        self.side = -1 if scene.faces_left else 1
        self.scale = scene.scale * FIT.get(scene.kind, 1)
        self.ground = min(0.93, scene.horizon + 0.27)
        self.lift = 0.12 * self.scale if scene.pose == "jumping" else 0
        self.head = None  # where a hat sits

    def at(self, u, v):
        return self.scene.x + self.side * u * self.scale, self.ground - self.lift + v * self.scale

    def ellipse(self, u, v, rx, ry, color):
        self.pen.ellipse(*self.at(u, v), rx * self.scale, ry * self.scale, color)

    def polygon(self, points, color):
        self.pen.polygon([self.at(u, v) for u, v in points], color)

    def line(self, points, width, color):
        self.pen.line([self.at(u, v) for u, v in points], width * self.scale, color)


def draw_thing(pen, scene):
    shadow = shade(PALETTES[scene.background][2], 0.6)
    thing = Thing(pen, scene)
    if scene.kind != "balloon":
        reach = 0.2 * thing.scale * (0.7 if thing.lift else 1)
        pen.ellipse(scene.x, thing.ground + 0.005, reach, 0.03 * thing.scale, shadow)
    {
        "dog": draw_dog_or_cat,
        "cat": draw_dog_or_cat,
        "bird": draw_bird,
        "person": draw_person,
        "ball": draw_ball,
        "box": draw_box,
        "car": draw_car,
        "house": draw_house,
        "tree": draw_tree,
        "balloon": draw_balloon,
        "cone": draw_cone,
        "fish": draw_fish,
    }[scene.kind](thing)
    if scene.hat:
        draw_hat(thing)


def draw_dog_or_cat(t):
    dog, pose = t.scene.kind == "dog", t.scene.pose
    leg = 0.055 if dog else 0.045
    if pose in ("standing", "jumping"):
        if pose == "jumping":
            legs = (
                (-0.14, -0.17, -0.25, -0.06),
                (-0.1, -0.17, -0.2, -0.03),
                (0.12, -0.17, 0.24, -0.1),
                (0.15, -0.17, 0.28, -0.06),
            )
        else:
            legs = ((-0.14, -0.15, -0.15, 0), (-0.09, -0.15, -0.08, 0), (0.1, -0.15, 0.1, 0), (0.15, -0.15, 0.16, 0))
        for i, (u0, v0, u1, v1) in enumerate(legs):
            t.line([(u0, v0), (u1, v1)], leg, t.base if i % 2 else t.dark)
        t.line(
            [(-0.18, -0.23), (-0.27, -0.35)] if dog else [(-0.18, -0.22), (-0.27, -0.3), (-0.26, -0.42)], 0.04, t.base
        )
        t.ellipse(0, -0.21, 0.2, 0.094 if dog else 0.081, t.base)
        t.ellipse(0.02, -0.18, 0.14, 0.035, t.pale)
        head = (0.2, -0.34)
    elif pose == "sitting":
        t.line([(0.08, -0.2), (0.1, 0)], leg, t.dark)
        t.line([(0.12, -0.2), (0.14, 0)], leg, t.base)
        t.ellipse(-0.06, -0.06, 0.13, 0.07, t.base)
        t.polygon([(-0.17, -0.05), (-0.12, -0.18), (0.02, -0.34), (0.14, -0.3), (0.13, -0.05)], t.base)
        t.ellipse(-0.08, -0.06, 0.09, 0.055, t.dark)
        t.line([(-0.16, -0.04), (-0.28, -0.05)] + ([] if dog else [(-0.31, -0.14)]), 0.04, t.base)
        head = (0.1, -0.4)
    else:
        t.ellipse(-0.02, -0.07, 0.23, 0.07, t.base)
        t.line([(0.1, -0.03), (0.26, -0.015)], leg, t.dark)
        t.line([(-0.1, -0.02), (-0.2, -0.01)], leg, t.dark)
        t.line([(-0.22, -0.06), (-0.34, -0.03)], 0.04, t.base)
        head = (0.2, -0.16)
    u, v = head
    t.head = (u - 0.005, v - 0.06)
    if dog:
        t.ellipse(u, v, 0.088, 0.081, t.base)
        t.ellipse(u + 0.075, v + 0.025, 0.055, 0.04, t.pale)
        t.ellipse(u + 0.12, v + 0.01, 0.017, 0.015, t.ink)
        t.ellipse(u - 0.06, v + 0.02, 0.03, 0.075, t.dark)
    else:
        t.polygon([(u - 0.085, v - 0.02), (u - 0.075, v - 0.15), (u - 0.01, v - 0.07)], t.base)
        t.polygon([(u + 0.08, v - 0.02), (u + 0.07, v - 0.15), (u, v - 0.07)], t.base)
        t.ellipse(u, v, 0.088, 0.075, t.base)
        t.ellipse(u + 0.02, v + 0.04, 0.035, 0.022, t.pale)
        t.ellipse(u + 0.02, v + 0.025, 0.012, 0.01, (220, 120, 120))
        t.ellipse(u - 0.025, v - 0.01, 0.016, 0.018, (200, 210, 90))
    t.ellipse(u + 0.03, v - 0.02, 0.016, 0.018, t.ink)


def draw_bird(t):
    if t.scene.pose == "sitting":
        t.line([(-0.01, -0.1), (-0.01, 0)], 0.018, (200, 130, 40))
        t.line([(0.04, -0.1), (0.04, 0)], 0.018, (200, 130, 40))
        t.polygon([(-0.14, -0.15), (-0.3, -0.06), (-0.27, -0.12), (-0.12, -0.22)], t.dark)
        t.ellipse(0, -0.18, 0.16, 0.11, t.base)
        t.ellipse(0.03, -0.15, 0.1, 0.07, t.pale)
        t.polygon([(0.08, -0.24), (-0.02, -0.1), (-0.2, -0.11), (-0.08, -0.25)], t.dark)
    else:
        t.line([(-0.01, -0.1), (-0.03, -0.02)], 0.018, (200, 130, 40))
        t.line([(0.04, -0.1), (0.02, -0.02)], 0.018, (200, 130, 40))
        t.polygon([(0.05, -0.22), (0.02, -0.55), (-0.1, -0.62), (-0.2, -0.56), (-0.12, -0.22)], t.dark)
        t.polygon([(-0.14, -0.15), (-0.3, -0.06), (-0.27, -0.12), (-0.12, -0.22)], t.dark)
        t.ellipse(0, -0.18, 0.16, 0.1, t.base)
        t.ellipse(0.03, -0.15, 0.1, 0.06, t.pale)
        t.polygon(
            [(0.06, -0.2), (-0.08, -0.46), (-0.3, -0.56), (-0.38, -0.47), (-0.34, -0.38), (-0.25, -0.3), (-0.1, -0.16)],
            t.base,
        )
        t.line([(-0.02, -0.22), (-0.26, -0.46)], 0.018, t.dark)
        t.line([(-0.06, -0.2), (-0.27, -0.37)], 0.018, t.dark)
    t.ellipse(0.13, -0.29, 0.085, 0.08, t.base)
    t.polygon([(0.2, -0.31), (0.3, -0.28), (0.2, -0.255)], (240, 170, 40))
    t.ellipse(0.155, -0.31, 0.018, 0.02, t.ink)


def draw_person(t):
    pose = t.scene.pose
    skin = shade((232, 188, 150), t.light)
    trousers = shade((90, 80, 70) if t.scene.color == "blue" else (50, 60, 100), t.light)
    if pose == "sitting":
        t.ellipse(-0.03, -0.05, 0.12, 0.055, shade((110, 80, 50), t.light))  # a stool
        t.line([(-0.03, -0.13), (0.14, -0.13), (0.15, 0)], 0.065, trousers)
        u, v = -0.04, -0.26  # middle of the trunk
    elif pose == "jumping":
        t.line([(-0.02, -0.24), (-0.13, -0.14), (-0.2, -0.2)], 0.06, trousers)
        t.line([(0.03, -0.24), (0.14, -0.16), (0.16, -0.04)], 0.06, trousers)
        u, v = 0, -0.35
    else:
        t.line([(-0.04, -0.22), (-0.06, 0)], 0.06, trousers)
        t.line([(0.04, -0.22), (0.06, 0)], 0.06, trousers)
        u, v = 0, -0.34
    t.polygon([(u - 0.09, v - 0.11), (u + 0.09, v - 0.11), (u + 0.075, v + 0.13), (u - 0.075, v + 0.13)], t.base)
    t.ellipse(u, v - 0.1, 0.09, 0.03, t.base)
    for side in (-1, 1):
        if pose in ("raising arms", "jumping"):
            arm = [(u + side * 0.085, v - 0.1), (u + side * 0.17, v - 0.16), (u + side * 0.17, v - 0.29)]
        else:
            arm = [(u + side * 0.09, v - 0.09), (u + side * 0.14, v + 0.02), (u + side * 0.13, v + 0.13)]
        t.line(arm, 0.045, t.dark)
        t.ellipse(*arm[-1], 0.028, 0.028, skin)
    t.ellipse(u, v - 0.19, 0.07, 0.08, skin)
    hair = [(-0.072, -0.19), (-0.06, -0.28), (0.06, -0.28), (0.072, -0.2), (0.03, -0.245)]
    t.polygon([(u + du, v + dv) for du, dv in hair], shade((60, 40, 30), t.light))
    t.ellipse(u + 0.035, v - 0.19, 0.012, 0.013, (25, 25, 28))
    t.ellipse(u - 0.012, v - 0.19, 0.012, 0.013, (25, 25, 28))
    t.head = (u, v - 0.25)


def draw_hat(t):
    """A top hat with a yellow band, in a color the thing does not have."""
    u, v = t.head
    cloth = shade((150, 40, 40) if t.scene.color in ("purple", "blue", "black") else (50, 34, 110), t.light)
    t.polygon([(u - 0.07, v), (u - 0.058, v - 0.13), (u + 0.058, v - 0.13), (u + 0.07, v)], cloth)
    t.ellipse(u, v, 0.125, 0.026, cloth)
    t.polygon(
        [(u - 0.07, v - 0.012), (u - 0.066, v - 0.045), (u + 0.066, v - 0.045), (u + 0.07, v - 0.012)],
        shade((240, 210, 80), t.light),
    )


def draw_car(t):
    t.polygon(
        [
            (-0.28, -0.05),
            (-0.28, -0.15),
            (-0.17, -0.17),
            (-0.1, -0.28),
            (0.1, -0.28),
            (0.18, -0.17),
            (0.28, -0.14),
            (0.29, -0.05),
        ],
        t.base,
    )
    t.polygon([(-0.28, -0.05), (-0.28, -0.09), (0.29, -0.09), (0.29, -0.05)], t.dark)
    glass = shade((180, 215, 235), t.light)
    t.polygon([(-0.13, -0.18), (-0.08, -0.255), (-0.01, -0.255), (-0.01, -0.18)], glass)
    t.polygon([(0.02, -0.18), (0.02, -0.255), (0.085, -0.255), (0.14, -0.18)], glass)
    for u in (-0.17, 0.17):
        t.ellipse(u, -0.05, 0.062, 0.062, (30, 30, 32))
        t.ellipse(u, -0.05, 0.028, 0.028, (170, 170, 170))


def draw_ball(t):
    t.ellipse(0, -0.19, 0.19, 0.19, t.dark)
    t.ellipse(0.012, -0.2, 0.17, 0.17, t.base)
    t.ellipse(0.055, -0.255, 0.065, 0.055, t.pale)


def draw_house(t):
    wood, window = shade((90, 60, 40), t.light), (255, 235, 140) if t.light < 1 else (190, 220, 240)
    t.polygon([(-0.2, -0.26), (0.2, -0.26), (0.2, 0), (-0.2, 0)], t.base)
    t.polygon([(-0.25, -0.25), (0, -0.45), (0.25, -0.25)], shade((120, 60, 50), t.light))
    t.polygon([(-0.05, 0), (-0.05, -0.15), (0.05, -0.15), (0.05, 0)], wood)
    t.polygon([(-0.16, -0.2), (-0.09, -0.2), (-0.09, -0.13), (-0.16, -0.13)], window)
    t.polygon([(0.09, -0.2), (0.16, -0.2), (0.16, -0.13), (0.09, -0.13)], window)


def draw_box(t):
    t.polygon([(-0.17, -0.28), (0.09, -0.28), (0.09, 0), (-0.17, 0)], t.base)
    t.polygon([(-0.17, -0.28), (-0.08, -0.36), (0.18, -0.36), (0.09, -0.28)], t.pale)
    t.polygon([(0.09, -0.28), (0.18, -0.36), (0.18, -0.07), (0.09, 0)], t.dark)


def draw_cone(t):
    t.polygon([(-0.17, -0.03), (0, -0.42), (0.17, -0.03)], t.base)
    t.polygon([(0.04, -0.02), (0, -0.42), (0.17, -0.03)], t.dark)
    t.ellipse(0, -0.03, 0.17, 0.035, t.base)


def draw_tree(t):
    t.polygon([(-0.035, 0), (-0.025, -0.25), (0.025, -0.25), (0.035, 0)], shade((105, 70, 40), t.light))
    t.ellipse(0, -0.4, 0.17, 0.16, t.base)
    t.ellipse(-0.1, -0.3, 0.1, 0.09, t.dark)
    t.ellipse(0.1, -0.31, 0.1, 0.09, t.base)
    t.ellipse(0.03, -0.44, 0.09, 0.08, t.pale)


def draw_balloon(t):
    t.line([(0, -0.38), (0.015, -0.25), (-0.015, -0.1)], 0.014, shade((80, 80, 80), t.light))
    t.ellipse(0, -0.54, 0.15, 0.18, t.base)
    t.polygon([(-0.03, -0.34), (0.03, -0.34), (0, -0.38)], t.dark)
    t.ellipse(0.055, -0.6, 0.04, 0.055, t.pale)


def draw_fish(t):
    t.polygon([(-0.14, -0.16), (-0.3, -0.28), (-0.28, -0.04)], t.dark)
    t.ellipse(0, -0.16, 0.2, 0.12, t.base)
    t.ellipse(0.02, -0.12, 0.14, 0.06, t.pale)
    t.polygon([(-0.06, -0.26), (0.09, -0.26), (-0.03, -0.35)], t.dark)
    t.ellipse(0.12, -0.2, 0.028, 0.028, (250, 250, 250))
    t.ellipse(0.126, -0.2, 0.015, 0.015, (20, 20, 20))


def grid(pictures, columns: int, zoom: int = 1) -> Image.Image:
    """Pictures of one size, row by row."""
    height, width = pictures[0].shape[:2]
    rows = -(-len(pictures) // columns)
    sheet = np.full((rows * (height + 2), columns * (width + 2), 3), 128, np.uint8)
    for i, picture in enumerate(pictures):
        row, column = divmod(i, columns)
        sheet[row * (height + 2) :, column * (width + 2) :][:height, :width] = picture
    image = Image.fromarray(sheet)
    return image.resize((image.width * zoom, image.height * zoom), Image.NEAREST)
