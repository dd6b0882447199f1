"""Checkpoints to verified, versioned ONNX in a Triton model repository."""
