"""The contracts as a foreign client sees them: .proto files, protoc, grpcio.

Nothing here is generated beforehand and nothing is shared with the C++ code but
the .proto files themselves.
"""

import pathlib
import subprocess
import tempfile

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from harness import paths

_GRPC_PROTOS = "/usr/share/grpc-proto"
_BUILT_IN = ["grpc/health/v1/health.proto", "grpc/reflection/v1alpha/reflection.proto"]

# How long a unary call may take unless the test says otherwise.
CALL_TIMEOUT_S = 15


def _compile():
    protos = sorted(
        str(path.relative_to(paths.PROTO_DIR))
        for path in paths.PROTO_DIR.rglob("*.proto")
    )
    with tempfile.TemporaryDirectory() as directory:
        out = pathlib.Path(directory) / "all.binpb"
        subprocess.run(
            [
                "protoc",
                f"-I{paths.PROTO_DIR}",
                f"-I{_GRPC_PROTOS}",
                "--include_imports",
                f"--descriptor_set_out={out}",
                *protos,
                *_BUILT_IN,
            ],
            check=True,
        )
        return descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes())


FILES = _compile()
_POOL = descriptor_pool.DescriptorPool()
for _file in FILES.file:
    _POOL.AddSerializedFile(_file.SerializeToString())
_FACTORY = message_factory.MessageFactory(_POOL)


def message(full_name):
    """The class of a message, such as `mycelium.fabric.v1.Plan`."""
    return _FACTORY.GetPrototype(_POOL.FindMessageTypeByName(full_name))


def enum(full_name):
    """Value by name of an enum, such as `mycelium.fabric.v1.WatchKind`."""
    values = _POOL.FindEnumTypeByName(full_name).values
    return {value.name: value.number for value in values}


class Stub:
    """One service on one channel; its methods take the request's fields.

    `stub.GetPlan(app_name="shop")` calls with a deadline; streams have none
    unless `timeout` says so. A client stream takes `requests`, an iterable.
    """

    def __init__(self, channel, service):
        self.channel = channel
        self._methods = {}
        descriptor = _POOL.FindServiceByName(service)
        self.requests = {}
        for method in descriptor.methods:
            proto = descriptor_pb2.MethodDescriptorProto()
            method.CopyToProto(proto)
            self.requests[method.name] = _FACTORY.GetPrototype(method.input_type)
            self._methods[method.name] = self._bind(channel, service, method, proto)

    def __getattr__(self, name):
        try:
            return self._methods[name]
        except KeyError:
            raise AttributeError(name) from None

    def _bind(self, channel, service, method, proto):
        kind = "{}_{}".format(
            "stream" if proto.client_streaming else "unary",
            "stream" if proto.server_streaming else "unary",
        )
        request_class = self.requests[method.name]
        invoke = getattr(channel, kind)(
            f"/{service}/{method.name}",
            request_serializer=lambda request: request.SerializeToString(),
            response_deserializer=_FACTORY.GetPrototype(method.output_type).FromString,
        )

        def call(requests=None, timeout=None, **fields):
            if timeout is None and not proto.server_streaming:
                timeout = CALL_TIMEOUT_S
            if proto.client_streaming:
                return invoke(
                    (
                        request_class(**r) if isinstance(r, dict) else r
                        for r in requests
                    ),
                    timeout=timeout,
                )
            return invoke(request_class(**fields), timeout=timeout)

        return call


class Failure:
    """What an RPC failed with, its google.rpc details decoded."""

    def __init__(self, error):
        self.code = error.code().name
        self.message = error.details()
        self.reason = self.domain = ""
        self.metadata = {}
        self.fields = {}
        self.retry_delay_s = None
        trailers = dict(error.trailing_metadata() or ())
        raw = trailers.get("grpc-status-details-bin")
        if raw is None:
            return
        for detail in message("google.rpc.Status").FromString(raw).details:
            self._decode(detail)

    def _decode(self, detail):
        name = detail.type_url.rpartition("/")[2]
        body = message(name).FromString(detail.value)
        if name == "google.rpc.ErrorInfo":
            self.reason, self.domain = body.reason, body.domain
            self.metadata = dict(body.metadata)
        elif name == "google.rpc.BadRequest":
            self.fields = {v.field: v.description for v in body.field_violations}
        elif name == "google.rpc.RetryInfo":
            self.retry_delay_s = (
                body.retry_delay.seconds + body.retry_delay.nanos / 1e9
            )

    def __str__(self):
        return (
            f"{self.code} ({self.reason or 'no reason'}): {self.message} "
            f"{self.metadata or ''} {self.fields or ''}"
        )


def failure_of(call, *args, **kwargs):
    """The failure of a call that must fail; None if it succeeds."""
    try:
        result = call(*args, **kwargs)
        if isinstance(result, grpc.Call) and hasattr(result, "__next__"):
            for _ in result:
                break
            result.cancel()
    except grpc.RpcError as error:
        return Failure(error)
    return None
