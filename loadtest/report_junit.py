"""A run's verdicts as JUnit XML, a test case for each phase, model and figure.

The schema that CI systems read: github.com/windyroad/JUnit-Schema, as Jenkins and GitLab take it.
"""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

from rfserve.loadtest import validity, whole_file
from rfserve.loadtest.measurement import Run
from rfserve.loadtest.repetitions import by_phase_and_model
from rfserve.loadtest.verdict import FAIL, INVALID, PASS, Row, Verdict

# What XML 1.0 has no way to hold.
FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write(run: Run, verdicts: Sequence[Verdict], file: Path) -> None:
    """The file; it appears whole or not at all."""
    root = tree(run, verdicts)
    ET.indent(root, " ")
    whole_file.write(file, ET.tostring(root, encoding="utf-8", xml_declaration=True))


def tree(run: Run, verdicts: Sequence[Verdict]) -> ET.Element:
    """A suite for each verdict. A broken budget is a failure, what proves nothing an error: neither is green."""
    root = ET.Element("testsuites")
    groups = by_phase_and_model(run.measurements)
    # The schema takes whole seconds without a zone.
    started = run.started[:19]
    host = next((h for m in run.measurements for h in m.generator.hosts), "localhost")
    for number, verdict in enumerate(verdicts):
        group = groups.get((verdict.phase, verdict.model), ())
        took_s = sum(m.duration_s for m in group)
        # What makes the whole run invalid leaves none of its figures.
        is_invalid = verdict.outcome == INVALID and bool(validity.problems(group))
        suite = ET.SubElement(
            root,
            "testsuite",
            name=_clean(f"{verdict.phase}.{verdict.model}"),
            package=_clean(run.name),
            id=str(number),
            timestamp=started,
            hostname=_clean(host),
            time=f"{took_s:.3f}",
        )
        properties = ET.SubElement(suite, "properties")
        for name, value in {"device": run.device, "url": run.url, **run.machine.versions}.items():
            ET.SubElement(properties, "property", name=_clean(name), value=_clean(value))
        for row in verdict.rows:
            case = _new_case(suite, run, verdict, row.figure, took_s)
            if is_invalid:
                _problem(case, INVALID, "; ".join(verdict.reasons))
            elif row.outcome != PASS:
                _broken(case, verdict, row)
        if not verdict.rows:
            _problem(_new_case(suite, run, verdict, "budget", took_s), verdict.outcome, "; ".join(verdict.reasons))
        suite.set("tests", str(len(suite.findall("testcase"))))
        suite.set("failures", str(len(suite.findall("testcase/failure"))))
        suite.set("errors", str(len(suite.findall("testcase/error"))))
        suite.set("skipped", "0")
        ET.SubElement(suite, "system-out").text = _clean("\n".join(verdict.reasons))
        ET.SubElement(suite, "system-err")
    return root


def _new_case(suite: ET.Element, run: Run, verdict: Verdict, name: str, took_s: float) -> ET.Element:
    return ET.SubElement(
        suite,
        "testcase",
        name=_clean(name),
        classname=_clean(f"{run.name}.{verdict.phase}.{verdict.model}"),
        time=f"{took_s:.3f}",
    )


def _broken(case: ET.Element, verdict: Verdict, row: Row) -> None:
    side = "at least" if row.figure == "throughput_hz" else "at most"
    interval = f"{row.low:.4g} to {row.high:.4g}" if math.isfinite(row.low) else "no interval"
    said = f"{row.figure} {row.value:.4g} ({interval}); expected {side} {row.budget:.4g}"
    _problem(case, row.outcome, "; ".join([said, *(r for r in verdict.reasons if row.figure in r)]))


def _problem(case: ET.Element, outcome: str, message: str) -> None:
    kind = "failure" if outcome == FAIL else "error"
    text = _clean(message)
    ET.SubElement(case, kind, type=outcome, message=text).text = text


def _clean(text: str) -> str:
    return FORBIDDEN.sub("�", text)
