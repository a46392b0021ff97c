"""Small drawn scenes: a record, its picture at any size, its caption, and edits with known truth.

A `Scene` is everything there is to know about a picture. `render` is a pure function of it, so an
edit of a scene is just another scene: the true result and the pixels that must stay are known exactly.
Nothing here knows about models or training.

Coordinates are fractions of the shorter side of the picture: x to the right, y down. Pictures that are
not square show more of the background around the same square.
"""

import random
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw

COLORS = {
    "red": (214, 44, 40), "yellow": (242, 214, 52), "green": (52, 160, 70), "blue": (46, 98, 214),
    "purple": (138, 60, 180), "white": (240, 240, 236), "black": (40, 40, 46), "brown": (130, 82, 46),
}
POSES = {
    "dog": ("standing", "sitting", "lying down", "jumping"),
    "cat": ("standing", "sitting", "lying down", "jumping"),
    "bird": ("sitting", "spreading its wings"),
    "person": ("standing", "raising arms"),
}
RIGID = ("car", "ball", "house")
KINDS = tuple(POSES) + RIGID
# background: phrases in captions, the usual one first
BACKGROUNDS = {
    "grass": ("on a grassy field", "on the grass"), "beach": ("on a sandy beach", "on a beach"),
    "snow": ("in the snow", "on a snowy field"), "desert": ("in the desert", "in a desert"),
    "night": ("at night", "under a night sky"), "sunset": ("at sunset", "under a sunset sky"),
}
OPENINGS = ("a photo of", "a picture of", "")
# background: sky at the top, sky at the horizon, ground near the viewer, ground at the horizon
PALETTES = {
    "grass": ((110, 170, 235), (200, 225, 245), (70, 140, 50), (110, 170, 70)),
    "beach": ((90, 160, 230), (190, 220, 245), (225, 200, 140), (240, 220, 170)),
    "snow": ((150, 175, 205), (215, 225, 235), (225, 232, 242), (248, 250, 255)),
    "desert": ((240, 190, 120), (250, 225, 170), (205, 130, 60), (225, 160, 90)),
    "night": ((10, 12, 40), (40, 45, 90), (22, 36, 34), (36, 54, 48)),
    "sunset": ((90, 50, 120), (250, 140, 60), (70, 50, 60), (110, 70, 60)),
}
LIGHT = {"night": 0.6, "sunset": 0.85}  # how much the light dims a thing; 1 elsewhere


@dataclass(frozen=True)
class Scene:
    """One picture. The first four fields are what a caption can name, the others are nuisance."""

    kind: str
    color: str
    background: str
    pose: str | None  # None for rigid things
    faces_left: bool
    x: float  # middle of the thing
    scale: float  # 1: a standing dog is about half as wide as the picture
    horizon: float
    sun: float  # x of the sun or moon
    mountains: float  # -1 to 1, height of hills and dunes
    clutter: tuple[tuple[str, float, float, float], ...]  # (cloud | bush | stone, x, y, size), never in a caption


def random_scene(rng: random.Random) -> Scene:
    """A scene drawn at random. Articulated kinds, the hard ones, come twice as often as rigid ones."""
    kind = rng.choice(tuple(POSES) * 2 + RIGID)
    return Scene(
        kind=kind,
        color=rng.choice(tuple(COLORS)),
        background=rng.choice(tuple(BACKGROUNDS)),
        pose=rng.choice(POSES[kind]) if kind in POSES else None,
        faces_left=rng.random() < 0.5,
        x=rng.uniform(0.44, 0.56),
        scale=rng.uniform(1.15, 1.4),
        horizon=rng.uniform(0.54, 0.64),
        sun=rng.uniform(0.1, 0.9),
        mountains=rng.uniform(-1, 1),
        clutter=tuple(
            (rng.choice(("cloud", "bush", "stone")), rng.random(), rng.random(), rng.uniform(0.6, 1))
            for _ in range(rng.randint(0, 2))
        ),
    )


