"""The options that describe a scene of the simulator."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rfserve.clients.errors import ClientError
from rfserve.clients.formats.reading import Position
from rfserve.clients.observation import check_position
from rfserve.clients.simulation import placement
from rfserve.clients.simulation.emitters import EMITTERS, Emitter, Nbfm
from rfserve.clients.simulation.propagation import PathLoss
from rfserve.clients.simulation.receiver import FrontEnd
from rfserve.clients.simulation.scene import Scene

SCENE, PATH, FRONT_END = Scene(), PathLoss(), FrontEnd()
PLACES = ("emitter_at", "center")
# (option, the field it sets, of what, help)
NUMBERS = (
    ("--eirp-dbm", "eirp_dbm", SCENE, "power of the emitter"),
    ("--emitter-offset-hz", "emitter_offset_hz", SCENE, "the carrier, above the centre frequency"),
    ("--radius-m", "radius_m", SCENE, "what is not given is drawn within"),
    ("--center-frequency-hz", "center_frequency_hz", SCENE, ""),
    ("--rate-hz", "sample_rate_hz", SCENE, ""),
    ("--samples", "samples", SCENE, ""),
    ("--path-loss-exponent", "exponent", PATH, "2 in free space, 2.7 to 5 in cities"),
    ("--shadowing-db", "shadowing_db", PATH, "standard deviation"),
    ("--reference-m", "reference_m", PATH, "free space up to there"),
    ("--noise-figure-db", "noise_figure_db", FRONT_END, ""),
    ("--antenna-gain-dbi", "antenna_gain_dbi", FRONT_END, "of the receivers"),
    ("--oscillator-ppm", "oscillator_ppm", FRONT_END, "greatest error"),
    ("--clock-error-s", "clock_error_s", FRONT_END, "standard deviation"),
    ("--full-scale-dbm", "full_scale_dbm", FRONT_END, "instead of a gain that each receiver sets"),
    ("--bits", "bits", FRONT_END, "of the converters"),
)


def add_receivers_to(command: argparse.ArgumentParser) -> None:
    """Add the options that say who hears it, and the seed."""
    heard = command.add_mutually_exclusive_group()
    heard.add_argument("--receivers", type=int, help=f"default: {SCENE.receivers}")
    heard.add_argument(
        "--receivers-file", type=Path, metavar="FILE", help="GeoJSON or CSV: a scene with these receivers"
    )
    command.add_argument("--seed", type=int, help=f"default: {SCENE.seed}")


def add_to(command: argparse.ArgumentParser) -> None:
    """Add the options to a command that makes events."""
    group = command.add_argument_group(
        "scene",
        "any of these makes a scene of the simulator (a place in the south: --center=-33.9,18.4)",
    )
    group.add_argument("--emitter", choices=tuple(EMITTERS), help=f"default: {SCENE.emitter.kind}")
    group.add_argument(
        "--bandwidth-hz", type=float, metavar="HZ", help="of the emission; nbfm sets its deviation by Carson's rule"
    )
    group.add_argument("--emitter-at", type=_place, metavar="LAT,LON[,ALT]", help="default: drawn")
    group.add_argument(
        "--center",
        type=_place,
        metavar="LAT,LON[,ALT]",
        help="default: the receivers' middle, or 45.07,7.69",
    )
    for option, name, owner, text in NUMBERS:
        default = getattr(owner, name)
        words = f"{text} " if text else ""
        group.add_argument(
            option,
            dest=name,
            type=int if isinstance(default, int) else float,
            metavar=option.rsplit("-", 1)[-1].upper(),
            help=words + ("" if default is None else f"(default: {default:g})"),
        )


def asks_for_scene(options: argparse.Namespace) -> bool:
    """Whether the options name anything of a scene, but for how many receivers and the seed."""
    asked = {name: getattr(options, name) for name in ("receivers_file", "emitter", "bandwidth_hz", *PLACES)}
    asked |= {name: getattr(options, name) for _, name, _, _ in NUMBERS}
    return any(value is not None for value in asked.values())


def scene_of(options: argparse.Namespace) -> Scene:
    """The scene that the options describe.

    The errors of `Scene`, and `ClientError` for a bandwidth that the emitter cannot have.
    """
    given: dict[str, Any] = _given(options, SCENE) | {name: getattr(options, name) for name in PLACES}
    if options.receivers_file is not None:
        given["receivers"] = placement.stations(options.receivers_file)
    elif options.receivers is not None:
        given["receivers"] = options.receivers
    if options.seed is not None:
        given["seed"] = options.seed
    return Scene(
        emitter=_emitter(options.emitter or SCENE.emitter.kind, options.bandwidth_hz),
        path=PathLoss(**_given(options, PATH)),
        front_end=FrontEnd(**_given(options, FRONT_END)),
        **given,
    )


def _given(options: argparse.Namespace, owner: object) -> dict[str, Any]:
    found: Mapping[str, Any] = {name: getattr(options, name) for _, name, of, _ in NUMBERS if of is owner}
    return {name: value for name, value in found.items() if value is not None}


def _emitter(kind: str, bandwidth_hz: float | None) -> Emitter:
    if bandwidth_hz is None:
        return EMITTERS[kind]()
    if kind == "cw":
        raise ClientError(f"bandwidth: got {bandwidth_hz:g} Hz for cw; expected none: a carrier has no bandwidth")
    if kind == "nbfm":
        audio_hz = Nbfm().audio_hz
        if not bandwidth_hz > 2 * audio_hz:
            raise ClientError(
                f"bandwidth: got {bandwidth_hz:g} Hz for nbfm; expected above {2 * audio_hz:g} Hz, twice its audio"
            )
        return Nbfm(deviation_hz=bandwidth_hz / 2 - audio_hz)
    return EMITTERS[kind](**{"bandwidth_hz": bandwidth_hz})


def _place(text: str) -> Position:
    try:
        latitude, longitude, *altitude = (float(part) for part in text.split(","))
        if len(altitude) > 1:
            raise ValueError("more than three numbers")
        check_position("place", latitude, longitude)
    except (ValueError, ClientError) as error:
        raise argparse.ArgumentTypeError(
            f"got {text!r}; expected latitude,longitude in degrees, and the altitude in metres if known ({error})"
        ) from error
    return Position(latitude_deg=latitude, longitude_deg=longitude, altitude_m=altitude[0] if altitude else 0.0)
