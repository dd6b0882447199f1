"""A gRPC server that answers every inference of one model at once, with zeros: what is left is the load generator.

For the self-test; it is no Triton, and runs as a process of its own: `python -m rfserve.loadtest.null_server MODEL`
prints its port, and ends with its stdin.
"""

import argparse
import os
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
from tritonclient.grpc import service_pb2

from rfserve.export.spec import find

THREADS = 4


def answer(model: str) -> bytes:
    """A serialised `ModelInferResponse` of version 1: a row of zeros in every output, dynamic axes at served sizes."""
    spec = find(model)
    response = service_pb2.ModelInferResponse(model_name=model, model_version="1")
    for tensor in spec.outputs:
        shape = tensor.shape(1, spec.served_sizes)
        response.outputs.add(name=tensor.name, datatype=tensor.dtype.value, shape=shape)
        response.raw_output_contents.append(np.zeros(shape, tensor.dtype.numpy).tobytes())
    return bytes(response.SerializeToString())


def main() -> int:
    """Serve until stdin ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    options = parser.parse_args()
    content = answer(options.model)
    server = grpc.server(ThreadPoolExecutor(THREADS), options=[("grpc.max_receive_message_length", -1)])
    infer = grpc.unary_unary_rpc_method_handler(lambda *_: content)
    handlers = {"ModelInfer": infer}
    service = grpc.method_handlers_generic_handler("inference.GRPCInferenceService", handlers)
    server.add_generic_rpc_handlers((service,))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    sys.stdin.read()
    server.stop(None)
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    # What is still in flight is nobody's any more.
    os._exit(code)
