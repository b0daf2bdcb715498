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

/** Draws what is specified into an element, which comes to hold nothing else. */
function embed(element, spec) {
  return vegaEmbed(element, spec, { actions: false, renderer: "svg", config, tooltip: { theme: "custom" } });
}
