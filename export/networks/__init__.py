"""The torch modules, one file each, with the same stem as the spec."""
