// Arrays, numbers, elements, colours, and figures that draw themselves when they are seen.

// The numbers of a described array, in their own order: packed.py says how they are stored.
function decoded({ type, shape, at, bytes: width, differences, lower, digits, least, most }, bytes) {
  const size = shape.reduce((a, b) => a * b, 1),
    steps = shape[0] ?? 1,
    rest = steps ? size / steps : 0,
    places = lower ? lowerPlaces(rest, shape.at(-1)) : null,
    series = places?.length ?? rest,
    plane = series * steps,
    unused = 32 - 8 * width;
  const numbers = new (type === "share" ? Uint8Array : Float32Array)(size);
  const whole = type === "exact" ? new Int32Array(numbers.buffer) : numbers;
  const number = type === "decimal" ? decimals(digits, least, most) : (code) => code;
  for (let each = 0, from = at; each < series; each++) {
    const place = places ? places[each] : each;
    for (let step = 0, code = 0; step < steps; step++, from++) {
      let read = 0;
      for (let byte = 0; byte < width; byte++) read |= bytes[from + byte * plane] << (8 * byte);
      // Sums have as many bits as what is stored, the highest of which is the sign.
      code = ((differences ? code + read : read) << unused) >> unused;
      whole[step * rest + place] = number(code);
    }
  }
  return numbers;
}
// Where the entries at and below the diagonals of matrices stand that follow each other.
function lowerPlaces(rest, size) {
  const places = [];
  for (let start = 0; start < rest; start += size * size)
    for (let row = 0; row < size; row++)
      for (let column = 0; column <= row; column++) places.push(start + row * size + column);
  return places;
}
// The number of a code, which counts the decimals of so many digits from the decade `least` on.
function decimals(digits, least, most) {
  const first = 10 ** (digits - 1);
  return (code) => {
    const count = Math.abs(code) - 1;
    if (count < 0) return 0;
    if (count >= most) return count === most ? NaN : code < 0 ? -Infinity : Infinity;
    const power = least + Math.floor(count / (9 * first)) - digits + 1,
      size = first + (count % (9 * first));
    // Negative powers of ten are no numbers of a computer, but positive ones are.
    return Math.sign(code) * (power < 0 ? size / 10 ** -power : size * 10 ** power);
  };
}

// An array of any number of axes; shares are bytes in steps of 1/254, 255 is NaN. It is decoded when it is first needed.
class Values {
  constructor(description, bytes) {
    this.shape = description.shape;
    this.share = description.type === "share";
    this.decode = () => decoded(description, bytes);
  }
  get data() {
    return (this.decoded ??= this.decode());
  }
  offset(index) {
    let at = 0;
    for (let axis = 0; axis < this.shape.length; axis++) at = at * this.shape[axis] + (index[axis] ?? 0);
    return at;
  }
  // The number at an index with one entry an axis.
  get(...index) {
    const value = this.data[this.offset(index)];
    return this.share ? (value === 255 ? NaN : value / 254) : value;
  }
  // An array with two axes as a list of its rows.
  get rows() {
    return (this.listed ??= Array.from({ length: this.shape[0] }, (_, row) => [...this.rest(row)]));
  }
  // The stored numbers of all that follows the given axes.
  rest(...index) {
    const size = this.shape.slice(index.length).reduce((a, b) => a * b, 1);
    const start = this.offset(index);
    return this.data.subarray(start, start + size);
  }
  // The smallest and the largest finite number.
  get range() {
    if (!this._range) {
      let low = Infinity,
        high = -Infinity;
      for (const value of this.data)
        if (Number.isFinite(value)) {
          low = Math.min(low, value);
          high = Math.max(high, value);
        }
      this._range = [low, high];
    }
    return this._range;
  }
}

