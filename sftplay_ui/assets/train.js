/* The Train page's live parts: the run's head, what it told, and the library of runs. */
"use strict";
(() => {
  const { listen, parts, write, tone, duration, rough, count, figure, gib } = SFTPlay;
  const show = (id, visible) => {
    const button = document.getElementById(id);
    if (button) button.hidden = !visible;
  };

  function make(tag, text, className) {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    if (className) element.className = className;
    return element;
  }

  SFTPlay.confirmed = question => {
    const run = SFTPlay.selected();
    return run && window.confirm(question.replace("{run}", run)) ? run : "";
  };

  SFTPlay.asked = (question, value) => {
    const run = SFTPlay.selected();
    const given = run && window.prompt(question.replace("{run}", run), value);
    return given ? [run, given.trim()] : ["", ""];
  };

  SFTPlay.runHead = element => {
    const root = element.querySelector(".run-head"), part = parts(root), problem = root.querySelector(".problem");
    listen(root, now => {
      const running = now.state === "running", told = now.told, figures = now.figures;
      // Gradio scopes our styles below its container, so the mark cannot sit on the body.
      document.getElementById("shell").dataset.run = now.run ? "shown" : "none";
      write(part.run, now.run || "No run yet");
      part.state.hidden = !now.run;
      write(part.state, now.stopping ? "stopping" : now.state);
      tone(part.state, now.state);
      write(part.sentence, !now.run ? "Choose a base model and press Start training." : now.stopping
        ? "Saving its work first" : running ? now.sentence : "");
      part.resume.hidden = !(told && told.resume);
      write(part.resume, told && told.resume || "");
      problem.hidden = !now.failure;
      write(part.what, now.failure ? now.failure.what : "");
      write(part.fix, now.failure ? now.failure.fix : "");
      show("train-stop", running);
      show("train-resume", !!(told && told.resume));
      show("train-extend", !!(told && told.extend));
      show("train-reuse", !!now.run);
      show("train-delete", !!now.run && !running);
      if (!now.run) { for (const name of Object.keys(KPIS)) write(part[name], KPIS[name]); return; }
      const losses = now.series.loss, evals = now.evaluated.loss;
      write(part.loss, figure(figures.loss, 3));
      write(part["loss-note"], losses.length > 1 && losses[0] !== null ? `from ${figure(losses[0], 3)}` : "");
      write(part.eval, figure(figures.eval_loss, 3));
      write(part["eval-note"], evals.length > 1 && evals[0] !== null ? `from ${figure(evals[0], 3)}` : "");
      write(part.step, now.total_steps ? `${now.step.toLocaleString("en")}` : "–");
      write(part.epoch, now.total_steps ? `of ${now.total_steps.toLocaleString("en")}` : "");
      write(part.eta, running ? rough(now.eta) : "–");
      write(part["eta-note"], now.seconds !== null ? `took ${duration(now.seconds)}` : figures.epoch ? `epoch ${figure(figures.epoch, 1)}` : "");
      write(part.speed, figures.tokens_per_second === null ? "–" : count(figures.tokens_per_second));
      write(part.learned, figures.learned_tokens ? `${count(figures.learned_tokens)} learned` : "");
      write(part.memory, figures.memory ? `${gib(figures.memory)} GiB` : "–");
      write(part.device, told ? told.device : "");
    });
  };
  const KPIS = { loss: "–", eval: "–", step: "–", eta: "–", speed: "–", learned: "", memory: "–" };

  /* Answers to the same question belong together: the base model's first, then the newest. */
  function pairs(samples) {
    const found = new Map();
    for (const sample of samples) {
      const known = found.get(sample.prompt);
      if (!known) found.set(sample.prompt, { first: sample, last: null, reference: sample.reference });
      else known.last = sample;
    }
    return found;
  }

  function answer(label, text) {
    const box = make("div");
    box.append(make("small", label), text);
    return box;
  }

  const short = rate => Number(rate).toExponential().replace("e-", "e−").replace("e+", "e");

  function drawn(tag, facts, text) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(facts)) element.setAttribute(name, value);
    if (text !== undefined) element.textContent = text;
    return element;
  }

  /* Loss against the logarithm of the rate, with the suggested one marked. */
  function rateCurve(svg, rate) {
    const xs = rate.points.map(point => Math.log10(point[0])), ys = rate.points.map(point => point[1]);
    const low = Math.min(...ys), span = Math.max(Math.min(Math.max(...ys), 0.5 - low), 1e-6) - low || 1;
    const x = value => 44 + 586 * (value - xs[0]) / (xs[xs.length - 1] - xs[0] || 1);
    const y = value => 8 + 162 * (1 - Math.min(1.03, (value - low) / span));
    const parts = [];
    for (let power = Math.ceil(xs[0]); power <= xs[xs.length - 1]; power++) {
      parts.push(drawn("line", { x1: x(power), x2: x(power), y1: 8, y2: 172, class: "grid" }));
      parts.push(drawn("text", { x: x(power), y: 190, "text-anchor": "middle" }, short(10 ** power)));
    }
    for (const value of [low, low + span]) parts.push(drawn("text", { x: 38, y: y(value) + 4, "text-anchor": "end" }, value.toFixed(2)));
    const chosen = x(Math.log10(rate.learning_rate));
    parts.push(drawn("line", { x1: chosen, x2: chosen, y1: 8, y2: 172, class: "mark" }));
    parts.push(drawn("polyline", { points: xs.map((at, i) => `${x(at).toFixed(1)},${y(ys[i]).toFixed(1)}`).join(" ") }));
    svg.replaceChildren(...parts);
    svg.setAttribute("aria-label", `Loss against learning rate from ${short(rate.points[0][0])} on; suggested ${short(rate.learning_rate)}`);
  }

  /* The runs that wait: each with its buttons, which press the ones the server listens to. */
  SFTPlay.line = element => {
    const root = element.querySelector(".line"), part = parts(root), card = document.getElementById("train-line-card");
    let shown = null;
    const press = (name, run) => { SFTPlay.waiting = run; document.getElementById(`train-line-${name}`).click(); };
    const button = (text, label, pressed) => {
      const made = make("button", text, "link");
      made.type = "button";
      made.setAttribute("aria-label", label);
      made.addEventListener("click", pressed);
      return made;
    };
    listen(root, now => {
      const line = now.line || [], mark = line.join("/");
      if (mark === shown) return;
      shown = mark;
      root.hidden = !line.length;
      card.hidden = !line.length;
      part.line.replaceChildren(...line.map((run, place) => {
        const row = make("li");
        row.append(make("span", run));
        if (place) row.append(button("Earlier", `Start ${run} earlier`, () => press("up", run)));
        row.append(button("Remove", `Remove ${run} from the line`, () => press("cancel", run)));
        return row;
      }));
    });
  };

  /* The installation of another backend: told while it goes on, and for a while how it ended. */
  const INSTALLED = { running: "installing", ended: "installed", failed: "failed", stopped: "stopped" };
  const SETUP_TONES = { running: "running", ended: "finished", failed: "failed", stopped: "stopped" };
  SFTPlay.setup = (element, ended) => {
    const root = element.querySelector(".setup"), part = parts(root), bar = root.querySelector(".bar");
    const card = document.getElementById("train-unsloth-card"), note = document.getElementById("train-unsloth-note");
    const problem = root.querySelector(".problem");
    let watched = false;
    listen(root, now => {
      const setup = now.setup, state = setup ? setup.state : "none", running = state === "running";
      const asked = !!note.querySelector(".situation, .problem");
      root.hidden = !setup || !setup.is_news;
      const offered = !running && !!note.querySelector("[data-offer], .problem");
      card.hidden = root.hidden && !asked;
      show("train-unsloth-install", offered);
      show("train-unsloth-stop", running);
      show("train-unsloth-buttons", offered || running);
      show("train-unsloth", !root.hidden);
      if (watched && !running) ended();
      watched = running;
      if (root.hidden) return;
      write(part.state, INSTALLED[state]);
      tone(part.state, SETUP_TONES[state]);
      const last = setup.lines[setup.lines.length - 1] || "Starting";
      write(part.sentence, running ? last.trim() : state === "failed" || asked && state === "ended" ? "" : setup.what);
      write(part.time, running ? `for ${duration(setup.seconds)}` : `after ${duration(setup.seconds)}`);
      bar.hidden = !running;
      problem.hidden = state !== "failed";
      write(part.what, setup.what);
      write(part.fix, setup.fix);
      const log = part.lines, atEnd = log.scrollTop + log.clientHeight >= log.scrollHeight - 4;
      write(log, setup.lines.join("\n"));
      if (atEnd) log.scrollTop = log.scrollHeight;
    });
  };

  /* One row for each evaluation, the scores of its answers side by side. */
  function scoreTable(section, part, scores) {
    section.hidden = !scores.length;
    if (!scores.length) return;
    const names = Object.keys(scores[0]).filter(name => name !== "step"), head = make("tr");
    for (const name of ["step", ...names]) head.append(make("th", name.replaceAll("_", " "), "number"));
    part["score-names"].replaceChildren(head);
    part.scores.replaceChildren(...scores.map(each => {
      const row = make("tr");
      row.append(make("td", each.step.toLocaleString("en"), "number"));
      for (const name of names) row.append(make("td", figure(each[name], 3), "number"));
      return row;
    }));
  }

  SFTPlay.told = element => {
    const root = element.querySelector(".told"), part = parts(root);
    part["rate-use"].addEventListener("click", () => document.getElementById("train-reuse").click());
    const block = name => root.querySelector(`[data-block=${name}]`);
    let shown = null;
    listen(root, now => {
      write(part.log, now.log || "The worker has written nothing yet.");
      block("log").hidden = !now.run;
      if (now.told === shown && shown !== null) return;
      shown = now.told;
      const told = shown || { samples: [], warnings: [], choices: [], rate: null };
      scoreTable(block("scores"), part, told.scores || []);
      block("rate").hidden = !told.rate;
      block("samples").hidden = !!told.rate;
      if (told.rate) {
        write(part.rate, short(told.rate.learning_rate));
        write(part["rate-why"], told.rate.what);
        rateCurve(part["rate-curve"], told.rate);
      }
      const asked = pairs(told.samples);
      part.samples.replaceChildren(...[...asked].map(([prompt, both]) => {
        const sample = make("article", undefined, "sample"), pair = make("div", undefined, "pair");
        const at = each => each.step === 0 ? "before training" : `at step ${each.step}`;
        pair.append(answer(at(both.first), both.first.text));
        pair.append(both.last ? answer(at(both.last), both.last.text) : answer("now", "not asked again yet"));
        sample.append(make("div", prompt, "ask"), pair);
        if (both.reference) sample.append(make("p", `Wanted: ${both.reference}`, "muted"));
        return sample;
      }));
      if (!asked.size) part.samples.replaceChildren(make("p", "The same questions are answered before the first step and at every evaluation.", "muted"));
      block("warnings").hidden = !told.warnings.length;
      part.warnings.replaceChildren(...told.warnings.map(each => make("li", each.what)));
      block("choices").hidden = !told.choices.length;
      part.choices.replaceChildren(...told.choices.map(each => {
        const row = make("tr");
        row.append(make("td", each.setting, "mono"), make("td", String(each.value)), make("td", each.reason, "muted"));
        return row;
      }));
    });
  };

  SFTPlay.library = element => {
    const root = element.querySelector(".library"), part = parts(root);
    let shown = "";
    listen(root, now => {
      const mark = `${now.library} ${now.run}`;
      if (mark === shown) return;
      shown = mark;
      part.none.hidden = now.runs.length > 0;
      root.querySelector(".scroll").hidden = !now.runs.length;
      part.rows.replaceChildren(...now.runs.map(each => libraryRow(each, each.run === now.run)));
    });
  };

  function libraryRow(each, chosen) {
    const row = make("tr", undefined, chosen ? "chosen" : "");
    const name = make("button", each.run, "row"), first = make("td"), pill = make("span", each.state, "pill"), state = make("td");
    name.type = "button";
    name.setAttribute("aria-pressed", String(chosen));
    name.addEventListener("click", () => SFTPlay.select(each.run));
    first.append(name);
    tone(pill, each.state);
    state.append(pill);
    row.append(first, make("td", each.job.replace("_", " ")), state,
      make("td", each.total_steps ? `${each.step} / ${each.total_steps}` : "", "number"),
      make("td", each.loss === null ? "" : each.loss.toFixed(3), "number"),
      make("td", new Date(each.started * 1000).toLocaleString([], { dateStyle: "short", timeStyle: "short" }), "muted"));
    return row;
  }
})();
