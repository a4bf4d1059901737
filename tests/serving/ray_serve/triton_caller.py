"""Calls a server with tritonclient's gRPC, in a process of its own: two files with messages of the same names do not fit into one.

`python triton_caller.py PLACE APPLICATION NAME TEXT...` prints what it is told, as JSON.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException


def main(place: str, application: str, name: str, *texts: str) -> None:
    headers = {"application": application}
    client = triton.InferenceServerClient(place)
    tensor = triton.InferInput("text", [len(texts)], "BYTES")
    tensor.set_data_from_numpy(np.array([text.encode() for text in texts], dtype=np.object_))
    answer = client.infer(name, [tensor], request_id="seven", headers=headers, client_timeout=20)
    told = {
        "live": client.is_server_live(headers=headers),
        "ready": client.is_model_ready(name, headers=headers),
        "metadata": client.get_model_metadata(name, headers=headers, as_json=True),
        "id": answer.get_response().id,
        "outputs": {
            output.name: [
                value.decode() if isinstance(value, bytes) else float(value) for value in answer.as_numpy(output.name)
            ]
            for output in answer.get_response().outputs
        },
    }
    try:
        client.infer("other", [tensor], headers=headers)
    except InferenceServerException as error:
        told["refused"] = [error.status(), error.message()]
    print(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
