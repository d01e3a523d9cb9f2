"use strict";
// Toggles and readings of the charts. All numbers come from the table behind each chart, and are set as text.
for (const figure of document.querySelectorAll("figure.chart")) {
  const svg = figure.querySelector(":scope > svg");
  if (!svg) continue;
  const cursor = svg.querySelector(".cursor");
  const reading = figure.querySelector(".reading");
  const names = [...figure.querySelectorAll("details thead th")].slice(1).map((cell) => cell.textContent);
  const rows = [...figure.querySelectorAll("details tbody tr")];
  const epochs = rows.map((row) => Number(row.cells[0].textContent));
  const first = Number(svg.dataset.first), last = Number(svg.dataset.last);
  const place = (i) => first + (last - first) * ((epochs[i] - epochs[0]) / (epochs[epochs.length - 1] - epochs[0] || 1));
  let at = -1;

  const show = (i) => {
    at = i;
    cursor.toggleAttribute("hidden", i < 0);
    if (i < 0) { reading.textContent = ""; return; }
    cursor.setAttribute("x1", place(i));
    cursor.setAttribute("x2", place(i));
    const shown = names.map((name, k) => [k, name, rows[i].cells[k + 1].textContent])
      .filter(([k, , value]) => value && !svg.querySelector(`[data-series="${k}"]`).classList.contains("off"))
      .map(([, name, value]) => `${name} ${Number(value).toPrecision(4)}`);
    reading.textContent = `epoch ${epochs[i]}: ${shown.join("  ·  ")}`;
  };

  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width * svg.viewBox.baseVal.width;
    let near = 0;
    epochs.forEach((_, i) => { if (Math.abs(place(i) - x) < Math.abs(place(near) - x)) near = i; });
    show(near);
  });
  svg.addEventListener("pointerleave", () => show(-1));
  svg.addEventListener("blur", () => show(-1));
  svg.addEventListener("keydown", (event) => {
    const end = epochs.length - 1;
    const next = { ArrowLeft: Math.max(0, at < 0 ? end : at - 1), ArrowRight: Math.min(end, at + 1), Home: 0, End: end, Escape: -1 }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    show(next);
  });
  for (const button of figure.querySelectorAll(".legend button")) {
    button.addEventListener("click", () => {
      const on = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(on));
      svg.querySelector(`[data-series="${button.dataset.series}"]`).classList.toggle("off", !on);
      show(at);
    });
  }
}
// On paper there is nothing to open.
addEventListener("beforeprint", () => { for (const one of document.querySelectorAll("details")) one.open = true; });
