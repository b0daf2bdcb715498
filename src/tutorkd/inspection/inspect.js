"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const slider = document.getElementById("slider");
const table = document.querySelector("#list table");
const body = table.tBodies[0];
let chosen = 0;  // the sentence in the panel, by its number
let own = null;  // the reader's sentence, once the server answered

/** An element with classes and children; a text among these stays text. */
function element(tag, classes, ...children) {
  const made = document.createElement(tag);
  if (classes) made.className = classes;
  made.append(...children);
  return made;
}

/** A figure as it is read; what there isn't is a dash. */
function number(value) {
  return value === null || value === undefined ? "-" : value.toFixed(2).replace("-0.00", "0.00");
}

/** A probability in per cent. */
function share(value) {
  const percent = 100 * value;
  return percent && percent < 0.1 ? "<0.1 %" : `${percent.toFixed(1)} %`;
}

function mean(values) {
  const there = values.filter((value) => value !== null);
  return there.length ? there.reduce((sum, value) => sum + value, 0) / there.length : null;
}

/** The mean of a figure over positions. */
function over(positions, key) {
  return mean(positions.map((position) => position.figures[key]));
}

function definitions(made, entries) {
  made.replaceChildren(...entries.map(([name, value]) => element("div", "", element("dt", "", name), element("dd", "", value))));
  return made;
}

/** A probability as a number and a bar. */
function bar(value, colour) {
  const drawn = element("i", "");
  drawn.style.setProperty("--part", `${100 * value}%`);
  drawn.style.setProperty("--bar", `var(--series-${colour})`);
  const made = element("div", "share", element("span", "", share(value)), drawn);
  return made;
}

function candidates(position) {
  const head = element("tr", "", ...["token", "tutor", "teacher"].map((name) => {
    const cell = element("th", "", name);
    cell.scope = "col";
    return cell;
  }));
  const rows = position.candidates.map(([token, tutor, teacher, original, drawn]) => {
    const name = element("td", drawn ? "drawn" : "", token);
    if (original) name.append(element("span", "tag", "text"));
    if (drawn) name.append(element("span", "tag", "drawn"));
    return element("tr", "", name, element("td", "", bar(tutor, 0)), element("td", "", bar(teacher, 1)));
  });
  return element("table", "", element("thead", "", head), element("tbody", "", ...rows));
}

function positionCard(position, read, place) {
  const figures = data.figures.filter(({ key }) => key !== "kept" && position.figures[key] !== null);
  return element("article", "position",
    element("h3", "", `${place + 1}. ${position.original} → ${position.replacement}`),
    element("p", "read", read === position.original ? "The tutor read the token itself." : `The tutor read ${read} in its place.`),
    definitions(element("dl", "figures"), figures.map(({ key, symbol }) => [symbol, number(position.figures[key])])),
    candidates(position));
}

/** The sentence with what was replaced in it, then a card for each position. */
function panel(into, sentence) {
  const positions = sentence.states[Number(slider.value)] ?? [];
  if (!positions.length) return into.replaceChildren();
  const text = element("p", "sentence");
  sentence.pieces.forEach((piece, index) => {
    const place = sentence.places.indexOf(index);
    if (place < 0) return text.append(piece);
    const { original, replacement, figures } = positions[place];
    const word = piece.trimStart();
    text.append(piece.slice(0, piece.length - word.length));
    if (!figures.kept) text.append(element("del", "", word || original), " ");
    text.append(element("ins", "", figures.kept ? word || original : replacement), element("sup", "", String(place + 1)));
  });
  into.replaceChildren(text, element("div", "positions", ...positions.map((each, place) => positionCard(each, sentence.read[place], place))));
}

function choose(row, focus) {
  for (const each of body.rows) {
    each.removeAttribute("aria-current");
    each.querySelector("button").tabIndex = -1;
  }
  row.setAttribute("aria-current", "true");
  const button = row.querySelector("button");
  button.tabIndex = 0;
  chosen = Number(row.dataset.number);
  panel(document.getElementById("panel"), data.sentences[chosen]);
  if (focus) button.focus();
}

