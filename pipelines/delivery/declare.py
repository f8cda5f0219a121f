"""Create the declaration of a version that its verdict allows to serve."""

from atelier.contract.replica import base_label
from atelier.data.declaration import Declaration, reason_of
from atelier.data.policy import Policy
from atelier.data.release import Canary, Pin
from atelier.errors import BadInput, Refused
from atelier.stores.registry import Registry
from pipelines.delivery.approval import accepted_evaluation


def propose(
    name: str,
    version: int,
    *,
    declared: Declaration | None,
    registry: Registry,
    policy: Policy,
    environment: str,
    canary: int | None = None,
    reason: str = "promoted",
) -> Declaration:
    """Return the declaration of a version, for all requests or for `canary` percent of them.

    `replaces` is the version that the environment's alias names, because that version was verified
    to serve. The declared version may have failed, or may never have been promoted. Raises Refused
    if the policy refuses the version, or if it was withdrawn.
    """
    reason = reason_of(reason)
    info = registry.version(name, version)
    evaluation = accepted_evaluation(registry, info, policy)
    if canary is None:
        serving = registry.aliased(name, environment)
        before = Pin(version=serving.version, digest=serving.digest) if serving else None
        if before and before.digest == info.digest:
            before = declared.replaces if declared else None
        declaration = Declaration(
            adapter=name,
            version=info.version,
            digest=info.digest,
            base=evaluation.base,
            vae=evaluation.vae,
            replaces=before,
            withdrawn=declared.withdrawn if declared else (),
            revision=declared.revision if declared else 0,
            reason=reason,
        )
    else:
        share = Canary(version=info.version, digest=info.digest, percent=canary)
        declaration = _with_canary(name, declared, share, reason)
        if (declaration.base, declaration.vae) != (evaluation.base, evaluation.vae):
            raise Refused(
                f"{name}@{version}: evaluated on {base_label(evaluation.base, evaluation.vae)}, "
                f"but version {declaration.version} was evaluated on "
                f"{base_label(declaration.base, declaration.vae)}; "
                f"evaluate the canary on the base and VAE of version {declaration.version}"
            )
    declaration.require_wanted()
    return declaration


def _with_canary(
    name: str, declared: Declaration | None, canary: Canary, reason: str
) -> Declaration:
    if declared is None:
        raise BadInput(f"{name}: a canary needs a version that serves; propose one first")
    if declared.digest == canary.digest:
        raise BadInput(f"{name}: version {canary.version} serves already; name another version")
    return declared.model_copy(update={"canary": canary, "reason": reason})
