"""The table of served models in the README, made from the specs."""

from rfserve.export.spec import DEVICES, MODELS, Budget, TensorSpec
from rfserve.export.spec.device import REFERENCES
from rfserve.export.spec.model import TARGETS

BEGIN = "<!-- models: written by `rfserve-export table --write README.md` -->"
END = "<!-- end of models -->"


def model_table() -> str:
    """The table as Markdown."""
    budget_heads = [_head(t) for t in TARGETS]
    rows = [["model", "what it does", "inputs", "outputs", "batch", *budget_heads], ["---"] * (5 + len(TARGETS))]
    for spec in MODELS.values():
        budgets = [_budget(spec.budget(t)) for t in TARGETS]
        inputs, outputs = _tensors(spec.inputs), _tensors(spec.outputs)
        rows.append([f"`{spec.name}`", spec.summary, inputs, outputs, f"1-{spec.max_batch_size}", *budgets])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def tensor_table() -> str:
    """Every tensor with its unit and meaning, as Markdown."""
    tensors = [t for spec in MODELS.values() for t in (*spec.inputs, *spec.outputs)]
    seen: dict[tuple[str, str], TensorSpec] = {(t.name, t.describe()): t for t in tensors}
    rows = [["tensor", "dtype and shape", "unit", "meaning"], ["---"] * 4]
    rows += [[f"`{t.name}`", t.describe(), t.unit, t.meaning] for t in seen.values()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def between_markers(document: str) -> str:
    """`document` with the part between the markers replaced; `ValueError` when it lacks them."""
    head, begin, rest = document.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"no lines {BEGIN!r} and {END!r}; add them where the table belongs")
    return f"{head}{BEGIN}\n{model_table()}\n{tensor_table()}{END}{tail}"


def _head(target: str) -> str:
    name = REFERENCES[target]
    measured = "" if DEVICES[name].measured else ", promised, not measured"
    return f"{target.upper()} budget ({name}{measured}): p50, p95, p99"


def _budget(budget: Budget) -> str:
    return f"{budget.p50_ms:g}, {budget.p95_ms:g}, {budget.p99_ms:g} ms at {budget.rate_hz:g}/s"


def _tensors(tensors: tuple[TensorSpec, ...]) -> str:
    return ", ".join(f"`{t.name}`" for t in tensors)
