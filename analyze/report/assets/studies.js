// Studies: the claims of each with the numbers that decide them, and its figures, in sections that open and close.

function studiesSection(run) {
  if (!run.studies.length) return el("p", { class: "note" }, "This run has no study.");
  return el(
    "div",
    {},
    run.studies.map((study) => [
      el("h3", {}, study.step === null ? study.study : `${study.study} at step ${study.step}`),
      study.why === undefined
        ? [claimsTable(study), study.sections.map((section, at) => studySection(study, section, at === 0))]
        : el("p", { class: "warn" }, `This study is left out: ${study.why}`),
    ]),
  );
}

// Whole numbers as they are, others as everywhere else; an infinite one is not one that is missing.
function formattedCell(x, digits) {
  if (Number.isInteger(x) && Math.abs(x) < 2 ** 24) return String(x);
  if (Math.abs(x) === Infinity) return x > 0 ? "∞" : "−∞";
  return formatted(x, digits);
}

function claimsTable({ study, claims }) {
  if (!claims.says.length) return el("p", { class: "note" }, "No claims.");
  const row = (says, at) => {
    const [number, bound] = [claims.numbers.get(at), claims.bounds.get(at)];
    // With as many digits as it takes to tell the number from its bound.
    const digits = [3, 4, 5, 6].find((count) => formatted(number, count) !== formatted(bound, count)) ?? 7;
    const holds = { true: "yes", false: "no", null: "not measured" }[claims.holds[at]];
    return el(
      "tr",
      {},
      el("th", { scope: "row" }, says),
      el("td", {}, claims.measured[at]),
      el("td", { class: "number" }, formattedCell(number, digits)),
      el("td", { class: "number" }, claims.needs[at]),
      el("td", { class: `holds ${holds}` }, holds),
    );
  };
  const numeric = [false, false, true, true, false];
  return scrolling(
    `claims of ${study}`,
    ["claim", "what was measured", "number", "needs", "holds"],
    numeric,
    claims.says.map(row),
  );
}

// A table in a box of its own, which scrolls where the table is wider.
function scrolling(name, columns, numeric, rows) {
  const head = columns.map((text, at) => el("th", { scope: "col", class: numeric[at] && "number" }, text));
  const host = el(
    "div",
    { class: "scroll cells", tabindex: 0, role: "group", "aria-label": name },
    el("table", { "aria-label": name }, el("thead", {}, el("tr", {}, head)), el("tbody", {}, rows)),
  );
  host.addEventListener("keydown", (event) => {
    // Arrow keys scroll it, and the slider only where there is nothing to scroll.
    if (host.scrollWidth > host.clientWidth && event.key.startsWith("Arrow")) event.stopPropagation();
  });
  return host;
}

function studySection(study, section, open) {
  return el(
    "details",
    { class: "study", open },
    el("summary", {}, section.title),
    section.text.split(/\n\s*\n/).map((text) => el("p", { class: "note" }, text)),
    section.figures.map((each) => {
      const all =
        study.step === null ? "its file has all of it." : `run.study("${study.study}", ${study.step}) has all of it.`;
      return [
        el("h4", {}, each.title),
        each.note ? el("p", { class: "note" }, each.note) : null,
        each.less.length
          ? el("p", { class: "note" }, `To keep the page small, this shows ${each.less.join(", ")}; ${all}`)
          : null,
        each.notDrawn.length
          ? el("p", { class: "warn" }, `Not drawn, because they hold no numbers: ${each.notDrawn.join(", ")}.`)
          : null,
        withNumbers(study, each, el("div", { class: "downloadable" }, studyFigure(each))),
      ];
    }),
  );
}

// The figure of a study with its menu.
function withNumbers({ study, step }, each, host) {
  const name = () => [study, step === null ? "" : `step-${step}`, each.title].filter(Boolean).join("-");
  host.prepend(downloads(each.title, name, host, () => studyNumbers(each)));
  return host;
}

