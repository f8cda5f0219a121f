"""Writes the pictures of the model card."""

from pathlib import Path
from random import Random
from typing import Final

import torch
from diffusers import AutoencoderKL
from PIL import Image, ImageDraw

from .data import Drawn
from .vae import as_input
from .world import PLACES, SIZE, THOR_CAT, Scene, character, draw, plain_caption

_COLUMNS: Final[int] = 8
_LINE: Final[int] = 26  # height in pixels of the caption below a picture


def write_sheets(
    folder: Path,
    vae: AutoencoderKL,
    drawn: Drawn,
    pictures: torch.Tensor,
    scenes: list[Scene],
) -> None:
    """Write three sheets: generated pictures with captions, VAE reconstructions, and characters.

    `pictures` are uint8 [count, 3, SIZE, SIZE], one for each scene.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shown = [_image(picture) for picture in pictures[:40]]
    captions = [plain_caption(scene) for scene in scenes[:40]]
    sheet(shown, captions).save(folder / "contact-sheet.png", optimize=True)
    originals = drawn.pictures[:_COLUMNS]
    with torch.no_grad():
        pixels = as_input(originals).to(vae.device)
        restored = vae.decode(vae.encode(pixels).latent_dist.mean).sample.clamp(-1, 1)
    restored = ((restored + 1) * 127.5).round().byte().cpu()
    pairs = [_image(picture) for picture in (*originals, *restored)]
    sheet(pairs).save(folder / "reconstructions.png", optimize=True)
    rng = Random("characters")
    strangers = [draw(character(n), place, rng) for n, place in enumerate(PLACES)]
    thor = [draw(THOR_CAT, place, rng) for place in PLACES]
    sheet(thor + strangers).save(folder / "characters.png", optimize=True)


def sheet(images: list[Image.Image], captions: list[str] | None = None) -> Image.Image:
    """Arrange pictures in rows of eight, with captions below them if there are any."""
    line = _LINE if captions else 0
    rows = -(-len(images) // _COLUMNS)
    page = Image.new("RGB", (_COLUMNS * SIZE, rows * (SIZE + line)), "white")
    pen = ImageDraw.Draw(page)
    for number, image in enumerate(images):
        x, y = number % _COLUMNS * SIZE, number // _COLUMNS * (SIZE + line)
        page.paste(image, (x, y))
        if captions:
            pen.text((x + 3, y + SIZE + 2), _wrap(captions[number]), fill="black")
    return page


def _wrap(text: str, width: int = 22) -> str:
    cut = text.rfind(" ", 0, width)
    return text if len(text) <= width or cut < 0 else f"{text[:cut]}\n{text[cut + 1 :]}"


def _image(picture: torch.Tensor) -> Image.Image:
    return Image.fromarray(picture.permute(1, 2, 0).numpy())
