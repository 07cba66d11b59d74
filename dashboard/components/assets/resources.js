// What a job used over time: small plots side by side, each of one figure, with one cursor for all.

import uPlot from "./vendor/uPlot.esm.js";
import { element, styleSheet } from "./live.js";
import { AXIS, short } from "./plot.js";

const HEIGHT_PX = 120;
const COLOURS = ["#4cc9f0", "#ffa657", "#d2a8ff", "#3fb950", "#f2cc60", "#ff6b6b", "#6cb6ff", "#f778ba"];

const rows = new WeakMap();
styleSheet("./live.css");
styleSheet("./vendor/uPlot.min.css");

export default function ({ parentElement, data }) {
  let row = rows.get(parentElement);
  if (!row) {
    row = new Row(parentElement);
    rows.set(parentElement, row);
  }
  row.update(data.charts);
  return () => {
    row.close();
    rows.delete(parentElement);
  };
}

class Row {
  #plots = new Map(); // title -> Small

  constructor(host) {
    this.root = element("section", { class: "sf-resources", "aria-label": "Resources used" });
    host.replaceChildren(this.root);
    this.cursor = uPlot.sync(`resources-${Math.random()}`);
  }

  update(charts) {
    for (const chart of charts) {
      let plot = this.#plots.get(chart.title);
      if (!plot) {
        plot = new Small(chart, this.cursor);
        this.#plots.set(chart.title, plot);
      }
      plot.update(chart);
    }
    const inOrder = charts.map(({ title }) => this.#plots.get(title).root);
    if (inOrder.some((root, at) => root !== this.root.children[at])) this.root.replaceChildren(...inOrder);
    this.root.dataset.charts = String(this.#plots.size);
  }

  close() {
    for (const plot of this.#plots.values()) plot.close();
  }
}

class Small {
  constructor({ title, unit }, cursor) {
    this.cursor = cursor;
    this.unit = unit;
    this.now = element("span", { class: "sf-count" });
    this.area = element("div", { class: "sf-plot", role: "img" });
    this.title = title;
    this.root = element("div", { class: "sf-small" }, element("div", { class: "sf-bar" }, element("span", { class: "sf-title" }, title), element("span", { class: "sf-space" }), this.now), this.area);
    this.observer = new ResizeObserver(() => {
      if (this.plot && this.area.clientWidth > 0) this.plot.setSize({ width: this.area.clientWidth, height: HEIGHT_PX });
    });
    this.observer.observe(this.area);
  }

  update({ lines }) {
    // Lines have times of their own. Joined, undefined is spanned and null stays a gap.
    this.table = lines.length > 1 ? uPlot.join(lines.map(({ times, values }) => [times, values])) : [lines[0].times, lines[0].values];
    const names = lines.map(({ name }) => name).join();
    if (this.plot && this.names === names) this.plot.setData(this.table);
    else this.#build(lines);
    this.names = names;
    this.#say();
  }

  close() {
    this.observer.disconnect();
    this.plot?.destroy();
  }

  #build(lines) {
    this.plot?.destroy();
    this.labels = lines.map(({ name }) => name);
    this.plot = new uPlot(
      {
        width: Math.max(this.area.clientWidth, 160),
        height: HEIGHT_PX,
        padding: [8, 8, 0, 0],
        legend: { show: false },
        cursor: { drag: { x: false, y: false }, points: { size: 6 }, sync: { key: this.cursor.key } },
        scales: { x: { time: true }, y: { range: (_, low, high) => [Math.min(0, low), high > 0 ? high * 1.1 : 1] } },
        series: [{}, ...lines.map((_, at) => ({ stroke: COLOURS[at % COLOURS.length], width: 1.5, points: { show: (plot) => plot.data[0].length < 2 } }))],
        axes: [
          { ...AXIS, size: 26, space: 70 },
          { ...AXIS, size: 46, space: 30, values: (_, ticks) => ticks.map((tick) => (tick === null ? "" : short(tick))) },
        ],
        hooks: { setCursor: [() => this.#say()] },
      },
      this.table,
      this.area,
    );
  }

  /** Show what the cursor points at, or the newest values. */
  #say() {
    const at = this.plot.cursor.idx;
    const said = this.labels.map((label, place) => {
      const column = this.table[place + 1];
      const value = at == null ? column.findLast((one) => one != null) : column[at];
      return `${label ? `${label} ` : ""}${short(value)}`;
    });
    this.now.textContent = `${said.join(" · ")} ${this.unit}`;
    this.area.setAttribute("aria-label", `${this.title} over time: ${this.now.textContent}`);
  }
}
