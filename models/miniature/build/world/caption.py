"""Writes captions for a scene, in several wordings."""

from random import Random

from .palette import ACCENTS
from .places import PHRASES
from .scene import Scene

_OPENINGS = ("a photo of", "a photo of", "a drawing of", "a picture of", "", "", "")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def caption(scene: Scene, rng: Random) -> str:
    """Return a random caption that names most attributes of the scene.

    Attributes are sometimes omitted, so that the model also learns their distributions. Some
    captions have a meaningless word before the kind, so that an unknown word alone does not spoil
    the picture; adapters are trained on such words.
    """
    subject = scene.subject
    adjectives = []
    if rng.random() < 0.04:
        adjectives.append("".join(rng.choice(_LETTERS) for _ in range(rng.randint(3, 5))))
    if subject.pattern != "plain" and rng.random() < 0.9:
        adjectives.append(subject.pattern)
    if rng.random() < 0.93:
        adjectives.append(_colours(scene))
    noun = " ".join([*adjectives, subject.kind])
    wear = subject.headgear or subject.neckwear
    if wear and rng.random() < 0.93:
        noun += f" wearing a {wear}" if rng.random() < 0.6 else f" with a {wear}"
    where = PHRASES[scene.place] if rng.random() < 0.92 else ""
    return _sentence(_article(noun), where, rng)


def plain_caption(scene: Scene) -> str:
    """Return the complete caption: pattern, colours, kind, headgear or neckwear, and place."""
    subject = scene.subject
    pattern = [] if subject.pattern == "plain" else [subject.pattern]
    noun = " ".join([*pattern, _colours(scene), subject.kind])
    wear = subject.headgear or subject.neckwear
    return f"{_article(noun + f' wearing a {wear}' if wear else noun)} {PHRASES[scene.place]}"


def _colours(scene: Scene) -> str:
    colour, accent = scene.subject.colour, scene.subject.accent
    return colour if accent == ACCENTS[colour] else f"{colour} and {accent}"


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _sentence(noun: str, where: str, rng: Random) -> str:
    opening = rng.choice(_OPENINGS)
    if where and rng.random() < 0.08:
        return f"{where}, {noun}"
    return " ".join(part for part in (opening, noun, where) if part)
