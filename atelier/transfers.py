"""Transfers of files to and from MLflow's server, with a separate timeout.

MLflow has one timeout for all calls, which is short in this project, so that an absent server is
detected. A transfer needs a longer one: the server may copy a large file before it sends the first
byte, or after it has received the last byte.
"""

from functools import cache
from pathlib import Path
from typing import Any, Final

TRANSFER_SECONDS: Final = 900
_CHUNK = 2**20  # bytes


@cache
def use_long_transfers() -> None:
    """Set the timeout of file transfers to TRANSFER_SECONDS, for all MLflow clients of the process.

    Registers a repository for the scheme `mlflow-artifacts`, as MLflow's plug-ins do. Only the
    timeout of the two calls that transfer a whole file differs from MLflow's own repository.
    """
    from mlflow.store.artifact import artifact_repository_registry as registry
    from mlflow.store.artifact.http_artifact_repo import HttpArtifactRepository
    from mlflow.store.artifact.mlflow_artifacts_repo import MlflowArtifactsRepository
    from mlflow.utils.rest_utils import augmented_raise_for_status, http_request

    class WholeFiles(HttpArtifactRepository):  # type: ignore[misc]
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

        def _call(self, path: str, method: str, **options: Any) -> Any:
            options |= {"timeout": TRANSFER_SECONDS}
            answer = http_request(self._host_creds, f"/{path}", method, **options)
            augmented_raise_for_status(answer)
            return answer

    # MlflowArtifactsRepository chooses between a whole file, by `WholeFiles`, and presigned parts.
    class LongTransfers(MlflowArtifactsRepository, WholeFiles):  # type: ignore[misc]
        pass

    registry._artifact_repository_registry.register("mlflow-artifacts", LongTransfers)
