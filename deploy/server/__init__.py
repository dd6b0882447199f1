"""A tritonserver on one machine."""
