"""What git is asked to declare: a version that its verdict allows."""

from atelier.contract.replica import drawn_with
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
    """The declaration that lets a version serve, wholly or to `canary` percent.

    It replaces what was seen to serve: the version that the environment's alias names. What git
    declares may have failed, or never have been tried. Refused where the policy does, or where the
    version was withdrawn.
    """
    reason = reason_of(reason)
    info = registry.version(name, version)
    judged = accepted_evaluation(registry, info, policy)
    if canary is None:
        serving = registry.aliased(name, environment)
        before = Pin(version=serving.version, digest=serving.digest) if serving else None
        if before and before.digest == info.digest:
            before = declared.replaces if declared else None
        made = Declaration(
            adapter=name,
            version=info.version,
            digest=info.digest,
            base=judged.base,
            vae=judged.vae,
            replaces=before,
            withdrawn=declared.withdrawn if declared else (),
            revision=declared.revision if declared else 0,
            reason=reason,
        )
    else:
        share = Canary(version=info.version, digest=info.digest, percent=canary)
        made = _with_canary(name, declared, share, reason)
        if (made.base, made.vae) != (judged.base, judged.vae):
            raise Refused(
                f"{name}@{version}: judged on {drawn_with(judged.base, judged.vae)}, but version "
                f"{made.version} on {drawn_with(made.base, made.vae)}; "
                "one adapter's traffic cannot be shared by two"
            )
    made.require_wanted()
    return made


def _with_canary(
    name: str, declared: Declaration | None, canary: Canary, reason: str
) -> Declaration:
    if declared is None:
        raise BadInput(f"{name}: a canary needs a version that serves; propose one first")
    if declared.digest == canary.digest:
        raise BadInput(f"{name}: version {canary.version} serves already; nothing to try out")
    return declared.model_copy(update={"canary": canary, "reason": reason})