// The bytes of a deflated text in base64. Loops and a reader take a tenth of the time of Uint8Array.from with a function
// and of a Response.
async function inflated(text) {
  const letters = atob(text),
    raw = new Uint8Array(letters.length);
  for (let at = 0; at < raw.length; at++) raw[at] = letters.charCodeAt(at);
  const { writable, readable } = new DecompressionStream("deflate"),
    writer = writable.getWriter(),
    reader = readable.getReader();
  // What is wrong with the bytes is said where they are read.
  writer.write(raw).catch(() => {});
  writer.close().catch(() => {});
  const parts = [];
  for (let part = await reader.read(); !part.done; part = await reader.read()) parts.push(part.value);
  const found = new Uint8Array(parts.reduce((size, part) => size + part.length, 0));
  parts.reduce((at, part) => (found.set(part, at), at + part.length), 0);
  return found.buffer;
}

// The same tree with every description of an array replaced by the array.
function unpacked(node, buffer, bytes = new Uint8Array(buffer)) {
  if (Array.isArray(node)) return node.map((each) => unpacked(each, buffer, bytes));
  if (node === null || typeof node !== "object") return node;
  if ("at" in node && "shape" in node) return new Values(node, bytes);
  return Object.fromEntries(Object.entries(node).map(([name, value]) => [name, unpacked(value, buffer, bytes)]));
}

const counted = (count) => Array.from({ length: count }, (_, at) => at);
const finite = (numbers) => numbers.filter(Number.isFinite);

// Three digits, as people write them.
function formatted(x, digits = 3) {
  if (!Number.isFinite(x)) return "–";
  if (x === 0) return "0";
  const size = Math.abs(x);
  if (size >= 1e5 || size < 1e-3) return x.toExponential(1);
  return size >= 100 ? x.toFixed(0) : String(+x.toPrecision(digits));
}

// A number that is stored in steps of 1/254, which three decimals tell apart.
const formattedShare = (x) => (Number.isFinite(x) ? String(shareOfFile(x)) : "–");
const shareOfFile = (x) => +x.toFixed(3);
const SHARE_COLUMN = "attention (steps of 1/254)";

// The text of a loss, a score or a part, as a person says it.
const inWords = (name) => name.replaceAll("_", " ");

const SVG = "http://www.w3.org/2000/svg";
const SVG_TAGS = new Set(["svg", "path", "line", "circle", "text", "g", "rect", "title", "image"]);

// An element with attributes (functions are listeners) and children (strings are text, never markup).
function el(tag, attributes = {}, ...children) {
  const node = SVG_TAGS.has(tag) ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value !== null && value !== undefined && value !== false)
      node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return node;
}

// A section of the page, under its title; its text is behind a "?".
function titled(id, title, text, content) {
  const attributes = { id: `${id}-title`, tabindex: -1 };
  return el("section", { id, "aria-labelledby": `${id}-title` }, heading("h2", title, text, attributes), content);
}

// A title with what it means behind a "?", which shows and hides it; a title alone where there is nothing to say.
let explanations = 0;
function heading(tag, title, text, attributes = {}) {
  const head = el(tag, attributes, title);
  if (!text) return head;
  const id = `explanation-${++explanations}`;
  const told = el("div", { id, class: "explanation note", hidden: true }, text);
  const show = (shown) => {
    told.hidden = !shown;
    button.setAttribute("aria-expanded", String(shown));
  };
  const button = el(
    "button",
    {
      type: "button",
      class: "explain",
      "aria-expanded": "false",
      "aria-controls": id,
      "aria-label": `what ${title} shows`,
      click: () => show(told.hidden),
      keydown: (event) => {
        if (event.key === "Escape" && !told.hidden) {
          event.stopPropagation();
          show(false);
        }
      },
    },
    "?",
  );
  return [el("div", { class: "title" }, head, button), told];
}

