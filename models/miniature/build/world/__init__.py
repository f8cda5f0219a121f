"""The drawn world: pictures of subjects with attributes in places, with captions.

The results depend only on the arguments, which include a `random.Random`. Torch is not needed.
"""

from .caption import caption, plain_caption
from .figures import EYED, FIGURES, WEARERS
from .palette import ACCENTS, COLOURS
from .places import PHRASES, PLACES
from .scene import SIZE, Scene, common_scene, draw
from .subject import PATTERNS, THOR_CAT, THUMBS_UP, Character, character, common_subject
from .variants import ATTRIBUTES, NONE, OPTIONAL, VALUES, altered, changeable, shown

__all__ = [
    "ACCENTS",
    "ATTRIBUTES",
    "COLOURS",
    "EYED",
    "FIGURES",
    "NONE",
    "OPTIONAL",
    "PATTERNS",
    "PHRASES",
    "PLACES",
    "SIZE",
    "THOR_CAT",
    "THUMBS_UP",
    "VALUES",
    "WEARERS",
    "Character",
    "Scene",
    "altered",
    "caption",
    "changeable",
    "character",
    "common_scene",
    "common_subject",
    "draw",
    "plain_caption",
    "shown",
]
