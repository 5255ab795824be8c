"""Writes the onnx package's description of the messages of onnx.proto, to test ours against.

    python onnx_descriptor.py > ../crates/secateur-model/src/io/onnx/descriptor.json

Messages and enums by name; per message its fields by number.
"""

import json

import onnx
from google.protobuf.descriptor import FieldDescriptor as Field

TYPES = {getattr(Field, name): name[5:].lower() for name in dir(Field) if name.startswith("TYPE_")}


def nested(messages):
    for message in messages:
        yield message
        yield from nested(message.nested_types)


def short(descriptor):
    return descriptor.full_name.removeprefix(descriptor.file.package + ".")


def field_row(field):
    row = {"number": field.number, "name": field.name, "type": TYPES[field.type]}
    row["label"] = "repeated" if field.is_repeated else "optional"
    if field.is_repeated and field.type not in (Field.TYPE_STRING, Field.TYPE_BYTES, Field.TYPE_MESSAGE):
        row["packed"] = field.is_packed
    if field.message_type:
        row["message"] = short(field.message_type)
    if field.enum_type:
        row["enum"] = short(field.enum_type)
    if field.containing_oneof:
        row["oneof"] = field.containing_oneof.name
    return row


def main():
    schema = onnx.ModelProto.DESCRIPTOR.file
    messages = list(nested(schema.message_types_by_name.values()))
    enums = list(schema.enum_types_by_name.values())
    for message in messages:
        enums += message.enum_types
    def block(rows, open, close):
        return open + "\n" + ",\n".join(f"   {row}" for row in rows) + f"\n  {close}"

    head = {"onnx": onnx.__version__, "ir_version": onnx.IR_VERSION, "opset": onnx.defs.onnx_opset_version()}
    parts = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
    # One field a line, so that a newer onnx shows as a small difference.
    sections = {
        "messages": {
            short(m): block([json.dumps(field_row(f)) for f in sorted(m.fields, key=lambda f: f.number)], "[", "]")
            for m in messages
        },
        "enums": {
            short(e): block([f"{json.dumps(v.name)}: {v.number}" for v in e.values], "{", "}") for e in enums
        },
    }
    for name, entries in sections.items():
        body = ",\n".join(f"  {json.dumps(key)}: {text}" for key, text in entries.items())
        parts.append(f" {json.dumps(name)}: {{\n{body}\n }}")
    print("{\n" + ",\n".join(parts) + "\n}")


if __name__ == "__main__":
    main()
