"""The commands of `rfserve-export`, a module for each group; every one has `add_to(commands)`."""
