// The first screen: the behaviour and what carries it in a line each, the loss, the circuit, and the attention of every
// head, as high together as the window is.

// From so many pixels on, figures stand beside each other.
const WIDE = 900;
// The least and the greatest height of what stands beside each other.
const FIRST_SCREEN = [470, 960];

const isWide = (run) => run.room?.wide ?? false;
const firstRoom = (run) => run.room?.height ?? FIRST_SCREEN[0];

function overviewSection(run) {
  if (!run.steps.length) return formedSection(run);
  const host = el("div", { class: "first" }),
    panels = el("div", { class: "panels-first" });
  let drawnFor = "";
  // It is drawn before the figures that it holds, which ask for their room.
  figure(host, (width) => {
    const now = `${width} ${innerHeight} ${Boolean(beforePaper)}`;
    if (now === drawnFor) return;
    drawnFor = now;
    const wide = width >= WIDE && !beforePaper;
    const below = document.getElementById("controls").offsetHeight + 12;
    const above = panels.getBoundingClientRect().top + scrollY;
    const [least, most] = FIRST_SCREEN;
    run.room = { wide, height: Math.min(most, Math.max(least, innerHeight - above - below)) };
    panels.classList.toggle("wide", wide);
    panels.style.height = wide ? `${run.room.height}px` : "";
  });
  panels.append(lossPanel(run), diagramPanel(run), run.layers ? attentionPanel(run) : "");
  host.append(
    ...firstNotes(run),
    el("ul", { class: "first-lines" }, run.firstLines.map((text) => el("li", {}, linked(text)))), // prettier-ignore
    panels,
  );
  return host;
}
// Of a window that grows or shrinks in height only, what fills it hears here.
addEventListener("resize", () => {
  if (RUNS.some(isWide)) changed();
});
