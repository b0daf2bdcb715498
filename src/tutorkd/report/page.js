"use strict";

const config = {
  font: "system-ui, -apple-system, Segoe UI, Roboto, Liberation Sans, sans-serif",
  background: "transparent",
  view: { stroke: null },
  axis: {
    labelColor: "var(--soft)", titleColor: "var(--soft)", domainColor: "var(--line)", tickColor: "var(--line)",
    gridColor: "var(--line)", gridOpacity: 0.55, labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal",
    labelOverlap: true,
  },
  text: { fontSize: 12 },
};

/** Rows with means over as many neighbours on either side, fewer near the ends, so that a line begins and ends where it does. */
function smoothed(rows, half) {
  const lines = new Map();
  for (const row of rows) {
    if (!lines.has(row.series)) lines.set(row.series, []);
    lines.get(row.series).push(row);
  }
  return [...lines.values()].flatMap((line) => line.map((row, i) => {
    const reach = Math.min(half, i, line.length - 1 - i);
    const near = line.slice(i - reach, i + reach + 1);
    return { ...row, smooth: near.reduce((sum, each) => sum + each.value, 0) / near.length };
  }));
}

/** A chart's specification as the controls of its section ask for it. */
function adjusted(chart, controls) {
  const spec = JSON.parse(chart.nextElementSibling.textContent);
  if (!controls || !chart.closest(".part").dataset.curves) return spec;
  for (const [name, rows] of Object.entries(spec.datasets))
    spec.datasets[name] = smoothed(rows, Number(controls.elements.smoothing.value));
  spec.transform = [];
  if (controls.elements.logarithmic.checked && "logarithmic" in chart.dataset)
    for (const layer of spec.layer) layer.encoding.y.scale = { type: "log", nice: false };
  return spec;
}

function draw(section) {
  const controls = section.querySelector(".controls");
  return Promise.all([...section.querySelectorAll(".chart")].map((chart) =>
    vegaEmbed(chart, adjusted(chart, controls), { actions: false, renderer: "svg", config, tooltip: { theme: "custom" } })));
}

/** What a cell is sorted by: a duration's seconds, a number, or its text; null where there is nothing. */
function sortKey(text) {
  if (text === "" || text === "-") return null;
  const units = { d: 86400, h: 3600, min: 60, s: 1 };
  if (/^(\d+ (d|h|min|s)\s?)+$/.test(text))
    return [...text.matchAll(/(\d+) (d|h|min|s)/g)].reduce((sum, [, count, unit]) => sum + count * units[unit], 0);
  const number = /^[+-]?[\d,]*\.?\d+(e[+-]?\d+)?(?![\w/])/i.exec(text);
  return number ? Number(number[0].replaceAll(",", "")) : text.toLowerCase();
}

function compare(a, b) {
  if (typeof a === typeof b) return typeof a === "string" ? a.localeCompare(b, "en") : a - b;
  return typeof a === "string" ? 1 : -1;
}

function sortBy(table, column, descending) {
  const rows = [...table.tBodies[0].rows].map((row) => [sortKey(row.cells[column].textContent.trim()), row]);
  rows.sort(([a], [b]) => {
    if (a === null || b === null) return (a === null) - (b === null);  // what isn't there comes last either way
    return descending ? compare(b, a) : compare(a, b);
  });
  table.tBodies[0].append(...rows.map(([, row]) => row));
}

/** Buttons in the headings, where rows are of one kind: with a word above the first column. */
function makeSortable(table) {
  const headings = [...(table.tHead?.rows[0].cells ?? [])];
  if (!headings.length || !headings[0].textContent.trim() || table.tBodies[0].rows.length < 2) return;
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const descending = heading.getAttribute("aria-sort") === "ascending";
      for (const each of headings) each.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
      sortBy(table, column, descending);
    });
  });
}

/** Keep what the controls say over the page's refreshes. */
function remember(controls, name) {
  try {
    const kept = JSON.parse(sessionStorage.getItem(name) ?? "null");
    if (kept) [controls.elements.smoothing.value, controls.elements.logarithmic.checked] = kept;
    controls.addEventListener("change", () => sessionStorage.setItem(
      name, JSON.stringify([controls.elements.smoothing.value, controls.elements.logarithmic.checked])));
  } catch {
    // A browser may keep nothing for files.
  }
}

document.querySelectorAll("table").forEach(makeSortable);
const drawn = [...document.querySelectorAll("main > section")].map((section) => {
  const controls = section.querySelector(".controls");
  if (controls) {
    controls.hidden = false;
    remember(controls, `${location.pathname}#${section.id}`);
    controls.addEventListener("change", () => draw(section));
    controls.addEventListener("submit", (event) => event.preventDefault());
  }
  return draw(section);
});
Promise.all(drawn).then(() => {
  document.body.dataset.drawn = "";
  const seconds = Number(document.body.dataset.refresh);
  if (seconds) setTimeout(() => location.reload(), 1000 * seconds);  // from now on, so that a slow machine sees it
});
