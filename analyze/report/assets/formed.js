// What formed, in sentences.

function formedSection(run) {
  const warn = (...text) => el("p", { class: "warn" }, ...text);
  const notes = run.leftOut.map(([step, why]) => warn(`Step ${step} is left out: ${why}`));
  const renew = [", and this one renews the page: ", el("code", {}, `headway report ${run.path}`), "."];
  if (!run.steps.length) {
    const measure = el("code", {}, `headway measure ${run.path}${notes.length ? " --overwrite" : ""}`);
    const what = notes.length
      ? "No step has whole scores. This command computes them anew: "
      : "Nothing of this run has been scored. This command does it: ";
    return el("div", {}, notes, warn(what, measure, renew));
  }
  if (!run.finished) notes.unshift(warn(`This run is at step ${run.steps.at(-1)} of ${run.lastStep}.`));
  if (run.steps.length === 1) notes.push(warn("Only one checkpoint has scores: there is nothing to slide through."));
  if (run.notShown.length)
    notes.push(warn(`Scores with other axes than a figure has are not shown: ${run.notShown.join(", ")}.`));
  return el(
    "div",
    {},
    notes,
    el(
      "ul",
      { class: "formed" },
      run.sentences.map((text) => el("li", {}, linked(text))),
    ),
  );
}

// The same sentence with its heads as buttons that choose them.
function linked(sentence) {
  return sentence
    .split(/(\bL\d+H\d+\b)/)
    .map((part, i) =>
      i % 2
        ? el("button", { type: "button", style: "padding:0 5px", click: () => choose(headOf(part)) }, part)
        : part,
    );
}

function aboutSection(run) {
  return el(
    "dl",
    { class: "about" },
    [...run.about, ["directory", run.path]].map(([name, text]) => [el("dt", {}, name), el("dd", {}, text)]),
  );
}
