// Many runs: what the page holds of them, which are chosen, and the share that has formed something by a step.

let MANY;
// The run that the pointer or the keys are at, by its number; null for none.
let hovered = null;
// Runs that are chosen, by their numbers, in the order in which they were.
let chosenRuns = [];

function readRuns() {
  let names = [];
  try {
    names = [JSON.parse(state.runs || "[]")].flat();
  } catch {
    /* an address that somebody has typed */
  }
  chosenRuns = names.map((name) => MANY.runs.findIndex((run) => run.name === name)).filter((run) => run >= 0);
  chosenRuns = [...new Set(chosenRuns)];
}
function toggleRun(run) {
  chosenRuns = chosenRuns.includes(run) ? chosenRuns.filter((each) => each !== run) : [...chosenRuns, run];
  state.runs = chosenRuns.length ? JSON.stringify(chosenRuns.map((each) => MANY.runs[each].name)) : "";
  writeHash();
  changed();
}
function hover(run) {
  if (hovered === run) return;
  hovered = run;
  changed();
}
// Runs that are drawn one by one: those that are chosen, and the one that is looked at.
const singleRuns = () => (hovered === null || chosenRuns.includes(hovered) ? chosenRuns : [...chosenRuns, hovered]);
const colorOfRun = (run) => (chosenRuns.includes(run) ? lineColor(chosenRuns.indexOf(run)) : css("--accent"));
const dashOfRun = (run) => (chosenRuns.includes(run) ? lineDash(chosenRuns.indexOf(run)) : []);

const stepNow = () => MANY.steps[state.place];
const percent = (share) => `${Math.round(100 * share)} %`;

// The share of runs that have formed an event by a step, with its interval: the curve is one of stairs.
function shareBy(event, step) {
  const at = MANY.shareSteps.findLastIndex((each) => each <= step);
  if (at < 0) return [0, NaN, NaN];
  // Beyond the last run that still goes on nothing is known, and the last number stands.
  const known = Array.from({ length: at + 1 }, (_, i) => at - i).find((i) =>
    Number.isFinite(MANY.formedBy.get(event, 0, i)),
  );
  return known === undefined ? [NaN, NaN, NaN] : [0, 1, 2].map((end) => MANY.formedBy.get(event, end, known));
}
function shareText(event, step) {
  const [share, low, high] = shareBy(event, step);
  if (!Number.isFinite(share)) return "–";
  return percent(share) + (Number.isFinite(low) ? ` [${percent(low)}, ${percent(high)}]` : "");
}

const DATE = { half: 0, after: 1, before: 2 };
const dateOf = (event, run) => MANY.dates.get(event, DATE.half, run);
const isMeasured = (event, run) => !["not measured", "does not apply"].includes(MANY.events[event].states[run]);

// The date of an event in one run, with the checkpoints around it.
function dateText(event, run) {
  const { states } = MANY.events[event];
  const date = dateOf(event, run);
  if (!Number.isFinite(date))
    return !isMeasured(event, run) ? states[run] : `${states[run]} by step ${MANY.lastSteps[run]}`;
  const [after, before] = [DATE.after, DATE.before].map((end) => MANY.dates.get(event, end, run));
  return `step ${Math.round(date)} (${Number.isFinite(after) ? after : "start"} to ${before})`;
}

// A short caption, and behind it the definition.
function defined(caption, definition) {
  return el("details", { class: "definition" }, el("summary", {}, caption), el("p", { class: "note" }, definition));
}

// Rows of text as the terminal has them, too.
function textTable({ columns, cells }, label) {
  const long = columns.map((_, at) => cells.some((row) => row[at].length > 30));
  const cell = (tag, scope) => (text, at) => el(tag, { scope, class: long[at] ? "long" : null }, text);
  return el(
    "div",
    { class: "scroll", tabindex: 0, role: "region", "aria-label": label },
    el(
      "table",
      { class: "cells rows" },
      el("thead", {}, el("tr", {}, columns.map(cell("th", "col")))),
      el(
        "tbody",
        {},
        cells.map((row) =>
          el(
            "tr",
            {},
            row.map((text, at) => (at ? cell("td") : cell("th", "row"))(text, at)),
          ),
        ),
      ),
    ),
  );
}
