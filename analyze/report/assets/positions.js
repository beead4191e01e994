// Every position of the sequence that the network in the page reads: its token, the right answer, what the network
// predicts there, and the loss.

function tryPositions(run, words) {
  const body = el("tbody"),
    caption = el("caption", { class: "note", style: "text-align:left" });
  const titles = ["position", "token", "right answer", "prediction", "its probability", "loss"];
  const columns = el("tr", {}, titles.map((text) => el("th", { scope: "col" }, text))); // prettier-ignore
  const table = el("table", { class: "cells positions" }, caption, el("thead", {}, columns), body);
  const scroll = el("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "every position" }, table);
  const host = el("div", { class: "downloadable every-position" }, scroll);
  const write = rowsIn(body, 4);
  let rows = [];
  const name = () => `${run.name}-positions-step-${run.trial.step}`;
  const numbers = () => ({ columns: ["step", "sequence", ...titles.slice(0, 5), "loss [nats]"], rows: rows.map((row) => [run.trial.step, shownSequence(run.networks), ...row]) }); // prettier-ignore
  host.prepend(downloads("Every position", name, host, numbers));
  scroll.addEventListener("keydown", (event) => {
    // Arrow keys scroll it, and leave the slider.
    if (event.key.startsWith("Arrow")) event.stopPropagation();
  });
  const draw = (step, { trial, output, losses }) => {
    const width = output.length / trial.inputs.length;
    rows = trial.inputs.map((token, at) => {
      const answer = trial.answers[at];
      // What is not a token has no prediction that is the likeliest.
      const { ofTokens } = trial;
      const chances = ofTokens ? logProbabilities(rowOf(output, at, width)).map(Math.exp) : [];
      let best = 0;
      for (let other = 0; other < chances.length; other++) if (chances[other] > chances[best]) best = other;
      const word = (labels, each) => (typeof each === "number" ? labels[each] : "");
      return [at, word(words.labels, token), trial.counted[at] ? word(words.outputs, answer) : "", ofTokens ? words.outputs[best] : "", ofTokens ? chances[best] : NaN, losses[at]]; // prettier-ignore
    });
    caption.textContent = `Every position at step ${step}; bold: the likeliest token is the right answer.`;
    write(
      rows.map((row) => ({
        texts: row.map((value, column) => (column > 3 ? formatted(value) : String(value))),
        strong: row[2] !== "" && row[2] === row[3],
      })),
    );
  };
  return { host, draw };
}