// The numbers behind a figure of a study: one row a value.
function studyNumbers({ kind, parts, rows, columns }) {
  if (kind === "table") {
    const cell = (column, at) => (column.numbers ? column.numbers.get(at) : column.texts[at]);
    const found = rows.labels.flatMap((label, at) => columns.map((column) => [label, column.label, cell(column, at)])); // prettier-ignore
    return { columns: [rows.name, "column", "value"], rows: found };
  }
  const found = [],
    names = { lines: ["part", "line", "x axis", "x"], maps: ["part", "picture", "row", "column"] };
  for (const part of parts)
    part.entries.forEach((entry, at) => {
      const [, count, others = 1] = part.values.shape;
      for (let i = 0; i < count; i++) {
        if (kind === "lines") {
          const { name, labels, numbers } = part.x;
          found.push([part.label, entry, name, labels ? labels[i] : numbers.get(i), part.values.get(at, i)]);
        } else if (kind === "maps")
          for (let j = 0; j < others; j++)
            found.push([part.label, entry, part.rows.labels[i], part.columns.labels[j], part.values.get(at, i, j)]);
        else
          part.axes.forEach((axis, side) =>
            found.push([part.label, entry, part.labels[i], axis, part.values.get(at, i, side)]),
          );
      }
    });
  return { columns: [...(names[kind] ?? ["part", "picture", "point", "axis"]), "value"], rows: found };
}

// A figure that cannot be built must not take the study with it.
function studyFigure(each) {
  try {
    return { lines: linesFigure, maps: mapsFigure, scatter: scatterFigure, table: tableFigure }[each.kind](each);
  } catch (error) {
    console.error(error);
    return el("p", { class: "warn" }, `This figure cannot be drawn (${error.message}).`);
  }
}

// A figure that the slider does not move: it is drawn anew for another width or another theme only.
function still(host, draw) {
  let before = "";
  return figure(host, (width) => {
    const now = `${width} ${dark}`;
    // What lies in a closed section has no width yet.
    if (!width || (now === before && !recordings)) return;
    before = now;
    draw(width);
  });
}

// The smallest and the largest number of a variable in all runs beside each other, which are drawn on one scale; null
// if there is none. Counted are the numbers of a variable at the places that ``counts`` accepts.
function extent(key, log = false, counts = () => true) {
  let low = Infinity,
    high = -Infinity;
  const figures = RUNS.flatMap((run) => run.studies)
    .flatMap((study) => study.sections ?? [])
    .flatMap((section) => section.figures);
  for (const part of figures.flatMap((each) => each.parts ?? []).filter((each) => each.key === key))
    part.values.data.forEach((value, at) => {
      if (!Number.isFinite(value) || (log && !(value > 0)) || !counts(at)) return;
      low = Math.min(low, value);
      high = Math.max(high, value);
    });
  return low <= high ? [low, high] : null;
}

function tableFigure({ title, rows, columns }) {
  const numeric = [false, ...columns.map((column) => column.numbers !== null)];
  const cell = (column, at) =>
    column.numbers
      ? el("td", { class: "number" }, formattedCell(column.numbers.get(at)))
      : el("td", {}, column.texts[at]);
  const row = (label, at) =>
    el(
      "tr",
      {},
      el("th", { scope: "row" }, label),
      columns.map((column) => cell(column, at)),
    );
  return scrolling(title, [rows.name, ...columns.map((column) => column.label)], numeric, rows.labels.map(row));
}

// Lines: six colours and four dashes tell twelve apart; more are one ramp, and the pointer names each.
function strokeOf(entry, count) {
  if (count <= MOST_LINES)
    return {
      stroke: PALETTE.categories[entry % PALETTE.categories.length],
      "stroke-dasharray": ["", "7 4", "2 3", "9 3 2 3"][entry % 4],
    };
  return { stroke: `rgb(${sequential((0.35 + (0.65 * entry) / (count - 1)) ** 2)})` };
}

function lineKeys(entries) {
  if (entries.length === 1 && !entries[0]) return null;
  if (entries.length > MOST_LINES) {
    const ends = `${entries[0]} (the faintest) to ${entries.at(-1)} (the strongest)`;
    return el("p", { class: "note" }, `${entries.length} lines, from ${ends}; pointer and arrow keys name each.`);
  }
  const sample = (entry) =>
    el(
      "svg",
      { width: 26, height: 8, "aria-hidden": "true" },
      el("line", { x1: 0, x2: 26, y1: 4, y2: 4, "stroke-width": 2, ...strokeOf(entry, entries.length) }),
    );
  return el(
    "ul",
    { class: "keys" },
    entries.map((name, entry) => el("li", {}, sample(entry), name)),
  );
}

