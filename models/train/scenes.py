"""Small drawn scenes: a record, its caption, and edits whose true result is known.

A `Scene` is everything there is to know about a picture; `drawing.render` is a pure function of it, so an
edit of a scene is just another scene: the true result and the pixels that must stay are known exactly.
Nothing here knows about pixels, models or training.
"""

import random
from dataclasses import dataclass, replace

COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white", "black", "brown")
POSES = {
    "dog": ("standing", "sitting", "lying down", "jumping"),
    "cat": ("standing", "sitting", "lying down", "jumping"),
    "bird": ("sitting", "spreading its wings"),
    "person": ("standing", "sitting", "raising arms", "jumping"),
}
RIGID = ("ball", "box", "car", "house", "tree", "balloon", "cone", "fish")
KINDS = tuple(POSES) + RIGID
WITH_HEAD_FOR_HAT = ("dog", "cat", "person")
# background: phrases in captions, the usual one first
BACKGROUNDS = {
    "grass": ("on a grassy field", "on the grass"),
    "beach": ("on a sandy beach", "on a beach"),
    "snow": ("in the snow", "on a snowy field"),
    "desert": ("in the desert", "in a desert"),
    "night": ("at night", "under a night sky"),
    "sunset": ("at sunset", "under a sunset sky"),
}
STYLES = {"photo": ("a photo of", "a picture of", ""), "sketch": ("a pencil sketch of", "a sketch of")}
HAT = ("wearing a hat", "with a hat")
# size, position: the word in captions, none for the usual one; the range of the number behind it
SIZES = {"small": ("small", (0.58, 0.66)), "normal": ("", (0.88, 0.98)), "big": ("big", (1.22, 1.34))}
POSITIONS = {
    "left": ("on the left", (0.28, 0.36)),
    "middle": ("", (0.46, 0.54)),
    "right": ("on the right", (0.64, 0.72)),
}
# What a caption can name, and so what an edit can change.
ATTRIBUTES = ("kind", "color", "background", "pose", "hat", "style", "size", "position")


@dataclass(frozen=True)
class Scene:
    """One picture. The fields of ATTRIBUTES are what a caption can name, the others are nuisance."""

    kind: str
    color: str
    background: str
    pose: str | None  # None for rigid things
    hat: bool
    style: str
    size: str
    position: str
    within_size: float  # 0 to 1, where in the range of its size
    within_position: float
    faces_left: bool
    horizon: float  # y, as a share of the picture
    sun: float  # x of the sun or moon
    mountains: float  # -1 to 1, height of hills and dunes
    clutter: tuple[tuple[str, float, float, float], ...]  # (cloud | bush | stone, x, y, size), never in a caption

    @property
    def scale(self) -> float:
        """1: a standing dog is about 0.6 of the picture wide."""
        low, high = SIZES[self.size][1]
        return low + (high - low) * self.within_size

    @property
    def x(self) -> float:
        """Middle of the thing, as a share of the picture."""
        low, high = POSITIONS[self.position][1]
        return low + (high - low) * self.within_position


def random_scene(rng: random.Random) -> Scene:
    """A scene drawn at random. Articulated kinds, the hard ones, come three times as often as rigid ones."""
    kind = rng.choice(tuple(POSES) * 3 + RIGID)
    position = rng.choice(("left", "middle", "middle", "middle", "right"))
    # A big thing at a side would be cut off.
    size = rng.choice(("small", "normal", "normal", "big", "big") if position == "middle" else ("small", "normal"))
    return Scene(
        kind=kind,
        color=rng.choice(COLORS),
        background=rng.choice(tuple(BACKGROUNDS)),
        pose=rng.choice(POSES[kind]) if kind in POSES else None,
        hat=kind in WITH_HEAD_FOR_HAT and rng.random() < 0.3,
        style="sketch" if rng.random() < 0.15 else "photo",
        size=size,
        position=position,
        within_size=rng.random(),
        within_position=rng.random(),
        faces_left=rng.random() < 0.5,
        horizon=rng.uniform(0.54, 0.64),
        sun=rng.uniform(0.1, 0.9),
        mountains=rng.uniform(-1, 1),
        clutter=tuple(
            (rng.choice(("cloud", "bush", "stone")), rng.random(), rng.random(), rng.uniform(0.6, 1))
            for _ in range(rng.randint(0, 2))
        ),
    )


