// The table of runs: a click on the head of a column sorts by it, a click on a run draws its curves.

// What a column shows of a run, and by what it sorts: rank first (what is missing comes last), then the value.
function columnsOfRuns() {
  const found = [{ id: "run", name: "run", show: (run) => MANY.runs[run].name, key: (run) => [0, run] }];
  MANY.options.forEach((name, at) => {
    const value = (run) => MANY.runs[run].options[at];
    found.push({
      id: `option-${name}`,
      name,
      number: MANY.runs.every((_, run) => value(run) === null || typeof value(run) === "number"),
      of: "text option",
      show: (run) => String(value(run) ?? "–"),
      key: (run) => [value(run) === null ? 1 : 0, value(run)],
    });
  });
  const { main } = MANY;
  if (main !== null)
    found.push({
      id: "level",
      name: `${MANY.events[main].label}: gap closed`,
      number: true,
      show: (run) => (Number.isFinite(MANY.levels.get(main, run)) ? percent(MANY.levels.get(main, run)) : "–"),
      key: (run) => [Number.isFinite(MANY.levels.get(main, run)) ? 0 : 1, MANY.levels.get(main, run)],
    });
  const events = main === null ? MANY.order : [main, ...MANY.order.filter((event) => event !== main)];
  for (const event of events)
    found.push({
      id: `event-${event}`,
      name: `${MANY.events[event].label}: half-way step`,
      number: true,
      show: (run) =>
        Number.isFinite(dateOf(event, run)) ? String(Math.round(dateOf(event, run))) : MANY.events[event].states[run],
      title: (run) => [MANY.events[event].who[run], dateText(event, run)].filter(Boolean).join(", "),
      key: (run) => [Number.isFinite(dateOf(event, run)) ? 0 : isMeasured(event, run) ? 1 : 2, dateOf(event, run)],
    });
  if (MANY.runs.some(({ kind }) => kind))
    found.push({
      id: "kind",
      name: "kind of circuit",
      show: (run) => MANY.runs[run].kind || "–",
      key: (run) => [MANY.runs[run].kind ? 0 : 1, MANY.runs[run].kind],
    });
  if (MANY.runs.some(({ outlier }) => outlier))
    found.push({
      id: "outlier",
      name: "outlier",
      show: (run) => MANY.runs[run].outlier,
      key: (run) => [MANY.runs[run].outlier ? 0 : 1, MANY.runs[run].outlier],
    });
  return found;
}

const numbersBehindNames = new Intl.Collator("en", { numeric: true });
function compared([rankA, a], [rankB, b], sign) {
  // What is missing stays at the end, whichever way one sorts.
  if (rankA !== rankB) return rankA - rankB;
  const [textA, textB] = [typeof a, typeof b].map((type) => type === "string");
  const by = textA || textB ? numbersBehindNames.compare(String(a), String(b)) : a - b;
  return sign * (by || 0);
}

// The name of an option, which may go on in another line after a dot or an underscore.
const breakable = (name) => name.split(/(?<=[._])/).flatMap((part, at) => (at ? [el("wbr", {}), part] : [part]));

