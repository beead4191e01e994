// Puts the page together.

// A model that was trained elsewhere has no steps and no scores: its page has its studies and nothing else.
const trainedHere = (run) => run.trainedHere;

const SECTIONS = [
  ["overview", "Overview", null, overviewSection],
  [
    "formed",
    "What formed",
    "The 99 % band of a null holds all heads, or all pairs, of one measure at one checkpoint in 99 % of networks in which nothing has formed. Over many checkpoints and measures some score lies outside by chance; a score that has formed stays outside.",
    formedSection,
    (run) => run.steps.length > 0,
  ],
  [
    "try",
    "Try the network",
    "The network of this checkpoint runs in the page. A press on a head switches it off or on; the tokens can be edited. Patterns, losses and predictions follow.",
    trySection,
  ],
  [
    "circuit",
    "Circuit",
    "The edges that carry a behaviour, found by removing edges as long as the rest suffices, without looking at what heads attend to. Known: loss with everything replaced - loss of the network. Kept alone (faithfulness) and lost without it (necessity) are shares of what is known, in square brackets their 95 % intervals over sequences.",
    circuitSection,
  ],
  [
    "heads",
    "Scores of heads",
    "One chart for each layer, one line for each head; the shaded area is the 99 % band of the null. A click chooses the head whose line is nearest.",
    headsSection,
  ],
  [
    "network",
    "Scores of the network",
    "Other scores of the whole network or of single layers, over training; the dotted line is the null.",
    networkSection,
    (run) => run.curves.length > 0,
  ],
  [
    "pairs",
    "Composition",
    "Rows: heads that write, columns: heads that read. Blue: more than random heads, orange: less; the colour follows the square root. A click chooses the head that reads; one on a name chooses that head.",
    pairsSection,
  ],
  [
    "eigenvalues",
    "Eigenvalues",
    "In the complex plane, real part to the right; the circle is the largest eigenvalue the head has at any checkpoint. To the right (round): copying, or attention to the same token. To the left (square): the opposite.",
    eigenvaluesSection,
  ],
  [
    "tokens",
    "OV and QK, token by token",
    "Straight from the embedding, without what other heads write: which tokens a head raises when it attends to one (OV), and which tokens it attends to (QK). The weights of LayerNorm are folded, its scales are left out. Where outputs are tokens, a copying head has a blue diagonal in OV.",
    tokensSection,
    tokenTables,
  ],
  [
    "attribution",
    "Direct attribution",
    "What each component adds to the output directly, without its effect through later layers.",
    attributionSection,
  ],
  [
    "positions",
    "Loss and accuracy by position",
    "The mean over the evaluation sequences at each position, from the left: at the step of the slider, in grey at the first checkpoint (dotted) and at the last.",
    positionsSection,
    (run) => run.positions.length > 0,
  ],
  [
    "updates",
    "Every update",
    "Training loss, gradient norm and learning rate of every update, on the batches that it was trained on.",
    updatesSection,
    (run) => run.updates !== null,
  ],
  [
    "studies",
    "Studies",
    "Each study is of one checkpoint, and the slider does not change it: claims with the numbers that decide them, and the figures behind the numbers.",
    studiesSection,
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
  makeContents();
  if (steps) makeControls();
  else for (const each of document.querySelectorAll("#controls, .skip")) each.remove();
  makeShare();
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
