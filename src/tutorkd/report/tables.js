"use strict";

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
