// Where the page stands: checkpoint, head, sequence, theme. The address's hash keeps it, since a page from disk cannot.

// What an address says; what it does not say is as it is here.
const unsaid = () => ({
  step: Infinity,
  head: null,
  // Of a prompt: the position that is looked at.
  position: null,
  sequence: 0,
  by: "step",
  kinds: "",
  table: false,
  sort: "",
  runs: "",
  // The behaviour and the replacement of the circuit that is shown; empty for the first.
  circuit: "",
  // Of the network in the page: the heads that are off, what they write instead, the sequence, its edited text, and
  // the run in whose panel a text was typed since that cannot be read, with what is wrong with it.
  off: new Set(),
  instead: "mean",
  tried: 0,
  edit: null,
  wrong: null,
});
const state = { ...unsaid(), place: Infinity, theme: "", log: null };
// What a head that is off writes.
const INSTEAD = {
  zero: "zero",
  mean: "its mean over the evaluation sequences",
  other: "what it writes on the sequence before this one",
};
let RUNS = [],
  DEFINITIONS = {},
  ROLES = [],
  LIVE = false;

// The places of the slider: kept steps of all runs, or losses from the highest to the lowest.
let places = { step: [], loss: [] };

// In a notebook the place is given by the page around it.
const givenMeta = document.querySelector('meta[name="place"]');
const givenPlace = givenMeta?.content;

// What an address of another page has and this one has not, such as a head, is left out.
function readHash(hash = location.hash) {
  const place = hash.slice(1) || givenPlace || "";
  Object.assign(state, unsaid());
  for (const [name, value] of new URLSearchParams(place)) {
    if (name === "step") state.by = "step";
    if (name === "step") state.step = value === "last" ? Infinity : Number(value);
    if (name === "loss" && places.loss.length) {
      state.by = "loss";
      state.lossPlace = Math.trunc(Number(value)) || 0;
    }
    if (name === "head") state.head = existing(headOf(value));
    if (name === "position") state.position = Math.max(0, Math.trunc(Number(value)) || 0);
    if (name === "sequence") state.sequence = Math.min(sequences() - 1, Math.max(0, Math.trunc(Number(value)) || 0));
    if (name === "theme" && ["light", "dark"].includes(value)) state.theme = value;
    if (name === "log") [state.log, state.logChosen] = [value === "1", true];
    if (name === "kinds") state.kinds = value.replace(/[^qkv]/g, "");
    if (name === "table") state.table = true;
    if (name === "sort") state.sort = value;
    if (name === "runs") state.runs = value;
    if (name === "circuit") state.circuit = value;
    if (name === "off") state.off = new Set(value.split(".").map(headOf).filter(existing).map(nameOf));
    if (name === "instead" && Object.hasOwn(INSTEAD, value)) state.instead = value;
    if (name === "tried") state.tried = Math.max(0, Math.trunc(Number(value)) || 0);
    if (name === "edit") state.edit = value;
    if (name === "section") state.scroll = { section: value, by: 0 };
    if (name === "y" && state.scroll) state.scroll.by = Number(value) || 0;
  }
}

const sequences = () => Math.max(1, ...RUNS.map((run) => run.attention?.values.shape[3] ?? 0));
// The number of a sequence, and in words what it was drawn with.
function sequenceName(at) {
  const words = new Set(RUNS.map((run) => run.attention?.descriptions?.[at]).filter(Boolean));
  return [at, ...words].join(": ");
}
// A head that some run has, or none.
function existing(head) {
  return head && RUNS.some((run) => head[0] < run.layers && head[1] < run.heads) ? head : null;
}

