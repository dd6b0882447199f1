"""The reports of a run: a page that stands alone, and JUnit XML that CI systems read."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from made_runs import measurement, run

from rfserve.loadtest import report_html, report_junit, verdict
from rfserve.loadtest.chart import NARROW, WIDE, Chart, Scale
from rfserve.loadtest.cli import main
from rfserve.loadtest.errors import LoadTestError
from rfserve.loadtest.measurement import GeneratorUse
from rfserve.loadtest.verdict import Row, Verdict

SVG = re.compile(r"<svg.*?</svg>", re.S)
HOSTILE = '<script>alert("1")</script>&\x07'
VOID = {"meta"}


def plan(**budget):
    streams = [{"model": "heimdall_net", "rate_hz": 50.0}]
    phases = [{"name": "steady", "duration_s": 12.0, "streams": streams}]
    return {"name": "made", "device": "cpu-2core", "phases": phases, "budgets": {"heimdall_net": budget}}


def judged(**given):
    made = run(3, **({"plan": plan()} | given))
    return made, verdict.judge(made)


def texts(root, kind):
    return [e.text for e in root.iter("text") if kind in e.get("class", "")]


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open = []
        self.seen = set()

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.seen.add(tag)


def test_page_reaches_for_nothing_outside_itself():
    page = report_html.render(*judged())
    for outside in ("http:", "https:", "url(", "@import", "<script", "<link", "<img", "src=", "href=", "<iframe"):
        assert outside not in page, outside


def test_page_is_html_whose_tags_close_and_whose_drawings_are_xml():
    page = report_html.render(*judged())
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert {"svg", "table", "details", "section"} <= tags.seen
    drawings = [ET.fromstring(d) for d in SVG.findall(page)]
    # Three charts in two sizes.
    assert len(drawings) == 6
    for drawing in drawings:
        numbers = [float(n) for e in drawing.iter("path") for n in re.findall(r"-?\d+\.?\d*", e.get("d"))]
        assert all(-1 <= n <= WIDE.width for n in numbers)
        assert not any("nan" in v for e in drawing.iter() for v in e.attrib.values())


def test_page_escapes_everything_from_outside():
    made = run(
        1,
        name=HOSTILE,
        device=HOSTILE,
        plan={"what": HOSTILE},
        phase=HOSTILE,
        model=HOSTILE,
        version=HOSTILE,
        precision=HOSTILE,
        failures={HOSTILE: 2},
        sent=602,
        scheduled=602,
        server=None,
        server_note=HOSTILE,
        generator=GeneratorUse(cpu_share=0.1, processes=1, hosts=(HOSTILE,)),
    )
    made = replace(
        made,
        url=HOSTILE,
        started=HOSTILE,
        machine=replace(made.machine, cpu_model=HOSTILE, kernel=HOSTILE, python=HOSTILE, versions={HOSTILE: HOSTILE}),
    )
    row = Row(figure="p99_ms", value=1.0, low=0.5, high=2.0, budget=3.0, outcome=HOSTILE)
    page = report_html.render(
        made, [Verdict(phase=HOSTILE, model=HOSTILE, outcome=HOSTILE, reasons=(HOSTILE,), rows=(row,))]
    )
    assert "<script" not in page
    assert page.count("&lt;script&gt;") > 12
    tags = Tags()
    tags.feed(page)
    assert tags.open == []


def test_page_shows_what_counting_from_sending_hides():
    """A server that is silent for a second, and a client that waits with it: only the line since due rises."""
    rng = np.random.default_rng(2)
    calm = measurement(rng)
    silent = (calm.due_s > 5) & (calm.due_s < 6)
    done_s = np.where(silent, 6.01, calm.done_s)
    stalled = replace(calm, done_s=done_s, sent_s=np.where(silent, 6.0, calm.sent_s))
    made = replace(run(2, repetitions=1, plan=plan()), measurements=(stalled,))
    page = report_html.render(made, verdict.judge(made))
    over_time = ET.fromstring(SVG.findall(page)[0])
    lines = {kind: _top(over_time, kind) for kind in ("due", "sent")}
    assert lines["due"] < lines["sent"] - 40
    worst = [t.text for t in over_time.iter("title")]
    assert any(re.search(r"due at 5\.0\d s of repetition 1: \d{3}", t) for t in worst)


def _top(drawing, kind):
    """How high its line goes; y grows downwards."""
    paths = [e.get("d") for e in drawing.iter("path") if e.get("class") == f"line {kind}"]
    return min(float(y) for path in paths for _, y in re.findall(r"([\d.]+) ([\d.]+)", path))


def test_page_names_budgets_failures_split_machine_and_reasons():
    made, verdicts = judged(failed=30, plan=plan(p99_ms=12.0))
    page = report_html.render(made, verdicts)
    assert "p99 12 ms" in texts(ET.fromstring(SVG.findall(page)[2]), "budget")
    for said in ("✗ fail", "deadline", "in the server's queue: 2 ms", "Some CPU", "2.51.0", "repetitions"):
        assert said.replace("'", "&#x27;") in page or said in page, said
    for reason in verdicts[0].reasons:
        assert reason in page


def test_page_says_what_a_closed_loop_hides():
    closed = report_html.render(*judged(loop="closed", target_rate_hz=None))
    assert report_html.CLOSED in closed
    assert "asked for" not in closed
    opened = report_html.render(*judged())
    assert report_html.CLOSED not in opened
    assert '<i class="target"></i>asked for 50/s' in opened


def test_page_counts_repetitions_from_one():
    page = report_html.render(*judged())
    assert {"#1", "#2", "#3"} <= set(texts(ET.fromstring(SVG.findall(page)[0]), "axis"))
    assert "#0" not in page.partition("<svg")[2]


def test_page_says_so_when_nothing_was_answered_and_the_server_was_silent():
    made, verdicts = judged(answered=0, failed=20, server=None, server_note="no statistics: closed")
    page = report_html.render(made, verdicts)
    assert "Nothing was answered." in page
    assert "no statistics: closed" in page
    assert "nan" not in page.replace("nance", "")


def test_reports_are_written_whole_or_not_at_all(tmp_path):
    made, verdicts = judged()
    for report in (report_html, report_junit):
        with pytest.raises(LoadTestError, match="cannot write"):
            report.write(made, verdicts, tmp_path / "no folder" / "file")
    assert list(tmp_path.iterdir()) == []


def junit(made, verdicts, tmp_path):
    file = tmp_path / "junit.xml"
    report_junit.write(made, verdicts, file)
    return ET.parse(file).getroot()


# github.com/windyroad/JUnit-Schema: attributes that must be there, and those that may.
SUITE = {"name", "timestamp", "hostname", "tests", "failures", "errors", "time", "package", "id"}
CASE = {"name", "classname", "time"}


def check_schema(root):
    assert root.tag == "testsuites"
    assert root.attrib == {}
    for number, suite in enumerate(root):
        assert suite.tag == "testsuite"
        assert SUITE <= set(suite.attrib) <= SUITE | {"skipped"}
        assert suite.get("id") == str(number)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", suite.get("timestamp"))
        tags = [child.tag for child in suite]
        cases = tags.count("testcase")
        assert tags == ["properties", *["testcase"] * cases, "system-out", "system-err"]
        assert all(set(p.attrib) == {"name", "value"} and p.get("name") for p in suite.iter("property"))
        assert int(suite.get("tests")) == cases
        for kind in ("failure", "error"):
            assert int(suite.get(f"{kind}s")) == len(list(suite.iter(kind)))
        for case in suite.iter("testcase"):
            assert set(case.attrib) == CASE
            assert float(case.get("time")) >= 0
            assert len(case) <= 1
            for problem in case:
                assert problem.tag in {"failure", "error", "skipped"}
                assert set(problem.attrib) == {"type", "message"}
                assert problem.get("message")


def problems(root):
    return {case.get("name"): [(p.tag, p.get("type")) for p in case] for case in root.iter("testcase")}


def test_junit_has_a_case_for_each_figure(tmp_path):
    root = junit(*judged(repetitions=5), tmp_path)
    check_schema(root)
    assert problems(root) == {f: [] for f in ("p50_ms", "p95_ms", "p99_ms", "error_rate", "throughput_hz")}
    assert root[0].get("name") == "steady.heimdall_net"


def test_junit_fails_where_a_budget_is_broken(tmp_path):
    root = junit(*judged(repetitions=5, plan=plan(p95_ms=5.0)), tmp_path)
    check_schema(root)
    found = problems(root)
    assert found.pop("p95_ms") == [("failure", "fail")]
    assert not any(found.values())
    (failure,) = root.iter("failure")
    assert "expected at most 5" in failure.get("message")


def test_junit_is_an_error_where_the_generator_was_the_bottleneck(tmp_path):
    busy = GeneratorUse(cpu_share=0.99, processes=1, hosts=("load-1",))
    root = junit(*judged(repetitions=5, generator=busy), tmp_path)
    check_schema(root)
    assert set(map(tuple, problems(root).values())) == {(("error", "invalid"),)}
    assert "99%" in next(root.iter("error")).get("message")


def test_junit_of_an_invalid_run_has_neither_broken_nor_kept_budgets_where_samples_are_too_few(tmp_path):
    made, verdicts = judged(repetitions=5, answered=30, late=30, plan=plan(p50_ms=1.0, p95_ms=1.0))
    assert {r.outcome for r in verdicts[0].rows} >= {"fail", "invalid", "pass"}
    root = junit(made, verdicts, tmp_path)
    check_schema(root)
    assert set(map(tuple, problems(root).values())) == {(("error", "invalid"),)}
    assert all("went out more than 5 ms late" in e.get("message") for e in root.iter("error"))


def test_junit_is_an_error_where_a_figure_has_too_few_samples(tmp_path):
    root = junit(*judged(repetitions=5, answered=30), tmp_path)
    check_schema(root)
    assert problems(root)["p99_ms"] == [("error", "invalid")]
    assert problems(root)["p50_ms"] == []


def test_junit_without_any_budget_is_an_error(tmp_path):
    made = run(1)
    alone = Verdict(phase="steady", model="heimdall_net", outcome="undecided", reasons=("no budget",), rows=())
    root = junit(made, [alone], tmp_path)
    check_schema(root)
    assert problems(root) == {"budget": [("error", "undecided")]}


def test_junit_holds_what_xml_cannot(tmp_path):
    made = run(1, phase=HOSTILE, name=HOSTILE)
    row = Row(figure="p99_ms", value=9.0, low=float("nan"), high=float("nan"), budget=3.0, outcome="fail")
    root = junit(made, [Verdict(phase=HOSTILE, model="m", outcome="fail", reasons=(HOSTILE,), rows=(row,))], tmp_path)
    check_schema(root)
    assert "<script>" in root[0].get("name")


def test_report_and_compare_read_kept_runs(tmp_path, capsys):
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    run(1, plan=plan(), repetitions=5).write(first)
    run(2, plan=plan(), repetitions=5, median_ms=13).write(second)
    page, xml = tmp_path / "report.html", tmp_path / "junit.xml"
    assert main(["report", str(first), "--html", str(page), "--junit", str(xml)]) == 0
    assert page.read_text().startswith("<!DOCTYPE html>")
    check_schema(ET.parse(xml).getroot())
    assert main(["report", str(first)]) == 2
    assert main(["compare", str(first), str(first)]) == 0
    capsys.readouterr()
    assert main(["compare", str(first), str(second), "--format", "json"]) == 1
    assert json.loads(capsys.readouterr().out)["is_worse"]
    assert main(["compare", str(second), str(first), "--format", "markdown"]) == 0
    assert "**▼ faster**" in capsys.readouterr().out
    assert main(["compare", str(first), str(page)]) == 2


@pytest.mark.parametrize(
    ("scale", "texts"),
    [
        (Scale(low=0, high=26, unit="ms"), ["0", "5", "10", "15", "20", "25"]),
        (Scale(low=3, high=1300, log=True, unit="ms"), ["3", "10", "30", "100", "300", "1000"]),
        (Scale(low=0, high=0.007, unit="ms"), ["0", "0.002", "0.004", "0.006"]),
    ],
)
def test_axes_are_written_with_round_numbers(scale, texts):
    assert [text for _, text in scale.ticks(6)] == texts


def test_axes_are_logarithmic_when_values_are_of_different_sizes():
    assert Scale.around([1.0, 1000.0], "ms").log
    assert not Scale.around([1.0, 8.0], "ms").log
    assert not Scale.around([1.0, 1000.0], "ms", zero=True).log
    assert Scale.around([], "ms").at(0.5) == 0.5


def test_labels_of_a_chart_do_not_lie_on_each_other():
    chart = Chart("budgets", Scale(low=0, high=3), Scale(low=0, high=100))
    for height in (50, 51, 52):
        chart.level([(0, height), (3, height)], "budget", f"budget of {height} ms")
    for size in (WIDE, NARROW):
        places = [float(y) for y in re.findall(r'class="label budget" x="[\d.]+" y="([\d.]+)"', chart.svg(size))]
        assert min(abs(a - b) for i, a in enumerate(places) for b in places[:i]) >= 13
