"""The Train page's live markup: places that `assets/train.js` and `chart.js` fill with text."""


def figure(title: str, part: str, note: str) -> str:
    """Make the card of one figure; `part` is the figure's place, `note` the one below."""
    return (
        f'<div class="kpi"><dt>{title}</dt><dd data-part="{part}">–</dd>'
        f'<dd class="below" data-part="{note}"></dd></div>'
    )


RUN_HEAD = f"""
<div class="run-head">
  <div class="job-line">
    <h2 class="card-title" data-part="run">No run yet</h2>
    <span class="pill" data-part="state" hidden></span>
    <span class="muted" data-part="sentence"></span>
  </div>
  <p class="muted" data-part="resume" hidden></p>
  <div class="problem" role="alert" hidden>
    <strong data-part="what"></strong><span data-part="fix"></span>
  </div>
  <dl class="kpis">
    {figure("Train loss", "loss", "loss-note")}
    {figure("Eval loss", "eval", "eval-note")}
    {figure("Step", "step", "epoch")}
    {figure("Time left", "eta", "eta-note")}
    {figure("Tokens/s", "speed", "learned")}
    {figure("Peak memory", "memory", "device")}
  </dl>
</div>
"""


def chart(column: str, title: str) -> str:
    """Make the figure of one small curve."""
    return f"""
  <figure class="chart" data-chart="{column}" data-title="{title}">
    <figcaption><strong>{title}</strong><span class="read-out"></span></figcaption>
    <canvas role="img" aria-label="{title}: waiting for the first step"></canvas>
  </figure>"""


CURVES = f"""
<div class="curves">
  <figure class="chart" data-chart="loss" data-title="Loss by step">
    <figcaption><strong>Loss</strong>
      <span class="key" style="--line: var(--train-line)">train, smoothed</span>
      <span class="key" style="--line: var(--raw-line)">train, each step</span>
      <span class="key" style="--line: var(--eval-line)">eval</span>
      <span class="read-out"></span></figcaption>
    <canvas role="img" aria-label="Loss by step: waiting for the first step"></canvas>
  </figure>
  <div class="smalls">
    {chart("learning_rate", "Learning rate")}
    {chart("grad_norm", "Gradient norm")}
    {chart("tokens_per_second", "Tokens per second")}
  </div>
  <button type="button" class="link" data-part="csv" hidden>Save the figures as CSV</button>
</div>
"""

TOLD = """
<div class="told">
  <section data-block="rate" aria-label="Suggested learning rate" hidden>
    <h2 class="card-title">Suggested learning rate: <span data-part="rate"></span></h2>
    <p class="muted" data-part="rate-why"></p>
    <svg class="rate-curve" viewBox="0 0 640 200" role="img" data-part="rate-curve"></svg>
    <button type="button" class="link" data-part="rate-use">Use this learning rate</button>
  </section>
  <section data-block="samples" aria-label="Sample answers">
    <h2 class="card-title">Sample answers, before and now</h2>
    <div data-part="samples"></div>
  </section>
  <section data-block="scores" aria-label="Scores of answers" hidden>
    <h2 class="card-title">Scores of the validation answers</h2>
    <div class="scroll"><table class="table"><thead data-part="score-names"></thead>
      <tbody data-part="scores"></tbody></table></div>
  </section>
  <section data-block="warnings" aria-label="Warnings" hidden>
    <h2 class="card-title">Warnings</h2>
    <ul class="warns" data-part="warnings"></ul>
  </section>
  <details data-block="choices">
    <summary>What was decided for you, and why</summary>
    <div class="scroll"><table class="table">
      <thead><tr><th scope="col">setting</th><th scope="col">value</th>
        <th scope="col">reason</th></tr></thead>
      <tbody data-part="choices"></tbody>
    </table></div>
  </details>
  <details data-block="log">
    <summary>Log</summary>
    <pre class="log" tabindex="0" aria-label="End of the worker's log" data-part="log"></pre>
  </details>
</div>
"""

LIBRARY = """
<div class="library">
  <h2 class="card-title">Runs</h2>
  <div class="scroll" tabindex="0" role="region" aria-label="Runs"><table class="table">
    <thead><tr><th scope="col">run</th><th scope="col">job</th><th scope="col">state</th>
      <th scope="col" class="number">step</th><th scope="col" class="number">loss</th>
      <th scope="col">started</th></tr></thead>
    <tbody data-part="rows"></tbody>
  </table></div>
  <p class="muted" data-part="none">Runs show up here: training, evaluation, chat and merge.</p>
</div>
"""
