"""The style sheets of a transcript: one that applies everywhere, and one for a page of its own.

The first applies only inside the root element. Colours come from the host (``--jp-*``,
``--vscode-*``), or else from the system, light or dark. Nothing is hidden or shown by style alone,
because an untrusted notebook or a restrictive site removes styles.
"""

from __future__ import annotations

from agentrun.view.safe import Markup

__all__ = ["CSS", "PAGE_CSS"]

CSS = Markup(
    """
.ar-root{
--ar-fg:var(--jp-content-font-color1,var(--vscode-foreground,var(--ar-page-fg,CanvasText)));
--ar-bg:var(--jp-layout-color1,var(--vscode-editor-background,var(--ar-page-bg,Canvas)));
--ar-line:var(--jp-border-color2,var(--vscode-panel-border,rgba(128,128,128,.28)));
--ar-mono:var(--jp-code-font-family,var(--vscode-editor-font-family,ui-monospace,monospace));
color:var(--ar-fg);background:var(--ar-bg);font-size:13px;line-height:1.5;padding:.5em .8em;
overflow-wrap:anywhere}
.ar-root h3{margin:.2em 0;font-size:1.25em}
.ar-root h5{margin:.8em 0 .3em;font-size:1em;font-weight:650}
.ar-root p{margin:.3em 0}
.ar-root ul,.ar-root ol{margin:.3em 0;padding-left:1.6em}
.ar-root img{max-width:100%;height:auto}
.ar-root svg{display:block;max-width:100%;height:auto}
.ar-root blockquote{margin:.3em 0;padding:0 0 0 .9em;border-left:2px solid var(--ar-line)}
.ar-root .ar-turn{margin:1.2em 0;padding:0}
.ar-root .ar-turn>blockquote{padding:0;border:0}
.ar-root .ar-turn>summary{font-size:.85em;letter-spacing:.03em;
border-bottom:1px solid var(--ar-line)}
.ar-root details{margin:.3em 0;padding:0 0 0 .75em;border-left:2px solid transparent}
.ar-root summary{cursor:pointer;margin-left:-.2em}
.ar-root summary:focus-visible{outline:2px solid currentColor}
.ar-root pre{margin:.35em 0;padding:.45em .7em;white-space:pre-wrap;
font-family:var(--ar-mono);font-size:.92em;line-height:1.45;color:inherit;
background:rgba(128,128,128,.09);border:0;border-radius:4px}
.ar-root pre.ar-text{padding:0;font-family:inherit;font-size:inherit;line-height:inherit;
background:none}
.ar-root p.ar-text{white-space:pre-wrap}
.ar-root.ar-root code{padding:0;font-family:var(--ar-mono);font-size:.92em;color:inherit;
background:none}
.ar-root table{border-collapse:collapse;margin:.4em 0;font-size:.92em}
.ar-root.ar-root th,.ar-root.ar-root td{vertical-align:top;
padding:.15em 1.1em .15em 0;border-bottom:1px solid var(--ar-line);text-align:left}
.ar-root.ar-root [align=right]{text-align:right}
.ar-root th{white-space:nowrap}
.ar-root td{min-width:4.5em}
.ar-root .ar-dim,.ar-root .ar-other>summary,.ar-root th,.ar-root em{opacity:.72;font-weight:normal}
.ar-root .ar-md em,.ar-root .ar-md th{opacity:1}
.ar-root .ar-md th{font-weight:600}
.ar-root .ar-wide{overflow-x:auto}
.ar-root .ar-wide td,.ar-root .ar-wide th{white-space:nowrap}
.ar-root .ar-wide td.ar-long{min-width:13em;white-space:normal}
.ar-root pre.ar-chart{overflow-x:auto;white-space:pre;line-height:1.2}
.ar-root .ar-user{border-left-color:#3b82c4}
.ar-root .ar-assistant{border-left-color:#3a9d6a}
.ar-root .ar-error{border-left-color:#cf4f4a}
.ar-root .ar-doubt{border-left-color:#c08a1e}
.ar-root .ar-band{margin:.9em 0;padding:.35em .9em;border-left:4px solid #c08a1e;
border-radius:3px;background:rgba(192,138,30,.13)}
.ar-root .ar-band strong{font-weight:600}
.ar-root .ar-c{opacity:.65}
.ar-root .ar-k{font-weight:600}
.ar-root .ar-s{color:#3a9d6a}
.ar-root .ar-n,.ar-root .ar-f{color:#3b82c4}
.ar-root .ar-d{color:#cf4f4a}
"""
)

PAGE_CSS = Markup(
    """
:root{color-scheme:light dark;--ar-page-fg:#262b31;--ar-page-bg:#fdfdfc;--ar-page-link:#0b62b8}
@media (prefers-color-scheme:dark){:root{--ar-page-fg:#d3d7dc;--ar-page-bg:#16181b;
--ar-page-link:#83b7ee}}
body{margin:0;background:var(--ar-page-bg);font-family:system-ui,sans-serif}
main>.ar-root{max-width:60rem;margin:0 auto;padding:2.2rem 1.5rem 6rem;font-size:15px;
line-height:1.6}
.ar-root>h3{font-size:1.6em;font-weight:650;overflow-wrap:anywhere}
.ar-root a{color:var(--ar-page-link)}
.ar-root [id]{scroll-margin-top:4rem}
.ar-root :target{background:rgba(128,128,128,.12)}
.ar-root blockquote>details{content-visibility:auto;contain-intrinsic-size:auto 2em}
.ar-bar{position:sticky;top:0;z-index:1;display:flex;flex-wrap:wrap;gap:.3em;padding:.5em 0;
background:var(--ar-page-bg)}
.ar-bar button,.ar-bar input,.ar-root pre+button,.ar-root p+button,.ar-root [data-copy]{
font:inherit;font-size:.85em;color:inherit;background:none;border:1px solid var(--ar-line);
border-radius:4px;padding:.1em .5em}
.ar-bar [aria-pressed=true]{background:rgba(128,128,128,.25)}
@media print{.ar-bar,.ar-root [data-copy]{display:none}
main>.ar-root{max-width:none;padding:0}
.ar-root details::details-content{content-visibility:visible;block-size:auto}
.ar-root blockquote>details{content-visibility:visible}
.ar-root .ar-wide{overflow:visible}}
"""
)
