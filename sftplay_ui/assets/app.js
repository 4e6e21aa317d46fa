/* What moves in the window: one poll feeds every live part; tabs by keyboard; light and dark.
   Text from runs and data goes into the page by textContent only. */
"use strict";
window.SFTPlay = (() => {
  const STEP_COLUMNS = ["step", "loss", "learning_rate", "grad_norm", "tokens_per_second", "memory"];
  const EVAL_COLUMNS = ["step", "loss"];
  const listeners = new Set();
  const empty = () => ({
    run: null, generation: "", state: "idle", series: columns(STEP_COLUMNS), evaluated: columns(EVAL_COLUMNS),
    told: null, facts: -1, log: "", log_version: "",
  });
  const columns = names => Object.fromEntries(names.map(name => [name, []]));
  let view = { ...empty(), runs: [], library: "", jobs: [], device: null, project: "" };
  let chosen = sessionStorage.getItem("sftplay-run");
  let pollSoon = () => {};

  /* ---- the poll ------------------------------------------------------------------------- */
  function poll(element, since) {
    let wait = 500, timer = 0, busy = false;
    async function ask() {
      clearTimeout(timer);
      if (!element.isConnected || busy) return;
      if (document.hidden) { timer = setTimeout(ask, 1000); return; }  // no traffic from hidden pages
      busy = true;
      try {
        const more = take(await since(query()));
        document.body.classList.remove("offline");
        wait = more ? 0 : view.jobs.some(job => job.state === "running") || installing() ? 500 : 2000;
      } catch (error) {
        document.body.classList.add("offline");
        wait = Math.min(8000, wait * 2 + 250);  // back off, never give up
      }
      busy = false;
      timer = setTimeout(ask, wait);
    }
    pollSoon = () => { wait = 0; ask(); };
    document.addEventListener("visibilitychange", () => { if (!document.hidden) pollSoon(); });
    ask();
  }

  const installing = () => !!view.setup && view.setup.state === "running";

  function query() {
    return {
      run: chosen || view.run, chosen: !!chosen, generation: view.generation, points: view.series.step.length,
      evaluations: view.evaluated.step.length, facts: view.facts, log: view.log_version, library: view.library,
    };
  }

  /* Merge an answer into the view; tells whether the server holds more points right now. */
  function take(answer) {
    if (answer.run !== view.run || answer.generation !== view.generation) {
      Object.assign(view, empty());
    }
    const { points, evaluations, told, runs, ...small } = answer;
    if (points) append(view.series, points, answer.from);
    if (evaluations) append(view.evaluated, evaluations, answer.evaluations_from);
    if (told) view.told = told;
    if (runs) view.runs = runs;
    if (small.log === undefined) small.log = view.log;
    Object.assign(view, small);
    if (answer.run === null) { view.told = null; view.facts = -1; }
    window.__state = view.state;
    tell();
    return view.series.step.length < (answer.total || 0);
  }

  function append(series, rows, from) {
    for (const name of Object.keys(series)) {
      series[name].length = from;
      for (const value of rows[name]) series[name].push(value);
    }
  }

  function tell() {
    for (const entry of listeners) {
      if (!entry.element.isConnected) { listeners.delete(entry); continue; }
      entry.heard(view);
    }
  }

  function listen(element, heard) {
    listeners.add({ element, heard });
    heard(view);
  }

  /* ---- moving about --------------------------------------------------------------------- */
  const tabButtons = () => [...document.querySelectorAll("#shell > .tab-wrapper [role=tab]")]
    .filter(button => button.offsetParent !== null);
  const tabName = button => (button.getAttribute("aria-controls") || "").split(" ")[0];

  function go(name) {
    const button = tabButtons().find(each => tabName(each) === name);
    if (button) button.click();
  }

  function select(run) {
    chosen = run || null;
    if (chosen) sessionStorage.setItem("sftplay-run", chosen);
    else sessionStorage.removeItem("sftplay-run");
    pollSoon();
  }

  function keepTabs() {
    document.addEventListener("keydown", event => {
      const buttons = tabButtons(), at = buttons.indexOf(event.target);
      const moves = { ArrowDown: at + 1, ArrowRight: at + 1, ArrowUp: at - 1, ArrowLeft: at - 1, Home: 0, End: -1 };
      if (at < 0 || !(event.key in moves)) return;
      event.preventDefault();
      const next = buttons[(moves[event.key] + buttons.length) % buttons.length];
      next.focus();
      next.click();
    });
    document.addEventListener("click", event => {
      const button = event.target.closest("#shell > .tab-wrapper [role=tab]");
      if (!button) return;
      history.replaceState(null, "", "#" + tabName(button));
      window.scrollTo(0, 0);
      rove();
    });
    window.addEventListener("hashchange", () => openWanted(0));
    openWanted(40);
  }

  /* Open the tab the address names; right after loading the rail may not be there yet. */
  function openWanted(tries) {
    const buttons = tabButtons(), wanted = location.hash.slice(1);
    if (!buttons.length && tries) { setTimeout(() => openWanted(tries - 1), 50); return; }
    const button = buttons.find(each => tabName(each) === wanted);
    if (button && button.getAttribute("aria-selected") !== "true") button.click();
    rove();
  }

  /* One tab stop for the rail: Tab leaves it, the arrow keys move inside it. */
  function rove() {
    setTimeout(() => tabButtons().forEach(button => {
      button.tabIndex = button.getAttribute("aria-selected") === "true" ? 0 : -1;
    }), 50);
  }

  /* ---- light and dark -------------------------------------------------------------------- */
  function setDark(dark) {
    document.body.classList.toggle("dark", dark);
    tell();
  }

  /* ---- words ----------------------------------------------------------------------------- */
  function duration(seconds) {
    if (seconds === null || seconds === undefined) return "";
    const s = Math.round(seconds);
    if (s < 60) return `${s} s`;
    if (s < 3600) return `${Math.floor(s / 60)} min ${String(s % 60).padStart(2, "0")} s`;
    return `${Math.floor(s / 3600)} h ${String(Math.floor(s % 3600 / 60)).padStart(2, "0")} min`;
  }
  /* The same, short enough for a card. */
  function rough(seconds) {
    if (seconds === null || seconds === undefined) return "–";
    if (seconds < 100) return `${Math.round(seconds)} s`;
    if (seconds < 6000) return `${Math.round(seconds / 60)} min`;
    return `${(seconds / 3600).toFixed(1)} h`;
  }
  const gib = bytes => (bytes / 2 ** 30).toFixed(1);
  const count = number => number >= 1e6 ? (number / 1e6).toFixed(1) + " M" : number >= 1e4
    ? (number / 1e3).toFixed(1) + " k" : Math.round(number).toLocaleString("en");
  const figure = (value, digits) => value === null || value === undefined ? "–" : value.toFixed(digits);
  const parts = element => Object.fromEntries(
    [...element.querySelectorAll("[data-part]")].map(part => [part.dataset.part, part]));
  const write = (part, text) => { if (part && part.textContent !== text) part.textContent = text; };

  const TONES = { running: "busy", finished: "good", stopped: "", failed: "bad", lost: "bad" };
  function tone(part, state) {
    part.classList.remove("busy", "good", "bad");
    if (TONES[state]) part.classList.add(TONES[state]);
  }

  function fillBar(bar, progress, running) {
    bar.classList.toggle("unknown", running && progress === null);
    bar.firstElementChild.style.width = `${100 * (progress || 0)}%`;
    bar.setAttribute("aria-valuenow", Math.round(100 * (progress || 0)));
  }

  /* ---- frame ----------------------------------------------------------------------------- */
  function topBar(element) {
    const part = parts(element);
    const kept = localStorage.getItem("sftplay-theme");
    if (kept) setDark(kept === "dark");
    part.theme.addEventListener("click", () => {
      const dark = !document.body.classList.contains("dark");
      localStorage.setItem("sftplay-theme", dark ? "dark" : "light");
      setDark(dark);
    });
    part.run.addEventListener("click", () => { const job = busy(); go(job ? job.job : "train"); });
    listen(element, now => {
      write(part.project, now.project);
      const job = busy();
      write(part.run, job ? job.run : now.run ? `${now.run} · ${now.state}` : "no run yet");
      tone(part.run, job ? job.state : now.state);
      part.device.hidden = !now.device;
      if (!now.device) return;
      write(part.device, `${now.device.name} · ${gib(now.device.used)} of ${gib(now.device.total)} GiB`);
      part.device.style.setProperty("--full", now.device.used / now.device.total);
    });
    keepTabs();
  }

  const busy = () => view.jobs.find(job => job.state === "running");

  function statusBar(element) {
    const part = parts(element), bar = element.querySelector(".bar"), dot = element.querySelector(".dot");
    let spokenAt = 0;
    listen(element, now => {
      const job = busy() || now.jobs.find(each => each.run === now.run);
      const running = !!job && job.state === "running";
      // a chat is at work only while its model is loading
      const talking = running && job.job === "chat" && job.phase === "generate";
      const doing = talking ? "ready to answer" : job && job.stopping ? "Stopping, saving first" : job && job.sentence;
      const text = !job ? "Ready" : `${job.run}: ${doing}`;
      write(part.what, document.body.classList.contains("offline") ? "The window's server does not answer" : text);
      tone(dot, job ? job.state : "");
      bar.hidden = !running || talking;
      if (job) fillBar(bar, job.progress, running);
      write(part.eta, running && job.eta !== null ? `${duration(job.eta)} left` : "");
      const speed = running && now.run === job.run ? now.figures.tokens_per_second : null;
      write(part.speed, speed ? `${count(speed)} tokens/s` : "");
      if (Date.now() - spokenAt > 10000) { spokenAt = Date.now(); write(part.spoken, text); }
    });
  }

  /* ---- the panel of one job ---------------------------------------------------------------- */
  function panel(element, ended) {
    const root = element.querySelector(".job-panel"), part = parts(root), bar = root.querySelector(".bar");
    const problem = root.querySelector(".problem");
    let watched = null;
    listen(root, now => {
      const job = now.jobs.find(each => each.job === root.dataset.job);
      root.hidden = !job;
      if (!job) return;
      write(part.state, job.state);
      tone(part.state, job.state);
      write(part.sentence, `${job.run}: ${job.stopping ? "stopping, saving first" : job.sentence}`);
      write(part.eta, job.eta !== null ? `${duration(job.eta)} left` : "");
      bar.hidden = job.state !== "running";
      fillBar(bar, job.progress, job.state === "running");
      problem.hidden = !job.failure;
      write(part.what, job.failure ? job.failure.what : "");
      write(part.fix, job.failure ? job.failure.fix : "");
      if (watched === job.run && job.state !== "running") ended();
      watched = job.state === "running" ? job.run : null;
    });
  }

  return {
    poll, listen, go, select, selected: () => view.run, soon: () => pollSoon(), topBar, statusBar, panel,
    duration, rough, count, figure, gib, parts, write, tone, fillBar,
  };
})();