function linesFigure({ parts, log }) {
  const common = parts.every((part) => String(part.entries) === String(parts[0].entries));
  const least = [560, 400][parts.length - 1] ?? 290;
  return [
    common && parts.length ? lineKeys(parts[0].entries) : null,
    el(
      "div",
      { class: "panels", style: `--least:${least}px` },
      parts.map((part) =>
        el(
          "div",
          {},
          el("p", { class: "part" }, part.label),
          common ? null : lineKeys(part.entries),
          linePanel(part, log),
        ),
      ),
    ),
  ];
}

// Numbers along an axis, few enough to be read, as pairs of place and text.
function ticksOf(low, high, log, most, whole) {
  const few = log ? ticks(low, high, true) : [];
  let found = few.length > 1 ? few : ticks(low, high, false);
  if (whole) found = found.filter(Number.isInteger);
  const every = Math.ceil(found.length / most),
    kept = found.filter((_, at) => at % every === 0);
  const step = kept.length > 1 ? kept[1] - kept[0] : 1;
  const decimals = Math.min(6, Math.max(0, -Math.floor(Math.log10(step) + 1e-9)));
  const text = (x) => {
    const size = Math.abs(x);
    if (size >= 1000 && size < 1e9 && Number.isInteger(x)) return short(x);
    return few.length > 1 || (size && (size < 1e-3 || size >= 1e5)) ? formatted(x, 2) : x.toFixed(decimals);
  };
  return kept.map((x) => [x, text(x)]);
}

