'''The six tabs: glue between a person's clicks and the engine.

A tab lays out its page and answers clicks; every decision is the engine's. Tabs never import each other.

**What a tab is.** One class in `<name>_tab.py`, with

```python
class MergeTab:
    """Merge: choose a finished run, get one model folder."""

    name = "merge"                     # elem_id of the page, and its name for navigation
    title = "Merge"                    # what the rail shows; the number in front is counted by the rail

    def __init__(self, workspace: Workspace, live: LiveRuns) -> None: ...

    def build(self, page: gr.Tab) -> None:
        """Lay out the page and wire its events; called once, inside `with page:`."""
```

and one entry in `shell.TABS`. The shell calls `build` in the order of the rail. Layout that the tab wants to
refresh whenever the person comes to it hangs on the page: `page.select(guarded(self.refresh), outputs=[...], queue=False)`.
What must be right in a page that was just loaded hangs on `on_load(guarded(self.refresh), outputs=[...])` (`parts.py`).

**Handlers** are methods: values in, values out, so that a test calls them without a browser. Expected failures
are raised as SFTPlayError and turned into words where the method is wired, by `guard.guarded`:

```python
button.click(guarded(self.merge), inputs=[self.run, self.dtype], outputs=[self.note], queue=False, api_visibility="private")
```

Events are private and unqueued unless they take longer than a blink; then they get a `concurrency_id` of their
own. Forms are passed as a set of components and read back by `Form.config(values)`. No `gr.State`, no `gr.Timer`,
no generator that anything durable depends on: what lasts is a run in its folder.

**Runs.** `live` (LiveRuns) knows every run of the workspace and follows the living ones. Start one with
`live.start(config)` (it refuses while another run is alive, naming it): every open page shows it, nothing else to do.
`live.resume(name)` lets a stopped one go on.
`live.summaries()` lists the runs newest first (RunSummary), `live.story(name)` gives what one has told so far.

**Live figures in a page** come from one poll of the shell, not from the tab. `parts.job_panel("merge")` is a
gr.HTML that shows phase, progress, ETA and the failure card of the newest run of that job; it fires `done`
when that run ends, so that a tab can show results: `panel.done(guarded(self.show), outputs=[...], queue=False)`.
Own live parts: a gr.HTML with `js_on_load="SFTPlay.listen(element, answer => { ... })"`; `answer` is what
`LiveRuns.since` returns. Text goes into the page by `textContent` only.

**Moving about.** `button.click(None, js="() => SFTPlay.go('train')")` opens another tab;
`js="() => SFTPlay.select('my-run')"` makes a run the page's selected one; `SFTPlay.selected()` names it, and a
handler gets it through `js="() => [SFTPlay.selected()]"` with `inputs=[any textbox]`.

**Looks.** `parts.page_head(title, lead)` opens a page, `parts.card_title(text)` heads a card, `parts.note_box(id)`
is where a handler's words go (fill it with `parts.said(text)` or `parts.problem(error)`), `parts.live_part(...)`
is markup filled by script. Classes (assets/app.css): `card` (a surface with a
border), `card-title`, `kpis`/`kpi` (figures with a label), `muted`, `toolbar` (a row of small controls), `split`
(main column and side column, stacked when narrow), `empty` (empty state that names the next action), `problem`
(failure card), `note`, `pill` (+ `good`, `bad`, `busy`), `mono`, `flush` (gr.HTML without padding). Every Button, Tab and
input has an `elem_id`, `<tab>-<what>` such as `merge-start`. One primary button a page.
'''
