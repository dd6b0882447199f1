"""The commands of `rfserve-client`, a module for each; every one has `add_to(commands)`."""
