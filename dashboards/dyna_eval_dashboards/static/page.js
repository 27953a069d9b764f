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

  const swap = (fresh) => {
    for (const part of document.querySelectorAll("[data-live]")) {
      const other = fresh.querySelector(`[data-live="${part.dataset.live}"]`);
      if (!other || other.innerHTML === part.dataset.html) continue;
      const html = other.innerHTML;
      if (part.contains(document.activeElement) && document.activeElement.matches("input, select")) continue;
      const focused = part.contains(document.activeElement) ? document.activeElement : null;
      const path = focused && (focused.getAttribute("href") || focused.getAttribute("aria-label"));
      const scrolled = [...part.querySelectorAll(".scroll")].map((box) => box.scrollLeft);
      const open = new Set([...part.querySelectorAll("details[open][data-keep]")].map((d) => d.dataset.keep));
      part.toggleAttribute("data-pending", other.hasAttribute("data-pending"));
      part.replaceChildren(...other.childNodes);
      part.dataset.html = html;
      part.querySelectorAll(".scroll").forEach((box, index) => { box.scrollLeft = scrolled[index] || 0; });
      for (const details of part.querySelectorAll("details[data-keep]")) {
        if (open.has(details.dataset.keep)) details.open = true;
      }
      if (path) {
        const again = [...part.querySelectorAll("a, [aria-label]")].find(
          (element) => element.getAttribute("href") === path || element.getAttribute("aria-label") === path);
        if (again) again.focus({ preventScroll: true });
      }
    }
  };

  let lag = 0; // rounds to wait for a report that is older than the pulse
  const look = async () => {
    if (document.hidden) return;
    try {
      const answer = await fetch(address, { cache: "no-store" });
      if (!answer.ok) throw new Error(String(answer.status));
      const { pulse, again_seconds } = await answer.json();
      pause = again_seconds || 2;
      const pending = document.querySelector("[data-pending]");
      if (pulse !== seen || pending || (lag > 0 && (lag -= 1) === 0)) {
        const page = await fetch(location.href, { cache: "no-store" });
        if (!page.ok) throw new Error(String(page.status));
        const fresh = new DOMParser().parseFromString(await page.text(), "text/html");
        swap(fresh);
        seen = pulse;
        lag = fresh.body.dataset.seen === pulse ? 0 : 4;
        if (pending && !document.querySelector("[data-pending]")) { location.reload(); return; }
        document.dispatchEvent(new Event("fresh"));
      }
      failures = 0;
      say("");
    } catch {
      failures += 1;
      if (failures > 1) say("no connection to the dashboard; trying again");
    }
  };

  for (const part of document.querySelectorAll("[data-live]")) part.dataset.html = part.innerHTML;
  const again = () => setTimeout(async () => { await look(); again(); }, Math.min(1000 * pause * 2 ** Math.min(failures, 4), 30000));
  again();
  document.addEventListener("visibilitychange", look);
})();
