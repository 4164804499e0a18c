// Draws the pictures: those of one choice at a time, in the colours that the reader's system asks for.
(() => {
  "use strict";
  const source = document.getElementById("payload").textContent;
  const night = matchMedia("(prefers-color-scheme: dark)");
  const selects = [...document.querySelectorAll("select[data-part]")];
  const config = {
    responsive: true,
    displaylogo: false,
    modeBarButtons: [["toImage"]],
    toImageButtonOptions: { format: "svg" },
  };
  let pictures = {};

  // Reading the source anew for each change of colours keeps plotly's own edits out of it.
  function read() {
    const dark = night.matches ? JSON.parse(source).dark : {};
    const swap = (_, value) =>
      typeof value === "string" && Object.hasOwn(dark, value) ? dark[value] : value;
    pictures = JSON.parse(source, swap).pictures;
  }

  async function draw(select) {
    const part = select.dataset.part;
    const place = document.getElementById(`drawing-${part}`);
    place.querySelectorAll(".plot").forEach((old) => Plotly.purge(old));
    const shown = pictures[part][select.value].map((picture) => {
      const frame = document.createElement("div");
      frame.className = "frame";
      const plot = document.createElement("div");
      plot.className = "plot";
      plot.setAttribute("role", "img");
      plot.setAttribute("aria-label", picture.label);
      plot.style.minWidth = `${picture.min_width}px`;
      if (picture.max_width) plot.style.maxWidth = `${picture.max_width}px`;
      if (picture.min_width) {
        frame.tabIndex = 0;
        frame.setAttribute("role", "group");
        frame.setAttribute("aria-label", `${picture.label} Scrolls sideways.`);
      }
      plot.style.height = `${picture.figure.layout.height}px`;
      frame.append(plot);
      return { frame, plot, figure: picture.figure };
    });
    place.replaceChildren(...shown.map(({ frame }) => frame));
    for (const { plot, figure } of shown) {
      await Plotly.newPlot(plot, structuredClone(figure.data), structuredClone(figure.layout), config);
    }
  }

  // One candidate at a time: whoever looks into one picture of it wants to see the others too.
  function follow(changed) {
    for (const select of selects) {
      if (select.dataset.by !== changed.dataset.by) continue;
      if (![...select.options].some((option) => option.value === changed.value)) continue;
      if (select === changed || select.value !== changed.value) {
        select.value = changed.value;
        draw(select);
      }
    }
  }

  async function drawAll() {
    read();
    for (const select of selects) await draw(select);
    document.documentElement.dataset.drawn = night.matches ? "dark" : "light";
  }

  for (const select of selects) {
    select.disabled = false;
    select.addEventListener("change", () => follow(select));
  }
  night.addEventListener("change", drawAll);

  for (const button of document.querySelectorAll("button.copy")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      const code = document.getElementById(button.dataset.copies);
      try {
        await navigator.clipboard.writeText(code.textContent);
        button.textContent = "Copied";
      } catch {
        // Without leave to write to the clipboard the lines are at least selected.
        getSelection().selectAllChildren(code);
        button.textContent = "Selected";
      }
      setTimeout(() => (button.textContent = "Copy"), 2000);
    });
  }

  drawAll();
})();
