"""Asks a gateway as KServe's own client does, in a process of its own.

In one process its protocol buffers and those of Triton's client have the same names, and the second
to be imported fails. `kserve_draws` runs this module, with a JSON object on its standard input.
"""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

PATIENCE = 120.0  # seconds
KINDS = {"PROMPT": "BYTES", "ADAPTERS": "BYTES", "SEED": "INT64", "STEPS": "INT32"}


def kserve_draws(url: str, key: str, inputs: dict[str, Any]) -> tuple[Any, str]:
    """Pictures, uint8 [N, H, W, 3], and `INFO`; first it asks whether the model is ready.

    `inputs` are scalars by the name of their tensor.
    """
    given = {"url": url, "key": key, "inputs": inputs, "timeout": PATIENCE}
    command = [sys.executable, "-m", "tests.integration.kserve_client"]
    ended = subprocess.run(
        command,
        input=json.dumps(given),
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout.splitlines()[-1])
    assert found["ready"]
    return np.array(found["image"], np.uint8), found["info"]


def tensor(name: str, value: Any) -> Any:
    """Numbers as binary data, strings as JSON: the client may mix them."""
    from kserve import InferInput

    kind = KINDS[name]
    array = np.array([value], dtype=np.object_ if kind == "BYTES" else kind.lower())
    made = InferInput(name, [1], kind)
    made.set_data_from_numpy(array, binary_data=kind != "BYTES")
    return made


async def ask(url: str, key: str, inputs: dict[str, Any], timeout: float) -> dict[str, Any]:
    """The pictures as nested lists, and what made them."""
    from kserve import InferenceRESTClient, InferRequest, RESTConfig

    client = InferenceRESTClient(RESTConfig(protocol="v2", timeout=timeout))
    headers = {"Authorization": f"Bearer {key}"}
    ready = await client.is_server_ready(url, headers=dict(headers))
    ready &= await client.is_model_ready(url, "atelier", headers=dict(headers))
    request = InferRequest(
        model_name="atelier", infer_inputs=[tensor(name, one) for name, one in inputs.items()]
    )
    found = await client.infer(url, request, model_name="atelier", headers=dict(headers))
    await client.close()
    outputs = {one.name: one.as_numpy() for one in found.outputs}
    (info,) = outputs["INFO"].reshape(-1)
    text = info.decode() if isinstance(info, bytes) else info
    return {"ready": ready, "image": outputs["IMAGE"].tolist(), "info": text}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(ask(**json.load(sys.stdin)))))