def changes(scene: Scene, attribute: str) -> list:
    """The other values that `attribute` can take while all others stay as they are; for an edit, those a caption
    names."""
    if attribute == "kind":
        # The pose must stay, so only kinds that know it; a hat needs a head.
        if scene.pose is None:
            kinds = RIGID
        else:
            kinds = [
                kind
                for kind, poses in POSES.items()
                if scene.pose in poses and (kind in WITH_HEAD_FOR_HAT or not scene.hat)
            ]
        return [kind for kind in kinds if kind != scene.kind]
    if attribute == "pose":
        return [pose for pose in POSES.get(scene.kind, ()) if pose != scene.pose]
    if attribute == "hat":
        return [True] if scene.kind in WITH_HEAD_FOR_HAT and not scene.hat else []
    if attribute == "style":
        return ["sketch"] if scene.style == "photo" else []
    if attribute == "size":
        return [size for size in (("small", "big") if scene.position == "middle" else ("small",)) if size != scene.size]
    if attribute == "position":
        return [position for position in ("left", "right") if position != scene.position] if scene.size != "big" else []
    # A sketch has no color to change.
    values = {"color": COLORS if scene.style == "photo" else (), "background": BACKGROUNDS}[attribute]
    return [value for value in values if value != getattr(scene, attribute)]


def sibling(scene: Scene, rng: random.Random) -> Scene:
    """The same scene with one attribute changed, nuisance untouched: one half of a pair."""
    attribute = rng.choice([a for a in (*ATTRIBUTES, "pose") if changes(scene, a)])
    return replace(scene, **{attribute: rng.choice(changes(scene, attribute))})


def random_edit(attribute: str, rng: random.Random) -> tuple[Scene, Scene]:
    """(scene, edited scene): an edit of `attribute` that a caption can ask for."""
    while True:
        scene = random_scene(rng)
        if scene.style == "photo" and changes(scene, attribute):
            return scene, replace(scene, **{attribute: rng.choice(changes(scene, attribute))})


def article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def caption(scene: Scene, rng: random.Random | None = None) -> str:
    """The scene in words: in full, or with parts left out at random if there is an `rng`.

    The usual size and position and having no hat are not said, so a caption that leaves out another size means
    two things. At 15 % left out, every sixth caption without a size belonged to a picture of another size, and
    the model drew what it had been shown. They are left out so rarely that silence means what is usual; a
    missing background or pose is told from a usual one, so these may be missing more often.
    """

    def pick(usual, *others):
        return usual if rng is None or rng.random() < 0.6 else rng.choice(others)

    def said(share):
        return rng is None or rng.random() < share

    thing = [
        SIZES[scene.size][0] if said(0.98) else "",
        scene.color if scene.style == "photo" or said(0.5) else "",
        scene.kind,
    ]
    thing = " ".join(word for word in thing if word)
    words = [pick(*STYLES[scene.style]), article(thing), thing]
    if scene.pose and said(0.95):
        words.append(scene.pose)
    if scene.hat and said(0.98):
        words.append(pick(*HAT))
    if said(0.98):
        words.append(POSITIONS[scene.position][0])
    if said(0.92):
        words.append(pick(*BACKGROUNDS[scene.background]))
    return " ".join(word for word in words if word)


def vocabulary() -> list[str]:
    """Every word a caption can have."""
    phrases = ["a", "an", *COLORS, *KINDS, *HAT]
    phrases += [phrase for group in (POSES, BACKGROUNDS, STYLES) for values in group.values() for phrase in values]
    phrases += [word for group in (SIZES, POSITIONS) for word, _ in group.values()]
    return sorted({word for phrase in phrases for word in phrase.split()})
