// Figures as files: an SVG that needs nothing else, in light colours, of whatever a figure is made of.

// What is drawn on a canvas while a figure becomes an SVG, as elements: [canvas] -> { width, height, shapes }.
let recordings = null;

// Shapes of files are made in a document of their own: in that of the page each picture would be loaded.
const drawing = document.implementation.createDocument(SVG, "svg");
function shape(tag, attributes, ...children) {
  const node = drawing.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== null) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

// The same context, which also writes down the shapes that it paints.
function recorded(canvas, context, width, height) {
  const shapes = [];
  const scale = context.getTransform().a;
  let path = "";
  const place = () => {
    const { a, b, c, d, e, f } = context.getTransform();
    const moved = [a, b, c, d, e, f].map((x) => rounded(x / scale));
    return moved.join(" ") === "1 0 0 1 0 0" ? null : `matrix(${moved.join(" ")})`;
  };
  const opacity = () => (context.globalAlpha < 1 ? rounded(context.globalAlpha) : null);
  const paint = (tag, attributes, ...children) =>
    shapes.push(shape(tag, { ...attributes, opacity: opacity(), transform: place() }, ...children));
  const filled = () => ({ fill: context.fillStyle });
  const stroked = () => ({
    fill: "none",
    stroke: context.strokeStyle,
    "stroke-width": context.lineWidth,
    "stroke-dasharray": context.getLineDash().join(" ") || null,
  });
  const box = (x, y, width, height) => ({ x: rounded(x), y: rounded(y), width: rounded(width), height: rounded(height) }); // prettier-ignore
  const along = {
    beginPath: () => (path = ""),
    moveTo: (x, y) => (path += `M${rounded(x)} ${rounded(y)}`),
    lineTo: (x, y) => (path += `${path ? "L" : "M"}${rounded(x)} ${rounded(y)}`),
    closePath: () => (path += "Z"),
    rect: (x, y, width, height) => (path += `M${rounded(x)} ${rounded(y)}h${rounded(width)}v${rounded(height)}h${rounded(-width)}Z`), // prettier-ignore
    // A whole circle, which is all that figures have.
    arc: (x, y, r) => (path += `M${rounded(x + r)} ${rounded(y)}a${rounded(r)} ${rounded(r)} 0 1 0 ${rounded(-2 * r)} 0a${rounded(r)} ${rounded(r)} 0 1 0 ${rounded(2 * r)} 0`), // prettier-ignore
    fill: () => paint("path", { d: path, ...filled() }),
    stroke: () => paint("path", { d: path, ...stroked() }),
    fillRect: (...at) => paint("rect", { ...box(...at), ...filled() }),
    strokeRect: (...at) => paint("rect", { ...box(...at), ...stroked() }),
    fillText: (text, x, y) => paint("text", { x: rounded(x), y: rounded(y), ...filled(), ...fontOf(context) }, text),
    drawImage: (image, ...at) => paint("image", { ...box(...at), ...picture(image) }),
  };
  recordings.set(canvas, { width, height, shapes });
  return new Proxy(context, {
    get(target, name) {
      const value = target[name];
      if (typeof value !== "function") return value;
      return (...given) => {
        along[name]?.(...given);
        return value.apply(target, given);
      };
    },
    set(target, name, value) {
      target[name] = value;
      return true;
    },
  });
}
const rounded = (x) => +x.toFixed(2);

function fontOf(context) {
  const anchor = { right: "end", center: "middle" }[context.textAlign];
  const [size, family] = /([\d.]+px) (.*)/.exec(context.font).slice(1);
  return {
    "font-size": size,
    "font-family": family,
    "text-anchor": anchor,
    "dominant-baseline": context.textBaseline === "middle" ? "central" : null,
  };
}

// The pixels of a canvas, one an entry, which stay squares at any size.
const picture = (canvas) => ({
  href: canvas.toDataURL(),
  preserveAspectRatio: "none",
  style: "image-rendering:pixelated",
});

