"""Python-based Triton backends."""