function linePanel(part, log) {
  const [count, points] = part.values.shape;
  const names = part.x.labels,
    xs = names ? Array.from({ length: points }, (_, at) => at) : [...part.x.numbers.data];
  const [logX, logY] = [log.includes("x") && !names, log.includes("y")];
  // Steps start at 0, so a logarithmic axis of them is one of 1 + step.
  const ofSteps = logX && part.x.name === "step";
  const there = (value, logarithmic) => Number.isFinite(value) && (!logarithmic || value > 0);
  const thereX = (value) => there(ofSteps ? value + 1 : value, logX);
  const within = xs.filter(thereX),
    range = extent(part.key, logY);
  if (!within.length || !range) return el("p", { class: "note" }, "There is no number to draw.");
  const widened = ([low, high], logarithmic) =>
    low < high ? [low, high] : logarithmic ? [low / 2, high * 2] : [low - 0.5, high + 0.5];
  const [left0, right0] = widened([Math.min(...within), Math.max(...within)], logX);
  let [low, high] = widened(range, logY);
  if (!logY && low > 0 && low < high / 2) low = 0;
  const host = el("div", { class: "lines", role: "img", tabindex: 0 }),
    readout = el("output", { class: "readout", "aria-live": "off" });
  const xText = (at) => {
    if (!names) return `${part.x.name} ${formattedCell(xs[at], 4)}`;
    return `${part.x.name} “${names[at]}”`;
  };
  const described = (entry, at) =>
    `${part.entries[entry] ? `${part.entries[entry]}, ` : ""}${xText(at)}: ${formattedCell(part.values.get(entry, at))}`;
  const highest = Array.from({ length: count }, (_, entry) => entry).reduce((best, entry) =>
    part.values.get(entry, points - 1) > part.values.get(best, points - 1) ||
    !Number.isFinite(part.values.get(best, points - 1))
      ? entry
      : best,
  );
  const end = `${count > 1 ? "Highest at the end: " : "At the end: "}${described(highest, points - 1)}`;
  let off = 0,
    known = 0;
  part.values.data.forEach((value, at) => {
    if (!Number.isFinite(value) || !Number.isFinite(xs[at % points])) return;
    known++;
    if (!there(value, logY) || !thereX(xs[at % points])) off++;
  });
  // A logarithmic axis has no place for 0.
  const about = `${end}${off ? ` (${off} of ${known} points are not above 0 and not on a log axis)` : ""}`;
  host.setAttribute("aria-label", `${part.label} over ${part.x.name}. ${about}. Arrow keys read single points.`);
  readout.value = about;
  let x = null,
    y = null,
    lines = [],
    mark = null,
    at = [highest, points - 1];
  const tell = () => {
    const [entry, point] = at,
      value = part.values.get(entry, point);
    const drawn = there(value, logY) && thereX(xs[point]);
    lines.forEach((line, other) => line.setAttribute("stroke-width", other === entry ? 3 : 1.5));
    mark.setAttribute("r", drawn ? 4 : 0);
    mark.setAttribute("fill", strokeOf(entry, count).stroke);
    if (drawn) {
      mark.setAttribute("cx", x(xs[point]));
      mark.setAttribute("cy", y(value));
    }
    readout.value = described(entry, point);
  };
  const rest = () => {
    for (const line of lines) line.setAttribute("stroke-width", count > MOST_LINES ? 1.2 : 2);
    mark?.setAttribute("r", 0);
    readout.value = about;
  };
  const path = (entry, dots) => {
    let d = "",
      alone = false,
      started = false;
    for (let point = 0; point < points; point++) {
      const value = part.values.get(entry, point);
      if (!there(value, logY) || !thereX(xs[point])) {
        // A point between two gaps is a dot.
        if (alone) d += "h0";
        started = alone = false;
        continue;
      }
      alone = !started;
      d += `${started && !dots ? "L" : "M"}${x(xs[point]).toFixed(1)} ${y(value).toFixed(1)}${dots ? "h0" : ""}`;
      started = true;
    }
    return alone && !dots ? `${d}h0` : d;
  };
  still(host, (width) => {
    const side = ticksOf(low, high, logY, 5),
      box = chartBox(width, 150, side);
    const { top, bottom, left, right } = box;
    // Names stand upright where they have no room beside each other.
    const room = (right - left) / Math.max(1, points - 1),
      upright = names && marginFor(names, 12) > room;
    const below = upright ? marginFor(names, 12) + 4 : 16;
    const inset = names ? Math.min(20, room / 2) : 0;
    const scale = (from, to, start, stop, f) => {
      return (value) => start + ((stop - start) * (f(value) - f(from))) / (f(to) - f(from));
    };
    x = scale(left0, right0, left + inset, right - inset, ofSteps ? Math.log1p : logX ? Math.log : (value) => value);
    y = scale(low, high, bottom, top, logY ? Math.log : (value) => value);
    const svg = el("svg", { width, height: bottom + below + 16, "aria-hidden": "true" });
    if (names) {
      const every = Math.ceil(upright ? 12 / room : 1);
      names.forEach((name, point) => {
        if (point % every) return;
        const place = upright
          ? { "text-anchor": "end", transform: `translate(${x(point) + 4} ${bottom + 6}) rotate(-90)` }
          : { "text-anchor": "middle", x: x(point), y: bottom + 15 };
        axisLine(svg, x(point), x(point), bottom, bottom + 4);
        svg.append(el("text", place, shortened(name, 12)));
      });
    } else {
      const whole = xs.every((value) => Number.isInteger(value));
      const from = ofSteps ? Math.max(1, left0) : left0;
      const some = ticksOf(from, right0, logX, Math.max(2, Math.floor(width / 60)), whole);
      const numbers = ofSteps && left0 === 0 ? [[0, "0"], ...some] : some;
      numbersBelow(svg, box, x, numbers, top, bottom);
    }
    chartAxes(svg, box, y, side, `${part.x.name}${logX ? " (log)" : ""}`, bottom + below + 13);
    if (!logY && low < 0 && high > 0) axisLine(svg, left, right, y(0), y(0));
    lines = Array.from({ length: count }, (_, entry) =>
      el("path", { d: path(entry), fill: "none", "stroke-linecap": "round", ...strokeOf(entry, count) }),
    );
    svg.append(...lines);
    // Where there are few points one sees them.
    if (points <= 24 && count <= MOST_LINES)
      svg.append(
        ...lines.map((_, entry) =>
          el("path", {
            d: path(entry, true),
            "stroke-linecap": "round",
            "stroke-width": 5,
            stroke: strokeOf(entry, count).stroke,
          }),
        ),
      );
    mark = el("circle", { r: 0 });
    svg.append(mark);
    host.replaceChildren(svg);
    if (document.activeElement === host) tell();
    else rest();
  });
  host.addEventListener("pointermove", (event) => {
    if (!x) return;
    const box = host.getBoundingClientRect();
    const [px, py] = [event.clientX - box.left, event.clientY - box.top];
    const near = (values, place, wanted) => {
      const far = values.map((value) => Math.abs(place(value) - wanted));
      return far.reduce((best, each, other) => (each < far[best] || Number.isNaN(far[best]) ? other : best), 0);
    };
    const point = near(
      xs.map((value) => (thereX(value) ? value : NaN)),
      x,
      px,
    );
    const column = Array.from({ length: count }, (_, entry) => part.values.get(entry, point));
    at = [
      near(
        column.map((value) => (there(value, logY) ? value : NaN)),
        y,
        py,
      ),
      point,
    ];
    tell();
  });
  host.addEventListener("pointerleave", rest);
  host.addEventListener("focus", () => mark && tell());
  host.addEventListener("blur", rest);
  host.addEventListener("keydown", (event) => {
    if (!mark || !moved(event, at, Math.max(count, points))) return;
    // They are not for the slider.
    event.stopPropagation();
    at = [Math.min(at[0], count - 1), Math.min(at[1], points - 1)];
    tell();
  });
  return [host, readout];
}

