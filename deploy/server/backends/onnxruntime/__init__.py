"""The `onnxruntime` backend for the tritonserver that pip installs."""
