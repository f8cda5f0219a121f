"""The drawn world: subjects with attributes in places, as pictures with captions.

Pure drawing, no torch: everything here is a function of its arguments and a `random.Random`.
"""

from .caption import caption, plain_caption
from .figures import FIGURES, WEARERS
from .palette import ACCENTS, COLOURS
from .places import PHRASES, PLACES
from .scene import SIZE, Scene, common_scene, draw
from .subject import PATTERNS, THOR_CAT, THUMBS_UP, Character, character, common_subject

__all__ = [
    "ACCENTS",
    "COLOURS",
    "FIGURES",
    "PATTERNS",
    "PHRASES",
    "PLACES",
    "SIZE",
    "THOR_CAT",
    "THUMBS_UP",
    "WEARERS",
    "Character",
    "Scene",
    "caption",
    "character",
    "common_scene",
    "common_subject",
    "draw",
    "plain_caption",
]
