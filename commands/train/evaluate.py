"""`atelier evaluate`: judge a package, with measurements and pictures."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atelier.errors import BadInput
from atelier.home import Home
from commands.table import table
from commands.verb import Answer

if TYPE_CHECKING:
    from atelier.adapter.package import Package
    from atelier.data.recipe import Recipe
    from pipelines.evaluate import Evaluation

REFUSED = 1
RECIPES = (Path("adapters"), Path("examples"))  # where the recipe of a package is searched


def evaluate(
    package: Annotated[str, typer.Argument(metavar="PACKAGE", help="A folder or NAME[@VERSION].")],
    policy: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Policy file. Default: the built-in policy.")
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(help="Recipe of the package. Default: found in adapters/ or examples/."),
    ] = None,
    pictures: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Training pictures, if there is no recipe.")
    ] = None,
    base: Annotated[str | None, typer.Option(help="Base model. Default: the package's.")] = None,
    vae: Annotated[
        str | None, typer.Option(help="VAE that replaces the base's own. Default: the recipe's.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Output folder. Default: beside the package.")
    ] = None,
) -> Answer:
    """Judge a package under a policy and give a verdict with reasons.

    Writes the measurements and pictures to the output folder. The verdict of a registered version
    is also stored in the registry. Exit code 1 if the package is refused.
    """
    from atelier.data.policy import Policy
    from commands.adapter_references import AdapterReference, find, open_registry

    home, operators = Home.find(), Policy.load(policy)
    found = find(AdapterReference.parse(package), home)
    manifest = found.package.manifest
    trained_on = pictures or _recipe(found.package, recipe)
    into = output or _beside(found.package, home)
    from commands.progress import progress  # heavy imports wait until the input is valid
    from commands.quiet import quiet_loading
    from pipelines.evaluate import attest
    from pipelines.evaluate import evaluate as judge

    quiet_loading()
    with progress() as shown:
        evaluation = judge(
            found.package,
            operators,
            base=base or manifest.base.id,
            vae=vae,
            training_pictures=trained_on,
            output=into,
            cache=home.root / "cache" / "pictures",
            progress=shown,
        )
    if found.version is not None:
        registry = open_registry(home)
        attest(registry, registry.version(manifest.name, found.version), evaluation, into)
    return _answer(evaluation, into)


def _beside(package: "Package", home: Home) -> Path:
    """A package's folder may hold nothing else, so the verdict is written beside it."""
    if home.root in package.path.absolute().parents and package.path.name != "package":
        return home.root / "evaluations" / package.path.name
    return package.path.absolute().parent / "evaluation"


def _recipe(package: "Package", given: Path | None) -> "Recipe":
    """The given recipe, or the one in RECIPES whose digest the manifest names."""
    from atelier.data.recipe import RECIPE, Recipe

    if given is not None:
        return Recipe.load(given)
    wanted = package.manifest.recipe
    files = [file for root in RECIPES if root.is_dir() for file in sorted(root.rglob("*.yaml"))]
    broken = []
    for file in files if wanted else ():
        if file.name != RECIPE and file.parent.name != package.manifest.name:
            continue
        try:
            recipe = Recipe.load(file)
        except BadInput as error:  # mostly another adapter's, which is nobody's business here
            broken.append(str(error))
            continue
        if recipe.digest == wanted:
            return recipe
    unread = f" (could not be read: {'; '.join(broken)})" if broken else ""
    raise BadInput(
        f"{package.path}: no recipe in {' or '.join(map(str, RECIPES))} has the recipe digest of "
        f"its manifest{unread}; name the recipe with --recipe, or the pictures with --pictures"
    )


def _answer(evaluation: "Evaluation", into: Path) -> Answer:
    rows = [
        (
            gate.name,
            "-" if gate.value is None else f"{gate.value:.3f}",
            f"{gate.kind.replace('_', ' ')} {gate.threshold:g}",
            f"{gate.ci[0]:.3f} to {gate.ci[1]:.3f}" if gate.ci else "-",
            "passed" if gate.passed else "FAILED",
        )
        for gate in evaluation.gates
    ]
    verdict = "accepted" if evaluation.accepted else "refused"
    lines = [
        table(("GATE", "VALUE", "LIMIT", "95 %", ""), rows),
        *(f"- {reason}" for reason in evaluation.reasons),
        f"{evaluation.adapter}: {verdict}; measurements and pictures in {into}",
    ]
    data = {
        "adapter": evaluation.adapter,
        "digest": evaluation.digest,
        "accepted": evaluation.accepted,
        "reasons": list(evaluation.reasons),
        "gates": [gate.model_dump(mode="json") for gate in evaluation.gates],
        "output": str(into),
    }
    return Answer("\n".join(lines), data, 0 if evaluation.accepted else REFUSED)
