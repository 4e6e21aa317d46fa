/* What tabs need beyond app.js: the checklist of "Try it now", which floats over all of them. */
"use strict";
(() => {
  const PRESSED = "sftplay-try", HIDDEN = "sftplay-try-hidden";
  const MARKS = { waiting: "○", running: "●", finished: "✓", stopped: "■", failed: "!", lost: "!" };
  const WORDS = { waiting: "waiting", running: "running", finished: "done", stopped: "stopped", failed: "failed", lost: "lost" };

  /* Pressed in the Data tab: start, and go where there is something to watch. */
  SFTPlay.startTryIt = () => {
    sessionStorage.setItem(PRESSED, "1");
    sessionStorage.removeItem(HIDDEN);
    document.querySelector("#try-it-begin").click();
    SFTPlay.select(null);
    SFTPlay.go("train");
    window.dispatchEvent(new Event("sftplay-try"));
  };

  SFTPlay.tryIt = (element, ask) => {
    const root = element.querySelector(".try-it"), part = SFTPlay.parts(root);
    let heard = "", busy = false;
    part.hide.addEventListener("click", () => {
      sessionStorage.setItem(HIDDEN, root.dataset.run || "1");
      root.hidden = true;
    });

    async function look() {
      if (busy) return;
      busy = true;
      try { show(await ask({})); } catch (error) { heard = ""; }
      busy = false;
    }

    function show(now) {
      const pressed = sessionStorage.getItem(PRESSED);
      root.dataset.run = now.run;
      root.hidden = !now.shown || !(now.working || pressed || now.problem)
        || sessionStorage.getItem(HIDDEN) === (now.run || "1");
      part.steps.replaceChildren(...now.steps.map(line));
      const over = now.steps.every(step => step.state === "finished");
      SFTPlay.write(part.words, now.problem || (over ? "Done. Ask both models something in Chat." :
        now.working ? "You may close this page: it goes on." : ""));
      part.words.classList.toggle("bad", !!now.problem);
      if (over && pressed) {
        sessionStorage.removeItem(PRESSED);
        sessionStorage.setItem(HIDDEN, now.run);
        SFTPlay.go("chat");
      }
    }

    function line(step) {
      const item = document.createElement("li"), mark = document.createElement("i");
      item.dataset.state = step.state;
      mark.textContent = MARKS[step.state];
      mark.setAttribute("aria-hidden", "true");
      const state = document.createElement("small");
      state.textContent = step.text ? `${WORDS[step.state]}, ${step.text}` : WORDS[step.state];
      item.append(mark, step.name, state);
      return item;
    }

    window.addEventListener("sftplay-try", () => setTimeout(look, 300));
    SFTPlay.listen(root, now => {
      // asked again whenever a run has moved on, not on every beat of the poll
      const story = now.library + now.jobs.map(job => job.run + job.state + job.step).join();
      if (story === heard && !(root.hidden === false && part.steps.querySelector("[data-state=running]"))) return;
      heard = story;
      look();
    });
  };

  /* Style: a token says what it is when it is pointed at, tapped or reached by keys. */
  for (const kind of ["pointerover", "click"])
    document.addEventListener(kind, event => {
      const token = event.target.closest?.(".tokens .tok");
      if (!token) return;
      const readout = token.closest(".tokens").parentElement.querySelector(".tok-readout");
      if (readout) SFTPlay.write(readout, `${token.title}: ${JSON.stringify(token.textContent.replaceAll("↵", ""))}`);
    });

  /* Style: go to an example that breaks the rule. */
  document.addEventListener("click", event => {
    const link = event.target.closest?.(".row-link");
    const box = link && document.querySelector("#style-page input");
    if (!box) return;
    box.value = link.dataset.row;
    box.dispatchEvent(new Event("input", { bubbles: true }));
    box.dispatchEvent(new KeyboardEvent("keypress", { key: "Enter", bubbles: true }));
  });
})();
