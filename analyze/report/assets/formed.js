// What formed, in sentences.

const warn = (...text) => el("p", { class: "warn" }, ...text);

// What a reader has to know of the run before anything else; nothing of one that is whole.
function firstNotes(run) {
  const notes = [];
  if (!run.finished) notes.push(warn(`This run is at step ${run.steps.at(-1)} of ${run.lastStep}.`));
  if (run.steps.length === 1) notes.push(warn("Only one checkpoint has scores: there is nothing to slide through."));
  if (run.leftOut.length) {
    const steps = run.leftOut.map(([step]) => step).slice(0, 3).join(", "); // prettier-ignore
    const more = run.leftOut.length > 3 ? ` and ${run.leftOut.length - 3} more` : "";
    notes.push(warn(`Left out: step ${steps}${more}; “What formed” says why.`));
  }
  return notes;
}

function formedSection(run) {
  const notes = run.leftOut.map(([step, why]) => warn(`Step ${step} is left out: ${why}`));
  const renew = ["; this command updates the page: ", el("code", {}, `headway report ${run.path}`), "."];
  if (!run.steps.length) {
    const measure = el("code", {}, `headway measure ${run.path}${notes.length ? " --overwrite" : ""}`);
    const what = notes.length
      ? "No step has complete scores. This command computes them again: "
      : "This run has no scores. This command computes them: ";
    return el("div", {}, notes, warn(what, measure, renew));
  }
  if (run.lacking.length) {
    const command = `headway measure ${run.path} --only ${run.lacking.join(",")} --overwrite`;
    const what =
      "An older Headway scored this run, without the baselines and tokens that figures show. This adds them: ";
    notes.push(warn(what, el("code", {}, command), renew));
  }
  return el(
    "div",
    {},
    notes,
    el(
      "ul",
      { class: "formed" },
      run.sentences.map((text) => el("li", {}, linked(text))),
    ),
    someOf(run),
  );
}

// A sentence on how many checkpoints the page holds, if these are not all that have scores.
function someOf(run) {
  if (run.steps.length === run.scored) return null;
  const count = (number) => number.toLocaleString("en");
  const points =
    run.lineSteps.length === run.scored
      ? "lines over training go through all of them"
      : `lines over training go through ${count(run.lineSteps.length)}`;
  const text =
    `The slider stops at ${count(run.steps.length)} of ${count(run.scored)} checkpoints, the first, the last and those ` +
    `named above among them; ${points}. The steps named above are taken from all ${count(run.scored)}, and so are ` +
    "the compositions of the circuit's drawing. Every checkpoint is in ";
  return el("p", { class: "note" }, text, el("code", {}, "run.scores"), ".");
}

// The same sentence with its heads as buttons that choose them.
function linked(sentence) {
  return sentence.split(/(\bL\d+H\d+\b)/).map((part, i) => (i % 2 ? headButton(part) : part));
}

function aboutSection(run) {
  const rows = [...run.about, ["directory", run.path]];
  if (run.notShown.length) {
    const names = run.notShown.map(({ name, axes }, at) => [
      at ? ", " : "",
      el("code", {}, `run.scores.${name}`),
      ` [${axes.join(", ")}]`,
    ]);
    rows.push(["not shown", ["No figure has the axes of ", names, "."]]);
  }
  return el(
    "dl",
    { class: "about" },
    rows.map(([name, text]) => [el("dt", {}, name), el("dd", {}, text)]),
  );
}
