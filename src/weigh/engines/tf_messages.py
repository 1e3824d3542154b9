"""The messages of TensorFlow Serving's gRPC that weigh speaks, declared by field name, type and number.

Sources: tensorflow_serving/apis/{predict,model,get_model_metadata}.proto in github.com/tensorflow/serving;
tensorflow/core/framework/{tensor,tensor_shape}.proto and tensorflow/core/protobuf/meta_graph.proto in
github.com/tensorflow/tensorflow. Names stay out of what is sent, so that messages may be called otherwise here; a map
is, on the wire, a repeated message of key and value, and an enum an int32.
"""

from __future__ import annotations

from functools import lru_cache
from types import SimpleNamespace
from typing import Any

Messages = Any  # one class for each message below

_DECLARED = {
    "Version": "int64 value 1",
    "ModelSpec": "string name 1, Version version 2, string signature_name 3",
    "Dim": "int64 size 1, string name 2",
    "Shape": "Dim* dim 2, bool unknown_rank 3",
    "Tensor": "int32 dtype 1, Shape tensor_shape 2, bytes tensor_content 4, bytes* string_val 8",
    "TensorEntry": "string key 1, Tensor value 2",
    "PredictRequest": "ModelSpec model_spec 1, TensorEntry* inputs 2",
    "PredictResponse": "TensorEntry* outputs 1, ModelSpec model_spec 2",
    "Packed": "string type_url 1, bytes value 2",
    "PackedEntry": "string key 1, Packed value 2",
    "MetadataRequest": "ModelSpec model_spec 1, string* metadata_field 2",
    "MetadataResponse": "ModelSpec model_spec 1, PackedEntry* metadata 2",
    "TensorInfo": "string name 1, int32 dtype 2, Shape tensor_shape 3",
    "TensorInfoEntry": "string key 1, TensorInfo value 2",
    "SignatureDef": "TensorInfoEntry* inputs 1, TensorInfoEntry* outputs 2, string method_name 3",
    "SignatureEntry": "string key 1, SignatureDef value 2",
    "SignatureDefMap": "SignatureEntry* signature_def 1",
}
_PACKAGE = "weigh.tf"


@lru_cache(maxsize=1)
def messages() -> Messages:
    """Their classes, in a pool of their own beside TensorFlow's.

    Raises:
        ImportError: protobuf is not installed.
    """
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="weigh_tf.proto", package=_PACKAGE, syntax="proto3")
    for name, fields in _DECLARED.items():
        message = file.message_type.add(name=name)
        for declared in fields.split(", "):
            kind, field, number = declared.split(" ")
            plain = kind.removesuffix("*")
            label = kinds.LABEL_REPEATED if kind != plain else kinds.LABEL_OPTIONAL
            made = message.field.add(name=field, number=int(number), label=label)
            if plain in _DECLARED:
                made.type, made.type_name = kinds.TYPE_MESSAGE, f".{_PACKAGE}.{plain}"
            else:
                made.type = getattr(kinds, f"TYPE_{plain.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = {name: pool.FindMessageTypeByName(f"{_PACKAGE}.{name}") for name in _DECLARED}
    return SimpleNamespace(**{name: message_factory.GetMessageClass(one) for name, one in found.items()})
