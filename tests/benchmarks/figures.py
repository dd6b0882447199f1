"""How a figure of a benchmark is printed: what, the ratio, its target, and the measurements behind it."""


def head() -> None:
    """The line above the figures."""
    print(f"{'ratio':62} {'value':>8}   {'target':14} measured", flush=True)


def show(name: str, value: float, target: str, detail: str) -> None:
    """One figure."""
    print(f"{name:62} {value:8.2f}   {target:14} {detail}", flush=True)
