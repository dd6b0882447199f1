"""Recordings to tensors, over gRPC, to a fix."""
