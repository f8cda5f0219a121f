"""Files to and from MLflow's server, with a timeout of their own.

MLflow has one timeout for all of its calls, which is short here, so that an absent server is
noticed. But before a large file's first byte, or after its last, the server may copy all of it.
"""

from functools import cache
from pathlib import Path
from typing import Any, Final

TRANSFER_SECONDS: Final = 900
_CHUNK = 2**20  # bytes


@cache
def use_long_transfers() -> None:
    """Let every MLflow client of this process transfer files with TRANSFER_SECONDS.

    Registers a repository for the scheme `mlflow-artifacts`, as MLflow's plug-ins do. It differs
    from MLflow's own in the timeout of the two calls that carry a whole file.
    """
    from mlflow.store.artifact import artifact_repository_registry as registry
    from mlflow.store.artifact.http_artifact_repo import HttpArtifactRepository
    from mlflow.store.artifact.mlflow_artifacts_repo import MlflowArtifactsRepository
    from mlflow.utils.rest_utils import augmented_raise_for_status, http_request

    class Whole(HttpArtifactRepository):  # type: ignore[misc]
        def log_artifact(self, local_file: str, artifact_path: str | None = None) -> None:
            if self._should_multipart_upload(local_file):
                super().log_artifact(local_file, artifact_path)
                return
            name = Path(local_file).name
            with Path(local_file).open("rb") as file:
                self._call(f"{artifact_path}/{name}" if artifact_path else name, "PUT", data=file)

        def _download_file(self, remote_file_path: str, local_path: str) -> None:
            answer = self._call(remote_file_path, "GET", stream=True)
            with Path(local_path).open("wb") as file:
                for chunk in answer.iter_content(chunk_size=_CHUNK):
                    file.write(chunk)

        def _call(self, path: str, method: str, **how: Any) -> Any:
            how |= {"timeout": TRANSFER_SECONDS}
            answer = http_request(self._host_creds, f"/{path}", method, **how)
            augmented_raise_for_status(answer)
            return answer

    # Its superclass decides between a whole file and presigned parts of one, then calls `Whole`.
    class LongTransfers(MlflowArtifactsRepository, Whole):  # type: ignore[misc]
        pass

    registry._artifact_repository_registry.register("mlflow-artifacts", LongTransfers)
