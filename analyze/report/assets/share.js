// The link to what is shown: it is copied, or stands there to be copied where a page may not do so (in a notebook).

function makeShare() {
  // What stands in a notebook alone has no address.
  if (location.protocol === "about:" && !givenMeta?.dataset.address) return;
  const said = el("span", { class: "copied", role: "status" });
  const copy = async () => {
    const link = addressHere();
    try {
      // A frame may not, and to ask is an error in its console.
      if (location.protocol === "about:") throw Error("a frame");
      await navigator.clipboard.writeText(link);
      said.replaceChildren("Copied");
    } catch {
      const field = el("input", { type: "text", readonly: true, value: link, "aria-label": "Link to what is shown" });
      said.replaceChildren(field);
      field.focus();
      field.select();
    }
  };
  const button = el("button", { type: "button", id: "copy-link", click: copy }, "Copy link");
  const forget = () => said.replaceChildren();
  button.addEventListener("blur", (event) => {
    if (!said.contains(event.relatedTarget)) forget();
  });
  said.addEventListener("focusout", forget);
  document.getElementById("theme").before(said, button);
}