function scatterFigure({ parts }) {
  return parts.map((part) =>
    el(
      "div",
      {},
      el("p", { class: "part" }, part.label),
      el(
        "div",
        { class: "panels", style: "--least:290px" },
        part.entries.map((name, entry) =>
          el("div", {}, name ? el("p", { class: "note" }, name) : null, scatterPlot(part, entry)),
        ),
      ),
    ),
  );
}

function scatterPlot(part, entry) {
  const [, count] = part.values.shape,
    [nameX, nameY] = part.axes;
  const all = Array.from({ length: count }, (_, at) => [
    part.values.get(entry, at, 0),
    part.values.get(entry, at, 1),
    at,
  ]);
  // Arrow keys go from left to right.
  const points = all.filter(([x, y]) => Number.isFinite(x) && Number.isFinite(y)).sort((a, b) => a[0] - b[0]);
  if (!points.length) return el("p", { class: "note" }, "There is no number to draw.");
  const widened = ([low, high]) => (low < high ? [low, high] : [low - 0.5, high + 0.5]);
  const [[left0, right0], [low, high]] = [0, 1].map((side) =>
    widened(extent(part.key, false, (at) => at % 2 === side)),
  );
  const host = el("div", { class: "lines", role: "img", tabindex: 0 }),
    readout = el("output", { class: "readout", "aria-live": "off" });
  const about = `${points.length} points${points.length < count ? ` of ${count}` : ""}`;
  host.setAttribute("aria-label", `${part.label}: ${nameY} over ${nameX}, ${about}. Arrow keys read single points.`);
  readout.value = about;
  let x = null,
    y = null,
    mark = null,
    at = 0;
  const tell = () => {
    const [px, py, place] = points[at];
    mark.setAttribute("r", 4);
    mark.setAttribute("cx", x(px));
    mark.setAttribute("cy", y(py));
    const name = `${part.points} ${part.labels[place]}`;
    readout.value = `${name}: ${nameX} ${formattedCell(px)}, ${nameY} ${formattedCell(py)}`;
  };
  const rest = () => {
    mark?.setAttribute("r", 0);
    readout.value = about;
  };
  still(host, (width) => {
    const side = ticksOf(low, high, false, 5),
      box = chartBox(width, 190, side);
    const { top, bottom, left, right } = box;
    const scale = (from, to, start, stop) => (value) => start + ((stop - start) * (value - from)) / (to - from);
    x = scale(left0, right0, left + 6, right - 6);
    y = scale(low, high, bottom - 6, top + 6);
    const svg = el("svg", { width, height: bottom + 32, "aria-hidden": "true" });
    const numbers = ticksOf(left0, right0, false, Math.max(2, Math.floor(width / 60)));
    numbersBelow(svg, box, x, numbers, bottom, bottom + 4);
    chartAxes(svg, box, y, side, `${nameX}; upwards: ${nameY}`, bottom + 29);
    if (low < 0 && high > 0) axisLine(svg, left, right, y(0), y(0));
    if (left0 < 0 && right0 > 0) axisLine(svg, x(0), x(0), top, bottom);
    const d = points.map(([px, py]) => `M${x(px).toFixed(1)} ${y(py).toFixed(1)}h0`).join("");
    svg.append(
      el("path", { class: "dots", d, "stroke-width": 3, "stroke-linecap": "round", stroke: PALETTE.categories[0] }),
    );
    mark = el("circle", { r: 0, fill: PALETTE.categories[1] });
    svg.append(mark);
    host.replaceChildren(svg);
    if (document.activeElement === host) tell();
    else rest();
  });
  host.addEventListener("pointermove", (event) => {
    if (!x) return;
    const box = host.getBoundingClientRect();
    const far = ([px, py]) => Math.hypot(x(px) - event.clientX + box.left, y(py) - event.clientY + box.top);
    at = points.reduce((best, point, other) => (far(point) < far(points[best]) ? other : best), 0);
    tell();
  });
  host.addEventListener("pointerleave", rest);
  host.addEventListener("focus", () => mark && tell());
  host.addEventListener("blur", rest);
  host.addEventListener("keydown", (event) => {
    const place = [0, at];
    if (!mark || !moved(event, place, points.length)) return;
    // They are not for the slider.
    event.stopPropagation();
    at = place[1];
    tell();
  });
  return [host, readout];
}

