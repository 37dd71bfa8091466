"""The colours and styles of drawings and of the report page, in light and in dark, as CSS.

Drawings get plain colours, because not every program that shows SVG knows variables; the page, which a browser shows,
has them as variables.
"""

from __future__ import annotations

import unicodedata

from .wording import safe

STATES = {
    "failed": ("#d1373f", "#f2676c"),
    "crashed": ("#b0308a", "#e06bc0"),
    "cancelled": ("#b9770e", "#e0a740"),
    "cancelling": ("#b9770e", "#e0a740"),
    "paused": ("#b9770e", "#e0a740"),
    "running": ("#2474c6", "#5ba6f0"),
    "scheduled": ("#6b6fc9", "#9a9df0"),
    "pending": ("#8a93a1", "#8b95a5"),
    "completed": ("#2f9560", "#4cb782"),
    "skipped": ("#aab1bb", "#6b7482"),
    "unknown": ("#6b7482", "#aab1bb"),
}
"""The colour of each type of state, on a light and on a dark ground."""

TONES = {
    "ground": ("#f6f7f9", "#14171c"),
    "card": ("#ffffff", "#1b1f26"),
    "sheet": ("#fafbfc", "#181c22"),
    "text": ("#1c2129", "#e4e7ec"),
    "muted": ("#667080", "#98a2b3"),
    "line": ("#e1e5ea", "#2d333d"),
    "edge": ("#c4cad3", "#454d5a"),
    "stripe": ("#f1f3f6", "#20252d"),
    "again": ("#e9a3a6", "#86464b"),
    "accent": ("#2474c6", "#5ba6f0"),
}
"""All other colours."""

SANS = 'ui-sans-serif,system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif'
MONO = 'ui-monospace,SFMono-Regular,"SF Mono",Menlo,Consolas,"DejaVu Sans Mono",monospace'


def state_class(kind: str) -> str:
    """The class of what has the colour of a type of state."""
    return f"s-{kind.lower()}" if kind.lower() in STATES else "s-unknown"


def text_width(text: str, size: float, bold: bool = False) -> float:
    """About how wide a text is, in a typical sans-serif font."""
    narrow = 0.63 if bold else 0.57
    return size * sum(1.0 if unicodedata.east_asian_width(char) in "WF" else narrow for char in text)


def fit(text: str, width: float, size: float) -> str:
    """As much of the text as has room."""
    line = safe(" ".join(text.split()))
    if text_width(line, size) <= width:
        return line
    while line and text_width(line + "…", size) > width:
        line = line[: min(len(line) - 1, int(width / size * 2))]
    return line + "…"


def _drawn(dark: int) -> str:
    tone = {name: colours[dark] for name, colours in TONES.items()}
    rules = [
        f"text{{fill:{tone['text']}}}",
        f".caption,.label,.took,.axis{{fill:{tone['muted']}}}",
        f".frame{{fill:{tone['sheet']};stroke:{tone['edge']}}}",
        f".box{{fill:{tone['card']};stroke:{tone['edge']}}}",
        f".arrow{{fill:none;stroke:{tone['muted']}}}",
        f".head{{fill:{tone['muted']}}}",
        f".plate{{fill:{tone['card']};stroke:{tone['line']}}}",
        f".count{{fill:{tone['muted']}}}",
        f".rule{{stroke:{tone['line']}}}",
        f".again{{fill:{tone['again']}}}",
        f".stripe{{fill:{tone['stripe']}}}",
    ]
    for name, colours in STATES.items():
        rules.append(f".fill.s-{name},.dot.s-{name}{{fill:{colours[dark]}}}")
        rules.append(f".wait.s-{name}{{stroke:{colours[dark]}}}")
        if name in ("failed", "crashed", "cancelled", "cancelling", "paused", "running"):
            rules.append(f".box.s-{name},.frame.s-{name}{{stroke:{colours[dark]}}}")
    return "".join(rules)


