"use strict";
(() => {
  const font = getComputedStyle(document.body).fontFamily;
  const muted = "var(--muted)", line = "var(--line)", ink = "var(--ink)";
  const config = {
    font,
    background: "transparent",
    view: { stroke: null },
    axis: {
      labelColor: muted, titleColor: muted, gridColor: line, domainColor: line, tickColor: line,
      labelFontSize: 11, titleFontSize: 11, titleFontWeight: "normal", titlePadding: 8, labelLimit: 150, tickCount: 5,
    },
    axisX: { grid: false },
    legend: { labelColor: ink, labelFontSize: 12, symbolType: "stroke", symbolStrokeWidth: 3, offset: 4 },
    line: { strokeWidth: 2, strokeJoin: "round" },
    text: { fill: ink },
  };
  const options = {
    renderer: "svg", actions: false, defaultStyle: false, ast: true, config, tooltip: { disableDefaultStyle: true },
  };
  const store = document.getElementById("charts");
  const specs = store ? JSON.parse(store.textContent) : {};
  const drawn = Object.entries(specs).map(([id, spec]) => {
    const autosize = { type: "fit-x", contains: "padding", resize: true };
    return vegaEmbed(document.getElementById(id), { ...spec, autosize }, options);
  });
  Promise.all(drawn).then(() => { document.documentElement.dataset.drawn = String(drawn.length); });

  const value = (cell) => {
    const number = Number(cell.textContent.replace(/[\s\u2009]/g, "").replace("–", "NaN"));
    return Number.isNaN(number) ? cell.textContent : number;
  };
  const compare = (a, b) => typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1;
  for (const head of document.querySelectorAll("table.sortable th")) {
    head.tabIndex = 0;
    const sort = () => {
      const ascending = head.getAttribute("aria-sort") !== "ascending";
      for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      const body = head.closest("table").tBodies[0];
      const rows = [...body.rows].sort((one, other) =>
        compare(value(one.cells[head.cellIndex]), value(other.cells[head.cellIndex])) * (ascending ? 1 : -1));
      body.append(...rows);
    };
    head.addEventListener("click", sort);
    head.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(); });
  }

  const folded = () => [...document.querySelectorAll("details:not([open])")];
  let opened = [];
  addEventListener("beforeprint", () => { opened = folded(); for (const one of opened) one.open = true; });
  addEventListener("afterprint", () => { for (const one of opened) one.open = false; });
})();
