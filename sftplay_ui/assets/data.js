/* The table of processed examples: each text is edited where it stands, one at a time. */
"use strict";
(() => {
  const HINT = "Ctrl+Enter saves, Esc leaves it as it was";

  SFTPlay.rows = (element, trigger, server, watch) => {
    let open = null;  // {box, field, before, row, turn}
    let back = "";    // the pencil that gets the focus again once the table is new

    const named = cell => {
      const row = cell.closest("[data-row]");
      return { row: Number(row.dataset.row), name: row.dataset.name, split: row.closest("[data-split]").dataset.split };
    };

    async function begin(cell) {
      if (!cell || open && open.cell === cell || !cell.querySelector("[data-do=edit]")) return;
      close(true);
      const turn = Number(cell.dataset.turn), row = named(cell);
      const found = await server.whole_text({ ...row, turn });
      if (found.problem !== undefined) return SFTPlay.rowsProblem(found.problem);
      open = { cell, turn, row, before: found.text, box: editor(found.text) };
      cell.classList.add("editing");
      cell.append(open.box);
      const field = open.box.querySelector("textarea");
      grow(field);
      field.focus();
      field.setSelectionRange(field.value.length, field.value.length);
    }

    function editor(text) {
      const box = document.createElement("div"), field = document.createElement("textarea");
      box.className = "editor";
      field.value = text;
      field.dir = "auto";
      field.setAttribute("aria-label", "Text of this turn");
      field.addEventListener("input", () => grow(field));
      field.addEventListener("keydown", event => {
        if (event.key === "Escape") { event.preventDefault(); close(false); }
        if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); close(true); }
      });
      const line = document.createElement("div");
      line.className = "editor-line";
      line.append(action("Save", () => close(true), "save"), action("Cancel", () => close(false), ""), hint());
      box.append(field, line);
      // whoever clicks elsewhere has finished: what was typed is never lost
      box.addEventListener("focusout", event => {
        if (open && open.box === box && !box.contains(event.relatedTarget)) close(true);
      });
      return box;
    }

    function action(text, act, name) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = text;
      button.className = `small ${name}`;
      // a button that took the focus would end the editing before its click arrives
      button.addEventListener("pointerdown", event => event.preventDefault());
      button.addEventListener("click", act);
      return button;
    }

    function hint() {
      const words = document.createElement("span");
      words.className = "muted";
      words.textContent = HINT;
      return words;
    }

    function grow(field) {
      field.style.height = "auto";
      field.style.height = `${Math.min(field.scrollHeight + 2, 420)}px`;
    }

    function close(save) {
      if (!open) return;
      const done = open, text = done.box.querySelector("textarea").value;
      open = null;
      done.box.remove();
      done.cell.classList.remove("editing");
      back = `[data-row="${done.row.row}"] [data-turn="${done.turn}"] [data-do=edit]`;
      if (save && text !== done.before) trigger("edit", { ...done.row, turn: done.turn, text });
      else refocus();
    }

    function refocus() {
      const button = back && element.querySelector(back);
      back = "";
      if (button && (document.activeElement === document.body || !document.activeElement)) button.focus({ preventScroll: true });
    }

    element.addEventListener("click", event => {
      const button = event.target.closest("[data-do]");
      if (!button) return;
      if (button.dataset.do === "edit") begin(button.closest(".cell"));
      if (button.dataset.do === "delete") trigger("delete", named(button));
    });
    element.addEventListener("dblclick", event => {
      if (!event.target.closest(".editor")) begin(event.target.closest(".cell"));
    });
    watch("value", refocus);
  };

  /* The switches beside the findings drive the form's own check boxes, which Process reads. */
  SFTPlay.doctor = element => {
    element.addEventListener("change", event => {
      const kind = event.target.dataset.fix;
      const box = kind && document.querySelector(`#data-fixes input[name="${kind}"]`);
      if (box && box.checked !== event.target.checked) box.click();
    });
  };

  SFTPlay.report = (element, trigger) => {
    element.addEventListener("click", event => {
      const button = event.target.closest("[data-kind]");
      if (button) trigger("select", { kind: button.dataset.kind });
    });
  };

  let pressed = false;
  const toTop = id => {
    const part = document.querySelector(id);
    if (part) part.scrollIntoView({ block: "start" });
  };
  SFTPlay.toRows = () => toTop("#data-rows");
  /* Whoever pressed Process is shown what came of it; other pages stay where they are. */
  SFTPlay.processed = () => {
    if (pressed) toTop("#data-result");
    pressed = false;
  };

  /* How far reading or processing is; `done` when another set lies on the disk than was shown. */
  SFTPlay.dataWork = (element, done, server) => {
    const root = element.querySelector(".job-panel"), part = SFTPlay.parts(root);
    const bar = root.querySelector(".bar"), NAMES = { process: "processing", examine: "looking" };
    let missed = "", asked = "", timer = 0, wait = 1500;

    async function look() {
      clearTimeout(timer);
      if (!element.isConnected) return;
      // nothing is asked for while nobody looks
      if (document.hidden || !element.closest(".tabitem").checkVisibility()) { timer = setTimeout(look, 1000); return; }
      try { show(await server.state({})); wait = root.hidden ? 1500 : 300; }
      catch (error) { wait = Math.min(8000, wait * 2); }
      timer = setTimeout(look, wait);
    }

    function show(now) {
      root.hidden = !now.what;
      // not on the body: the window's styles only reach what lies within it
      element.closest(".card").classList.toggle("processing", now.what === "process");
      if (now.what) {
        SFTPlay.write(part.what, NAMES[now.what]);
        SFTPlay.write(part.words, now.words);
        bar.classList.toggle("unknown", now.share === null);
        bar.firstElementChild.style.width = now.share === null ? "" : `${100 * now.share}%`;
      }
      const mark = document.querySelector("#data-report [data-set]"), shown = mark ? mark.dataset.set : "";
      if (now.set === shown || now.set === asked) return;
      // a page that has just been opened is still being filled: it is asked for at the second look
      if (pressed || missed === now.set) { asked = now.set; done(); }
      missed = now.set;
    }

    document.addEventListener("click", event => {
      if (!event.target.closest("#data-process")) return;
      pressed = true;
      for (const at of [60, 300, 700]) setTimeout(look, at);
    });
    look();
  };

  SFTPlay.rowsProblem = text => {
    const place = document.querySelector("#data-rows-note .html-container > *, #data-rows-note .prose") || document.querySelector("#data-rows-note");
    const box = document.createElement("div");
    box.className = "problem";
    box.setAttribute("role", "alert");
    box.textContent = text;
    place.replaceChildren(box);
  };
})();
