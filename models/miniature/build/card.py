"""Write the model card, `README.md`, from the template `card.md` and the measured figures."""

import json
from dataclasses import asdict
from pathlib import Path
from string import Template
from typing import Final

from .attributes import attribute_table
from .oracle import ASPECTS, LABELS
from .quality import CHANCE, Figures, Shares

_TEXT: Final[Path] = Path(__file__).with_name("card.md")
_CAPTIONS: Final[float] = 0.97  # target for the share of pictures with all aspects right
_PSNR: Final[float] = 32.0  # dB
_SHARPNESS: Final[float] = 0.9
_PARTS: Final = ("vae", "decoder", "denoiser", "oracle", "clip", "dino")
_TRIPLETS: Final[float] = 0.99  # target for each attribute
_ORACLE: Final[float] = 0.98  # target for each label
_RABBIT: Final[float] = 0.6  # the cosine must be below
_NEAR_CHANCE: Final[float] = 0.02  # tolerated deviation from chance with 200 captions


def write_card(folder: Path, figures: Figures) -> None:
    """Write `README.md` and `quality.json` to the folder of the model."""
    (folder / "quality.json").write_text(json.dumps(asdict(figures), indent=2) + "\n")
    text = Template(_TEXT.read_text()).substitute(
        aspects=_aspects(figures),
        count=figures.sizes.captions,
        held_out_count=figures.sizes.held_out,
        reconstructed=figures.sizes.reconstructed,
        psnr=_verdict(figures.psnr["held-out"], _PSNR, "{:.1f} dB"),
        psnr_worst=f"{figures.psnr['held-out, worst twentieth']:.1f}",
        psnr_characters=_verdict(figures.psnr["characters"], _PSNR, "{:.1f} dB"),
        sharpness=_verdict(figures.sharpness["held-out"], _SHARPNESS, "{:.2f}"),
        sharpness_characters=f"{figures.sharpness['characters']:.2f}",
        captions=_verdict(figures.captions["random"]["all"], _CAPTIONS, "{:.1%}"),
        held_out=_verdict(figures.captions["held-out"]["all"], _CAPTIONS, "{:.1%}"),
        shuffled=_near_chance(figures.captions["shuffled"]),
        auc=f"{figures.dino['others']:.3f}",
        auc_alike=f"{figures.dino['others of the same kind']:.3f}",
        cosine_same=f"{figures.dino['cosine, same']:.2f}",
        cosine_alike=f"{figures.dino['cosine, others of the same kind']:.2f}",
        **_attributes(figures),
        sampling=figures.sizes.sampling,
        megabytes=f"{figures.megabytes:.1f}",
        **{f"{name}_size": _millions(count) for name, count in figures.parameters.items()},
        **{f"{name}_steps": f"{figures.steps.get(name, 0):,}" for name in _PARTS},
    )
    (folder / "README.md").write_text(text)


def _aspects(figures: Figures) -> str:
    """Return a Markdown table: rows are measures, columns are the aspects and `all`."""
    sizes = figures.sizes
    rows = {
        f"{sizes.drawn} drawn pictures (the oracle itself)": figures.oracle,
        f"generated, {sizes.captions} random captions": figures.captions["random"],
        f"generated, {sizes.held_out} held-out combinations": figures.captions["held-out"],
        "generated, captions shuffled": figures.captions["shuffled"],
        "chance": CHANCE,
        "CLIP scorer choosing among captions": figures.clip,
    }
    columns = [*ASPECTS, "all"]
    lines = [f"| {' | '.join(['', *columns])} |", "| --- |" + " ---: |" * len(columns)]
    for name, shares in rows.items():
        cells = [f"{shares[a]:.1%}" if a in shares else "" for a in columns]
        lines.append(f"| {' | '.join([name, *cells])} |")
    return "\n".join(lines)


def _attributes(figures: Figures) -> dict[str, str]:
    """Return the fields about the image encoder and the oracle by attribute."""
    seen = figures.attributes
    thor_cat = {name: f"{cosine:.2f}" for name, cosine in seen.thor_cat.items()}
    met = "met" if seen.thor_cat["as a rabbit"] < _RABBIT else "**not yet met**"
    return {
        "attributes": attribute_table(seen),
        "triplets": _verdict(min(seen.triplets.values()), _TRIPLETS, "{:.1%}"),
        "oracle_lowest": _verdict(min(seen.oracle[name] for name in LABELS), _ORACLE, "{:.1%}"),
        "thor_same": thor_cat["same"],
        "thor_rabbit": f"{thor_cat['as a rabbit']} (target below {_RABBIT}: {met})",
        "thor_helmet": thor_cat["without the helmet"],
        "thor_cape": thor_cat["without the cape"],
        "graded": ", ".join(f"{cosine:.2f}" for cosine in seen.graded),
    }


def _near_chance(shuffled: Shares) -> str:
    """Return the deviation of shuffled captions from chance, and whether it is small enough.

    A large deviation means that the oracle does not measure the content of the captions.
    """
    gap = max(abs(shuffled[name] - CHANCE[name]) for name in ASPECTS)
    met = "at chance" if gap <= _NEAR_CHANCE else "**not at chance**"
    return f"{met} (at most {100 * gap:.1f} points from it)"


def _verdict(value: float, target: float, form: str) -> str:
    """Return the figure, its target, and whether the target is met."""
    met = "met" if value >= target else "**not yet met**"
    return f"{form.format(value)} (target {form.format(target)}: {met})"


def _millions(count: int) -> str:
    return f"{count / 1e6:.2f} M"