function mapsFigure({ parts }) {
  return parts.map((part) => {
    const [count, rows, columns] = part.values.shape;
    const range = extent(part.key);
    if (!range) return [el("p", { class: "part" }, part.label), el("p", { class: "note" }, "No entry has a number.")];
    const signed = range[0] < 0,
      most = Math.max(...range.map(Math.abs)) || 1;
    const color = (value) =>
      signed ? diverging(Math.sign(value) * Math.sqrt(Math.abs(value) / most)) : sequential(value / most);
    const readout = el("output", { class: "readout follows", "aria-live": "off" });
    const place = (axis, at) =>
      axis.words ? `${axis.name} ${at} “${axis.labels[at]}”` : `${axis.name} ${axis.labels[at]}`;
    const described = (entry, row, column) => {
      const value = formattedCell(part.values.get(entry, row, column));
      const name = part.entries[entry] ? `${part.entries[entry]}: ` : "";
      return `${name}${place(part.rows, row)}, ${place(part.columns, column)}: ${value}`;
    };
    let best = -1;
    part.values.data.forEach((value, at) => {
      if (Number.isFinite(value) && !(Math.abs(value) <= Math.abs(part.values.data[best] ?? NaN))) best = at;
    });
    const largest = [Math.floor(best / (rows * columns)), Math.floor(best / columns) % rows, best % columns];
    const rest =
      best < 0 ? "No entry has a number." : `${signed ? "Furthest from 0" : "Largest"}: ${described(...largest)}`;
    readout.value = rest;
    const tell = (entry, at) => {
      readout.value = entry === null ? rest : described(entry, ...at);
    };
    const same = [count > 1 ? "pictures" : "", RUNS.length > 1 ? "runs" : ""].filter(Boolean).join(" and ");
    const scale = signed
      ? `Colours from −${formatted(most)} (orange) over 0 to ${formatted(most)} (blue)`
      : `Colours from 0 to ${formatted(most)}`;
    const missing = part.values.data.some(Number.isNaN) ? " Grey is no number." : "";
    const caption = `Rows: ${part.rows.name}; columns: ${part.columns.name}. ${scale}, by the square root${same ? `, the same for all ${same}` : ""}.${missing}`;
    const across = Math.min(part.across, count);
    return el(
      "div",
      {},
      el("p", { class: "part" }, part.label),
      el("p", { class: "note" }, caption),
      signed
        ? legend(
            (t) => color((2 * t - 1) * Math.abs(2 * t - 1) * most),
            `−${formatted(most, 2)}`,
            "0",
            formatted(most, 2),
          )
        : legend((t) => color(t * t * most), "0", formatted(most / 4, 2), formatted(most, 2)),
      readout,
      el(
        "div",
        { class: "maps", style: `--columns:${across};--most:${{ 1: 520, 2: 400, 3: 320 }[across] ?? 220}px` },
        part.entries.map((_, entry) => mapPicture(part, entry, color, tell)),
      ),
    );
  });
}

