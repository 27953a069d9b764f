"use strict";
// Live pages: ask for the pulse, and only when it changed fetch the page and swap the parts that differ.
(() => {
  const root = document.documentElement;
  const themes = ["system", "light", "dark"];
  const button = document.querySelector("[data-theme-switch]");
  const current = () => root.dataset.theme || "system";
  const name = () => { button.textContent = `Theme: ${current()}`; };
  if (button) {
    button.hidden = false;
    name();
    button.addEventListener("click", () => {
      const next = themes[(themes.indexOf(current()) + 1) % themes.length];
      if (next === "system") delete root.dataset.theme; else root.dataset.theme = next;
      try { localStorage.setItem("dyna-eval-theme", next); } catch { /* storage may be forbidden */ }
      name();
      document.dispatchEvent(new Event("theme"));
    });
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => document.dispatchEvent(new Event("theme")));

  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("input, textarea, select, [contenteditable]")) return;
    const search = document.querySelector("[data-search]");
    if (search) { event.preventDefault(); search.focus(); search.select(); }
  });

  document.addEventListener("change", (event) => {
    const form = event.target.closest("form[data-instant]");
    if (form) form.requestSubmit();
  });

  document.addEventListener("click", async (event) => {
    const copy = event.target.closest("[data-copy]");
    if (!copy) return;
    const text = document.getElementById(copy.dataset.copy).textContent;
    const label = copy.textContent;
    try { await navigator.clipboard.writeText(text); copy.textContent = "Copied"; }
    catch { // an address without https has no clipboard: select the text instead
      const shown = document.getElementById(copy.dataset.copy);
      shown.hidden = false;
      getSelection().selectAllChildren(shown);
      copy.textContent = "Selected; press Ctrl-C";
    }
    setTimeout(() => { copy.textContent = label; }, 2000);
  });

  const address = document.body.dataset.pulse;
  if (!address) return;
  const beat = document.querySelector("[data-beat]");
  let seen = document.body.dataset.seen;
  let failures = 0;
  let pause = 2; // seconds until it pays to ask again, as the dashboard says

  const say = (text) => { if (beat.textContent !== text) beat.textContent = text; };

  const FOCUSABLE = "a[href], button, input, select, summary, [tabindex]";
  const nameOf = (element) => element.getAttribute("href") || element.getAttribute("aria-label");

  // What has the focus is found again by its name, among those of the same name by its place, else by its place alone.
  const focusIn = (part) => {
    const all = [...part.querySelectorAll(FOCUSABLE)];
    const place = all.indexOf(document.activeElement);
    if (place < 0) return () => {};
    const name = nameOf(all[place]);
    const before = all.slice(0, place).filter((element) => nameOf(element) === name).length;
    return () => {
      const now = [...part.querySelectorAll(FOCUSABLE)];
      const named = name ? now.filter((element) => nameOf(element) === name) : [];
      const again = named[Math.min(before, named.length - 1)] || now[Math.min(place, now.length - 1)];
      if (again) again.focus({ preventScroll: true });
    };
  };

  // Parts that are live hold nothing to type into or to choose from, so that they can always be swapped.
  const swap = (fresh) => {
    for (const part of document.querySelectorAll("[data-live]")) {
      const other = fresh.querySelector(`[data-live="${part.dataset.live}"]`);
      if (!other || other.innerHTML === part.dataset.html) continue;
      const html = other.innerHTML;
      const refocus = focusIn(part);
      const scrolled = [...part.querySelectorAll(".scroll")].map((box) => box.scrollLeft);
      const open = new Set([...part.querySelectorAll("details[open][data-keep]")].map((d) => d.dataset.keep));
      part.toggleAttribute("data-pending", other.hasAttribute("data-pending"));
      part.replaceChildren(...other.childNodes);
      part.dataset.html = html;
      part.querySelectorAll(".scroll").forEach((box, index) => { box.scrollLeft = scrolled[index] || 0; });
      for (const details of part.querySelectorAll("details[data-keep]")) {
        if (open.has(details.dataset.keep)) details.open = true;
      }
      refocus();
    }
  };

  const REFUSALS = {
    401: "the dashboard asks for a new token: open the address that it printed",
    404: "this is no longer in the database",
    503: "the database does not answer; trying again",
  };
  class Refusal extends Error {}
  const ask = async (where) => {
    const answer = await fetch(where, { cache: "no-store" });
    if (!answer.ok) throw new Refusal(REFUSALS[answer.status] || `the dashboard answers with error ${answer.status}; trying again`);
    return answer;
  };

  let lag = 0; // rounds to wait for a report that is older than the pulse
  const look = async () => {
    if (document.hidden) return;
    try {
      const { pulse, again_seconds } = await (await ask(address)).json();
      pause = again_seconds || 2;
      const pending = document.querySelector("[data-pending]");
      if (pulse !== seen || pending || (lag > 0 && (lag -= 1) === 0)) {
        const page = await (await ask(location.href)).text();
        const fresh = new DOMParser().parseFromString(page, "text/html");
        swap(fresh);
        seen = pulse;
        lag = fresh.body.dataset.seen === pulse ? 0 : 4;
        if (pending && !document.querySelector("[data-pending]")) { location.reload(); return; }
        document.dispatchEvent(new Event("fresh"));
      }
      failures = 0;
      say("");
    } catch (error) {
      failures += 1;
      if (failures > 1) say(error instanceof Refusal ? error.message : "no connection to the dashboard; trying again");
    }
  };

  for (const part of document.querySelectorAll("[data-live]")) part.dataset.html = part.innerHTML;
  const again = () => setTimeout(async () => { await look(); again(); }, Math.min(1000 * pause * 2 ** Math.min(failures, 4), 30000));
  again();
  document.addEventListener("visibilitychange", look);
})();