def sibling(scene: Scene, rng: random.Random) -> Scene:
    """The same scene with one nameable attribute changed, nuisance untouched: one half of a pair."""
    attribute = rng.choice(("color", "background", "pose", "pose") if scene.pose else ("color", "background"))
    choices = {"color": COLORS, "background": BACKGROUNDS, "pose": POSES.get(scene.kind, ())}[attribute]
    return replace(scene, **{attribute: rng.choice([c for c in choices if c != getattr(scene, attribute)])})


def caption(scene: Scene, rng: random.Random | None = None) -> str:
    """The scene in words: in full, or with parts left out at random if there is an `rng`."""
    def pick(usual, *others):
        return usual if rng is None or rng.random() < 0.6 else rng.choice(others)

    words = [pick(*OPENINGS), "a", scene.color, scene.kind]
    if scene.pose and (rng is None or rng.random() < 0.95):
        words.append(scene.pose)
    if rng is None or rng.random() < 0.92:
        words.append(pick(*BACKGROUNDS[scene.background]))
    return " ".join(w for w in words if w)


def vocabulary() -> list[str]:
    """Every word a caption can have."""
    phrases = [*OPENINGS, "a", *COLORS, *KINDS, *(p for poses in POSES.values() for p in poses)]
    phrases += [p for usual_and_others in BACKGROUNDS.values() for p in usual_and_others]
    return sorted({word for phrase in phrases for word in phrase.split()})


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
    return np.asarray(pen.image.resize((width, height), Image.BOX))


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
        dunes = [(-3, horizon), (0, horizon), (0.25, horizon - 0.1 - 0.05 * hills), (0.6, horizon),
                 (0.8, horizon - 0.07 + 0.05 * hills), (1.1, horizon), (4, horizon), (4, horizon + 0.01), (-3, horizon + 0.01)]
        pen.polygon(dunes, (215, 150, 85))
    elif scene.background == "snow":
        peaks = [(-3, horizon), (0, horizon), (0.2, horizon - 0.16), (0.4, horizon - 0.02), (0.65, horizon - 0.2 - 0.04 * hills),
                 (1.05, horizon), (4, horizon), (4, horizon + 0.01), (-3, horizon + 0.01)]
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
        self.ground = min(0.93, scene.horizon + 0.27)
        self.lift = 0.16 if scene.pose == "jumping" else 0

    def at(self, u, v):
        return self.scene.x + self.side * u * self.scene.scale, self.ground - self.lift + v * self.scene.scale

    def ellipse(self, u, v, rx, ry, color):
        self.pen.ellipse(*self.at(u, v), rx * self.scene.scale, ry * self.scene.scale, color)

    def polygon(self, points, color):
        self.pen.polygon([self.at(u, v) for u, v in points], color)

    def line(self, points, width, color):
        self.pen.line([self.at(u, v) for u, v in points], width * self.scene.scale, color)


def draw_thing(pen, scene):
    shadow = shade(PALETTES[scene.background][2], 0.6)
    thing = Thing(pen, scene)
    reach = 0.2 * scene.scale * (0.7 if thing.lift else 1)
    pen.ellipse(scene.x, thing.ground + 0.005, reach, 0.03 * scene.scale, shadow)
    {"dog": draw_dog_or_cat, "cat": draw_dog_or_cat, "bird": draw_bird, "person": draw_person,
     "car": draw_car, "ball": draw_ball, "house": draw_house}[scene.kind](thing)


