"use strict";
// Draws the figures that the page names, in the colours of its theme, and again when they change.
(() => {
  const SERIES = 8;
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

  const themed = (layout) => {
    const made = {
      ...layout, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", autosize: true, dragmode: false,
      font: { family: getComputedStyle(document.body).fontFamily, color: colour("ink"), size: 12 },
      hoverlabel: { bgcolor: colour("raised"), bordercolor: colour("line"), font: { color: colour("ink") }, align: "left" },
    };
    for (const key of Object.keys(layout)) if (/^[xy]axis\d*$/.test(key)) made[key] = axis(layout[key]);
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
    const data = copy.data.map(coloured);
    Plotly.react(place, data, themed(copy.layout), options);
  };

  const load = async (place) => {
    const inline = place.dataset.inline && document.getElementById(place.dataset.inline);
    if (inline) {
      place.known = JSON.parse(inline.textContent);
    } else {
      const answer = await fetch(place.dataset.figure, { cache: "no-store" });
      if (!answer.ok) return;
      const { figure } = await answer.json();
      if (!figure && !place.known) place.firstElementChild.textContent = "Nothing to draw yet";
      if (!figure || JSON.stringify(figure) === JSON.stringify(place.known)) return;
      place.known = figure;
    }
    draw(place);
  };

  const places = [...document.querySelectorAll("[data-figure], [data-inline]")];
  const seen = new WeakSet();
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting || seen.has(entry.target)) continue;
      seen.add(entry.target);
      load(entry.target);
    }
  }, { rootMargin: "400px" });
  places.forEach((place) => watcher.observe(place));
  document.addEventListener("fresh", () => places.filter((place) => seen.has(place) && place.dataset.figure).forEach(load));
  document.addEventListener("theme", () => places.forEach(draw));

  // Paper is white, and has figures too that were not scrolled to.
  const root = document.documentElement;
  let chosen;
  addEventListener("beforeprint", () => {
    chosen = root.dataset.theme;
    root.dataset.theme = "light";
    places.forEach((place) => (place.known ? draw(place) : load(place)));
  });
  addEventListener("afterprint", () => {
    if (chosen) root.dataset.theme = chosen; else delete root.dataset.theme;
    places.forEach(draw);
  });
  window.addEventListener("hashchange", () => places.forEach(draw)); // the window or the theme may have changed meanwhile
})();
