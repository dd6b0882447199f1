"""A version released to every pod of a fleet. Apart from the server, which needs none of what this needs."""
