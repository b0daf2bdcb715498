"use strict";

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
  return Promise.all([...section.querySelectorAll(".chart")].map((chart) => embed(chart, adjusted(chart, controls))));
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
