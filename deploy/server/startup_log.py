"""What tritonserver says in its log alone: why it could not start, and why a model was not even listed."""

import re

_STARTUP = re.compile(r"^E.* tritonserver\.cc:\d+\] \"(?P<reason>.*)\"$", re.MULTILINE)
_MODEL = re.compile(
    r"^E.*\] \"?failed to (?:load|poll)(?: model)? '(?P<model>[^']+)'[^:]*: (?P<reason>.*?)\"?$", re.MULTILINE
)
# The summary of all loads, in one line; an ensemble of a model that failed is named only here.
_LOAD = re.compile(r"load failed for model '(?P<model>[^']+)': (?P<reason>.*?);\\n")
# Follows the reasons of the models, and the server runs on.
_MODELS_FAILED = "failed to load all models"
# What it says of a model whose configuration names a version that is not there, as while its first one is uploaded.
_NO_VERSION = "at least one version must be available"


def startup_failure(log: str) -> str | None:
    """Why the repository could not be opened; None when it could."""
    return next((m["reason"] for m in _STARTUP.finditer(log) if _MODELS_FAILED not in m["reason"]), None)


def model_failures(log: str) -> dict[str, str]:
    """Why models did not load, by name."""
    return {m["model"]: m["reason"] for form in (_LOAD, _MODEL) for m in form.finditer(log)}


def is_unpublished(reason: str) -> bool:
    """Whether a model did not load because it has no version yet."""
    return _NO_VERSION in reason