SVG_STYLE = f"""
text{{font-family:{SANS}}}
.name{{font-size:13px;font-weight:600}}
.caption,.count,.took,.axis{{font-size:11px}}
.label{{font-size:12px}}
.label.flow{{font-weight:600}}
.count,.took,.axis{{font-variant-numeric:tabular-nums}}
.frame,.box{{stroke-width:1.2}}
.arrow{{stroke-width:1.4}}
.rule{{stroke-width:1}}
.wait{{stroke-width:2;stroke-opacity:.55}}
.area{{fill-opacity:.75}}
.stripe{{fill-opacity:0}}
.row:hover .stripe{{fill-opacity:1}}
{_drawn(0)}
@media(prefers-color-scheme:dark){{{_drawn(1)}}}
"""


def _variables(dark: int) -> str:
    return "".join(f"--{name}:{colours[dark]};" for name, colours in (TONES | STATES).items())


PAGE_STYLE = f"""
:root{{color-scheme:light dark;{_variables(0)}}}
@media(prefers-color-scheme:dark){{:root{{{_variables(1)}}}}}
{"".join(f".s-{name}{{--s:var(--{name})}}" for name in STATES)}
*{{box-sizing:border-box}}
html{{scroll-behavior:smooth;scroll-padding-top:3.5rem;-webkit-text-size-adjust:100%}}
body{{margin:0;background:var(--ground);color:var(--text);font:15px/1.55 {SANS}}}
main,header,footer,nav div{{max-width:1120px;margin:0 auto;padding:0 24px}}
header{{padding-top:44px;padding-bottom:8px}}
h1,h2{{line-height:1.2;letter-spacing:-.015em;margin:0;overflow-wrap:anywhere}}
h1{{font-size:30px;font-weight:680}}
h2{{font-size:18px;font-weight:640}}
p{{margin:0}}
a{{color:inherit}}
code,pre,.mono{{font-family:{MONO};font-size:12.5px}}
.kind{{color:var(--muted);margin-bottom:6px}}
.lead{{margin-top:12px;display:flex;flex-wrap:wrap;gap:6px 12px;align-items:center}}
.said{{margin-top:10px;overflow-wrap:anywhere}}
.badge{{display:inline-flex;align-items:center;gap:7px;font-weight:600;padding:2px 11px 2px 9px;border-radius:99px;
border:1px solid color-mix(in srgb,var(--s) 45%,transparent);background:color-mix(in srgb,var(--s) 12%,transparent)}}
.badge::before,.key::before{{content:"";width:8px;height:8px;border-radius:50%;background:var(--s);flex:none}}
.key{{display:inline-flex;align-items:center;gap:6px;white-space:nowrap;margin-right:12px}}
.muted{{color:var(--muted)}}
nav{{position:sticky;top:0;z-index:1;background:color-mix(in srgb,var(--ground) 88%,transparent);
backdrop-filter:blur(8px);border-bottom:1px solid var(--line);margin-top:22px}}
nav div{{display:flex;gap:20px;overflow-x:auto}}
nav a{{padding:10px 0;color:var(--muted);text-decoration:none;white-space:nowrap;font-weight:500}}
nav a:hover,nav a:focus-visible{{color:var(--text)}}
nav b{{font-weight:500;opacity:.7;margin-left:5px;font-variant-numeric:tabular-nums}}
section{{margin-top:34px}}
.top{{display:flex;flex-wrap:wrap;align-items:baseline;gap:4px 14px;margin-bottom:12px}}
.card{{background:var(--card);border:1px solid var(--line);border-radius:12px;overflow:hidden}}
.tiles{{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:14px;margin-top:26px}}
.tile{{padding:14px 18px 15px}}
.tiles-below{{margin-top:14px}}
.tile strong{{display:block;font-size:24px;font-weight:650;letter-spacing:-.02em;line-height:1.25;margin-top:2px;
font-variant-numeric:tabular-nums}}
.tile .more{{font-size:13px;color:var(--muted)}}
dl{{display:grid;grid-template-columns:max-content minmax(0,1fr);gap:7px 24px;margin:0;padding:16px 20px}}
dt{{color:var(--muted)}}
dd{{margin:0;overflow-wrap:anywhere}}
.scroll{{overflow-x:auto}}
.drawing{{padding:18px}}
svg{{display:block}}
.drawing svg{{margin:0 auto}}
svg.graph{{max-width:none}}
svg.timeline{{width:100%;height:auto;min-width:820px}}
svg.bar{{width:100%;min-width:110px;height:8px;border-radius:4px;background:var(--line)}}
table{{border-collapse:collapse;width:100%}}
th{{text-align:left;font-weight:500;font-size:13px;color:var(--muted);white-space:nowrap}}
th,td{{padding:8px 12px;border-bottom:1px solid var(--line);vertical-align:top}}
th:first-child,td:first-child{{padding-left:20px}}
th:last-child,td:last-child{{padding-right:20px}}
tbody tr:last-child td{{border-bottom:0}}
tbody tr:hover{{background:var(--stripe)}}
.n{{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}}
.when{{white-space:nowrap;font-variant-numeric:tabular-nums}}
.rest{{width:100%;overflow-wrap:anywhere}}
.what{{font-weight:550;overflow-wrap:anywhere;min-width:9em}}
.tag{{font-size:11px;font-weight:500;color:var(--muted);border:1px solid var(--line);border-radius:5px;padding:0 5px;
margin-left:8px;white-space:nowrap}}
.counts{{font-size:13px;margin-top:5px}}
details{{border-bottom:1px solid var(--line)}}
details:last-child{{border-bottom:0}}
summary{{cursor:pointer;padding:11px 20px;overflow-wrap:anywhere}}
summary:hover{{background:var(--stripe)}}
summary .key{{font-weight:600;margin-right:10px;white-space:normal}}
pre{{margin:0;padding:4px 20px 16px 20px;overflow-x:auto;line-height:1.5;tab-size:4}}
pre b{{color:var(--failed);font-weight:600}}
.log td{{padding-top:2px;padding-bottom:2px;font-family:{MONO};font-size:12.5px;border-bottom-color:transparent}}
.log tr:first-child td{{padding-top:10px}}
.log tr:last-child td{{padding-bottom:12px}}
.records{{max-height:80vh;overflow:auto}}
.log .at,.log .who{{color:var(--muted);white-space:nowrap}}
.log .who{{max-width:15em;overflow:hidden;text-overflow:ellipsis}}
.log .message{{white-space:pre-wrap;overflow-wrap:anywhere;width:100%}}
.level{{font-weight:600}}
.l-debug .level{{color:var(--muted);font-weight:400}}
.l-info .level{{color:var(--accent);font-weight:400}}
.l-warning .level{{color:var(--cancelled)}}
.l-error .level,.l-critical .level{{color:var(--failed)}}
.levels{{display:flex;gap:6px;margin-left:auto;font-size:13px}}
.levels input{{position:absolute;opacity:0;pointer-events:none}}
.levels label{{padding:2px 11px;border:1px solid var(--line);border-radius:99px;background:var(--card);cursor:pointer;
color:var(--muted)}}
.levels input:checked+label{{color:var(--text);border-color:var(--muted)}}
.levels input:focus-visible+label{{outline:2px solid var(--accent)}}
.logs:has(#level-info:checked) .l-debug,.logs:has(#level-warning:checked) :is(.l-debug,.l-info),
.logs:has(#level-error:checked) :is(.l-debug,.l-info,.l-warning){{display:none}}
.note{{padding:12px 20px;color:var(--muted)}}
.legend{{padding:10px 20px 12px;border-top:1px solid var(--line);color:var(--muted);font-size:13px}}
footer{{color:var(--muted);font-size:13px;padding-top:40px;padding-bottom:44px}}
@media(max-width:640px){{main,header,footer,nav div{{padding-left:16px;padding-right:16px}}
dl{{grid-template-columns:1fr;gap:0}}dd{{margin-bottom:10px}}h1{{font-size:24px}}}}
@media print{{nav,.levels{{display:none}}.records{{max-height:none}}body{{background:#fff}}
.card{{break-inside:avoid-page}}}}
"""
