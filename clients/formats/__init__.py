"""The recordings that can be read, a module for each format; `registry` picks the one that a file needs."""