// The text of an SVG of a part of the page, as it would be in light colours, without notes and controls.
function svgOf(root, title) {
  const page = document.documentElement,
    { theme } = page.dataset;
  const redraw = () => {
    lookUpTheme();
    for (const [host, each] of figures) if (each.width && (root.contains(host) || host.contains(root))) draw(each);
  };
  showFar();
  recordings = new Map();
  page.dataset.theme = "light";
  root.classList.add("exported");
  redraw();
  try {
    return written(root, title);
  } finally {
    recordings = null;
    root.classList.remove("exported");
    if (theme) page.dataset.theme = theme;
    else delete page.dataset.theme;
    redraw();
  }
}

function written(root, title) {
  const around = root.getBoundingClientRect(),
    edges = { right: 0, bottom: 0 };
  const grow = (box) => {
    edges.right = Math.max(edges.right, box.right - around.left);
    edges.bottom = Math.max(edges.bottom, box.bottom - around.top);
  };
  const at = (box) => `translate(${rounded(box.left - around.left)} ${rounded(box.top - around.top)})`;
  const shapes = [];
  const walk = (node) => {
    if (node.nodeType === Node.TEXT_NODE) return shapes.push(...linesOf(node, around, grow));
    if (node.nodeType !== Node.ELEMENT_NODE || !node.checkVisibility({ visibilityProperty: true })) return;
    const box = node.getBoundingClientRect();
    if (node.tagName === "CANVAS") {
      grow(box);
      return shapes.push(shape("g", { transform: at(box) }, ...canvasShapes(node, box)));
    }
    if (node.tagName === "svg") {
      grow(box);
      return shapes.push(shape("g", { transform: at(box) }, ...[...node.childNodes].map(inlined)));
    }
    const { backgroundColor, opacity } = getComputedStyle(node);
    if (node !== root && backgroundColor !== "rgba(0, 0, 0, 0)" && box.width && box.height) {
      grow(box);
      shapes.push(
        shape("rect", {
          x: rounded(box.left - around.left),
          y: rounded(box.top - around.top),
          width: rounded(box.width),
          height: rounded(box.height),
          fill: backgroundColor,
          opacity: opacity === "1" ? null : opacity,
        }),
      );
    }
    for (const child of node.childNodes) walk(child);
  };
  walk(root);
  const margin = 8;
  const [width, height] = [edges.right, edges.bottom].map((x) => Math.ceil(x + 2 * margin));
  const paper = { x: -margin, y: -margin, width, height };
  const svg = shape(
    "svg",
    { width, height, viewBox: `${-margin} ${-margin} ${width} ${height}`, role: "img" },
    shape("title", {}, title),
    shape("rect", { ...paper, fill: "#ffffff" }),
    ...shapes,
  );
  // XML has no characters such as those that a token of bytes may hold.
  const valid = new XMLSerializer()
    .serializeToString(svg)
    .replace(/[^\t\n\r\u0020-\uD7FF\uE000-\uFFFD\u{10000}-\u{10FFFF}]/gu, "\uFFFD");
  return `<?xml version="1.0" encoding="UTF-8"?>\n${valid}\n`;
}

function canvasShapes(canvas, box) {
  const found = recordings.get(canvas);
  if (!found) return [shape("image", { width: rounded(box.width), height: rounded(box.height), ...picture(canvas) })];
  const [x, y] = [box.width / found.width, box.height / found.height].map((each) => +each.toFixed(4));
  return [shape("g", { transform: x === 1 && y === 1 ? null : `scale(${x} ${y})` }, ...found.shapes)];
}

// What a style sheet says of shapes, with what holds where nothing is said.
const PAINTED = {
  fill: "rgb(0, 0, 0)",
  "fill-opacity": "1",
  stroke: "none",
  "stroke-width": "1px",
  "stroke-dasharray": "none",
  "stroke-linecap": "butt",
  "stroke-opacity": "1",
  opacity: "1",
  "paint-order": "normal",
  display: "inline",
};
const WRITTEN = {
  "font-size": "",
  "font-family": "",
  "font-weight": "400",
  "text-anchor": "start",
  "dominant-baseline": "auto",
};

