// Puts the page of many runs together.

function headlineSection() {
  const { headline, notes, tables } = MANY;
  return el(
    "div",
    {},
    el(
      "ul",
      { class: "formed" },
      headline.map((text) => el("li", {}, text)),
    ),
    notes.map((text) => el("p", { class: "warn" }, `${text}.`)),
    defined(
      "Level, half-way step, width, and intervals",
      "Way: (score - null) / (ceiling - null), of the head that is furthest in its role; for a loss the share of the gap from chance to the best loss that is closed. Formed: the way ends at a half or more, above its null band. Half-way step: from there on the way stays above half of where it ends. Width: the step at 90 % over that at 10 %. A run in which something has not formed counts to its last step (Kaplan-Meier). Intervals in brackets hold 95 %: Wilson for shares, bootstrap over runs for medians; never stands for a median that is not reached. * marks dates that come from the loss of every update.",
    ),
    textTable(tables.events, "what formed"),
  );
}

const MANY_SECTIONS = [
  ["formed", "What formed", null, headlineSection],
  [
    "runs",
    "Runs",
    [
      "A click on the name of a column sorts, a click on a run draws its curves",
      "Options stand here if runs differ in them. ◆ marks an outlier: a date more than 3.5 scaled median absolute deviations from the median in log steps, something that most runs form and this one does not, or the reverse, or a rare kind of circuit. Kind of circuit: heads by name, and the inputs through which one reads another.",
    ],
    runsSection,
  ],
  [
    "ways",
    "Curves",
    [
      "How far each event has come at every checkpoint: 0 at its null, 1 at its ceiling",
      "One chart for each event, in the order of their median dates; the dotted line is a half. At each step the median and the quartiles are those of the runs that have got so far. Between checkpoints of a run a curve is interpolated in log(1 + step).",
    ],
    waysSection,
  ],
  [
    "dates",
    "Dates",
    [
      "Half-way step of each run, and the share of runs that have formed each event by a step",
      "A dot that is looked at shows the two checkpoints between which its date lies. Shares: one minus the Kaplan-Meier estimate, with 95 % intervals; a run that ends without the event is censored there.",
    ],
    datesSection,
  ],
  [
    "order",
    "Order",
    [
      "What comes before what, and by how much",
      "Lead: the median over runs of the ratio (1 + date of the second) / (1 + date of the first); ×inf where the second never comes. Dates that lie between the same two checkpoints decide nothing.",
    ],
    () => textTable(MANY.tables.order, "order"),
    () => MANY.tables.order.cells.length > 0,
  ],
  [
    "kinds",
    "Kinds of circuit",
    [
      "Heads of the circuits by name, and how they read each other",
      "A minimal circuit is not unique: of heads that can stand in for each other it has some.",
    ],
    () => textTable(MANY.tables.kinds, "kinds of circuit"),
    () => MANY.tables.kinds.cells.length > 0,
  ],
  [
    "about",
    "About",
    null,
    () =>
      el(
        "dl",
        { class: "about" },
        MANY.about.map(([name, text]) => [el("dt", {}, name), el("dd", {}, text)]),
      ),
  ],
];

async function begin(data) {
  PALETTE = data.palette;
  LIVE = data.live;
  const page = document.getElementById("page");
  history.scrollRestoration = "manual";
  try {
    const { packed } = data.many;
    MANY = packed ? unpacked({ ...data.many, packed: null }, await inflated(packed)) : data.many;
  } catch (error) {
    page.append(el("p", { class: "warn" }, `This browser cannot read the page's data (${error.message}).`));
    return;
  }
  page.append(el("p", { class: "note" }, MANY.title));
  if (MANY.events.length) {
    // Scales and the slider go by the steps of runs: these are those of all.
    RUNS = [{ steps: MANY.steps, lineSteps: MANY.steps, layers: 0, heads: 0 }];
    makePlaces();
    readHash();
    readRuns();
    const main = MANY.main ?? MANY.order[0];
    besidePlace = () => ` · ${MANY.events[main].label} formed in ${shareText(main, stepNow())}`;
    for (const [id, title, definition, build, applies = () => true] of MANY_SECTIONS) {
      if (!applies()) continue;
      const section = titled(id, title, null, build());
      if (definition) section.querySelector("h2").after(defined(...definition));
      page.append(section);
    }
    makeControls();
    addEventListener("hashchange", () => {
      readRuns();
      changed();
    });
  } else {
    page.append(MANY.notes.map((text) => el("p", { class: "warn" }, `${text}.`))[0] ?? "");
    for (const each of document.querySelectorAll("#controls, .skip")) each.remove();
  }
  makeContents();
  makeShare();
  makeTheme();
  makeLive();
  if (MANY.events.length) goToPlace();
  requestAnimationFrame(() =>
    requestAnimationFrame(() => {
      const section = state.scroll && document.getElementById(state.scroll.section);
      if (section) {
        drawAll();
        scrollTo(0, section.offsetTop + state.scroll.by);
      }
      document.body.dataset.ready = String(Math.round(performance.now()));
    }),
  );
}
