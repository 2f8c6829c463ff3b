"""The part of Triton's ``model_config.proto`` that our configurations use, with its numbers.

Its own Python package, tritonclient, holds protobuf below version 7, which other libraries need.
Where its ``model_config_pb2.py`` can be loaded all the same, a test compares this part with it; it
was equal to the one of tritonclient 2.73.0.
"""

from __future__ import annotations

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_FIELD = descriptor_pb2.FieldDescriptorProto
_TYPES = {"int32": _FIELD.TYPE_INT32, "int64": _FIELD.TYPE_INT64, "string": _FIELD.TYPE_STRING}
_TENSOR = "name string 1, data_type DataType 2"
_MESSAGES = {
    "ModelTensorReshape": "shape int64* 1",
    "ModelInput": f"{_TENSOR}, dims int64* 4, reshape ModelTensorReshape 5",
    "ModelOutput": f"{_TENSOR}, dims int64* 3, reshape ModelTensorReshape 5",
    "ModelDynamicBatching": "preferred_batch_size int32* 1",
    "ModelInstanceGroup": "name string 1, count int32 2, kind Kind 4",
    "ModelConfig": "name string 1, platform string 2, max_batch_size int32 4, input ModelInput* 5, "
    "output ModelOutput* 6, instance_group ModelInstanceGroup* 7, "
    "dynamic_batching ModelDynamicBatching 11, backend string 17",
}
_ENUMS = {
    "DataType": {"TYPE_INVALID": 0, "TYPE_INT64": 9, "TYPE_FP32": 11},
    "Kind": {"KIND_AUTO": 0, "KIND_GPU": 1, "KIND_CPU": 2},
}


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(
        name="seo_rec_test_model_config.proto", package="seo_rec_test", syntax="proto3"
    )
    for name, values in _ENUMS.items():
        enum = file.enum_type.add(name=name)
        for value, number in values.items():
            enum.value.add(name=value, number=number)
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for words in fields.split(", "):
            field, kind, number = words.split()
            plain = kind.rstrip("*")
            label = _FIELD.LABEL_REPEATED if kind.endswith("*") else _FIELD.LABEL_OPTIONAL
            made = message.field.add(name=field, number=int(number), label=label)
            if plain in _TYPES:
                made.type = _TYPES[plain]
            else:
                made.type = _FIELD.TYPE_ENUM if plain in _ENUMS else _FIELD.TYPE_MESSAGE
                made.type_name = f".seo_rec_test.{plain}"
    return file


_POOL = descriptor_pool.DescriptorPool()
_POOL.Add(_file())
ModelConfig = message_factory.GetMessageClass(
    _POOL.FindMessageTypeByName("seo_rec_test.ModelConfig")
)
TYPE_FP32, TYPE_INT64 = _ENUMS["DataType"]["TYPE_FP32"], _ENUMS["DataType"]["TYPE_INT64"]
