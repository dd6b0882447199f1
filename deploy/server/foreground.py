"""Serving until a signal comes, or while a command runs. The signals are SIGTERM and SIGINT (Ctrl-C).

No signal raises: whatever it interrupted might be the clean-up.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rfserve.server import model_table
from rfserve.server.errors import ServerError
from rfserve.server.service import Service

URL_VARIABLE = "RFSERVE_URL"


def run(service: Service) -> int:
    """Serve until the first signal, which drains; the second ends all at once. tritonserver's exit code."""
    signals = _on_signals(lambda _: service.terminate())
    try:
        _start(service, signals)
        for row in model_table.read(service.server.http):
            if row.ready:
                print(f"{row.name} version {', '.join(row.versions)}")
        server = service.server
        print(f"ready: gRPC {server.grpc_url}, HTTP {server.http_url}, metrics {service.metrics_url}", flush=True)
        code = service.wait()
        if len(signals) > 1:
            return 128 + signals[-1]
        if code and not service.given_up:
            print(f"error: tritonserver ended with exit code {code}:\n{server.log()[-4000:]}", file=sys.stderr)
        return _shell_code(code)
    finally:
        service.stop()


def execute(service: Service, program: Sequence[str]) -> int:
    """Serve while the program runs, which the first signal goes to and the second kills; then the server is stopped.

    The program's exit code, or 1 when it was 0 and the server had to be given up meanwhile.
    """
    command: subprocess.Popen[bytes] | None = None

    def pass_on(signals: Sequence[int]) -> None:
        if command is None or command.poll() is not None:
            service.terminate()
        elif len(signals) > 1:
            command.kill()
        elif signals[0] != signal.SIGINT or not _terminal_tells(command.pid):
            command.send_signal(signals[0])

    signals = _on_signals(pass_on)
    try:
        _start(service, signals)
        environment = dict(os.environ) | {URL_VARIABLE: service.server.grpc_url}
        try:
            command = subprocess.Popen(program, env=environment)
        except OSError as error:
            raise ServerError(f"cannot run {program[0]}: {error}") from error
        if signals:
            # It may have come before there was a process to pass it on to.
            command.send_signal(signal.SIGTERM)
        return _shell_code(command.wait()) or (1 if service.given_up else 0)
    finally:
        service.stop()


def _on_signals(act: Callable[[Sequence[int]], None]) -> Sequence[int]:
    """The signals so far, which `act` gets at each."""
    signals: list[int] = []

    def handle(number: int, _: object) -> None:
        signals.append(number)
        act(signals)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)
    return signals


def _start(service: Service, signals: Sequence[int]) -> None:
    try:
        service.start()
    except ServerError:
        if not signals:
            raise
    if signals:
        raise ServerError(f"stopped by {signal.Signals(signals[0]).name} while the models were loading")
    for name, reason in service.server.unavailable.items():
        print(f"not served: {name}: {model_table.plain_reason(reason)}", file=sys.stderr, flush=True)
    for note in service.notes:
        print(f"note: {note}", file=sys.stderr, flush=True)


def _terminal_tells(pid: int) -> bool:
    """Whether the process gets a Ctrl-C from the terminal itself, and would get it twice."""
    try:
        with Path("/dev/tty").open() as terminal:
            return os.tcgetpgrp(terminal.fileno()) == os.getpgid(pid)
    except OSError:
        return False


def _shell_code(code: int) -> int:
    """An exit code as shells give it: above 128 for a process that a signal ended."""
    return code if code >= 0 else 128 - code
