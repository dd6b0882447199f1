"""Events that arrive in a folder, each located once."""