function runsSection() {
  const all = columnsOfRuns();
  const heads = all.map((column) =>
    el(
      "th",
      { scope: "col", class: column.number ? "number" : "", "aria-sort": "none" },
      el("button", { type: "button", class: "sort", click: () => sortBy(column.id) }, breakable(column.name)),
    ),
  );
  const rows = MANY.runs.map((_, run) => rowOfRun(run, all));
  const body = el("tbody", {});
  function sortBy(id) {
    const [now, way] = state.sort.split(":");
    state.sort = `${id}:${now === id && way === "ascending" ? "descending" : "ascending"}`;
    writeHash();
    order();
  }
  function order() {
    const [id, way] = state.sort.split(":");
    const by = all.find((column) => column.id === id) ?? all[0];
    const sign = way === "descending" ? -1 : 1;
    heads.forEach((head, at) => {
      head.setAttribute("aria-sort", all[at] === by ? (sign < 0 ? "descending" : "ascending") : "none");
    });
    const numbers = MANY.runs.map((_, run) => run);
    numbers.sort((a, b) => compared(by.key(a), by.key(b), sign) || a - b);
    body.replaceChildren(...numbers.map((run) => rows[run]));
  }
  order();
  const table = el("table", { class: "cells many" }, el("thead", {}, el("tr", {}, heads)), body);
  const frame = el(
    "div",
    { class: "scroll tall", tabindex: 0, role: "region", "aria-label": "table of runs" },
    table,
  );
  table.addEventListener("keydown", (event) => {
    const row = event.target.closest("tbody tr");
    const next = { ArrowUp: row?.previousElementSibling, ArrowDown: row?.nextElementSibling }[event.key];
    if (!next) return;
    event.preventDefault();
    next.querySelector("button").focus();
  });
  frame.addEventListener("pointerleave", () => hover(null));
  table.addEventListener("focusout", (event) => {
    if (!table.contains(event.relatedTarget)) hover(null);
  });
  const details = el("ul", { class: "keys chosen-runs", "aria-live": "polite" });
  return ofMany(
    "Runs",
    () => ({ columns: ["run", "column", "value"], rows: tidyRuns(all) }),
    pagesNote(),
    figure(
      frame,
      () => {
        rows.forEach((row, run) => {
          row.classList.toggle("chosen", chosenRuns.includes(run));
          row.classList.toggle("hovered", hovered === run);
          row.style.setProperty("--run", chosenRuns.includes(run) ? colorOfRun(run) : "transparent");
          row.querySelector("button").setAttribute("aria-pressed", String(chosenRuns.includes(run)));
        });
        details.replaceChildren(...singleRuns().map(aboutRun));
      },
      () => true,
    ),
    details,
  );
}

const tidyRuns = (all) =>
  MANY.runs.flatMap(({ name }, run) => all.slice(1).map((column) => [name, column.name, column.show(run)]));

function rowOfRun(run, all) {
  const { name, page, outlier } = MANY.runs[run];
  const button = el("button", { type: "button", class: "name", "aria-pressed": "false", click: () => toggleRun(run) }, name); // prettier-ignore
  const mark = outlier ? el("span", { class: "mark", title: outlier, "aria-label": "outlier" }, "◆") : null;
  const link = page ? el("a", { href: page, "aria-label": `page of ${name}` }, "page") : null;
  return el(
    "tr",
    {
      pointerenter: () => hover(run),
      focusin: () => hover(run),
      click: (event) => {
        if (!event.target.closest("a, button")) toggleRun(run);
      },
    },
    el("th", { scope: "row" }, button, mark, link),
    all.slice(1).map((column) =>
      el(
        "td",
        {
          class: column.number ? "number" : (column.of ?? "text"),
          title: column.title?.(run) ?? (column.number ? null : column.show(run)),
        },
        column.show(run),
      ),
    ),
  );
}

// What there is to say of one run: its dates with the heads, and why it is an outlier.
function aboutRun(run) {
  const { name, outlier } = MANY.runs[run];
  const sample = el("line", { x1: 0, x2: 26, y1: 4, y2: 4, stroke: colorOfRun(run), "stroke-width": 2, "stroke-dasharray": dashOfRun(run).join(" ") }); // prettier-ignore
  const dates = MANY.order.map((event) => {
    const { label, who } = MANY.events[event];
    return `${label}${who[run] ? ` (${who[run]})` : ""} ${dateText(event, run)}`;
  });
  return el(
    "li",
    {},
    el("svg", { width: 26, height: 8, "aria-hidden": "true" }, sample),
    el("b", {}, name),
    `: ${dates.join("; ")}.`,
    outlier ? ` Outlier: ${outlier}.` : "",
  );
}

function pagesNote() {
  const without = MANY.runs.filter(({ page }) => !page).length;
  if (!without) return null;
  const count = without === MANY.runs.length ? "No run has" : `${without} of ${MANY.runs.length} runs have no page`;
  const said = without === MANY.runs.length ? `${count} a page of its own yet; ` : `${count} of their own yet; `;
  return el("p", { class: "note" }, said, el("code", {}, "headway report RUN"), " writes it.");
}
