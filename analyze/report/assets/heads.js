// Every score of heads over training: one small chart a layer, one line a head, and the band of its null.

function headsSection(run) {
  if (!run.perHead.length) return missing(run, "previous_token");
  const heads = Array.from({ length: run.heads }, (_, head) => head);
  const named = heads.map((head) => lineKey(`head ${head}`, head, headColor, headDash));
  return el(
    "div",
    {},
    run.heads <= MOST_HEADS ? el("ul", { class: "keys" }, named) : null,
    el(
      "div",
      { class: "measures" },
      run.perHead.map((score) =>
        downloadable(
          run,
          score.label,
          score.label,
          () => headNumbers(run, score),
          heading("h3", score.label, definitionOf(score.measure)),
          headCharts(run, score),
        ),
      ),
    ),
    scoresTable(run),
  );
}

// Colours and dashes of heads, as figures for papers have them, which tell so many apart; of more the chosen one is.
const MOST_HEADS = 28;
const headColor = (head) => PALETTE.categories[head % PALETTE.categories.length];
const headDash = (head) => [[], [7, 4], [2, 3], [9, 3, 2, 3]][Math.floor(head / PALETTE.categories.length) % 4];

// The ends of a chart's axis: the range of the score where that is a pair of numbers, else the numbers of all runs.
function rangeOf(score) {
  if (score.limits) return score.limits;
  const ranges = RUNS.flatMap((run) =>
    run.perHead
      .filter((each) => each.label === score.label)
      .flatMap((each) => [each.values.range, each.low?.range, each.high?.range]),
  ).filter(Boolean);
  return spanOf(ranges.flat());
}

function headCharts(run, score) {
  const panels = [];
  const [low, high] = rangeOf(score);
  for (let layer = 0; layer < run.layers; layer++) {
    const canvas = el("canvas", { role: "img", "aria-label": `${score.label}, layer ${layer}` }),
      below = el("figcaption", {});
    const host = el("figure", {}, el("h4", {}, `layer ${layer}`), canvas, below);
    let place = null,
      lines = null;
    const placedLines = (placed) => {
      const points = (value) => run.lineSteps.map((step, at) => [step, value(at)]);
      const inBand = (edge) =>
        placed(points((at) => edge.get(at, layer)).filter((_, at) => Number.isFinite(score.low.get(at, layer))));
      return {
        band: score.low && score.high ? [inBand(score.high), inBand(score.low).reverse()] : null,
        heads: counted(run.heads).map((head) => placed(points((at) => score.values.get(at, layer, head)))),
      };
    };
    const draw = (width) => {
      const index = lineIndexOf(run);
      const { context, x, y, placed, through, top, bottom } = chartFrame(canvas, run, width, [low, high]);
      if (lines?.width !== width) lines = { width, ...placedLines(placed) };
      if (lines.band) {
        context.fillStyle = css("--band");
        context.beginPath();
        through(lines.band[0]);
        through(lines.band[1], true);
        context.fill();
      }
      for (const chosen of [false, true]) {
        for (let head = 0; head < run.heads; head++) {
          if (isChosen(layer, head) !== chosen) continue;
          const named = run.heads <= MOST_HEADS;
          context.strokeStyle = named ? headColor(head) : chosen ? css("--accent") : css("--quiet");
          context.lineWidth = chosen ? 2.8 : 1.4;
          context.globalAlpha = named && state.head && !chosen ? 0.35 : 1;
          context.setLineDash(named ? headDash(head) : []);
          context.beginPath();
          through(lines.heads[head]);
          context.stroke();
          const value = score.values.get(index, layer, head);
          if (!Number.isFinite(value)) continue;
          context.fillStyle = context.strokeStyle;
          context.beginPath();
          context.arc(x(run.lineSteps[index]), y(value), chosen ? 3.5 : 2.2, 0, 2 * Math.PI);
          context.fill();
        }
      }
      context.globalAlpha = 1;
      chartCursor(context, x(run.lineSteps[index]), top, bottom);
      below.textContent = described(index);
      canvas.setAttribute(
        "aria-label",
        `${score.label} over training, layer ${layer}. Step ${run.lineSteps[index]}: ${below.textContent}`,
      );
      place = { x, y };
    };
    const described = (index, wanted = null) => {
      const values = Array.from({ length: run.heads }, (_, head) => score.values.get(index, layer, head));
      if (!finite(values).length) return `layer ${layer}: no numbers`;
      const head =
        wanted ??
        (state.head?.[0] === layer && state.head[1] < run.heads
          ? state.head[1]
          : values.reduce(
              (best, value, at) =>
                value > (values[best] ?? -Infinity) || !Number.isFinite(values[best]) ? at : best,
              0,
            ));
      return `${nameOf([layer, head])} ${formatted(values[head])}, ${besideBand(score, index, layer, values[head])}`;
    };
    // The checkpoint and the head whose line are nearest to the pointer.
    const nearest = (event) => {
      if (!place) return null;
      const box = canvas.getBoundingClientRect();
      const [px, py] = [event.clientX - box.left, event.clientY - box.top];
      const index = run.lineSteps.reduce(
        (best, step, at) => (Math.abs(place.x(step) - px) < Math.abs(place.x(run.lineSteps[best]) - px) ? at : best),
        0,
      );
      const heads = Array.from({ length: run.heads }, (_, head) => [
        Math.abs(place.y(score.values.get(index, layer, head)) - py),
        head,
      ])
        .filter(([d]) => Number.isFinite(d))
        .sort((a, b) => a[0] - b[0]);
      return heads.length ? [index, heads[0][1]] : null;
    };
    canvas.addEventListener("pointermove", (event) => {
      const [index, head] = nearest(event) ?? [];
      if (head !== undefined) below.textContent = `step ${run.lineSteps[index]}: ${described(index, head)}`;
    });
    canvas.addEventListener("click", (event) => {
      const [, head] = nearest(event) ?? [];
      if (head !== undefined) choose(isChosen(layer, head) ? null : [layer, head]);
    });
    canvas.addEventListener("pointerleave", () => {
      below.textContent = described(lineIndexOf(run));
    });
    panels.push(figure(host, draw));
  }
  return el("div", { class: "panels" }, panels);
}

