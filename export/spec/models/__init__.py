"""One module per served model."""