// A copy of a part of an SVG that needs no style sheet.
function inlined(node) {
  if (node.nodeType !== Node.ELEMENT_NODE) return drawing.importNode(node);
  const copy = drawing.importNode(node, false),
    style = getComputedStyle(node);
  for (const { name } of [...copy.attributes])
    if (/^(class|style|tabindex|role|data-|aria-)/.test(name)) copy.removeAttribute(name);
  for (const [name, usual] of Object.entries(node.tagName === "text" ? { ...PAINTED, ...WRITTEN } : PAINTED)) {
    const value = style.getPropertyValue(name);
    if (value && value !== usual) copy.setAttribute(name, value);
    else if (copy.hasAttribute(name) && !copy.getAttribute(name).startsWith("var(")) continue;
    else copy.removeAttribute(name);
  }
  copy.append(...[...node.childNodes].map(inlined));
  return copy;
}

// The lines that a text is broken into, each where it stands.
function linesOf(node, around, grow) {
  if (!node.data.trim()) return [];
  const style = getComputedStyle(node.parentElement),
    range = document.createRange(),
    lines = [];
  for (const { 0: word, index } of node.data.matchAll(/\S+/g)) {
    range.setStart(node, index);
    range.setEnd(node, index + word.length);
    for (const box of range.getClientRects()) {
      const line = lines.at(-1);
      if (line && Math.abs(line.box.top - box.top) < 2) line.words.push(word);
      else if (!line || line.words.at(-1) !== word || line.start !== index) lines.push({ box, words: [word], start: index }); // prettier-ignore
      grow(box);
    }
  }
  const measure = document.createElement("canvas").getContext("2d");
  measure.font = `${style.fontWeight} ${style.fontSize} ${style.fontFamily}`;
  const { fontBoundingBoxAscent: rise } = measure.measureText("x");
  return lines.map(({ box, words }) =>
    shape(
      "text",
      {
        x: rounded(box.left - around.left),
        y: rounded(box.top - around.top + rise),
        fill: style.color,
        "font-size": style.fontSize,
        "font-family": style.fontFamily,
        "font-weight": style.fontWeight === "400" ? null : style.fontWeight,
      },
      words.join(" "),
    ),
  );
}

// A table as CSV: numbers with the digits that the page has of them, nothing where there is no number.
function csvOf({ columns, rows }) {
  const cell = (value) => {
    if (value === null || value === undefined) return "";
    if (typeof value === "number")
      return Number.isFinite(value) ? String(Number.isInteger(value) ? value : +value.toPrecision(7)) : Number.isNaN(value) ? "" : String(value); // prettier-ignore
    return /[",\n\r]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : String(value);
  };
  const lines = [columns];
  for (const row of rows) lines.push(row);
  return `${lines.map((row) => row.map(cell).join(",")).join("\n")}\n`;
}

function saveFile(name, type, text) {
  const href = URL.createObjectURL(new Blob([text], { type }));
  el("a", { href, download: name.replace(/[^\w.+-]+/g, "-") }).click();
  setTimeout(() => URL.revokeObjectURL(href), 60_000);
}

// The menu of a figure: `host` as SVG, and the numbers of `table()` as CSV. `name()` is that of the files.
function downloads(title, name, host, table) {
  const press = (text, write) =>
    el("button", { type: "button", "aria-label": `${title} as ${text}`, click: write }, text);
  const menu = el(
    "details",
    { class: "downloads" },
    el("summary", { "aria-label": `Download: ${title}`, title: "Download" }, "↓"),
    press("SVG", () => saveFile(`${name()}.svg`, "image/svg+xml", svgOf(host, title))),
    press("CSV", () => saveFile(`${name()}.csv`, "text/csv", csvOf(table()))),
  );
  menu.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !menu.open) return;
    event.stopPropagation();
    menu.open = false;
    menu.querySelector("summary").focus();
  });
  menu.addEventListener("focusout", ({ relatedTarget }) => {
    if (relatedTarget && !menu.contains(relatedTarget)) menu.open = false;
  });
  return menu;
}
// The menu of a figure that stands at the slider's step, or over training.
const ofRun = (run, title, id, host, table) =>
  downloads(title, () => `${run.name}-${id}-step-${run.steps[indexOf(run)]}`, host, () => table(run)); // prettier-ignore

// A part of the page with the menu that saves it; `table(run)` are the numbers behind it.
function downloadable(run, title, id, table, ...content) {
  const host = el("div", { class: "downloadable" }, ...content);
  host.prepend(ofRun(run, title, id, host, table));
  return host;
}
