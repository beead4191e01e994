// The attention of a network on sequences of one's own, and nothing else.

let SHOWN; // what the page holds of it, as a run with one checkpoint

function entryShown(layer, head, query, key) {
  const tokens = tokensOf(SHOWN);
  const value = SHOWN.attention.values.get(0, layer, head, state.sequence, query, key);
  return `${nameOf([layer, head])}: query ${query} “${tokens[query]}” → key ${key} “${tokens[key]}”: ${formattedShare(value)}`;
}

function shownNumbers() {
  const positions = counted(tokensOf(SHOWN).length);
  const rows = allHeads(SHOWN).flatMap(([layer, head]) =>
    SHOWN.attention.tokens.flatMap((tokens, sequence) =>
      positions.flatMap(
        (query) =>
        positions.map((key) => [sequence, layer, head, query, tokens[query], key, tokens[key], shareOfFile(SHOWN.attention.values.get(0, layer, head, sequence, query, key))]), // prettier-ignore
      ),
    ),
  );
  const columns = ["sequence", "layer", "head", "query position", "query token", "key position", "key token", SHARE_COLUMN]; // prettier-ignore
  return { columns, rows };
}

// The tokens of the sequence, and the choice of another.
function shownTokens() {
  const { tokens } = SHOWN.attention;
  const words = el("p", { class: "shown-tokens" });
  const write = () => words.replaceChildren(...tokensOf(SHOWN).map((token) => el("span", {}, token)));
  if (tokens.length === 1) return figure(words, write);
  const options = tokens.map((_, at) => el("option", { value: at }, String(at)));
  const select = (event) => {
    state.sequence = Number(event.target.value);
    writeHash();
    changed();
  };
  const chooser = el("select", { id: "sequence", change: select }, options);
  const update = () => {
    chooser.value = state.sequence;
    write();
  };
  return figure(el("div", {}, el("label", {}, "sequence ", chooser, ` of ${tokens.length}`), words), update);
}

async function begin({ palette, shown }) {
  PALETTE = palette;
  for (const each of document.querySelectorAll("#controls, .skip")) each.remove();
  const page = document.getElementById("page");
  try {
    SHOWN = unpacked({ ...shown, packed: null }, await inflated(shown.packed));
  } catch (error) {
    page.append(el("p", { class: "warn" }, `This browser cannot read the page's data (${error.message}).`));
    return;
  }
  Object.assign(SHOWN, { steps: [], attention: { values: SHOWN.values, tokens: SHOWN.tokens } });
  RUNS = [SHOWN];
  makePlaces();
  readHash();
  const note = "Rows: queries, columns: keys. The colour follows the square root, so that weak attention is visible. A press on a head enlarges it."; // prettier-ignore
  page.append(
    titled("attention", "Attention", note, [
      SHOWN.leftOut ? el("p", { class: "note" }, SHOWN.leftOut) : "",
      shownTokens(),
      mapsOf(SHOWN, { describe: entryShown, numbers: shownNumbers }),
    ]),
  );
  document.addEventListener("keydown", ({ key }) => {
    if (key === "Escape" && state.head) choose(null);
  });
  addEventListener("hashchange", () => {
    readHash();
    changed();
  });
  makeShare();
  makeTheme();
  requestAnimationFrame(() =>
    requestAnimationFrame(() => {
      document.body.dataset.ready = String(Math.round(performance.now()));
    }),
  );
}
