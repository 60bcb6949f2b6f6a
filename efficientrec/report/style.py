"""How the page looks: by day and by night, on a desk and on a phone, and on paper."""

STYLE = """
:root { color-scheme: light dark; --paper: #fcfcfa; --card: #ffffff; --ink: #1d2126; --soft: #5b636d; --faint: #d9dce0;
  --accent: #1f5fae; --best: #eef4e4; --good: #1b6e3c; --bad: #a3322c;
  --series-0: #1f5fae; --series-1: #c2600c; --series-2: #22835a; --series-3: #8a3fa0; --series-4: #b02a55;
  --series-5: #6b7280; --series-6: #0f8291; --series-7: #8a6d00; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171b; --card: #1b1f24; --ink: #e5e8ec; --soft: #a0a8b3;
  --faint: #363d46; --accent: #7db4f5; --best: #26331f; --good: #74cf94; --bad: #f0918a;
  --series-0: #6fabf2; --series-1: #f0a259; --series-2: #63c799; --series-3: #c98be0; --series-4: #ef7fa2;
  --series-5: #a3abb6; --series-6: #5fc9d6; --series-7: #d8b948; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI",
  Roboto, "Helvetica Neue", sans-serif; }
main, header.top, footer { max-width: 68rem; margin: 0 auto; padding: 0 1.1rem; }
header.top { padding-top: 2.2rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .4rem; letter-spacing: -.01em; }
h2 { font-size: 1.5rem; margin: 3.2rem 0 .6rem; padding-top: 1.2rem; border-top: 2px solid var(--faint); }
h3 { font-size: 1.12rem; margin: 2rem 0 .5rem; }
p { max-width: 46rem; margin: .5rem 0; }
.soft, figcaption, .skipped { color: var(--soft); }
nav ul { list-style: none; margin: 1rem 0 0; padding: 0; display: flex; flex-wrap: wrap; gap: .4rem .6rem; }
nav a { display: inline-block; padding: .25rem .7rem; border: 1px solid var(--faint); border-radius: 1rem;
  background: var(--card); text-decoration: none; }
a { color: var(--accent); }
a:focus-visible, summary:focus-visible, .wide:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
.wide { overflow-x: auto; margin: .8rem 0;
  background: var(--card); border: 1px solid var(--faint); border-radius: .5rem; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding: .7rem .8rem .5rem; color: var(--soft); font-size: .9rem; caption-side: top; }
caption span { display: block; position: sticky; left: .8rem; max-width: min(60rem, 100vw - 4.2rem); }
th, td { padding: .42rem .8rem; text-align: left; vertical-align: top; border-top: 1px solid var(--faint); }
thead th { font-weight: 600; white-space: nowrap; border-top: 0; border-bottom: 2px solid var(--faint); }
tbody th { font-weight: 500; position: sticky; left: 0; background: var(--card); min-width: 7.5rem; }
td.number { white-space: nowrap; }
td.best { background: var(--best); }
td.best strong { font-weight: 700; }
.interval { display: block; font-size: .8em; color: var(--soft); }
.kind { font-size: .75em; color: var(--soft); border: 1px solid var(--faint); border-radius: .6rem; padding: 0 .4rem;
  white-space: nowrap; }
abbr { text-decoration: none; }
abbr.better { color: var(--good); } abbr.worse { color: var(--bad); } abbr.even { color: var(--soft); }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 27rem), 1fr)); gap: 1rem;
  align-items: start; }
figure { margin: .8rem 0; padding: .8rem; background: var(--card); border: 1px solid var(--faint); border-radius: .5rem;
  overflow-x: auto; }
figure svg { display: block; width: 100%; height: auto; max-height: 44rem; }
figure svg text { font-family: inherit !important; }
figcaption { font-size: .9rem; margin-top: .5rem; max-width: 46rem; }
details { margin: .6rem 0; } summary { cursor: pointer; color: var(--accent); }
pre { overflow-x: auto; padding: .7rem .9rem;
  background: var(--card); border: 1px solid var(--faint); border-radius: .5rem;
  font-size: .85rem; }
code { font-family: ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .6rem; margin: .8rem 0;
  padding: 0; }
.cards div { background: var(--card); border: 1px solid var(--faint); border-radius: .5rem; padding: .5rem .8rem; }
.cards dt { font-size: .8rem; color: var(--soft); } .cards dd { margin: 0; font-weight: 600; }
footer { padding: 2rem 1.1rem 3rem; color: var(--soft); font-size: .9rem; }
@media print { .wide, figure { break-inside: avoid; } nav { display: none; } details > * { display: block; } }
"""