// Links to the sections in the bar that stays in view; the one that is read is marked.
const IN_BAR = {
  try: "Try it",
  heads: "Heads",
  network: "Network",
  tokens: "OV and QK",
  attribution: "Attribution",
  positions: "Positions",
  updates: "Updates",
};
function makeContents() {
  const sections = [...document.querySelectorAll("main > section")];
  const links = sections.map((section) => {
    const title = section.querySelector("h2");
    const click = (event) => {
      // The address is the page's memory, so that a link must not write to it.
      event.preventDefault();
      goToSection(section.id);
    };
    return el("a", { href: `#section=${section.id}`, title: title.textContent, click }, IN_BAR[section.id] ?? title.textContent); // prettier-ignore
  });
  const list = el("ul", {}, links.map((link) => el("li", {}, link))); // prettier-ignore
  document.querySelector("header h1").after(el("nav", { "aria-label": "Contents" }, list));
  let waits = false;
  const mark = () => {
    waits = false;
    const atEnd = innerHeight + scrollY >= document.documentElement.scrollHeight - 2;
    const read = sections.findLastIndex((section) => section.getBoundingClientRect().top <= 120);
    const current = atEnd && scrollY > 0 ? sections.length - 1 : Math.max(0, read);
    links.forEach((link, at) => {
      if (at !== current) link.removeAttribute("aria-current");
      else if (!link.hasAttribute("aria-current")) {
        link.setAttribute("aria-current", "true");
        list.scrollLeft = link.offsetLeft - list.clientWidth / 2;
      }
    });
  };
  const later = () => {
    if (!waits) requestAnimationFrame(mark);
    waits = true;
  };
  addEventListener("scroll", later, { passive: true });
  addEventListener("resize", later);
  later();
}
function goToSection(id) {
  const section = document.getElementById(id);
  // What is above has its height only when it is drawn.
  drawAll();
  section.scrollIntoView();
  section.querySelector("h2").focus({ preventScroll: true });
}

// Colours of the theme, looked up once a theme: asking the browser for a style is slow.
const styles = new Map();
function css(name) {
  if (!styles.has(name)) styles.set(name, getComputedStyle(document.documentElement).getPropertyValue(name).trim());
  return styles.get(name);
}
let dark = false;
function lookUpTheme() {
  styles.clear();
  dark = getComputedStyle(document.documentElement).colorScheme === "dark";
}

// 256 colours of a map, as [red, green, blue], for the theme of the moment.
const ramps = new Map();
function ramp(name) {
  const key = name + dark;
  if (!ramps.has(key)) {
    const anchors = PALETTE[name][dark ? "dark" : "light"].map((hex) =>
      [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)),
    );
    ramps.set(
      key,
      Array.from({ length: 256 }, (_, i) => {
        const place = (i / 255) * (anchors.length - 1);
        const from = Math.min(Math.floor(place), anchors.length - 2);
        return anchors[from].map((c, channel) => Math.round(c + (place - from) * (anchors[from + 1][channel] - c)));
      }),
    );
  }
  return ramps.get(key);
}
const NO_NUMBER = [128, 128, 128];
// Of a share: by its square root, so that weak attention is seen. Of z or anything with a sign: from -1 to 1.
const sequential = (share) =>
  Number.isNaN(share) ? NO_NUMBER : ramp("sequential")[Math.round(255 * Math.sqrt(Math.min(1, Math.max(0, share))))];
const diverging = (t) => (Number.isNaN(t) ? NO_NUMBER : ramp("diverging")[divergingAt(t)]);
const divergingAt = (t) => Math.round(127.5 * (1 + Math.min(1, Math.max(-1, t))));
let PALETTE; // comes with the data

// Colours as an image holds them, one number a pixel: of each byte a share can be stored as, and of a map with a sign,
// where the last one stands for no number.
const pixelsOf = new Map();
function pixelsOfColors(name, colors) {
  const key = name + dark;
  if (!pixelsOf.has(key)) {
    const bytes = Uint8ClampedArray.from(colors().flatMap((color) => [...color, 255]));
    pixelsOf.set(key, new Uint32Array(bytes.buffer));
  }
  return pixelsOf.get(key);
}
const sharePixels = () =>
  pixelsOfColors("sequential", () => counted(256).map((stored) => sequential(stored === 255 ? NaN : stored / 254)));
const divergingPixels = () => pixelsOfColors("diverging", () => [...ramp("diverging"), NO_NUMBER]);

