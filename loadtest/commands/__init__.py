"""The commands of `rfserve-loadtest`, a module for each; every one has `add_to(commands)`."""