// On which side of its band a score is: 1 above, -1 below, 0 inside, NaN where there is no band.
function sideOf(score, index, layer, value) {
  const [low, high] = [score.low, score.high].map((edge) => edge?.get(index, layer) ?? NaN);
  return Number.isFinite(low) && Number.isFinite(high) && Number.isFinite(value)
    ? (value > high) - (value < low)
    : NaN;
}

// The same in words, with as many digits as it takes to tell the edges apart.
function besideBand(score, index, layer, value) {
  const side = sideOf(score, index, layer, value);
  if (Number.isNaN(side)) return "no band";
  const edges = [score.low, score.high].map((edge) => edge.get(index, layer));
  const digits = [2, 3, 4, 5, 6].find((count) => formatted(edges[0], count) !== formatted(edges[1], count)) ?? 6;
  return `${{ 1: "above", 0: "in", [-1]: "below" }[side]} its band ${edges.map((edge) => formatted(edge, digits)).join(" to ")}`;
}

// All numbers of the checkpoint, for those who read tables, with eyes or without.
function scoresTable(run) {
  const body = el("tbody"),
    caption = el("caption", { class: "note" });
  const table = el(
    "table",
    {},
    caption,
    el(
      "thead",
      {},
      el(
        "tr",
        {},
        el("th", { scope: "col" }, "head"),
        run.perHead.map((score) => el("th", { scope: "col" }, score.label)),
      ),
    ),
    body,
  );
  const host = el(
    "details",
    { class: "scores", open: state.table },
    el("summary", {}, "Scores of heads as a table"),
    el("div", { class: "scroll" }, table),
  );
  host.addEventListener("toggle", () => {
    state.table = host.open;
    writeHash();
    changed();
  });
  return figure(host, () => {
    if (!host.open) return;
    const index = lineIndexOf(run);
    caption.textContent = `Step ${run.lineSteps[index]}; bold is outside the 99 % band.`;
    const rows = [];
    for (let layer = 0; layer < run.layers; layer++) {
      for (let head = 0; head < run.heads; head++) {
        rows.push(
          el(
            "tr",
            { class: isChosen(layer, head) ? "chosen" : null },
            el("th", { scope: "row" }, headButton(nameOf([layer, head]))),
            run.perHead.map((score) => {
              const value = score.values.get(index, layer, head);
              const out = Math.abs(sideOf(score, index, layer, value)) === 1;
              return el("td", { class: `number${out ? " out" : ""}` }, formatted(value));
            }),
          ),
        );
      }
    }
    body.replaceChildren(...rows);
  });
}

// A sentence on what a measure means, its range and its null.
function definitionOf(measure) {
  const definition = DEFINITIONS[measure];
  if (!definition) return null;
  const { summary, range, null: none } = definition;
  const plain = /^\[|^\d/.test(range) && !summary.includes(range);
  return `${summary}${plain ? ` Range: ${range}.` : ""}${none ? ` Null: ${none}.` : ""}`;
}
