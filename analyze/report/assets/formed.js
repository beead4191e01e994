// What formed, in sentences.

function formedSection(run) {
  if (!run.steps.length) {
    return el(
      "p",
      { class: "warn" },
      "Nothing of this run has been scored. This command does it: ",
      el("code", {}, `headway measure ${run.path}`),
      ", and this one renews the page: ",
      el("code", {}, `headway report ${run.path}`),
      ".",
    );
  }
  const notes = run.leftOut.map(([step, why]) => el("p", { class: "warn" }, `Step ${step} is left out: ${why}`));
  if (!run.finished)
    notes.unshift(el("p", { class: "warn" }, `This run is at step ${run.steps.at(-1)} of ${run.lastStep}.`));
  if (run.steps.length === 1)
    notes.push(el("p", { class: "warn" }, "Only one checkpoint has scores: there is nothing to slide through."));
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
