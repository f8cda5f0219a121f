"""`atelier run`: the whole pipeline, from a recipe to a registered candidate with a verdict."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atelier.errors import ExitCode
from atelier.home import Home
from commands.command import Answer
from commands.terminal import hide_library_bars, progress
from commands.train.verdict import reasons_of, verdict_data, verdict_lines

if TYPE_CHECKING:
    from atelier.data.policy import Policy
    from pipelines.delivery.local.reconciler import PromotionStatus
    from pipelines.run import RunResult


def run(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="Recipe file.")],
    policy: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Policy file. Default: the built-in policy.")
    ] = None,
    promote: Annotated[
        bool, typer.Option("--promote", help="Promote the version if it is accepted.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Resume an interrupted run.")] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Train anew, even if the same inputs were trained.")
    ] = False,
) -> Answer:
    """Train, evaluate and register an adapter.

    The version becomes a candidate; only --promote changes which version serves. If the same
    recipe, pictures and base were trained before, that version is reported, and evaluated if it has
    no verdict under the policy. Exit code 1 unless the version is accepted.
    """
    from atelier.data.policy import Policy
    from atelier.data.recipe import Recipe

    loaded_recipe, operators_policy = Recipe.load(recipe), Policy.load(policy)

    # imported after the validation of the input, because the imports are slow
    from pipelines.run import run as pipeline

    hide_library_bars()
    home = Home.find()
    result = pipeline(
        loaded_recipe, operators_policy, home, resume=resume, again=again, showing=progress
    )
    outcome = _Outcome(result, recipe, policy)
    if promote and result.evaluation.accepted:
        return outcome.answer(_promote(result, operators_policy, home))
    return outcome.answer()


def _promote(result: "RunResult", policy: "Policy", home: Home) -> "PromotionStatus":
    from atelier.adapter.signature_policy import SignaturePolicy
    from atelier.stores.registry import Registry
    from commands.settings import CommandSettings
    from pipelines.delivery.local import promotion
    from pipelines.delivery.smoke import local_smoke

    return promotion.promote(
        result.version.name,
        result.version.version,
        registry=Registry(home.tracking_uri),
        home=home,
        policy=policy,
        signatures=SignaturePolicy.of(CommandSettings.read()),
        smoke=local_smoke(home),
    )


@dataclass(frozen=True)
class _Outcome:
    """The result of the pipeline, and the arguments of the command for its hints."""

    result: "RunResult"
    recipe: Path
    policy: Path | None

    def answer(self, promotion: "PromotionStatus | None" = None) -> Answer:
        """Return the output of the command, after a promotion if there was one."""
        result, evaluation = self.result, self.result.evaluation
        label = result.version.label
        reasons, files = reasons_of(evaluation, label), self._files()
        lines = [*verdict_lines(evaluation, reasons), f"{label}: {evaluation.decision}"]
        if not result.trained:
            lines.append(
                "not trained again: it was made from the same recipe, pictures and base "
                "(--again trains anew)"
            )
        lines += [f"{name:8} {path}" for name, path in files.items()]
        next_step = self._next(promotion)
        lines += [promotion.message] if promotion else []
        lines.append(f"next:    {next_step}")
        data: dict[str, Any] = verdict_data(evaluation, reasons) | {
            "version": result.version.version,
            "trained": result.trained,
            "files": {name: str(path) for name, path in files.items()},
            "next": next_step,
            "promotion": None
            if promotion is None
            else {"state": promotion.state, "message": promotion.message},
        }
        code = promotion.exit_code if promotion else ExitCode.of_verdict(evaluation.accepted)
        return Answer("\n".join(lines), data, code)

    def _files(self) -> dict[str, Path]:
        """Return the files to look at, as far as they exist on this machine."""
        from pipelines.evaluate import REPORT, SHEET
        from pipelines.train.curves import loss_plot

        training = self.result.training
        files = {"report": self.result.folder / REPORT, "sheet": self.result.folder / SHEET}
        if training is not None:
            files |= {"samples": training.samples, "loss": loss_plot(training)}
        return {name: path for name, path in files.items() if path.exists()}

    def _next(self, promotion: "PromotionStatus | None") -> str:
        """Return the next command, or the change that a refused adapter needs."""
        from pipelines.evaluate.causes import cause

        evaluation, version = self.result.evaluation, self.result.version
        if promotion is not None:
            return "atelier status"
        if evaluation.accepted:
            policy = f" --policy {self.policy}" if self.policy else ""
            return f"atelier promote {version.name} {version.version}{policy}"
        if evaluation.decision == "undecided":
            return "allow more pictures with seeds.most in the policy, or train another adapter"
        return f"{cause(evaluation, evaluation.gates).fix}; then atelier run {self.recipe}"
