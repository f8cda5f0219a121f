"""The report of a replica: the versions in its engine, and the missing released versions."""

from collections.abc import Collection, Iterable, Mapping

from atelier.contract.replica import HeldAdapter, Replica
from atelier.contract.shards import Versions
from services.agent.plan import Named, RoundPlan

MAX_PROBLEMS = 8  # problems in the error of the report; the log contains all
MAX_CHARACTERS = 500  # length of one problem, because a Lease has a limited size


class ReplicaReport:
    """Update the report each round. A change updates only the entries of the affected adapters."""

    def __init__(self) -> None:
        self._loaded: Versions[HeldAdapter] | None = None
        self._missing: Versions[Named] = Versions()
        self._errors: Mapping[str, str] = {}
        self._temporary: Collection[str] = frozenset()
        self._adapters: Versions[HeldAdapter] = Versions()

    def update(
        self,
        loaded: Replica,
        plan: RoundPlan,
        *,
        errors: Mapping[str, str],
        temporary: Collection[str] = (),
        problems: Iterable[str],
    ) -> Replica:
        """Return the report of this round.

        `errors` has the reason for each digest that cannot be fetched. `temporary` has the
        digests whose fetch may succeed later, for example when the registry responds again. They
        count as loading, the others as failed. `problems` belong to no particular package.
        """
        due = self._due(loaded, plan, errors, temporary)
        if not plan.missing.sharded:
            self._adapters = loaded.adapters
        else:
            entries = {}
            for name in due:
                missing = plan.missing.named(name)
                entries[name] = _entries(loaded.adapters.named(name), missing, errors, temporary)
            self._adapters = self._adapters.replaced(entries)
        self._loaded, self._missing = loaded.adapters, plan.missing
        self._errors, self._temporary = dict(errors), frozenset(temporary)
        lines = [*problems, *dict.fromkeys(errors.values()), *plan.ignored]
        own = [loaded.error] if loaded.error else []
        fields = {"adapters": self._adapters, "error": _joined([*own, *lines])}
        return loaded.model_copy(update=fields)

    def _due(
        self,
        loaded: Replica,
        plan: RoundPlan,
        errors: Mapping[str, str],
        temporary: Collection[str],
    ) -> set[str]:
        """Return the adapters whose entries may differ from the last report."""
        if (
            self._loaded is None or not self._missing.sharded
        ):  # the last report was the report of the engine
            self._adapters = loaded.adapters
            return set(plan.missing.sharded)
        due = loaded.adapters.changed(self._loaded) | plan.missing.changed(self._missing)
        digests = {d for d in {*errors, *self._errors} if errors.get(d) != self._errors.get(d)}
        digests |= set(temporary) ^ set(self._temporary)
        if digests:
            due |= {version.name for version in plan.missing if version.digest in digests}
        return due


def _entries(
    loaded: tuple[HeldAdapter, ...],
    missing: Iterable[Named],
    errors: Mapping[str, str],
    temporary: Collection[str],
) -> tuple[HeldAdapter, ...]:
    """Return the versions of an adapter: first those in the engine, then the missing versions."""
    known = {adapter.digest for adapter in loaded}
    entries = list(loaded)
    for version in missing:
        if version.digest not in known:
            error = errors.get(version.digest)
            failed = error is not None and version.digest not in temporary
            entries.append(
                HeldAdapter(
                    name=version.name,
                    version=version.version,
                    digest=version.digest,
                    state="failed" if failed else "loading",
                    error=error[:MAX_CHARACTERS] if error else None,
                )
            )
    return tuple(entries)


def _joined(lines: list[str]) -> str | None:
    """Return the first problems and the number of the others, or None."""
    more = len(lines) - MAX_PROBLEMS
    shown = [line[:MAX_CHARACTERS] for line in lines[:MAX_PROBLEMS]]
    return "; ".join([*shown, *([f"and {more} more"] if more > 0 else [])]) or None