function placeHere(more = {}) {
  const last = state.place >= places[state.by].length - 1;
  const kept = state.by === "step" ? { step: last ? "last" : places.step[state.place] } : { loss: state.place };
  if (state.head) kept.head = nameOf(state.head);
  if (state.position !== null) kept.position = state.position;
  if (state.sequence) kept.sequence = state.sequence;
  if (state.theme) kept.theme = state.theme;
  if (state.logChosen) kept.log = state.log ? 1 : 0;
  if (state.kinds) kept.kinds = state.kinds;
  if (state.table) kept.table = 1;
  if (state.sort) kept.sort = state.sort;
  if (state.runs) kept.runs = state.runs;
  if (state.circuit) kept.circuit = state.circuit;
  if (state.off.size) kept.off = [...state.off].join(".");
  if (state.instead !== "mean") kept.instead = state.instead;
  if (state.tried) kept.tried = state.tried;
  if (state.edit !== null) kept.edit = state.edit;
  return new URLSearchParams({ ...kept, ...more }).toString();
}
// A frame knows the address of its page from the page around it.
function addressHere() {
  const page = givenMeta?.dataset.address ?? location.href.replace(/#.*/s, "");
  return `${page}#${placeHere()}`;
}
// While the slider moves, one write in a while is enough: each is a message to another process of the browser, and comes
// after what a person looks at.
const BETWEEN_WRITES = 100;
let lastWrite = -Infinity,
  toWrite = 0;
function writeHashSoon() {
  const wait = lastWrite + BETWEEN_WRITES - performance.now();
  if (toWrite) return;
  if (wait > 0) toWrite = setTimeout(writeHash, wait);
  else {
    toWrite = -1;
    afterFrame(() => toWrite && writeHash());
  }
}
addEventListener("pagehide", () => toWrite && writeHash());
function writeHash(more = {}) {
  clearTimeout(toWrite);
  [toWrite, lastWrite] = [0, performance.now()];
  // A page inside another (a notebook) has no address of its own to write to.
  try {
    history.replaceState(null, "", `#${placeHere(more)}`);
  } catch {
    /* it keeps its place while it is open */
  }
}

const nameOf = ([layer, head]) => `L${layer}H${head}`;
function headOf(name) {
  const found = /^L(\d+)H(\d+)$/.exec(name);
  return found ? [Number(found[1]), Number(found[2])] : null;
}
const allHeads = (run) =>
  Array.from({ length: run.layers * run.heads }, (_, at) => [Math.floor(at / run.heads), at % run.heads]);
// A button with the name of a head, which chooses it.
const headButton = (name) => el("button", { type: "button", class: "name", click: () => choose(headOf(name)) }, name);
const isChosen = (layer, head) => state.head !== null && state.head[0] === layer && state.head[1] === head;

// Of which of its checkpoints a run shows: the last one at or before the slider's step, or the first at its loss.
function indexOf(run) {
  if (!run.steps.length) return 0;
  const place = places[state.by][state.place];
  if (state.by === "step")
    return Math.max(
      0,
      run.steps.findLastIndex((step) => step <= place),
    );
  const index = reached(run, place);
  return index < 0 ? run.steps.length - 1 : index;
}
// The same checkpoint among those that its lines over training go through; of a long run they are more.
const lineIndexOf = (run) => run.lineSteps.indexOf(run.steps[indexOf(run)]);
// The first checkpoint at which a run's loss is as low as that; -1 if none is, or its loss has not been scored.
const reached = (run, loss) => run.steps.findIndex((_, at) => run.loss?.get(at) <= loss);

function makePlaces() {
  places.step = [...new Set(RUNS.flatMap((run) => run.steps))].sort((a, b) => a - b);
  const losses = RUNS.filter((run) => run.loss).map((run) => run.loss.range);
  const high = Math.max(...losses.map((range) => range[1])),
    low = Math.min(...losses.map((range) => range[0]));
  const count = 100;
  // The last is the lowest itself, which rounding would miss.
  const places_of = (i) => (i === count - 1 ? low : high * (low / high) ** (i / (count - 1)));
  places.loss =
    RUNS.length > 1 && losses.length && low > 0 ? Array.from({ length: count }, (_, i) => places_of(i)) : [];
}

function go(place) {
  const most = Math.max(0, places[state.by].length - 1);
  state.place = Math.min(most, Math.max(0, Number.isFinite(place) ? place : most));
  showPlace();
  changed();
}

function choose(head) {
  state.head = head;
  showPlace();
  changed();
}

// What a page says of the slider's place, beside its step.
let besidePlace = () => "";
function showPlace() {
  const slider = document.getElementById("slider"),
    described = document.getElementById("place");
  if (!slider) return writeHashSoon();
  slider.value = state.place;
  const place = places[state.by][state.place];
  const text =
    state.by === "loss" ? `loss ${formatted(place)}` : `step ${place}, ${state.place + 1} of ${places.step.length}`;
  const beside = besidePlace();
  described.value = text + beside;
  slider.setAttribute("aria-valuetext", text + beside);
  const chosen = { head: state.head ? nameOf(state.head) : "", sequence: state.sequence, by: state.by };
  for (const [id, value] of Object.entries(chosen)) {
    const control = document.getElementById(id);
    if (control && control.value !== String(value)) control.value = value;
  }
  writeHashSoon();
}

// Play goes through all places in about eight seconds.
let playing = 0;
function play() {
  const button = document.getElementById("play");
  if (playing) {
    clearInterval(playing);
    playing = 0;
  } else {
    if (state.place >= places[state.by].length - 1) go(0);
    playing = setInterval(
      () => {
        if (state.place >= places[state.by].length - 1) play();
        else go(state.place + 1);
      },
      Math.max(60, 8000 / places[state.by].length),
    );
  }
  button.textContent = playing ? "Pause" : "Play";
  button.setAttribute("aria-pressed", String(Boolean(playing)));
}

function makeControls(keys = onKey) {
  const form = document.getElementById("controls");
  form.addEventListener("submit", (event) => event.preventDefault());
  const alone = places.step.length < 2;
  form.append(
    el("button", { type: "button", id: "play", "aria-pressed": "false", disabled: alone, click: play }, "Play"),
    el("input", {
      type: "range",
      id: "slider",
      min: 0,
      max: Math.max(0, places.step.length - 1),
      value: 0,
      disabled: alone,
      "aria-label": "checkpoint",
      input: (event) => go(Number(event.target.value)),
    }),
    el("output", { id: "place", for: "slider" }),
  );
  if (places.loss.length) {
    form.append(
      el(
        "label",
        {},
        "by ",
        el(
          "select",
          { id: "by", change: (event) => setBy(event.target.value) },
          el("option", { value: "step" }, "step"),
          el("option", { value: "loss", selected: state.by === "loss" }, "loss"),
        ),
      ),
    );
  }
  const layers = Math.max(...RUNS.map((run) => run.layers)),
    heads = Math.max(...RUNS.map((run) => run.heads));
  const names = Array.from({ length: layers * heads }, (_, i) => nameOf([Math.floor(i / heads), i % heads]));
  if (names.length) {
    form.append(
      el(
        "label",
        {},
        "head ",
        el(
          "select",
          { id: "head", change: (event) => choose(headOf(event.target.value)) },
          el("option", { value: "" }, "none"),
          names.map((name) => el("option", { value: name }, name)),
        ),
      ),
    );
  }
  if (sequences() > 1) {
    form.append(
      el(
        "label",
        {},
        "sequence ",
        el(
          "select",
          {
            id: "sequence",
            change: (event) => {
              state.sequence = Number(event.target.value);
              showPlace();
              changed();
            },
          },
          Array.from({ length: sequences() }, (_, i) =>
            el("option", { value: i, selected: i === state.sequence }, sequenceName(i)),
          ),
        ),
      ),
    );
  }
  document.addEventListener("keydown", keys);
  addEventListener("hashchange", ({ newURL }) => {
    clearTimeout(toWrite);
    toWrite = 0;
    // The address itself may have been written to since the link was followed.
    readHash(new URL(newURL).hash);
    for (const each of document.querySelectorAll("[data-shared]")) each.checked = each.shows();
    for (const each of document.querySelectorAll("details.scores")) each.open = state.table;
    goToPlace();
  });
  // The address is the page's memory, so the link to the slider must not write to it.
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault();
    document.getElementById("slider").focus();
  });
}

