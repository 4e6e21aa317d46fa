/* Curves on a canvas: drawn from the shell's series, colours from the theme's CSS variables. */
"use strict";
(() => {
  const MARGIN = { left: 46, right: 10, top: 10, bottom: 22 };

  /* Round steps for an axis: 1, 2 or 5 times a power of ten. */
  function ticks(low, high, wanted) {
    const raw = (high - low) / wanted, power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map(k => k * power).find(each => each >= raw) || 10 * power;
    const found = [];
    for (let v = Math.ceil(low / step) * step; v <= high + step * 1e-6; v += step) found.push(v);
    return found;
  }

  function short(value, step) {
    const size = Math.abs(value);
    if (size === 0) return "0";
    if (size < 1e-3) {
      const digits = step ? Math.max(0, Math.floor(Math.log10(size)) - Math.floor(Math.log10(step) + 1e-9)) : 2;
      return value.toExponential(digits).replace("e-", "e−");
    }
    if (size >= 1e4) return `${(value / 1e3).toFixed(0)}k`;
    return size >= 100 ? value.toFixed(0) : size >= 10 ? value.toFixed(1) : value.toFixed(size < 0.1 ? 3 : 2);
  }

  function range(lists) {
    let low = Infinity, high = -Infinity;
    for (const list of lists) for (const v of list) {
      if (v === null) continue;
      if (v < low) low = v;
      if (v > high) high = v;
    }
    if (low === Infinity) return null;
    const pad = Math.max((high - low) * 0.06, Math.abs(high) * 1e-3, 1e-9);
    return [low >= 0 ? Math.max(0, low - pad) : low - pad, high + pad];
  }

  /* The exponential mean with its start corrected, else the line visibly begins wrong. */
  function smooth(values) {
    const found = new Array(values.length), keep = Math.min(0.98, Math.max(0.6, 1 - 12 / values.length));
    let mean = 0, weight = 1;
    for (let i = 0; i < values.length; i++) {
      if (values[i] !== null) { mean = mean * keep + values[i] * (1 - keep); weight *= keep; }
      found[i] = values[i] === null || weight === 1 ? null : mean / (1 - weight);
    }
    return found;
  }

  class Chart {
    constructor(root) {
      this.root = root;
      this.column = root.dataset.chart;
      this.main = this.column === "loss";
      this.canvas = root.querySelector("canvas");
      this.read = root.querySelector(".read-out");
      this.now = null;
      this.at = null;
      this.drawn = "";
      this.describedAt = 0;
      new ResizeObserver(() => this.draw()).observe(this.canvas);
      this.canvas.addEventListener("pointermove", event => this.hover(event.offsetX));
      this.canvas.addEventListener("pointerleave", () => this.hover(null));
    }

    hear(now) {
      this.now = now;
      const dark = document.body.classList.contains("dark");
      const mark = [now.run, now.generation, now.series.step.length, now.evaluated.step.length, dark].join();
      if (mark !== this.drawn) { this.drawn = mark; this.draw(); }
      if (this.main) window.__chartN = now.series.step.length;
    }

    draw() {
      const box = this.canvas.getBoundingClientRect(), ratio = window.devicePixelRatio || 1;
      if (!box.width || !this.now) return;
      this.canvas.width = box.width * ratio;
      this.canvas.height = box.height * ratio;
      const ctx = this.ctx = this.canvas.getContext("2d");
      ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
      this.width = box.width;
      this.height = box.height;
      const css = getComputedStyle(this.root);
      this.colour = name => css.getPropertyValue(name).trim();
      ctx.clearRect(0, 0, box.width, box.height);
      ctx.font = "11px system-ui, sans-serif";
      const steps = this.now.series.step, values = this.now.series[this.column];
      const evaluated = this.main ? this.now.evaluated : { step: [], loss: [] };
      const span = range([values, evaluated.loss]);
      if (!span) { this.say(steps.length ? "no numbers yet" : "waiting for the first step"); return; }
      const last = Math.max(1, steps[steps.length - 1] || 0, evaluated.step[evaluated.step.length - 1] || 0);
      const { left, right, top, bottom } = MARGIN;
      this.x = step => left + (box.width - left - right) * step / last;
      this.y = value => top + (box.height - top - bottom) * (1 - (value - span[0]) / (span[1] - span[0]));
      this.axes(span, last);
      if (this.main) {
        this.line(steps, values, "--raw-line", 1);
        this.line(steps, smooth(values), "--train-line", 2);
        this.line(evaluated.step, evaluated.loss, "--eval-line", 1.5);
        this.dots(evaluated.step, evaluated.loss);
      } else this.line(steps, values, "--train-line", 1.5);
      this.gaps(steps, values);
      if (this.at !== null) this.cursor(steps, values, evaluated);
      this.describe(steps, values, evaluated);
    }

    say(text) {
      this.ctx.fillStyle = this.colour("--body-text-color-subdued");
      this.ctx.textAlign = "center";
      this.ctx.fillText(text, this.width / 2, this.height / 2);
      this.canvas.setAttribute("aria-label", `${this.root.dataset.title}: ${text}`);
    }

    axes(span, last) {
      const ctx = this.ctx;
      ctx.fillStyle = this.colour("--body-text-color-subdued");
      ctx.strokeStyle = this.colour("--border-color-primary");
      ctx.lineWidth = 1;
      ctx.textAlign = "right";
      const marks = ticks(span[0], span[1], this.main ? 5 : 3);
      for (const value of marks) {
        const y = Math.round(this.y(value)) + 0.5;
        ctx.beginPath(); ctx.moveTo(MARGIN.left, y); ctx.lineTo(this.width - MARGIN.right, y); ctx.stroke();
        ctx.fillText(short(value, marks[1] - marks[0]), MARGIN.left - 8, y + 3.5);
      }
      ctx.textAlign = "center";
      for (const step of ticks(0, last, Math.max(2, Math.min(8, this.width / 110)))) {
        if (step === Math.round(step)) ctx.fillText(step.toLocaleString("en"), Math.max(this.x(step), MARGIN.left + 4), this.height - 6);
      }
    }

    /* With more points than pixels each bucket is drawn as its lowest and highest, so that spikes survive. */
    line(steps, values, colour, width) {
      const ctx = this.ctx, stride = Math.max(1, Math.floor(values.length / (this.width * 2)));
      ctx.strokeStyle = this.colour(colour);
      ctx.lineWidth = width;
      ctx.lineJoin = "round";
      ctx.beginPath();
      let open = false;
      const to = (step, value) => {
        if (open) ctx.lineTo(this.x(step), this.y(value)); else ctx.moveTo(this.x(step), this.y(value));
        open = true;
      };
      for (let i = 0; i < values.length; i += stride) {
        let low = null, high = null;
        for (let j = i; j < Math.min(i + stride, values.length); j++) {
          if (values[j] === null) { open = false; continue; }
          if (low === null || values[j] < values[low]) low = j;
          if (high === null || values[j] > values[high]) high = j;
        }
        if (low === null) continue;
        to(steps[Math.min(low, high)], values[Math.min(low, high)]);
        if (low !== high) to(steps[Math.max(low, high)], values[Math.max(low, high)]);
      }
      ctx.stroke();
    }

    dots(steps, values) {
      this.ctx.fillStyle = this.colour("--eval-line");
      steps.forEach((step, i) => {
        if (values[i] === null) return;
        this.ctx.beginPath(); this.ctx.arc(this.x(step), this.y(values[i]), 3, 0, 7); this.ctx.fill();
      });
    }

    /* A step whose figure is no number leaves a gap in the line and a cross below it. */
    gaps(steps, values) {
      const ctx = this.ctx, y = this.height - MARGIN.bottom - 5;
      ctx.strokeStyle = this.colour("--bad-line");
      ctx.lineWidth = 1.5;
      ctx.beginPath();
      values.forEach((value, i) => {
        if (value !== null) return;
        const x = this.x(steps[i]);
        ctx.moveTo(x - 3, y - 3); ctx.lineTo(x + 3, y + 3); ctx.moveTo(x + 3, y - 3); ctx.lineTo(x - 3, y + 3);
      });
      ctx.stroke();
    }

    hover(x) {
      this.at = x;
      if (x === null) this.read.textContent = "";
      this.draw();
    }

    cursor(steps, values, evaluated) {
      if (!steps.length) return;
      const last = Math.max(1, steps[steps.length - 1], evaluated.step[evaluated.step.length - 1] || 0);
      const wanted = (this.at - MARGIN.left) / (this.width - MARGIN.left - MARGIN.right) * last;
      let low = 0, high = steps.length - 1;
      while (low < high) { const mid = (low + high) >> 1; if (steps[mid] < wanted) low = mid + 1; else high = mid; }
      if (low > 0 && wanted - steps[low - 1] < steps[low] - wanted) low -= 1;
      const x = Math.round(this.x(steps[low])) + 0.5, ctx = this.ctx;
      ctx.strokeStyle = this.colour("--body-text-color-subdued");
      ctx.lineWidth = 1;
      ctx.beginPath(); ctx.moveTo(x, MARGIN.top); ctx.lineTo(x, this.height - MARGIN.bottom); ctx.stroke();
      const value = values[low] === null ? "not a number" : short(values[low]);
      const before = evaluated.step.filter(step => step <= steps[low]).length - 1;
      const held = before >= 0 && evaluated.loss[before] !== null ? ` · eval ${short(evaluated.loss[before])}` : "";
      this.read.textContent = `step ${steps[low].toLocaleString("en")} · ${value}${held}`;
    }

    /* The same in words, for those who do not see it; renewed at most every ten seconds. */
    describe(steps, values, evaluated) {
      if (Date.now() - this.describedAt < 10000 && this.describedN <= steps.length) return;
      this.describedAt = Date.now();
      this.describedN = steps.length;
      const real = values.filter(value => value !== null);
      const lowest = real.reduce((a, b) => Math.min(a, b), Infinity);
      let text = `${this.root.dataset.title}: ${steps.length} points up to step ${steps[steps.length - 1] || 0}`;
      if (real.length) text += `, from ${short(real[0])} to ${short(real[real.length - 1])}, lowest ${short(lowest)}`;
      if (evaluated.loss.length) text += `; newest evaluation ${short(evaluated.loss[evaluated.loss.length - 1] || 0)}`;
      this.canvas.setAttribute("aria-label", text);
    }
  }

  function csv(now) {
    const names = Object.keys(now.series);
    const rows = now.series.step.map((_, i) => names.map(name => now.series[name][i] ?? "").join(","));
    return [names.join(","), ...rows].join("\n") + "\n";
  }

  SFTPlay.charts = element => {
    for (const root of element.querySelectorAll("[data-chart]")) {
      const chart = new Chart(root);
      SFTPlay.listen(root, now => chart.hear(now));
    }
    const save = element.querySelector("[data-part=csv]");
    let view = null;
    SFTPlay.listen(element, now => { view = now; save.hidden = !now.series.step.length; });
    save.addEventListener("click", () => {
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([csv(view)], { type: "text/csv" }));
      link.download = `${view.run}.csv`;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    });
  };
})();
