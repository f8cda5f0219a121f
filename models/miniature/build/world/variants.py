"""Characters that differ in one visible attribute, to train and to test the scorers."""

from dataclasses import fields, replace
from random import Random
from typing import Any, Final

from .figures import EYED, FIGURES
from .palette import COLOURS, Rgb
from .parts import COMMON_WEAR, HEADGEAR, HELD, METALS, NECKWEAR
from .scene import part_colour
from .subject import EYES, PATTERNS, Character

NONE: Final[str] = "none"  # the value of an attribute that is not visible
ATTRIBUTES: Final[tuple[str, ...]] = tuple(
    field.name for field in fields(Character) if field.name != "gesture"
)
_NAMED: Final[dict[str, Rgb]] = COLOURS | METALS
_PARTS: Final[dict[str, str]] = {  # the part of each colour
    "headgear_colour": "headgear",
    "neckwear_colour": "neckwear",
    "held_colour": "held",
}
_COLOURS: Final[tuple[str, ...]] = ("colour", "accent", "cape", *_PARTS)
_CHOICES: Final[dict[str, tuple[str, ...]]] = {
    "pattern": PATTERNS,
    "eyes": EYES,
    "headgear": tuple(HEADGEAR),
    "neckwear": tuple(NECKWEAR),
    "held": tuple(HELD),
}
OPTIONAL: Final[tuple[str, ...]] = ("headgear", "neckwear", "cape", "held")
_ALIKE: Final[int] = 32  # of 255: a smaller difference is lost in light and reconstruction

# All values of each attribute, in a fixed order.
VALUES: Final[dict[str, tuple[str, ...]]] = {
    "kind": tuple(FIGURES),
    "colour": tuple(COLOURS),
    "accent": tuple(COLOURS),
    "pattern": PATTERNS,
    "eyes": (NONE, *EYES),
    "headgear": (NONE, *HEADGEAR),
    "headgear_colour": (NONE, *_NAMED),
    "neckwear": (NONE, *NECKWEAR),
    "neckwear_colour": (NONE, *_NAMED),
    "cape": (NONE, *COLOURS),
    "held": (NONE, *HELD),
    "held_colour": (NONE, *_NAMED),
}


def shown(subject: Character) -> dict[str, str]:
    """Return the visible value of every attribute, one of `VALUES`.

    The colour of a part without a colour of its own is the nearest named one.
    """
    visible = {name: getattr(subject, name) or NONE for name in ATTRIBUTES}
    visible["eyes"] = subject.eyes if subject.kind in EYED else NONE
    for name, part in _PARTS.items():
        worn = getattr(subject, part)
        visible[name] = _named(part_colour(worn, getattr(subject, name))) if worn else NONE
    return visible


def changeable(subject: Character) -> list[str]:
    """Return the attributes of which another value would be visible."""
    seen = shown(subject)
    # a part can appear, but eyes and the colour of a part cannot
    return [
        name
        for name in ATTRIBUTES
        if seen[name] != NONE or (name in OPTIONAL and _others(subject, name))
    ]


def altered(subject: Character, attribute: str, rng: Random) -> Character:
    """Return the subject with another value of one attribute, which must be changeable.

    Only this attribute differs visibly, with the colour of a part that appears or disappears, or
    that has the usual colour of common subjects. A part disappears in half of the cases. A new
    colour is neither one of the subject's other colours nor similar to the old one.
    """
    present = getattr(subject, attribute) is not None
    if attribute in OPTIONAL and present and rng.random() < 0.5:
        change: dict[str, Any] = {attribute: None}
    else:
        change = {attribute: rng.choice(_others(subject, attribute))}
    return replace(subject, **change)


def _others(subject: Character, attribute: str) -> list[str]:
    if attribute == "kind":
        eyed = subject.kind in EYED
        return [kind for kind in FIGURES if kind != subject.kind and (kind in EYED) == eyed]
    if attribute in _COLOURS:
        return _free_colours(subject, attribute)
    values = [value for value in _CHOICES[attribute] if value != getattr(subject, attribute)]
    uncoloured = attribute in _PARTS.values() and getattr(subject, f"{attribute}_colour") is None
    return [value for value in values if value in COMMON_WEAR] if uncoloured else values


def _free_colours(subject: Character, attribute: str) -> list[str]:
    seen = shown(subject)
    taken = {seen[name] for name in _COLOURS}
    names = _NAMED if attribute in _PARTS else COLOURS
    old = _rgb(subject, attribute)
    return [
        name
        for name, colour in names.items()
        if name not in taken and (old is None or not _alike(colour, old))
    ]


def _rgb(subject: Character, attribute: str) -> Rgb | None:
    value = getattr(subject, attribute)
    if attribute in _PARTS:
        return part_colour(getattr(subject, _PARTS[attribute]), value)
    return COLOURS[value] if value else None


def _alike(one: Rgb, other: Rgb) -> bool:
    return max(abs(a - b) for a, b in zip(one, other, strict=True)) <= _ALIKE


def _named(colour: Rgb) -> str:
    """Return the name of the nearest named colour."""
    return min(
        _NAMED,
        key=lambda name: sum((a - b) ** 2 for a, b in zip(_NAMED[name], colour, strict=True)),
    )
