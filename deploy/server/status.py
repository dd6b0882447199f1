"""How a running server's models are: what the server says of each, and whether each answers a canary."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rfserve.server import model_table
from rfserve.server.canary import Outcome, Result, from_server
from rfserve.server.errors import ServerError
from rfserve.server.http_api import HttpApi
from rfserve.server.model_table import ModelRow
from rfserve.server.security import admin_key_of

DEADLINE_S = 10.0
FORBIDDEN = 403
_COLUMNS = ("model", "version", "state", "canary", "ms", "instances", "requests", "failures", "reason")


@dataclass(frozen=True, kw_only=True)
class ModelStatus:
    """One model's row, and what came of a canary: None when no version is served."""

    row: ModelRow
    instances: int | None = None
    canary: Result | None = None

    @property
    def well(self) -> bool:
        """Whether it answers. A model that was never asked for does no harm."""
        if self.row.state == model_table.NOT_LOADED:
            return True
        return self.canary is not None and self.canary.outcome in {Outcome.OK, Outcome.BUSY}

    def document(self) -> dict[str, Any]:
        """For machines."""
        answered = {} if self.canary is None else asdict(self.canary) | {"outcome": str(self.canary.outcome)}
        return asdict(self.row) | {"instances": self.instances, "canary": answered or None, "well": self.well}


def read(http: HttpApi, deadline_s: float = DEADLINE_S) -> tuple[ModelStatus, ...]:
    """Every model of the server, each served one with a canary of its own, ensembles too.

    `ServerError` when the server does not answer, or keeps closed what has to be asked.
    """
    index = http.call("/v2/repository/index", {})
    if index.status == FORBIDDEN:
        raise ServerError(_closed(http, "the list of its models"))
    if not index.ok:
        raise ServerError(
            f"{http.url} does not list its models: {index.reason}; is it running, and is this its HTTP endpoint?"
        )
    found = []
    for row in model_table.rows(index.document, http.statistics()):
        canary = from_server(http, row.name, deadline_s) if row.ready else None
        if canary is None and row.ready and http.call(f"/v2/models/{row.name}/config").status == FORBIDDEN:
            raise ServerError(_closed(http, f"the configuration of {row.name}"))
        found.append(
            ModelStatus(row=row)
            if canary is None
            else ModelStatus(row=row, instances=canary.instances, canary=canary.send(http, deadline_s))
        )
    return tuple(found)


def _closed(http: HttpApi, asked: str) -> str:
    state = "runs" if http.server_live() else "answers, but is not live"
    key = "no key was sent" if http.admin_key is None else "the key that was sent is not its own"
    return (
        f"{http.url} {state}; {asked} could not be asked for, as its administration is closed and {key}. Pass "
        "--admin-key-file with the file that the server was started with. One that was started without has a random "
        "key that it tells nobody: start it with --admin-key-file FILE, or on a desk with --open-admin. Its metrics "
        "page shows each model's canary without a key"
    )


def table(models: Sequence[ModelStatus]) -> str:
    """For people: a line for each model."""
    lines = [_COLUMNS]
    for model in models:
        row, result = model.row, model.canary
        lines.append(
            (
                row.name,
                ",".join(row.versions) or "-",
                row.state,
                "-" if result is None else str(result.outcome),
                "-" if result is None else f"{1e3 * result.latency_s:.1f}",
                "-" if model.instances is None else str(model.instances),
                str(row.requests),
                str(row.failures),
                row.reason or ("" if result is None else model_table.plain_reason(result.reason)),
            )
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(_COLUMNS) - 1)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(line, widths, strict=False)), line[-1]]).rstrip()
        for line in lines
    )


def add_command(commands: Any) -> None:
    """`rfserve-server status`."""
    parser = commands.add_parser("status", help="how the models of a running server are; exit code 0 when all are well")
    parser.set_defaults(command=_run)
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="its HTTP endpoint (default: %(default)s)")
    parser.add_argument("--admin-key-file", type=Path, help="the key of a server that restricts its administration")
    parser.add_argument("--timeout-s", type=float, default=DEADLINE_S, help="for each call (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="for machines")


def _run(options: argparse.Namespace) -> int:
    key = None if options.admin_key_file is None else admin_key_of(options.admin_key_file)
    try:
        http = HttpApi(url=options.url.rstrip("/"), timeout_s=options.timeout_s, admin_key=key)
    except ValueError as error:
        raise ServerError(f"--url: {error}") from error
    models = read(http, options.timeout_s)
    print(json.dumps([m.document() for m in models], indent=1) if options.json else table(models))
    ill = [m.row.name for m in models if not m.well]
    if ill:
        print(f"not well: {', '.join(ill)}", file=sys.stderr)
    return 1 if ill else 0
