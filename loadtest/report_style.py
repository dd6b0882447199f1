"""The frame of a page that stands alone, and its style sheet: light and dark, and narrow pages."""

import html

STYLE = """
:root{color-scheme:light dark;--text:#1d2733;--faint:#5b6a79;--page:#f4f6f8;--card:#fff;--edge:#d5dce3;
--grid:#e7ecf1;--due:#1f63a8;--sent:#c2681c;--median:#7a8896;--budget:#b3261e;--target:#5b6a79;
--queue:#8a5fb0;--compute:#1f63a8;--network:#5f8a45;
--pass:#22743a;--fail:#b3261e;--invalid:#8a5a00;--undecided:#5b6a79}
@media (prefers-color-scheme:dark){:root{--text:#e6ebf0;--faint:#9aa8b6;--page:#12171d;--card:#1a2129;--edge:#33404d;
--grid:#27323d;--due:#6fb1ee;--sent:#f0a35c;--median:#8f9dab;--budget:#ff8a80;--target:#9aa8b6;
--queue:#bb9be0;--compute:#6fb1ee;--network:#9ccb7f;
--pass:#6cc986;--fail:#ff8a80;--invalid:#e9b44c;--undecided:#9aa8b6}}
*{box-sizing:border-box} body{margin:0;font:15px/1.45 system-ui,sans-serif;color:var(--text);background:var(--page)}
main{max-width:1040px;margin:24px auto 48px;padding:0 20px} h1{font-size:21px;margin:0 0 4px}
h2{font-size:17px;margin:34px 0 4px;overflow-wrap:anywhere} h3{font-size:14px;margin:18px 0 6px;font-weight:600}
p{margin:4px 0 12px;color:var(--faint);overflow-wrap:anywhere}
svg{display:block;width:100%;height:auto;background:var(--card);border:1px solid var(--edge);border-radius:8px}
.narrow{display:none} .grid{stroke:var(--grid);fill:none} .axis{fill:var(--faint);font-size:12.5px}
.line{fill:none;stroke-width:1.6;stroke-linejoin:round} .label{font-size:12.5px;paint-order:stroke;stroke:var(--card);
stroke-width:3px;stroke-linejoin:round}
.line.due{stroke:var(--due);stroke-width:2.4}
.line.sent{stroke:var(--sent);stroke-width:1.2;stroke-dasharray:5 4} .line.median{stroke:var(--median)}
.line.budget{stroke:var(--budget);stroke-dasharray:2 3} .line.target{stroke:var(--target);stroke-dasharray:6 4}
text.budget{fill:var(--budget)} circle.due{fill:var(--due)}
.key{display:flex;flex-wrap:wrap;gap:2px 16px;margin:0 0 6px;padding:0;list-style:none;
color:var(--faint);font-size:13px}
.key i{display:inline-block;width:18px;margin-right:6px;vertical-align:middle;border-top:2px solid}
.key .due{border-color:var(--due)} .key .sent{border-color:var(--sent);border-top-style:dashed}
.key .median{border-color:var(--median)} .key .budget{border-color:var(--budget);border-top-style:dotted}
.key .target{border-color:var(--target);border-top-style:dashed}
.bar{display:flex;height:22px;border-radius:6px;overflow:hidden;margin:4px 0 6px;background:var(--grid)}
.bar span{min-width:1px} .queue{background:var(--queue)} .compute{background:var(--compute)}
.network{background:var(--network)}
.key b{display:inline-block;width:11px;height:11px;border-radius:3px;margin-right:6px}
.outcome{font-weight:600;white-space:nowrap} .pass{color:var(--pass)} .fail{color:var(--fail)}
.invalid{color:var(--invalid)} .undecided{color:var(--undecided)} ul.reasons{margin:2px 0 10px;padding-left:20px}
.table{overflow-x:auto;background:var(--card);border:1px solid var(--edge);border-radius:8px}
table{border-collapse:collapse;width:100%;font-size:13.5px;font-variant-numeric:tabular-nums}
th,td{text-align:right;padding:6px 10px;border-top:1px solid var(--edge);white-space:nowrap;vertical-align:top}
thead th{border-top:0;color:var(--faint);font-weight:500} td.words,th.words{text-align:left}
td small{display:block;color:var(--faint)}
details{margin:8px 0} summary{cursor:pointer;color:var(--faint)}
pre{overflow-x:auto;font-size:12.5px;background:var(--card);border:1px solid var(--edge);border-radius:8px;padding:10px}
@media (max-width:640px){main{margin:14px auto 32px;padding:0 12px} .wide{display:none} .narrow{display:block}
h1{font-size:19px} th,td{padding:5px 8px}}
"""


def page(title: str, body: str, style: str = "") -> str:
    """The page: `title` is text, `body` HTML, and `style` is added to the style sheet."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title>"
        f"<style>{STYLE}{style}</style></head><body><main>{body}</main></body></html>\n"
    )