// Figures are drawn when something changed: at once if they are on the screen, and the others when nothing has changed
// for a while, in slices, so that a picture of the whole page has them. What is drawn knows its width beforehand:
// to ask for it between two drawings would have the browser lay out the page anew for each.
const figures = new Map();
let waiting = 0;
function drawSoon() {
  waiting ||= requestAnimationFrame(() => {
    waiting = 0;
    if (following) hideFar();
    following = false;
    for (const figure of figures.values()) {
      if (figure.stale && (figure.seen || figure.unseen() || beforePaper)) draw(figure);
    }
    clearTimeout(rest);
    rest = setTimeout(drawRest, QUIET);
  });
}
// Milliseconds without a change after which figures that are off the screen are drawn.
const QUIET = 150;
let rest = 0;
function drawRest() {
  const until = performance.now() + SLICE;
  do {
    const next = [...figures.values()].find((figure) => figure.stale && figure.width);
    if (!next) return showFar();
    draw(next);
  } while (performance.now() < until);
  rest = setTimeout(drawRest);
}
// A figure that cannot be drawn must not take the others with it.
function draw(figure) {
  figure.stale = false;
  try {
    figure.draw(figure.width, figure.height);
  } catch (error) {
    console.error(error);
  }
}
// Waits until nothing has changed for a while.
async function quiet() {
  let left = 0;
  do {
    await new Promise((done) => setTimeout(done, left));
    left = lastChange + QUIET - performance.now();
  } while (left > 0);
}
// What is computed in one go, in milliseconds, before the browser may draw.
const SLICE = 8;
const pause = () => new Promise((done) => setTimeout(done));

// Goes through a generator in slices, as long as nobody asks for something newer; whether it came to its end.
async function goThrough(steps, wanted, between = pause) {
  let until = performance.now() + SLICE;
  while (!steps.next().done) {
    if (performance.now() < until) continue;
    await between();
    if (!wanted()) return false;
    until = performance.now() + SLICE;
  }
  return true;
}
// Calls a function when the next frame has been drawn.
function afterFrame(work) {
  requestAnimationFrame(() => setTimeout(work));
}
// Everything, on the screen or not, so that the page has its height.
function drawAll() {
  for (const figure of figures.values()) if (figure.stale) draw(figure);
}
function changed(some = figures.values()) {
  for (const figure of some) figure.stale = true;
  following = true;
  lastChange = performance.now();
  drawSoon();
}

// With every frame a browser composites each canvas of a page anew, also those that are pages away. They are hidden while
// figures follow what a person does, and come back when all are drawn. Those that have the focus, or may get it, stay.
let following = false,
  lastChange = -Infinity,
  far = [],
  lastScroll = -Infinity;
function hideFar() {
  if (far.length || beforePaper || performance.now() - lastScroll < QUIET) return;
  far = [...document.querySelectorAll("canvas:not([tabindex])")].filter((canvas) => {
    const { top, bottom } = canvas.getBoundingClientRect();
    return bottom < -innerHeight || top > 2 * innerHeight;
  });
  for (const canvas of far) canvas.style.visibility = "hidden";
}
function showFar() {
  for (const canvas of far) canvas.style.visibility = "";
  far = [];
}
const scrolled = () => {
  lastScroll = performance.now();
  showFar();
};
// Nor are they hidden while the window changes its size, as it does for a picture of the whole page.
for (const kind of ["scroll", "resize"]) addEventListener(kind, scrolled, { passive: true });
const watcher = new IntersectionObserver(
  (entries) => {
    for (const entry of entries) figures.get(entry.target).seen = entry.isIntersecting;
    drawSoon();
  },
  { rootMargin: "150px" },
);
const resizer = new ResizeObserver((entries) => {
  for (const { target, contentRect } of entries) {
    const figure = figures.get(target);
    // The height is of those that fill what they are given; that of others follows from what they draw.
    figure.stale ||= figure.width !== contentRect.width || (figure.fills && figure.height !== contentRect.height);
    figure.width = contentRect.width;
    figure.height = contentRect.height;
  }
  drawSoon();
});
// Have `draw(width, height)` called for `host` whenever it has to be; gives the host back. It is drawn unseen while
// `unseen()`: what is hidden at times, or has numbers that others on the screen show.
function figure(host, draw, unseen = () => false) {
  figures.set(host, {
    draw,
    unseen,
    stale: true,
    seen: false,
    width: 0,
    height: 0,
    fills: host.classList.contains("fills"),
  });
  watcher.observe(host);
  resizer.observe(host);
  return host;
}

