// Puts the page together.

// Of a model that was trained elsewhere there are no steps and no scores: its page has its studies and nothing else.
const trainedHere = (run) => run.trainedHere;

const SECTIONS = [
  [
    "formed",
    "What formed",
    "A band holds all heads, or all pairs, of one measure at one checkpoint in 99 % of cases in which nothing has formed. Over many checkpoints and measures, some score will lie outside by chance; what has formed stays outside.",
    formedSection,
  ],
  ["loss", "Loss", null, lossSection],
  [
    "diagram",
    "Circuit diagram",
    "Heads are coloured by what they attend to furthest beyond chance, more strongly the further: the number is (score - chance) / (1 - chance), 1 for all attention and 0 for chance; an empty one is above no band. Edges are compositions above the band of random pairs, as wide as their z, from the checkpoint on from which they stay above it. A large z says that two heads share directions, not yet that the circuit is used.",
    diagramSection,
  ],
  [
    "attention",
    "Attention",
    "Patterns of every head on sequences of the evaluation batch: one row a query, one column a key. The colour goes by the square root, so that weak attention is seen. A click shows a head large.",
    attentionSection,
  ],
  [
    "eigenvalues",
    "Eigenvalues",
    "In the complex plane, real part to the right; the circle is the largest eigenvalue the head ever had. To the right (round): copying, or looking for the same. To the left (square): the opposite.",
    eigenvaluesSection,
  ],
  [
    "heads",
    "Scores of heads",
    "One line a head, from the first checkpoint to the last; shaded is the 99 % band of the null.",
    headsSection,
  ],
  [
    "pairs",
    "Composition",
    "Rows write, columns read. Blue is more than random heads would, orange less; the colour goes by the square root.",
    pairsSection,
  ],
  [
    "attribution",
    "Direct attribution",
    "What each component adds to the output itself, leaving out what it does through later layers.",
    attributionSection,
  ],
  [
    "studies",
    "Studies",
    "What was looked at closely at one checkpoint, which the slider does not move: statements with the numbers that decide them, and the figures behind these.",
    studiesSection,
    // Who has made no study need not hear of any.
    (run) => run.studies.length > 0,
  ],
  ["about", "About", null, aboutSection, () => true],
];

async function begin(data) {
  PALETTE = data.palette;
  DEFINITIONS = data.definitions;
  ROLES = data.roles;
  LIVE = data.live;
  const page = document.getElementById("page");
  history.scrollRestoration = "manual";
  try {
    RUNS = await Promise.all(
      data.runs.map(async (run) => unpacked({ ...run, packed: null }, await inflated(run.packed))),
    );
  } catch (error) {
    page.append(el("p", { class: "warn" }, `This browser cannot read the page's data (${error.message}).`));
    return;
  }
  makePlaces();
  readHash();
  for (const [id, title, text, build, applies = trainedHere] of SECTIONS) {
    if (!RUNS.some(applies)) continue;
    const panels = RUNS.map((run) => {
      // A figure that cannot be built must not take the page with it.
      let panel;
      try {
        panel = build(run);
      } catch (error) {
        console.error(error);
        panel = el("p", { class: "warn" }, `This figure cannot be drawn (${error.message}).`);
      }
      return el("div", {}, RUNS.length > 1 ? el("h3", {}, run.name) : null, panel);
    });
    page.append(
      titled(
        id,
        title,
        text,
        RUNS.length > 1
          ? el("div", { class: "runs", tabindex: 0, role: "group", "aria-label": `${title}, run by run` }, panels)
          : el("div", { class: "runs one" }, panels),
      ),
    );
  }
  const steps = RUNS.some(trainedHere);
  if (steps) makeControls();
  else for (const each of document.querySelectorAll("#controls, .skip")) each.remove();
  makeTheme();
  makeLive();
  if (steps) goToPlace();
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
