"""The page's style sheet: system fonts, one accent, light and dark from the reader's own setting."""

CSS = """
:root {
  color-scheme: light dark;
  --page: #f6f7f9; --card: #ffffff; --ink: #1c2330; --soft: #5b6575; --rule: #e3e6eb; --grid: #edeff3;
  --c1: #2463c4; --c2: #c2570c; --c3: #0f7b6c; --c4: #8a3ab9; --c5: #9a6b00; --raw: #a9c1ea;
  --before: #b4bcc8; --after: #2463c4; --bad: #c02626; --resume: #7b8494; --notice: #fff6e0;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #11151b; --card: #191f28; --ink: #e4e8ee; --soft: #97a2b2; --rule: #2b333f; --grid: #242b36;
    --c1: #6ea3f5; --c2: #f0964d; --c3: #4fc3ae; --c4: #c58af0; --c5: #d9b04a; --raw: #35507c;
    --before: #5a6474; --after: #6ea3f5; --bad: #f27878; --resume: #8590a2; --notice: #322a17;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Noto Sans Devanagari",
    sans-serif;
}
main { max-width: 1120px; margin: 0 auto; padding: 36px 24px 56px; }
header { margin-bottom: 24px; }
h1 { font-size: 26px; line-height: 1.25; font-weight: 650; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 16px; font-weight: 650; margin: 0 0 4px; }
.sub, .note, figcaption { color: var(--soft); font-size: 13.5px; }
.sub { margin: 4px 0 0; }
.note { margin: 2px 0 10px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(138px, 1fr)); gap: 12px;
  margin: 0 0 16px; }
.tile, section { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; }
.tile { padding: 12px 14px; }
.tile dt { color: var(--soft); font-size: 13px; }
.tile dd { margin: 0; font-size: 21px; line-height: 1.35; font-weight: 600; overflow-wrap: anywhere;
  font-variant-numeric: tabular-nums; }
.tile small { display: block; color: var(--soft); font-size: 12.5px; font-weight: 400; min-height: 1.4em; }
section { padding: 18px 20px; margin: 0 0 16px; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(440px, 100%), 1fr)); gap: 16px; }
.pair + section, .pair + .pair { margin-top: 16px; }
.pair section { margin: 0; }
.notice { background: var(--notice); border-radius: 8px; border: 1px solid var(--rule); padding: 10px 16px;
  margin: 0 0 16px; font-size: 14px; overflow-wrap: anywhere; }
.notice p { margin: 0; }
svg { display: block; width: 100%; min-width: 420px; height: auto; }
svg.wide { min-width: 640px; }
svg text { fill: var(--soft); font-size: 12px; font-variant-numeric: tabular-nums; }
svg .value { fill: var(--ink); font-size: 13px; font-weight: 600;
  paint-order: stroke; stroke: var(--card); stroke-width: 5px; stroke-linejoin: round; }
svg .group-label { fill: var(--ink); font-size: 14px; }
.grid { stroke: var(--grid); } .axis { stroke: var(--rule); stroke-width: 1.5; }
.line { fill: none; stroke-width: 1.8; stroke-linejoin: round; stroke-linecap: round; }
.line.thin { stroke-width: 1.4; }
.line.raw { stroke: var(--raw); stroke-width: 1.1; }
.dot { stroke: var(--card); stroke-width: 1.2; }
.line.c1 { stroke: var(--c1); } .line.c2 { stroke: var(--c2); } .line.c3 { stroke: var(--c3); }
.line.c4 { stroke: var(--c4); } .line.c5 { stroke: var(--c5); }
.dot.c1 { fill: var(--c1); } .dot.c2 { fill: var(--c2); } .dot.c3 { fill: var(--c3); }
.dot.c4 { fill: var(--c4); } .dot.c5 { fill: var(--c5); } .dot.raw { fill: var(--c1); }
.mark { stroke-width: 1.2; } .mark.resume { stroke: var(--resume); stroke-dasharray: 5 4; }
.mark.bad { stroke: var(--bad); }
.bar.before { fill: var(--before); } .bar.after { fill: var(--after); }
.bar.c1 { fill: var(--c1); } .bar.c2 { fill: var(--c2); } .bar.c3 { fill: var(--c3); }
.bar.c4 { fill: var(--c4); } .bar.c5 { fill: var(--c5); }
.error { fill: none; stroke: var(--ink); stroke-width: 1.3; }
.baseline { stroke: var(--c2); stroke-width: 1.8; stroke-dasharray: 6 4; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 18px; margin: 0 0 6px; padding: 0; list-style: none;
  color: var(--soft); font-size: 13px; }
.legend li { display: flex; align-items: center; gap: 7px; overflow-wrap: anywhere; }
.key { flex: none; width: 18px; height: 0; border-top: 3px solid; border-radius: 2px; }
.key.raw { border-color: var(--raw); }
.key.c1 { border-color: var(--c1); } .key.c2 { border-color: var(--c2); }
.key.c3 { border-color: var(--c3); } .key.c4 { border-color: var(--c4); } .key.c5 { border-color: var(--c5); }
.key.resume { border-top: 2px dashed var(--resume); border-radius: 0; width: 20px; }
.key.bad { border-color: var(--bad); border-top-width: 2px; }
.key.before, .key.after { height: 12px; border: 0; width: 12px; }
.key.before { background: var(--before); } .key.after { background: var(--after); }
.key.baseline { border-top: 2px dashed var(--c2); border-radius: 0; width: 20px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: 14px; }
th, td { text-align: right; padding: 6px 10px; border-bottom: 1px solid var(--rule); white-space: nowrap; }
th { color: var(--soft); font-weight: 500; font-size: 13px; }
th:first-child, td:first-child { text-align: left; padding-left: 0; white-space: normal;
  overflow-wrap: anywhere; }
tr:last-child td { border-bottom: 0; }
.samples { list-style: none; margin: 8px 0 0; padding: 0; }
.samples li { border-left: 3px solid var(--rule); padding: 2px 0 2px 14px; margin: 0 0 14px; }
.samples li:last-child { margin-bottom: 0; }
.samples p { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: isolate; }
.samples .prompt { color: var(--soft); }
[lang=hi] { font-family: "Noto Sans Devanagari", "Nirmala UI", "Kohinoor Devanagari", Mangal, system-ui,
  sans-serif; line-height: 1.75; }
summary { cursor: pointer; font-weight: 600; }
pre { overflow-x: auto; margin: 12px 0 0;
  font: 12.5px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
footer { color: var(--soft); font-size: 13px; }
@media print { body { background: none; } section, .tile { break-inside: avoid; } }
"""