// For paper everything is drawn, on the screen or not, in light colours and as wide as a sheet; what is folded is open.
// A browser lays out a sheet by itself: what is drawn in pixels has to have that width before.
let beforePaper = null;
function toPaper() {
  if (beforePaper) return;
  showFar();
  const root = document.documentElement;
  const place = document.getElementById("place")?.value;
  const note = el("p", { class: "note" }, place ? `At ${place}.` : "");
  beforePaper = { theme: root.dataset.theme, folded: [], note };
  root.dataset.theme = "light";
  root.classList.add("paper");
  document.querySelector("header").after(note);
  redrawAll();
  for (const table of document.querySelectorAll("table")) {
    const room = table.parentElement.clientWidth;
    if (room && table.offsetWidth > room) table.style.zoom = room / table.offsetWidth;
  }
}
function fromPaper() {
  if (!beforePaper) return;
  const root = document.documentElement;
  if (beforePaper.theme) root.dataset.theme = beforePaper.theme;
  else delete root.dataset.theme;
  root.classList.remove("paper");
  for (const each of beforePaper.folded) each.open = false;
  for (const table of document.querySelectorAll("table")) table.style.zoom = "";
  beforePaper.note.remove();
  beforePaper = null;
  redrawAll();
}
// Draws everything at the width that it has now; what is drawn first may change the width of what comes later.
function redrawAll() {
  lookUpTheme();
  for (let round = 0; round < 2; round++) {
    // Some of what is folded comes with a drawing.
    for (const each of beforePaper ? document.querySelectorAll("details:not([open])") : []) {
      each.open = true;
      beforePaper.folded.push(each);
    }
    for (const [host, figure] of figures) {
      const { paddingLeft, paddingRight } = getComputedStyle(host);
      figure.width = host.clientWidth - parseFloat(paddingLeft) - parseFloat(paddingRight) || 0;
      figure.height = host.clientHeight;
      figure.stale = true;
    }
    drawAll();
  }
}
addEventListener("beforeprint", toPaper);
addEventListener("afterprint", fromPaper);
matchMedia("print").addEventListener("change", ({ matches }) => (matches ? toPaper() : fromPaper()));

const FONT = '11px system-ui, "DejaVu Sans", sans-serif';
// The drawing context of a canvas as large as it is shown, cleared, in CSS pixels. Its first state is kept: to set a font
// has the browser look up the styles of the page.
function fresh(canvas, width, height) {
  const scale = window.devicePixelRatio || 1,
    context = canvas.getContext("2d");
  const [wide, high] = [width, height].map((each) => Math.round(each * scale));
  if (canvas.width !== wide || canvas.height !== high || kept.get(canvas) !== scale) {
    // A canvas that is given a size, and be it the one it has, forgets its states.
    [canvas.width, canvas.height] = [wide, high];
    context.scale(scale, scale);
    context.font = FONT;
    kept.set(canvas, scale);
  } else {
    context.restore();
    context.save();
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, wide, high);
    context.beginPath();
    context.restore();
  }
  context.save();
  return recordings ? recorded(canvas, context, width, height) : context;
}
const kept = new WeakMap();

// Sets a text or an attribute that has changed: to set one has the browser look at an element anew.
function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}
function setChanged(node, name, value) {
  if (node.getAttribute(name) !== value) node.setAttribute(name, value);
}