function mapPicture(part, entry, color, tell) {
  const [, rows, columns] = part.values.shape,
    name = part.entries[entry];
  const label = `${part.label}${name ? `, ${name}` : ""}: rows ${part.rows.name}, columns ${part.columns.name}`;
  const canvas = el("canvas", {
    tabindex: 0,
    role: "img",
    "aria-label": `${label}. Arrow keys read single entries.`,
  });
  const host = el("div", {}, canvas, name ? el("span", {}, name) : null),
    small = el("canvas");
  let room = 0,
    left = 0,
    top = 0,
    high = 1,
    wide = 1,
    at = [0, 0];
  const draw = () => {
    const longest = room < 260 ? 5 : 10;
    [left, top] =
      room < 150 ? [0, 0] : [marginFor(part.rows.labels, longest), marginFor(part.columns.labels, longest)];
    // No entry is a tile, no row a hair, and no picture a tower.
    const width = Math.min(room - left, 40 * columns);
    const height = Math.min(Math.max((width * rows) / columns, Math.min(12 * rows, width / 2)), 1.4 * (room - left));
    [high, wide] = [height / rows, width / columns];
    canvas.style.width = `${left + width}px`;
    canvas.style.height = `${top + height}px`;
    const context = fresh(canvas, left + width, top + height);
    pixels(small, rows, columns, (row, column) => color(part.values.get(entry, row, column)));
    context.imageSmoothingEnabled = false;
    context.drawImage(small, left, top, width, height);
    context.strokeStyle = css("--line");
    context.strokeRect(left, top, width, height);
    context.fillStyle = css("--soft");
    context.textBaseline = "middle";
    if (left) {
      part.rows.labels.forEach((text, row) => {
        if (row % Math.ceil(13 / high)) return;
        context.textAlign = "right";
        context.fillText(shortened(text, longest), left - 3, top + (row + 0.5) * high);
      });
      part.columns.labels.forEach((text, column) => {
        if (column % Math.ceil(13 / wide)) return;
        context.save();
        context.translate(left + (column + 0.5) * wide, top - 3);
        context.rotate(-Math.PI / 2);
        context.textAlign = "left";
        context.fillText(shortened(text, longest), 0, 0);
        context.restore();
      });
    }
    if (document.activeElement === canvas) {
      context.strokeStyle = css("--accent");
      context.lineWidth = 2;
      context.strokeRect(left + at[1] * wide, top + at[0] * high, wide, high);
    }
  };
  canvas.addEventListener("pointermove", (event) => {
    const box = canvas.getBoundingClientRect();
    const under = [(event.clientY - box.top - top) / high, (event.clientX - box.left - left) / wide].map(Math.floor);
    if (under[0] < 0 || under[0] >= rows || under[1] < 0 || under[1] >= columns) return;
    at = under;
    tell(entry, at);
  });
  canvas.addEventListener("pointerleave", () => tell(null));
  canvas.addEventListener("focus", () => {
    draw();
    tell(entry, at);
  });
  canvas.addEventListener("blur", () => {
    draw();
    tell(null);
  });
  canvas.addEventListener("keydown", (event) => {
    if (!moved(event, at, Math.max(rows, columns))) return;
    at = [Math.min(at[0], rows - 1), Math.min(at[1], columns - 1)];
    draw();
    tell(entry, at);
  });
  return still(host, (width) => {
    room = width;
    draw();
  });
}
