// Draws the chart of a run's turns, and draws it again when its numbers change. All else that
// moves in the pages is done by htmx.
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