// Draws a matrix, one pixel an entry: `write` sets its pixels row by row, each as an image holds it; others are
// transparent. Such canvases are many, so their pixels are kept where they can be read: they are then drawn with what is
// around them, and a browser makes a layer of its own for other canvases.
function drawPixels(canvas, rows, columns, write) {
  // To set a size empties a canvas, and has the browser lay out the page.
  if (canvas.width !== columns || canvas.height !== rows) [canvas.width, canvas.height] = [columns, rows];
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const fits = lastImage?.width === columns && lastImage.height === rows;
  if (!fits) lastImage = context.createImageData(columns, rows);
  const drawn = new Uint32Array(lastImage.data.buffer);
  drawn.fill(0);
  write(drawn);
  context.putImageData(lastImage, 0, 0);
}
// What pictures of one size are written into, one after the other.
let lastImage = null;

// The same with a colour for each entry, or null.
function pixels(canvas, rows, columns, colorAt) {
  drawPixels(canvas, rows, columns, (drawn) => {
    const bytes = new Uint8Array(drawn.buffer);
    for (let row = 0, at = 0; row < rows; row++) {
      for (let column = 0; column < columns; column++, at += 4) {
        const color = colorAt(row, column);
        if (color) {
          bytes.set(color, at);
          bytes[at + 3] = 255;
        }
      }
    }
  });
}

// Where a value lies along an axis: log(1 + step), the same for all that is drawn over training.
function stepScale(steps, left, right) {
  const last = Math.log1p(steps.at(-1)) || 1;
  return (step) => left + ((right - left) * Math.log1p(step)) / last;
}
const decades = (last) => [0, 1, 10, 100, 1000, 1e4, 1e5, 1e6].filter((step) => step <= last);
const short = (step) => (step >= 1e6 ? `${step / 1e6}M` : step >= 1000 ? `${step / 1000}k` : String(step));

// A bar with the colours of a map, and numbers below its ends and its middle.
function legend(color, low, middle, high) {
  const canvas = el("canvas", { role: "img", "aria-label": `colours from ${low} over ${middle} to ${high}` });
  let drawn = null;
  figure(canvas, () => {
    if (drawn !== dark) pixels(canvas, 1, 100, (_, column) => color(column / 99));
    drawn = dark;
  });
  const numbers = [low, middle, high].map((text) => el("span", {}, text));
  return el("div", { class: "legend" }, canvas, el("div", { "aria-hidden": "true" }, numbers));
}

// A switch that stands at each of several runs is one: all show what was set, and everything follows it.
function shareState(input) {
  for (const other of document.querySelectorAll(`[data-shared="${input.dataset.shared}"]`))
    other.checked = input.checked;
  writeHash();
  changed();
}

// The columns of a grid with one cell a head, none wider than `most`: on a wide page a layer is a row.
const columns = (run, most) => `--columns:${run.heads};--most:${most}px`;

// Moves an entry [row, column] of a square matrix by an arrow key; whether it was one.
function moved(event, at, size) {
  const move = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
  if (!move) return false;
  event.preventDefault();
  move.forEach((by, i) => {
    at[i] = Math.min(size - 1, Math.max(0, at[i] + by));
  });
  return true;
}

// Draws a frame around the entry that the keys are at.
function outline(context, [row, column], edge, cell) {
  context.strokeStyle = css("--accent");
  context.lineWidth = 2;
  context.strokeRect(edge + column * cell, edge + row * cell, cell, cell);
}

// Round numbers from low to high: powers of ten, and 2 and 5 times them where those are few; or steps of 1, 2 or 5.
function ticks(low, high, log) {
  if (log) {
    const powers = Array.from({ length: 40 }, (_, i) => 10 ** (i - 20));
    const within = (numbers) => numbers.filter((x) => x >= low * 0.999 && x <= high * 1.001);
    const few = within(powers);
    return few.length > 2 ? few : within(powers.flatMap((x) => [x, 2 * x, 5 * x]));
  }
  const rough = (high - low) / 4,
    power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((x) => x * power).find((x) => x >= rough);
  return Array.from({ length: 12 }, (_, i) => (Math.ceil(low / step) + i) * step).filter((x) => x <= high * 1.001);
}
