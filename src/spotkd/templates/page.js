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
  svg.addEventListener("blur", () => setTimeout(() => show(-1), 300)); // a click below must meet what it was aimed at
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

// Tables are sorted by a click on a head: by the value beside a cell where there is one, numbers before words.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const value = (row, i) => row.cells[i].dataset.sort ?? row.cells[i].textContent.trim();
  [...table.tHead.rows[0].cells].forEach((head, i) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const rows = [...body.rows];
      const numeric = rows.some((row) => value(row, i) !== "") && rows.every((row) => !Number.isNaN(Number(value(row, i))));
      const descending = head.ariaSort ? head.ariaSort === "ascending" : numeric;
      const order = (a, b) => numeric
        ? (value(a, i) === "" ? -Infinity : Number(value(a, i))) - (value(b, i) === "" ? -Infinity : Number(value(b, i)))
        : value(a, i).localeCompare(value(b, i), undefined, { numeric: true });
      rows.sort((a, b) => descending ? order(b, a) : order(a, b));
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      body.append(...rows);
    });
  });
}
for (const button of document.querySelectorAll(".copy")) {
  const text = button.parentElement.querySelector("pre");
  button.hidden = false;
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text.textContent.trim());
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(text);
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
}
// A link opens what it leads to, and on paper every run is open; tables of numbers and configurations stay on the screen.
const reveal = () => {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  for (let one = target; one; one = one.parentElement) if (one.tagName === "DETAILS") one.open = true;
  if (target) target.scrollIntoView();
};
addEventListener("hashchange", reveal);
reveal();
addEventListener("beforeprint", () => { for (const one of document.querySelectorAll("details.run")) one.open = true; });