// To the place that has been read from the address.
function goToPlace() {
  document.getElementById("slider").max = Math.max(0, places[state.by].length - 1);
  if (state.by === "loss") {
    setBy("loss");
    go(state.lossPlace);
  } else {
    const place = places.step.findLastIndex((step) => step <= state.step);
    go(Number.isFinite(state.step) ? Math.max(0, place) : Infinity);
  }
}

function setBy(by) {
  state.by = by;
  const slider = document.getElementById("slider");
  slider.max = Math.max(0, places[by].length - 1);
  go(Infinity);
}

// Arrow keys move the slider from wherever one is, but for what has a use for them of its own.
function onKey(event) {
  if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
  if (event.key === "Escape" && state.head) choose(null);
  if (event.target.closest('select, canvas[tabindex], input[type="text"], textarea') || event.target.matches(".runs"))
    return;
  const most = places[state.by].length - 1;
  const to = {
    ArrowLeft: state.place - 1,
    ArrowRight: state.place + 1,
    Home: 0,
    End: most,
  }[event.key];
  if (typeof to === "number") {
    event.preventDefault();
    go(to);
  }
  if (event.key === "p") play();
}

function makeTheme() {
  const button = document.getElementById("theme");
  const apply = () => {
    if (state.theme) document.documentElement.dataset.theme = state.theme;
    lookUpTheme();
    button.textContent = dark ? "Light" : "Dark";
    button.setAttribute("aria-label", `${dark ? "light" : "dark"} theme`);
    changed();
  };
  button.addEventListener("click", () => {
    state.theme = dark ? "light" : "dark";
    apply();
    writeHash();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", apply);
  addEventListener("hashchange", apply);
  apply();
}

// While a run goes on the page loads itself again, unless somebody is using it right then.
function makeLive() {
  // In a notebook there is nothing new to load: the page was put there as a text.
  if (!LIVE || givenPlace) return;
  let busyUntil = 0;
  for (const kind of ["pointerdown", "pointermove", "keydown", "wheel"]) {
    addEventListener(
      kind,
      () => {
        busyUntil = performance.now() + 1500;
      },
      { passive: true },
    );
  }
  setInterval(() => {
    if (playing || performance.now() < busyUntil || document.hidden) return;
    const sections = [...document.querySelectorAll("section")].filter((each) => each.offsetTop <= scrollY);
    const section = sections.at(-1);
    writeHash(section ? { section: section.id, y: Math.round(scrollY - section.offsetTop) } : {});
    location.reload();
  }, 2000);
}