def draw_dog_or_cat(t):
    dog, pose = t.scene.kind == "dog", t.scene.pose
    leg = 0.055 if dog else 0.045
    if pose in ("standing", "jumping"):
        if pose == "jumping":
            legs = ((-0.14, -0.17, -0.25, -0.06), (-0.1, -0.17, -0.2, -0.03), (0.12, -0.17, 0.24, -0.1), (0.15, -0.17, 0.28, -0.06))
        else:
            legs = ((-0.14, -0.15, -0.15, 0), (-0.09, -0.15, -0.08, 0), (0.1, -0.15, 0.1, 0), (0.15, -0.15, 0.16, 0))
        for i, (u0, v0, u1, v1) in enumerate(legs):
            t.line([(u0, v0), (u1, v1)], leg, t.base if i % 2 else t.dark)
        t.line([(-0.18, -0.23), (-0.27, -0.35)] if dog else [(-0.18, -0.22), (-0.27, -0.3), (-0.26, -0.42)], 0.04, t.base)
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
        t.polygon([(0.06, -0.2), (-0.08, -0.46), (-0.3, -0.56), (-0.38, -0.47), (-0.34, -0.38), (-0.25, -0.3), (-0.1, -0.16)], t.base)
        t.line([(-0.02, -0.22), (-0.26, -0.46)], 0.018, t.dark)
        t.line([(-0.06, -0.2), (-0.27, -0.37)], 0.018, t.dark)
    t.ellipse(0.13, -0.29, 0.085, 0.08, t.base)
    t.polygon([(0.2, -0.31), (0.3, -0.28), (0.2, -0.255)], (240, 170, 40))
    t.ellipse(0.155, -0.31, 0.018, 0.02, t.ink)


def draw_person(t):
    skin = shade((232, 188, 150), t.light)
    trousers = shade((90, 80, 70) if t.scene.color == "blue" else (50, 60, 100), t.light)
    u, v = 0, -0.34  # middle of the trunk
    t.line([(-0.04, -0.22), (-0.06, 0)], 0.06, trousers)
    t.line([(0.04, -0.22), (0.06, 0)], 0.06, trousers)
    t.polygon([(u - 0.09, v - 0.11), (u + 0.09, v - 0.11), (u + 0.075, v + 0.13), (u - 0.075, v + 0.13)], t.base)
    t.ellipse(u, v - 0.1, 0.09, 0.03, t.base)
    for side in (-1, 1):
        if t.scene.pose == "raising arms":
            arm = [(side * 0.085, v - 0.1), (side * 0.17, v - 0.16), (side * 0.17, v - 0.29)]
        else:
            arm = [(side * 0.09, v - 0.09), (side * 0.14, v + 0.02), (side * 0.13, v + 0.13)]
        t.line(arm, 0.045, t.dark)
        t.ellipse(*arm[-1], 0.028, 0.028, skin)
    t.ellipse(u, v - 0.19, 0.07, 0.08, skin)
    hair = [(-0.072, -0.19), (-0.06, -0.28), (0.06, -0.28), (0.072, -0.2), (0.03, -0.245)]
    t.polygon([(u + du, v + dv) for du, dv in hair], (60, 40, 30))
    t.ellipse(u + 0.035, v - 0.19, 0.012, 0.013, (25, 25, 28))
    t.ellipse(u - 0.012, v - 0.19, 0.012, 0.013, (25, 25, 28))


def draw_car(t):
    t.polygon([(-0.28, -0.05), (-0.28, -0.15), (-0.17, -0.17), (-0.1, -0.28), (0.1, -0.28), (0.18, -0.17), (0.28, -0.14), (0.29, -0.05)], t.base)
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


def grid(pictures, columns: int, zoom: int = 1) -> Image.Image:
    """Pictures of one size, row by row."""
    height, width = pictures[0].shape[:2]
    rows = -(-len(pictures) // columns)
    sheet = np.full((rows * (height + 2), columns * (width + 2), 3), 128, np.uint8)
    for i, picture in enumerate(pictures):
        row, column = divmod(i, columns)
        sheet[row * (height + 2):, column * (width + 2):][:height, :width] = picture
    image = Image.fromarray(sheet)
    return image.resize((image.width * zoom, image.height * zoom), Image.NEAREST)