function listed(sentence, index) {
  const button = element("button", "", sentence.pieces.join("").trim());
  button.type = "button";
  const row = element("tr", "", element("td", "", button), ...data.figures.map(() => element("td", "number")));
  row.dataset.number = index;
  button.addEventListener("click", () => choose(row, false));
  button.addEventListener("keydown", (event) => {
    const next = { ArrowDown: row.nextElementSibling, ArrowUp: row.previousElementSibling,
      Home: body.firstElementChild, End: body.lastElementChild }[event.key];
    if (!next) return;
    event.preventDefault();
    choose(next, true);
  });
  return row;
}

/** Charts of a part of the page, each with what is added to its specification. */
function draw(part, more) {
  return [...document.querySelectorAll(`#${part} .chart`)].map((chart) =>
    embed(chart, { ...JSON.parse(chart.nextElementSibling.textContent), ...more }));
}

/** The figures, sentences and positions of the state that the slider is at. */
function show() {
  const state = Number(slider.value), name = data.states[state];
  slider.setAttribute("aria-valuetext", name);
  document.getElementById("state-name").textContent = `${name} (${state + 1} of ${data.states.length})`;
  const all = data.sentences.flatMap((sentence) => sentence.states[state]);
  definitions(document.getElementById("means"), data.figures.map(({ key, symbol }) => [symbol, number(over(all, key))]));
  for (const row of body.rows)
    data.figures.forEach(({ key }, column) => {
      row.cells[column + 1].textContent = number(over(data.sentences[row.dataset.number].states[state], key));
    });
  const sorted = table.tHead.rows[0].querySelector("[aria-sort]");
  if (sorted) sortBy(table, sorted.cellIndex, sorted.getAttribute("aria-sort") === "descending");
  panel(document.getElementById("panel"), data.sentences[chosen]);
  if (own) panel(document.getElementById("own-panel"), own);
}

/** Histograms of the state that is shown. */
function drawDistributions() {
  return draw("distributions", { transform: [{ filter: { field: "state", equal: Number(slider.value) } }] });
}

/** What the server says of a text with some words masked; a refusal is an error with its line. */
async function ask(text, words) {
  const answer = await fetch("look", {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ text, words }),
  }).catch(() => { throw new Error("the server doesn't answer: it has ended, or its machine can't be reached"); });
  const said = await answer.json().catch(() => ({ error: `the server failed (${answer.status}); its terminal says why` }));
  if (!answer.ok) throw new Error(said.error);
  return said;
}

function ownSentence(form) {
  const words = document.getElementById("own-words"), status = document.getElementById("own-status");
  let asked = 0;  // answers that come late don't count
  async function look(text, masked, then) {
    const turn = ++asked;
    status.className = "note";
    status.textContent = masked.length ? "The tutor is at work." : "";
    try {
      const said = await ask(text, masked);
      if (turn !== asked) return;
      own = said;
      status.textContent = masked.length ? "" : "Choose one word or more to mask.";
      then(said);
      panel(document.getElementById("own-panel"), said);
    } catch (error) {
      if (turn !== asked) return;
      status.className = "note failed";
      status.textContent = error.message;
    }
  }
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const text = document.getElementById("own-text").value;
    words.replaceChildren();
    own = null;
    document.getElementById("own-panel").replaceChildren();
    look(text, [], (said) => {
      const grouped = new Map();
      said.words.forEach((word, index) => grouped.set(word, (grouped.get(word) ?? "") + said.pieces[index]));
      words.replaceChildren(...[...grouped].map(([, piece]) => {
        const button = element("button", "", piece.trim() || "␣");
        button.type = "button";
        button.setAttribute("aria-pressed", "false");
        button.addEventListener("click", () => {
          button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
          const pressed = [...words.children].map((each, at) => [each, at])
            .filter(([each]) => each.getAttribute("aria-pressed") === "true").map(([, at]) => at);
          look(text, pressed, () => {});
        });
        return button;
      }));
    });
  });
}

body.append(...data.sentences.map(listed));
makeSortable(table);
const reward = table.tHead.rows[0].cells[1];
reward.setAttribute("aria-sort", "descending");
document.getElementById("state").addEventListener("submit", (event) => event.preventDefault());
slider.addEventListener("input", show);
slider.addEventListener("change", drawDistributions);  // once it stands still
const ownForm = document.getElementById("own");
if (ownForm) ownSentence(ownForm);
show();
choose(body.rows[0], false);
Promise.all([...drawDistributions(), ...draw("curves", {})]).then(() => {
  document.body.dataset.drawn = "";
});
