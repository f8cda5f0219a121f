"""The model card: words around measured figures. `README.md` is written here, never by hand."""

import json
from dataclasses import asdict
from pathlib import Path
from string import Template
from typing import Final

from .classifier import ASPECTS
from .quality import GUIDANCE, STEPS, Figures

_TEXT: Final[Path] = Path(__file__).with_name("card.md")


def write_card(folder: Path, figures: Figures) -> None:
    """Write `README.md` and `quality.json` into the model's folder."""
    (folder / "quality.json").write_text(json.dumps(asdict(figures), indent=2) + "\n")
    text = Template(_TEXT.read_text()).substitute(
        aspects=_aspects(figures),
        psnr=_verdict(figures.psnr["held-out"], 29, "{:.1f} dB"),
        psnr_worst=f"{figures.psnr['held-out, worst twentieth']:.1f}",
        psnr_characters=f"{figures.psnr['characters']:.1f}",
        captions=_verdict(figures.captions["random"]["mean"], 0.9, "{:.1%}"),
        held_out=f"{figures.captions['held-out']['mean']:.1%}",
        all_right=f"{figures.captions['random']['all']:.1%}",
        auc=f"{figures.dino['others']:.3f}",
        auc_alike=f"{figures.dino['others of the same kind']:.3f}",
        cosine_same=f"{figures.dino['cosine, same']:.2f}",
        cosine_alike=f"{figures.dino['cosine, others of the same kind']:.2f}",
        sampling=f"{STEPS} Euler steps, guidance {GUIDANCE:g}",
        megabytes=f"{figures.megabytes:.1f}",
        **{f"{name}_size": _millions(count) for name, count in figures.parameters.items()},
        **{f"{name}_steps": f"{count:,}" for name, count in figures.steps.items()},
    )
    (folder / "README.md").write_text(text)


def _aspects(figures: Figures) -> str:
    """A table row for each measure, a column for each aspect."""
    chance = {name: 1 / len(values) for name, values in ASPECTS.items()}
    rows = {
        "drawn pictures, held-out combinations (the classifier itself)": figures.classifier,
        "generated, 200 random captions": figures.captions["random"],
        "generated, 60 captions of held-out combinations": figures.captions["held-out"],
        "generated, captions shuffled among the pictures": figures.captions["shuffled"],
        "chance": chance,
        "CLIP scorer choosing among captions of held-out pictures": figures.clip,
    }
    lines = [f"| {' | '.join(['', *ASPECTS])} |", "| --- |" + " ---: |" * len(ASPECTS)]
    for name, shares in rows.items():
        lines.append(f"| {' | '.join([name, *(f'{shares[a]:.1%}' for a in ASPECTS)])} |")
    return "\n".join(lines)


def _verdict(value: float, target: float, form: str) -> str:
    """The figure, and whether it is where it should be."""
    met = "met" if value >= target else "**not yet met**"
    return f"{form.format(value)} (target {form.format(target)}: {met})"


def _millions(count: int) -> str:
    return f"{count / 1e6:.2f} M"
