"""What a replica tells the others: the engine's own words, and what never reached it."""

from collections.abc import Collection, Iterable, Mapping

from atelier.contract.replica import HeldAdapter, Replica
from atelier.contract.shards import Versions
from services.agent.plan import Named, RoundPlan

SENTENCES = 8  # of the report's error; the log has them all
LETTERS = 500  # of one sentence: a head and a shard have to fit a Lease


class ReplicaReport:
    """Made round after round; a change costs the entries of its own adapters."""

    def __init__(self) -> None:
        self._loaded: Versions[HeldAdapter] | None = None
        self._missing: Versions[Named] = Versions()
        self._problems: Mapping[str, str] = {}
        self._passing: Collection[str] = frozenset()
        self._adapters: Versions[HeldAdapter] = Versions()

    def made(
        self,
        loaded: Replica,
        plan: RoundPlan,
        *,
        problems: Mapping[str, str],
        passing: Collection[str] = (),
        troubles: Iterable[str],
    ) -> Replica:
        """The report.

        `problems` tells by digest why a package is not to be had; where that is `passing`, like a
        registry that is away, the package counts as on its way. `troubles` are about no one
        package.
        """
        due = self._due(loaded, plan, problems, passing)
        if not plan.missing.sharded:
            self._adapters = loaded.adapters
        else:
            entries = {}
            for name in due:
                missing = plan.missing.named(name)
                entries[name] = _told(loaded.adapters.named(name), missing, problems, passing)
            self._adapters = self._adapters.replaced(entries)
        self._loaded, self._missing = loaded.adapters, plan.missing
        self._problems, self._passing = dict(problems), frozenset(passing)
        sentences = [*troubles, *dict.fromkeys(problems.values()), *plan.ignored]
        own = [loaded.error] if loaded.error else []
        fields = {"adapters": self._adapters, "error": _some([*own, *sentences])}
        return loaded.model_copy(update=fields)

    def _due(
        self,
        loaded: Replica,
        plan: RoundPlan,
        problems: Mapping[str, str],
        passing: Collection[str],
    ) -> set[str]:
        """The adapters of which something has changed since the report before."""
        if self._loaded is None or not self._missing.sharded:  # it was the engine's own
            self._adapters = loaded.adapters
            return set(plan.missing.sharded)
        due = loaded.adapters.changed(self._loaded) | plan.missing.changed(self._missing)
        digests = {one for one in {*problems, *self._problems} if self._differs(one, problems)}
        digests |= set(passing) ^ set(self._passing)
        if digests:
            due |= {one.name for one in plan.missing if one.digest in digests}
        return due

    def _differs(self, digest: str, problems: Mapping[str, str]) -> bool:
        return problems.get(digest) != self._problems.get(digest)


def report(
    loaded: Replica,
    plan: RoundPlan,
    *,
    problems: Mapping[str, str],
    passing: Collection[str] = (),
    troubles: Iterable[str],
) -> Replica:
    """A report made at once, see `ReplicaReport.made`."""
    return ReplicaReport().made(loaded, plan, problems=problems, passing=passing, troubles=troubles)


def _told(
    held: tuple[HeldAdapter, ...],
    missing: Iterable[Named],
    problems: Mapping[str, str],
    passing: Collection[str],
) -> tuple[HeldAdapter, ...]:
    """An adapter's versions: those that the engine knows, then those that have not arrived."""
    known = {one.digest for one in held}
    found = list(held)
    for one in missing:
        if one.digest not in known:
            error = problems.get(one.digest)
            failed = error is not None and one.digest not in passing
            found.append(
                HeldAdapter(
                    name=one.name,
                    version=one.version,
                    digest=one.digest,
                    state="failed" if failed else "loading",
                    error=error[:LETTERS] if error else None,
                )
            )
    return tuple(found)


def _some(sentences: list[str]) -> str | None:
    """The first few sentences, and how many more there are."""
    more = len(sentences) - SENTENCES
    told = [one[:LETTERS] for one in sentences[:SENTENCES]]
    return "; ".join([*told, *([f"and {more} more"] if more > 0 else [])]) or None
