"""A thin front over the real TensorFlow runtime, with TensorFlow Serving's own protocol, for tests.

`python tf_front.py FOLDER` exports a small SavedModel there, loads it, and serves it by gRPC and REST on free ports
of loopback, which it prints. The runtime, the SavedModel and the gRPC messages (package tensorflow-serving-api) are
the real ones; the server is not `tensorflow_model_server`. It imports nothing of weigh.
"""

from __future__ import annotations

import json
import sys
import threading
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import tensorflow as tf
from google.protobuf.json_format import MessageToDict
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    predict_pb2,
    prediction_service_pb2_grpc,
)

NAME, VERSION = "small", 7


class Small(tf.Module):
    """Two inputs of different types, an open batch and an open length."""

    def __init__(self) -> None:
        super().__init__()
        self.table = tf.Variable(tf.random.normal((64, 32), seed=1))
        self.weights = tf.Variable(tf.random.normal((32, 8), seed=2))

    @tf.function(
        input_signature=[
            tf.TensorSpec((None, None), tf.int64, name="ids"),
            tf.TensorSpec((None, 32), tf.float32, name="bias"),
        ]
    )
    def serve(self, ids, bias):
        means = tf.reduce_mean(tf.gather(self.table, ids), axis=1)
        return {
            "scores": tf.nn.softmax((means + bias) @ self.weights),
            "length": tf.shape(ids)[1] + 0 * tf.shape(ids),
        }

    @tf.function(input_signature=[tf.TensorSpec((4, 2), tf.float64, name="x")])
    def four(self, x):
        return {"y": 2 * x}

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, name="text")])
    def lengths(self, text):
        return {"bytes": tf.strings.length(text)}


def definitions(folder: Path) -> get_model_metadata_pb2.SignatureDefMap:
    saved = SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    known = saved.meta_graphs[0].signature_def
    return get_model_metadata_pb2.SignatureDefMap(signature_def=dict(known))


class Front(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, model, defined) -> None:
        self.model, self.defined = model, defined

    def run(self, name: str, inputs: dict) -> dict:
        outputs = self.model.signatures[name or "serving_default"](**inputs)
        return {key: value.numpy() for key, value in outputs.items()}

    def Predict(self, request, context):  # noqa: N802
        self._check(request, context)
        inputs = {key: tf.constant(tf.make_ndarray(value)) for key, value in request.inputs.items()}
        try:
            outputs = self.run(request.model_spec.signature_name, inputs)
        except Exception as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error).splitlines()[0])
        answer = predict_pb2.PredictResponse(model_spec=request.model_spec)
        for key, value in outputs.items():
            answer.outputs[key].CopyFrom(tf.make_tensor_proto(value))
        return answer

    def GetModelMetadata(self, request, context):  # noqa: N802
        self._check(request, context)
        answer = get_model_metadata_pb2.GetModelMetadataResponse()
        answer.model_spec.name, answer.model_spec.version.value = NAME, VERSION
        answer.metadata["signature_def"].Pack(self.defined)
        return answer

    @staticmethod
    def _check(request, context) -> None:
        if request.model_spec.name != NAME:
            context.abort(
                grpc.StatusCode.NOT_FOUND,
                f"Servable not found for request: Latest({request.model_spec.name})",
            )


def rest(front: Front) -> type[BaseHTTPRequestHandler]:
    """As tensorflow_serving/g3doc/api_rest.md says it."""

    class Rest(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path != f"/v1/models/{NAME}/metadata":
                return self.say(404, {"error": "Could not find any versions of model"})
            spec = {"name": NAME, "signature_name": "", "version": str(VERSION)}
            defined = MessageToDict(front.defined, preserving_proto_field_name=True)
            return self.say(200, {"model_spec": spec, "metadata": {"signature_def": defined}})

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            name = asked.get("signature_name", "serving_default")
            known = front.model.signatures[name].structured_input_signature[1]
            try:
                inputs = {key: tf.constant(value, known[key].dtype) for key, value in asked["inputs"].items()}
                outputs = front.run(name, inputs)
            except Exception as error:
                return self.say(400, {"error": str(error).splitlines()[0]})
            lists = {key: value.tolist() for key, value in outputs.items()}
            return self.say(200, {"outputs": lists if len(lists) > 1 else next(iter(lists.values()))})

        def say(self, status: int, answer: dict) -> None:
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """Quiet."""

    return Rest


def main(folder: Path) -> None:
    if not (folder / "saved_model.pb").exists():
        small = Small()
        known = {"serving_default": small.serve, "four": small.four, "lengths": small.lengths}
        tf.saved_model.save(small, str(folder), signatures=known)
    front = Front(tf.saved_model.load(str(folder)), definitions(folder))
    server = grpc.server(futures.ThreadPoolExecutor(4), options=[("grpc.max_receive_message_length", -1)])
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(front, server)
    grpc_port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    http = ThreadingHTTPServer(("127.0.0.1", 0), rest(front))
    threading.Thread(target=http.serve_forever, daemon=True).start()
    print(json.dumps({"grpc": grpc_port, "rest": http.server_port}), flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
