"""`atelier evaluate`: evaluate a package under a policy."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atelier.errors import ExitCode
from atelier.home import Home
from commands.command import Answer
from commands.terminal import hide_library_bars, progress
from commands.train.verdict import reasons_of, verdict_data, verdict_lines

if TYPE_CHECKING:
    from atelier.adapter.package import Package
    from pipelines.evaluate import Evaluation


def evaluate(
    package: Annotated[str, typer.Argument(metavar="PACKAGE", help="NAME[@VERSION] or FOLDER.")],
    policy: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Policy file. Default: the built-in policy.")
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(
            help="Recipe of the package. Default: the recipe in adapters/ or examples/ with the "
            "recipe digest of the package."
        ),
    ] = None,
    pictures: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of the training pictures, if there is no recipe."),
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="Base model. Default: the base of the package.")
    ] = None,
    vae: Annotated[
        str | None,
        typer.Option(help="VAE that replaces the VAE of the base. Default: the VAE of the recipe."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Output folder. Default: beside the package.")
    ] = None,
    all_seeds: Annotated[
        bool,
        typer.Option(
            "--all-seeds",
            help="Generate all seeds of the policy, even if fewer decide. `calibrate` needs them.",
        ),
    ] = False,
) -> Answer:
    """Evaluate a package under a policy and give a verdict.

    Writes the measurements, the images, a contact sheet and a report to the output folder. Stores
    the evaluation of a registered version in the registry. Exit code 1 unless the package is
    accepted.
    """
    from atelier.data.policy import Policy
    from atelier.data.recipe import Recipe
    from atelier.stores.registry import Registry
    from commands.adapter_references import AdapterReference, resolve

    home, operators_policy = Home.find(), Policy.load(policy)
    adapter = resolve(AdapterReference.parse(package), home)
    folder = output or _beside(adapter.package, home)
    loaded_recipe = Recipe.load(recipe) if recipe else None

    # imported after the validation of the input, because the imports are slow
    from pipelines.earlier import existing_registry
    from pipelines.evaluate import attest
    from pipelines.evaluate import evaluate as evaluate_package
    from pipelines.evaluate.companions import companion_packages
    from pipelines.evaluate.references import recipe_of

    training_pictures = pictures or loaded_recipe or recipe_of(adapter.package)
    hide_library_bars()
    registry = existing_registry(home)
    companions = companion_packages(operators_policy, adapter.package.manifest.name, registry, home)
    with progress() as report_progress:
        evaluation = evaluate_package(
            adapter.package,
            operators_policy,
            base=base or adapter.package.manifest.base.id,
            vae=vae,
            training_pictures=training_pictures,
            output=folder,
            cache=home.root / "cache" / "pictures",
            progress=report_progress,
            all_seeds=all_seeds,
            registry=registry,
            companions=companions,
        )
    if adapter.version is None:
        return _answer(evaluation, folder, None)
    registry = registry or Registry(home.tracking_uri)
    version = registry.version(evaluation.adapter, adapter.version)
    attest(registry, version, evaluation, folder)
    return _answer(evaluation, folder, version.label)


def _beside(package: "Package", home: Home) -> Path:
    """Return the default output folder. It is outside the package, which accepts no other files."""
    if home.root in package.path.absolute().parents and package.path.name != "package":
        return home.evaluations / package.path.name
    return package.path.absolute().parent / "evaluation"


def _answer(evaluation: "Evaluation", folder: Path, label: str | None) -> Answer:
    from pipelines.evaluate import REPORT, SHEET

    reasons = reasons_of(evaluation, label)
    lines = [
        *verdict_lines(evaluation, reasons),
        f"{label or evaluation.adapter}: {evaluation.decision}; report in {folder / REPORT}",
    ]
    data = verdict_data(evaluation, reasons) | {
        "output": str(folder),
        "report": str(folder / REPORT),
        "sheet": str(folder / SHEET),
    }
    return Answer("\n".join(lines), data, ExitCode.of_verdict(evaluation.accepted))
