"use strict";
// Draws the figures that the page names, in the colours of its theme, and again when they change.
(() => {
  const SERIES = 8;
  const LONG = 660; // pixels from which on a figure stands below the others, and none beside it
  const TICK = 15; // pixels that a turned name under an axis takes
  const BESIDE = 90; // pixels beside the axes, for their titles and numbers
  const probe = document.createElement("span");
  probe.hidden = true;
  document.body.append(probe);
  const colour = (role) => {
    probe.className = `colour-${role}`;
    return getComputedStyle(probe).color;
  };
  const roleColour = (role) => (typeof role === "number" ? colour(`series-${role % SERIES}`) : colour(role));

  const coloured = (trace) => {
    const roles = trace.meta;
    if (roles === undefined || roles === null) return trace;
    if (roles === "heat") {
      const scale = [[0, colour("raised")], [1, colour("series-0")]];
      return { ...trace, textfont: { color: colour("ink"), size: 12 },
        marker: { ...trace.marker, colorscale: scale, line: { width: 1, color: colour("quiet") } } };
    }
    const paint = Array.isArray(roles) ? roles.map(roleColour) : roleColour(roles);
    const first = Array.isArray(paint) ? paint[0] : paint;
    const made = { ...trace, marker: { ...(trace.marker || {}), color: paint } };
    if (trace.type === "bar") {
      const slow = (trace.marker && trace.marker.pattern && trace.marker.pattern.shape) || [];
      made.marker.line = { width: Array.isArray(paint) ? paint.map((_, index) => (slow[index] ? 1.5 : 0)) : 0, color: paint };
    } else {
      made.line = { ...(trace.line || {}), color: first };
    }
    if (/markers\+text/.test(trace.mode)) made.textfont = { color: colour("paper"), size: 11 };
    for (const error of ["error_y", "error_x"]) {
      if (trace[error]) made[error] = { ...trace[error], color: typeof roles === "number" ? first : colour("ink") };
    }
    return made;
  };

  const axis = (given) => ({
    gridcolor: colour("line"), linecolor: colour("line"), zerolinecolor: colour("line"), tickfont: { color: colour("quiet"), size: 12 },
    ...given, title: { ...(given && given.title), font: { color: colour("quiet"), size: 12 } },
  });

  // Plotly writes every tick that it is given. Where they have no room even turned, every second or third stays.
  const thinned = (given, pixels) => {
    const every = Math.ceil(((given.tickvals || []).length * TICK) / pixels);
    if (every < 2) return given;
    const kept = (list) => list.filter((_, index) => index % every === 0);
    return { ...given, tickvals: kept(given.tickvals), ticktext: kept(given.ticktext) };
  };

  const themed = (layout, width) => {
    const made = {
      ...layout, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", autosize: true, dragmode: false,
      font: { family: getComputedStyle(document.body).fontFamily, color: colour("ink"), size: 12 },
      hoverlabel: { bgcolor: colour("raised"), bordercolor: colour("line"), font: { color: colour("ink") }, align: "left" },
    };
    for (const key of Object.keys(layout)) {
      if (!/^[xy]axis\d*$/.test(key)) continue;
      const [start, end] = layout[key].domain || [0, 1];
      made[key] = axis(key[0] === "x" ? thinned(layout[key], (end - start) * width) : layout[key]);
    }
    for (const shape of made.shapes || []) shape.line = { ...shape.line, color: colour("quiet") };
    for (const note of made.annotations || []) note.font = { ...(note.font || {}), color: colour("quiet") };
    return made;
  };

  const options = { responsive: true, displaylogo: false, displayModeBar: false, doubleClick: "reset" };

  const draw = (place) => {
    const figure = place.known;
    if (!figure || !place.clientWidth) return; // not loaded yet, or on a page of the file that is not shown
    if (!place.drawn) place.replaceChildren();
    place.drawn = true;
    const copy = structuredClone(figure);
    const height = copy.layout.height; // of a list of many rows
    place.style.height = height ? `${height}px` : "";
    place.closest("figure").classList.toggle("long", height > LONG);
    place.drawnWidth = place.clientWidth;
    const data = copy.data.map(coloured);
    Plotly.react(place, data, themed(copy.layout, place.clientWidth - BESIDE), options);
  };

  const known = (place, figure) => {
    if (JSON.stringify(figure) === JSON.stringify(place.known)) return;
    place.known = figure;
    if (seen.has(place)) draw(place);
  };

  const readInline = (place) => {
    const figure = JSON.parse(document.getElementById(place.dataset.inline).textContent);
    place.closest("figure").hidden = !figure;
    known(place, figure);
  };

  // At most one request for each figure: who asks meanwhile gets another one after it.
  const ask = async (place) => {
    place.again = Boolean(place.asking);
    if (place.asking) return;
    place.asking = true;
    try {
      const answer = await fetch(place.dataset.figure, { cache: "no-store" });
      if (answer.status === 202) setTimeout(ask, 2000, place); // the report is being built
      if (answer.status !== 200) return;
      const { figure, note } = await answer.json();
      const text = place.parentElement.querySelector("[data-note]");
      text.textContent = figure ? note : "";
      text.hidden = !text.textContent;
      if (figure) known(place, figure);
      else if (!place.known) place.firstElementChild.textContent = note;
    } catch { /* no connection: the page says so, and asks again when there is news */
    } finally {
      place.asking = false;
      if (place.again) await ask(place);
    }
  };

  const load = (place) => (place.dataset.inline ? readInline(place) : ask(place));

  const places = [...document.querySelectorAll("[data-figure], [data-inline]")];
  const seen = new WeakSet();
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting || seen.has(entry.target)) continue;
      seen.add(entry.target);
      if (entry.target.known) draw(entry.target); else load(entry.target);
    }
  }, { rootMargin: "400px" });
  places.forEach((place) => watcher.observe(place));

  // Figures that nobody has scrolled to are fetched too once nothing has happened for a while, one after another:
  // printing draws them, and does not wait for an answer.
  const IDLE = 5000;
  let idle;
  const fetchOthers = async () => {
    for (const place of places) if (!seen.has(place)) await load(place);
  };
  const later = (milliseconds) => {
    clearTimeout(idle);
    idle = setTimeout(fetchOthers, milliseconds);
  };
  later(500);
  document.addEventListener("fresh", () => {
    places.filter((place) => seen.has(place)).forEach(load);
    later(IDLE);
  });
  const drawAgain = () => places.filter((place) => place.drawn || seen.has(place)).forEach(draw);
  document.addEventListener("theme", drawAgain);

  // Plotly fits a drawing into its new width by itself, but keeps the ticks that the old one had room for.
  const RESIZED = 200;
  let resizing;
  addEventListener("resize", () => {
    clearTimeout(resizing);
    const isResized = (place) => place.drawn && place.clientWidth !== place.drawnWidth;
    resizing = setTimeout(() => places.filter(isResized).forEach(draw), RESIZED);
  });

  // Paper is white, and has figures too that were not scrolled to.
  const root = document.documentElement;
  let chosen;
  addEventListener("beforeprint", () => {
    chosen = root.dataset.theme;
    root.dataset.theme = "light";
    places.forEach((place) => {
      if (place.dataset.inline && !place.known) readInline(place);
      draw(place);
    });
  });
  addEventListener("afterprint", () => {
    if (chosen) root.dataset.theme = chosen; else delete root.dataset.theme;
    drawAgain();
  });
  window.addEventListener("hashchange", drawAgain); // the window or the theme may have changed meanwhile
})();
