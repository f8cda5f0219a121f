"""The Job that trains an adapter and evaluates it under the policy of an environment."""

from typing import Annotated

from pydantic import Field

from atelier.data.names import AdapterName, Digest, hex_of
from atelier.data.policy import Policy
from atelier.errors import PolicyError
from atelier.files import digest_json
from atelier.platform.api import CONFIG_MAPS, Api, ClusterRefused
from atelier.platform.jobs.job_manifest import HUB_KEYS, Work
from atelier.platform.jobs.spec import SPEC_TAG, Spec

ADAPTER_LABEL = "atelier.dev/adapter"
POLICIES = "/etc/atelier/policy"  # in the container
POLICY = "policy.yaml"  # in that folder, and in the ConfigMap
# Tags of a version in MLflow: the datasets of its pictures and of its held-back pictures.
PICTURES_TAG = "atelier.pictures"


class TrainingSpec(Spec):
    """A recipe and its inputs: all that affects the adapter's weights, and its look-alikes.

    The datasets are digests of folders, because file names determine the order of pictures. The
    digests in a manifest cover only the pictures.
    """

    adapter: AdapterName
    recipe: Digest
    base: Digest
    vae: Digest | None = None
    datasets: Annotated[tuple[Digest, ...], Field(min_length=1)]  # by stage
    look_alikes: Digest | None = None
    processes: Annotated[int, Field(ge=1)] = 1  # processes that share a step, one per GPU

    @property
    def tags(self) -> dict[str, str]:
        """The tags of the version that the Job registers: its spec, and its datasets by digest."""
        return {SPEC_TAG: self.digest, PICTURES_TAG: self.datasets[-1]}

    def job_name(self, environment: str) -> str:
        """Return the name of the only Job for this spec and environment; at most 63 characters."""
        short = hex_of(digest_json([self.digest, environment]))[:10]
        return f"train-{self.adapter[:46].rstrip('-')}-{short}"

    def work(self, environment: str, *, commit: str | None = None) -> Work:
        """Return the work of the Job; `commit` is the recipe's commit, for the lineage."""
        return Work(
            name=self.job_name(environment),
            kind="atelier-train",
            spec=self,
            command=("python", "-m", "pipelines.training_job", "--policy", f"{POLICIES}/{POLICY}"),
            processes=self.processes,
            labels={ADAPTER_LABEL: self.adapter},
            env={"ATELIER_GIT_COMMIT": commit} if commit else {},
            hub_keys=HUB_KEYS,
            config_maps={POLICIES: _config_map(environment)},
        )


def policy_of(api: Api, environment: str) -> Policy | None:
    """Return the policy of an environment's Jobs; None if it cannot be read from here."""
    name = _config_map(environment)
    try:
        return Policy.parse(api.get(CONFIG_MAPS, name).get("data", {}).get(POLICY, ""), name)
    except (
        ClusterRefused,
        PolicyError,
    ):  # the Job reports the error, unless its version of the program accepts the policy
        return None


def _config_map(environment: str) -> str:
    return f"policy-{environment}"
