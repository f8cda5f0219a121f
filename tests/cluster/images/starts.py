"""Inside a container: starts a server, waits until it answers, asks it, and ends it.

`python starts.py [--draw] URL COMMAND…`; prints what it found as the last line, as JSON.
"""

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request

PATIENCE = 400.0  # seconds: a machine that builds images at the same time starts slowly


def answers(url: str) -> bool:
    """Whether it answers with 200."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def draw(server: str) -> dict[str, object]:
    """One picture by the V2 protocol, as plain JSON."""
    inputs = [
        {"name": "PROMPT", "shape": [1], "datatype": "BYTES", "data": ["a red cat in the snow"]},
        {"name": "STEPS", "shape": [1], "datatype": "INT32", "data": [2]},
    ]
    request = urllib.request.Request(
        f"http://{server}/v2/models/atelier/infer", json.dumps({"inputs": inputs}).encode()
    )
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        outputs = {one["name"]: one for one in json.load(answer)["outputs"]}
    pixels = outputs["IMAGE"]["data"]
    return {
        "shape": outputs["IMAGE"]["shape"],
        "colours": len(set(pixels)),
        **json.loads(outputs["INFO"]["data"][0]),
    }


def main() -> int:
    """0 if the server answered and ended with 0 when told to."""
    words = sys.argv[1:]
    drawing = words[0] == "--draw"
    url, *command = words[drawing:]
    server = subprocess.Popen(command)
    deadline = time.monotonic() + PATIENCE
    began = time.monotonic()
    while not answers(url):
        if server.poll() is not None or time.monotonic() > deadline:
            server.kill()
            print(f"{command}: does not answer at {url}; exit code {server.poll()}")
            return 1
        time.sleep(0.2)
    found: dict[str, object] = {"seconds": round(time.monotonic() - began, 1)}
    if drawing:
        found |= draw(url.split("/")[2])
    server.terminate()
    found["exit"] = server.wait(timeout=60)
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
