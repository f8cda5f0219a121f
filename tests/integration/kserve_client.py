"""Asks a gateway as KServe's own client does: a process of its own, with a JSON object on stdin.

In one process its protocol buffers and those of Triton's client have the same names, and the second
to be imported fails.
"""

import asyncio
import json
import sys
from typing import Any

import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig

KINDS = {"PROMPT": "BYTES", "ADAPTERS": "BYTES", "SEED": "INT64", "STEPS": "INT32"}


def tensor(name: str, value: Any) -> InferInput:
    """Numbers as binary data, strings as JSON: the client may mix them."""
    kind = KINDS[name]
    array = np.array([value], dtype=np.object_ if kind == "BYTES" else kind.lower())
    made = InferInput(name, [1], kind)
    made.set_data_from_numpy(array, binary_data=kind != "BYTES")
    return made


async def ask(url: str, key: str, inputs: dict[str, Any], timeout: float) -> dict[str, Any]:
    """The pictures as nested lists, and what made them."""
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
