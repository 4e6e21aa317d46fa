'''The six tabs: glue between a person's clicks and the engine.

A tab lays out its page and answers clicks; every decision is the engine's. Tabs never import each
other.

**What a tab is.** One class in `<name>_tab.py`, with

```python
class MergeTab:
    """Merge: choose a finished run, get one model folder."""

    name = "merge"   # elem_id of the page, and its name for navigation
    title = "Merge"  # what the rail shows; the rail counts the numbers in front

    def __init__(self, workspace: Workspace, live: LiveRuns) -> None: ...

    def build(self, page: gr.Tab) -> None:
        """Lay out the page and wire its events; called once, inside `with page:`."""
```

and one entry in `shell.TABS`, in the order of the rail. What the tab wants to refresh whenever the
person comes to it hangs on the page: `page.select(guarded(self.refresh), outputs=[...])`. What must
be right in a page that was just loaded: `parts.on_load(guarded(self.refresh), outputs=[...])`.

**Handlers** are methods: values in, values out, so that a test calls them without a browser.
Expected failures are raised as SFTPlayError and turned into words where the method is wired:

```python
button.click(guarded(self.merge), inputs=[...], outputs=[self.note], api_visibility="private")
```

Events are private. What can fail stays queued (the default): only a queued event can show a warning
and leave the page as it is. `queue=False` is for what is instant and cannot fail. What takes longer
than a blink gets a `concurrency_id` of its own. Forms are passed as a set of components and read
back by `Form.config(values)`. No `gr.State`, no `gr.Timer`, no generator that anything durable
depends on: what lasts is a run in its folder.

**Runs.** `live` (LiveRuns) knows every run of the workspace and follows the living ones. Start one
with `live.start(config)` (it refuses while another run is alive, naming it): every open page shows
it, nothing else to do. `live.resume(name)` lets a stopped one go on. `live.summaries()` lists the
runs newest first (RunSummary), `live.story(name)` gives what one has told so far.

**Live figures in a page** come from one poll of the shell, not from the tab.
`parts.job_panel("merge")` is a gr.HTML that shows phase, progress, ETA and the failure card of the
newest run of that job; it fires `done` when that run ends, so that a tab can show results:
`panel.done(guarded(self.show), outputs=[...])`. Own live parts:
`parts.live_part(template, script, id)` with a script such as
`SFTPlay.listen(element, answer => { ... })`; `answer` is what `LiveRuns.since` returns, with
`series`, `evaluated`, `told`, `runs` and `log` kept whole. Text goes into the page by `textContent`
only. Scripts and styles of a tab's own lie in `assets/`; all of them are loaded.

**Moving about.** `button.click(None, js="() => SFTPlay.go('train')")` opens another tab;
`SFTPlay.select('my-run')` makes a run the page's selected one; `SFTPlay.selected()` names it, and a
handler gets it through `js="() => [SFTPlay.selected()]"` with a hidden textbox as its input.

**Looks.** `parts.page_head(title, lead)` opens a page, `parts.card_title(text)` heads a card,
`parts.note_box(id)` is where a handler's words go (fill it with `parts.said(text)` or
`parts.problem(error)`). Classes (assets/app.css): `card` (a surface with a border), `card-title`,
`kpis`/`kpi` (figures with a label), `muted`, `toolbar` (a row of small controls), `split` (main and
side column, stacked when narrow), `pair` (two controls side by side), `empty` (empty state that
names the next action), `problem` (failure card), `note`, `pill` (+ `good`, `bad`, `busy`),
`table`, `scroll`, `mono`, `quiet` (a button like a link), `flush` (gr.HTML without padding). Every
Button, Tab and input has an `elem_id`, `<tab>-<what>` such as `merge-start`. One primary button a
page.
'''
