// Draws the chart of a run's turns, and draws it again when its numbers change. Keeps a person's
// own queries in the browser. All else that moves in the pages is done by htmx.
"use strict";
(() => {
  const charts = new Map();

  function draw(place) {
    const points = JSON.parse(place.dataset.points);
    const width = Math.max(240, place.clientWidth || 600);
    const known = charts.get(place);
    if (known) {
      known.setSize({ width, height: 220 });
      known.setData(points);
      return;
    }
    const ink = getComputedStyle(document.body).color;
    const axis = { stroke: ink, grid: { stroke: "rgba(128,128,128,.25)" } };
    const chart = new uPlot({
      width,
      height: 220,
      scales: { x: { time: false } },
      axes: [
        { ...axis, incrs: [1, 2, 5, 10, 25, 50, 100, 250, 500, 1000] },
        { ...axis, size: 70 },
        {
          ...axis,
          side: 1,
          scale: "$",
          size: 80,
          grid: { show: false },
          values: (chart, amounts) => amounts.map((amount) => "$" + +amount.toPrecision(3)),
        },
      ],
      series: [
        { label: "turn" },
        { label: "tokens in", stroke: "#3b82c4", fill: "rgba(59,130,196,.12)" },
        { label: "tokens out", stroke: "#3a9d6a" },
        { label: "cost so far, $", stroke: "#c08a1e", scale: "$" },
      ],
    }, points, place);
    charts.set(place, chart);
  }

  function drawAll() {
    for (const place of document.querySelectorAll(".chart")) {
      const fold = place.closest("details");
      if (!fold || fold.open) draw(place);
    }
    for (const place of charts.keys()) {
      if (!place.isConnected) charts.delete(place);
    }
  }

  document.addEventListener("toggle", drawAll, true);
  new MutationObserver(drawAll).observe(document.body, {
    subtree: true,
    attributeFilter: ["data-points"],
  });
  drawAll();
})();

// A page only reads, so the queries are in the browser's storage, by the address of the page. Other
// pages of this origin could write there: what is read is shown as text, and executed by a click.
(() => {
  const place = document.getElementById("own-queries");
  if (!place) return;
  const [list, form] = [place.querySelector("ul"), place.querySelector("form")];
  const storageKey = `agentrun queries ${location.pathname}`;

  function read() {
    try {
      const kept = Object.entries(JSON.parse(localStorage.getItem(storageKey)) ?? {});
      return new Map(kept.filter(([, query]) => typeof query === "string"));
    } catch {
      return new Map();
    }
  }

  function change(edit) {
    const queries = read();
    edit(queries);
    try {
      localStorage.setItem(storageKey, JSON.stringify(Object.fromEntries(queries)));
      form.querySelector("output").textContent = "";
    } catch {
      form.querySelector("output").textContent = "This browser keeps nothing for this page.";
    }
    show();
  }

  function show() {
    list.replaceChildren(...[...read()].map(([name, query]) => {
      const [item, link, forget] = ["li", "a", "button"].map((tag) => document.createElement(tag));
      link.href = "?" + new URLSearchParams({ query });
      link.textContent = name;
      forget.textContent = "Forget";
      forget.setAttribute("aria-label", `Forget ${name}`);
      forget.addEventListener("click", () => change((queries) => queries.delete(name)));
      item.append(link, " ", forget);
      return item;
    }));
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const query = document.querySelector("textarea[name=query]").value.trim();
    if (query) change((queries) => queries.set(form.elements.name.value.trim(), query));
    form.reset();
  });
  place.hidden = false;
  show();
})();
