"""For tests of the agent: one round's plan and report, from nothing known before."""

from collections.abc import Collection, Mapping
from typing import Any

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


def report(loaded: Replica, plan: RoundPlan, **inputs: Any) -> Replica:
    return ReplicaReport().update(loaded, plan, **inputs)
