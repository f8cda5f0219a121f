"""For tests of the agent: one round's plan and report, from nothing known before."""

from collections.abc import Collection, Iterable, Mapping

from atelier.contract.replica import Replica
from atelier.contract.shards import Shards
from atelier.contract.wanted import Wanted
from atelier.data.release import Release
from services.agent.plan import PlanInputs, Planner, RoundPlan
from services.agent.reporting import ReplicaReport


def plan(
    releases: Mapping[str, Release],
    *,
    on_volume: Collection[str],
    wanted: Wanted,
    loaded: Replica,
    unreadable: Collection[str] = (),
    refused: Collection[str] = (),
) -> RoundPlan:
    return Planner().plan(
        PlanInputs(
            loaded=loaded,
            releases=Shards(releases),
            on_volume=Shards(dict.fromkeys(on_volume, True)),
            wanted=wanted,
            unreadable=unreadable,
            refused=frozenset(refused),
        )
    )


def report(
    loaded: Replica,
    plan: RoundPlan,
    *,
    errors: Mapping[str, str],
    temporary: Collection[str] = (),
    problems: Iterable[str],
) -> Replica:
    return ReplicaReport().update(
        loaded, plan, errors=errors, temporary=temporary, problems=problems
    )
